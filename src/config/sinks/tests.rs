#![allow(clippy::unwrap_used)]

use std::path::Path;

use tollgate_plugins::secret::Secret;

use super::*;

fn read_text(text: &str) -> (Vec<SinkConfig>, Vec<String>, Vec<String>) {
    read_as(SinkOwner::Merchant, text)
}

/// Reads sinks from the text, with 127.0.0.0/8 as the allowed network. Returns the diagnostics and notes without the path.
fn read_as(owner: SinkOwner, text: &str) -> (Vec<SinkConfig>, Vec<String>, Vec<String>) {
    let source = TomlFile::with_text(Path::new("conf/merchants/shop.toml"), text.into());
    let allowed = ["127.0.0.0/8".parse().unwrap()];
    let context = SinkContext { owner, plain: Plain::Allowed, allowed: Some(&allowed) };
    let (sinks, diagnostics) = source.read(|mut root| read(&source, &mut root, context));
    let after_path = |text: String| text.split_once("shop.toml:").unwrap().1.to_owned();
    let texts = diagnostics.iter().map(|diagnostic| after_path(diagnostic.to_string())).collect();
    let notes = source.take_notes().iter().map(|note| after_path(note.to_string())).collect();
    (sinks.unwrap(), texts, notes)
}

const GOOD: &str = r#"
[[sink]]
name = "orders-mq"
kind = "rabbitmq"
url = "plain:amqp://pay:p%40ss@127.0.0.1:5673/eu%2Fshop"
exchange = "payments"
routing_key = "{type}.{method}"
events = ["payment.*", "refund.succeeded"]
declare = true
format = "structured"
"#;

#[test]
fn every_key_of_a_rabbitmq_sink_is_read() {
    let (sinks, diagnostics, notes) = read_text(GOOD);
    assert_eq!((&diagnostics[..], &notes[..]), (&[][..], &[][..]));
    let [SinkConfig { name, events, kind: SinkKind::RabbitMq(settings) }] = &sinks[..] else { panic!("{sinks:?}") };
    assert_eq!(name, "orders-mq");
    for (event_type, passes) in
        [("payment.succeeded", true), ("payment.pending", true), ("refund.succeeded", true), ("refund.failed", false)]
    {
        assert_eq!(events.matches(event_type), passes, "{event_type}");
    }
    let AmqpUrl { tls, host, port, user, password, vhost } = &settings.url;
    assert_eq!((*tls, host.as_str(), *port, vhost.as_str()), (false, "127.0.0.1", 5673, "eu/shop"));
    assert_eq!((user.expose(), password.expose()), (&b"pay"[..], &b"p@ss"[..]));
    assert!(settings.declare && settings.structured && settings.authorities.is_none());
    assert!(!format!("{sinks:?}").contains("p@ss"), "{sinks:?}");
    let values = RoutingValues {
        event_type: "payment.succeeded",
        merchant: "shop",
        method: "wechat.native",
        channel: "wechat-main",
        currency: "CNY",
    };
    assert_eq!(settings.routing_key.render(&values), "payment.succeeded.wechat.native");
    assert_eq!(RoutingKey::default().render(&values), "payment.succeeded");
}

#[test]
fn sink_without_filter_gets_all_events_and_one_with_an_empty_list_none() {
    let (sinks, _, _) = read_text(&GOOD.replace("events = [\"payment.*\", \"refund.succeeded\"]\n", ""));
    assert!(sinks[0].events.matches("refund.failed"));
    let (sinks, diagnostics, notes) = read_text(&GOOD.replace("[\"payment.*\", \"refund.succeeded\"]", "[]"));
    assert!(!sinks[0].events.matches("payment.succeeded") && diagnostics.is_empty());
    assert!(notes[0].starts_with("8:10: this sink gets no new events"), "{notes:?}");
    let (sinks, diagnostics, notes) = read_text("[[sink]]\nname = \"orders-mq\"\nkind = \"discard\"\n");
    assert_eq!((sinks[0].kind.clone(), sinks[0].events.matches("payment.succeeded")), (SinkKind::Discard, false));
    assert!(diagnostics.is_empty() && notes[0].contains("those that wait for it are dropped"), "{notes:?}");
}

#[test]
fn every_error_is_reported_with_its_line_and_without_the_url() {
    let text = r#"
[[sink]]
name = "Orders MQ"
kind = "rabbitmq"
url = "plain:amqps://user:hunter2@mq.example.com?x=1"
exchange = "payments"
events = ["payments.*", "payment.succeded", "*.succeeded", 3]
routing_key = "{type}.{order}"
[[sink]]
name = "webhook"
kind = "rabbitmqq"
[[sink]]
name = "a"
kind = "rabbitmq"
url = "amqp://user:hunter2@127.0.0.1"
exchang = "payments"
format = "xml"
[[sink]]
name = "a"
kind = "rabbitmq"
url = "plain:amqp://user:hunter2@mq.example.com"
exchange = "amq.topic"
declare = true
routing_key = "{type"
[[sink]]
name = "b"
kind = "rabbitmq"
url = "plain:amqps://user:hunter2@10.0.0.1"
exchange = "x"
routing_key = "{merchant}{merchant}{merchant}{merchant}{channel}"
[[sink]]
url = "env:X"
"#;
    let (_, diagnostics, _) = read_text(text);
    let expected = [
        "3:8: `sink.name` may have small letters",
        "5:7: the URL of the sink must have no ?query",
        "7:11: an item of `sink.events` must be the type of an event or a group of them, as in \"refund.succeeded\" or \"payment.*\", not \"payments.*\"",
        "7:25: an item of `sink.events` must be the type of an event or a group of them, as in \"refund.succeeded\" or \"payment.*\", not \"payment.succeded\" (did you mean `payment.succeeded`?)",
        "7:45: an item of `sink.events`",
        "7:60: an item of `sink.events`",
        "8:15: `sink.routing_key` must be a text with names in braces",
        "10:8: `webhook` is the name of the merchant's webhook",
        "11:8: there is no sink of kind `rabbitmqq` (did you mean `rabbitmq`?)",
        "12:1: `sink.exchange` is missing",
        "15:7: a secret must not be written in the file itself",
        "16:1: unknown key `sink.exchang` (did you mean `exchange`?)",
        "17:10: there is no format `xml`",
        "19:8: the sink `a` is listed twice",
        "21:7: the URL of the sink must start with amqps://: without TLS only a loopback address may be named",
        "23:11: this exchange exists in every broker",
        "24:15: `sink.routing_key` must be",
        "28:7: the URL of the sink is not a public address: 10.0.0.1 is",
        "30:15: `sink.routing_key` must be",
        "31:1: `sink.name` is missing",
        "31:1: `sink.kind` is missing",
    ];
    assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
    for (diagnostic, expected) in diagnostics.iter().zip(expected) {
        assert!(diagnostic.starts_with(expected), "{diagnostic} / {expected}");
        assert!(!diagnostic.contains("hunter2"), "{diagnostic}");
    }
}

#[test]
fn too_many_sinks_are_rejected() {
    let one = |number| format!("[[sink]]\nname = \"s{number}\"\nkind = \"discard\"\n");
    let text = |count| (0..count).map(one).collect::<String>();
    assert_eq!(read_text(&text(16)).1, [""; 0]);
    assert!(read_text(&text(17)).1[0].contains("at most 16 sinks"));
}

#[test]
fn broker_url_is_split_into_its_parts() {
    let parse = |text: &str| AmqpUrl::parse(&Secret::new(text)).map(|url| (url.tls, url.host, url.port, url.vhost));
    let url = |tls, host: &str, port, vhost: &str| Ok((tls, host.to_owned(), port, vhost.to_owned()));
    assert_eq!(parse("amqps://a:b@MQ.example.com"), url(true, "mq.example.com", 5671, "/"));
    assert_eq!(parse("amqps://a:b@mq.example.com:443/"), url(true, "mq.example.com", 443, "/"));
    assert_eq!(parse("amqp://localhost/shop"), url(false, "localhost", 5672, "shop"));
    assert_eq!(parse("amqp://a:b@[::1]:1/%2F"), url(false, "::1", 1, "/"));
    assert_eq!(parse("amqp://a:b@[::1]"), url(false, "::1", 5672, "/"));
    assert_eq!(parse("amqps://a:b:c@h.example").unwrap().1, "h.example");
    for wrong in
        ["http://a", "amqps://u@h.example", "amqps://a:b@h.example:0", "amqp://a:b@10.0.0.1", "x", "amqps://a:b@h_x!/"]
    {
        let why = parse(wrong).unwrap_err();
        assert!(!why.contains(wrong), "{why}");
    }
}

const OPERATOR: &str = r#"
[[sink]]
name = "webhook"
kind = "webhook"
url = "http://127.0.0.1:9/alerts"
secrets = ["plain:whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"]
events = ["channel.*", "config.rejected"]
[[sink]]
name = "alerts-mq"
kind = "rabbitmq"
url = "plain:amqp://pay:word@127.0.0.1"
exchange = "alerts"
routing_key = "{type}.{channel}"
"#;

#[test]
fn operator_has_webhooks_as_sinks_and_types_of_its_own() {
    let (sinks, diagnostics, notes) = read_as(SinkOwner::Operator, OPERATOR);
    assert_eq!((&diagnostics[..], &notes[..]), (&[][..], &[][..]));
    let [first, second] = &sinks[..] else { panic!("{sinks:?}") };
    let SinkKind::Webhook(webhook) = &first.kind else { panic!("{first:?}") };
    assert_eq!((webhook.url.as_str(), webhook.secrets.len()), ("http://127.0.0.1:9/alerts", 1));
    for event_type in OperatorEventType::all().map(OperatorEventType::name) {
        let is_listed = event_type.starts_with("channel.") || event_type == "config.rejected";
        assert_eq!((first.events.matches(event_type), second.events.matches(event_type)), (is_listed, true));
    }
}

#[test]
fn operator_sink_with_a_merchants_kind_type_or_routing_key_is_rejected() {
    let text = OPERATOR
        .replace("\"channel.*\"", "\"payment.succeeded\"")
        .replace("config.rejected", "config.reject")
        .replace("{channel}", "{method}.{currency}")
        .replace("http://127.0.0.1:9", "http://hooks.example.com")
        + "[[sink]]\nname = \"gone\"\nkind = \"discard\"\n[[sink]]\nname = \"bare\"\nkind = \"webhook\"\n";
    let (_, diagnostics, _) = read_as(SinkOwner::Operator, &text);
    let expected = [
        "5:7: `sink.url` must start with https://",
        "7:11: an item of `sink.events` must be the type of an operator event or a group of them, as in \"config.rejected\" or \"channel.*\", not \"payment.succeeded\"",
        "7:32: an item of `sink.events` must be the type of an operator event or a group of them, as in \"config.rejected\" or \"channel.*\", not \"config.reject\" (did you mean `config.rejected`?)",
        "13:15: operator events have no payment method and no currency",
        "16:8: there is no sink of kind `discard`",
        "17:1: `sink.url` is missing",
        "17:1: `sink.secrets` must have at least one secret",
    ];
    assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
    for (diagnostic, expected) in diagnostics.iter().zip(expected) {
        assert!(diagnostic.starts_with(expected), "{diagnostic} / {expected}");
    }
    // A merchant has `webhook` for that, and events of its payments.
    let (_, diagnostics, _) = read_text(OPERATOR);
    assert!(diagnostics.iter().any(|text| text.contains("there is no sink of kind `webhook`")), "{diagnostics:?}");
}
