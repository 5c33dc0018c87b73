#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::super::SinkOwner;
use super::*;
use crate::secret::Plain;

/// Reads one Kafka sink, with 127.0.0.0/8 as the allowed network. Returns the diagnostics without the path.
fn read_text(text: &str) -> (Option<KafkaConfig>, Vec<String>) {
    let source = TomlFile::with_text(Path::new("conf/merchants/shop.toml"), text.into());
    let allowed = ["127.0.0.0/8".parse().unwrap()];
    let context = SinkContext { owner: SinkOwner::Merchant, plain: Plain::Allowed, allowed: Some(&allowed) };
    let (config, diagnostics) = source.read(|mut root| read(&source, &mut root, context));
    let after_path = |text: String| text.split_once("shop.toml:").unwrap().1.to_owned();
    (config.unwrap(), diagnostics.iter().map(|diagnostic| after_path(diagnostic.to_string())).collect())
}

const GOOD: &str = r#"brokers = ["k1.example.com:9093", "K2.example.com:9093"]
topic = "payments"
sasl = { mechanism = "scram-sha-512", user = "pay", password = "plain:hunter2" }
format = "structured"
"#;

fn broker(host: &str, port: u16) -> BrokerAddress {
    BrokerAddress { host: host.to_owned(), port }
}

#[test]
fn every_key_of_a_kafka_sink_is_read() {
    let (config, diagnostics) = read_text(GOOD);
    assert_eq!(diagnostics, [""; 0]);
    let config = config.unwrap();
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    assert_eq!(config.brokers, [broker("k1.example.com", 9093), broker("k2.example.com", 9093)]);
    assert!(config.tls && config.structured && config.authorities.is_none());
    assert_eq!(config.topic, "payments");
    let sasl = config.sasl.unwrap();
    assert_eq!((sasl.mechanism, sasl.user.as_str()), (SaslMechanism::ScramSha512, "pay"));
    assert_eq!(sasl.password.expose(), b"hunter2");
    let other = SaslConfig { password: Secret::new("other"), ..sasl.clone() };
    assert!(sasl == sasl.clone() && sasl != other, "a changed password is a changed sink");
}

#[test]
fn tls_is_the_default_unless_every_broker_is_this_machine() {
    let tls = |brokers: &str, more: &str| {
        let (config, diagnostics) = read_text(&format!("brokers = [{brokers}]\ntopic = \"t\"\n{more}"));
        config.map(|config| config.tls).ok_or(diagnostics)
    };
    assert_eq!(tls("\"k1.example.com:9092\"", ""), Ok(true));
    assert_eq!(tls("\"localhost:9092\", \"127.0.0.1:9093\"", ""), Ok(false));
    assert_eq!(tls("\"localhost:9092\"", "tls = true"), Ok(true));
    assert_eq!(tls("\"localhost:9092\", \"k1.example.com:9093\"", ""), Ok(true));
    let refused = tls("\"localhost:9092\", \"k1.example.com:9093\"", "tls = false").unwrap_err();
    assert!(refused[0].starts_with("3:7: `tls` must be true"), "{refused:?}");
}

#[test]
fn every_error_is_reported_with_its_line_and_without_the_password() {
    let text = r#"brokers = ["k1", "10.0.0.1:9093", "k2.example.com:9093", "k2.example.com:9093", "kafka://u:hunter2@k3:1"]
topic = "pay ments"
sasl = { mechanism = "scram-sha-1", user = "", password = "hunter2", realm = "x" }
format = "avro"
acks = 1
"#;
    let expected = [
        "1:12: an item of `brokers` must be the host and the port of a broker, as in \"k1.example.com:9093\", not \"k1\"",
        "1:18: the broker is not a public address: 10.0.0.1 is",
        "1:58: the broker `k2.example.com:9093` is listed twice",
        "1:81: an item of `brokers` must be the host and the port of a broker, as in \"k1.example.com:9093\", not a URL",
        "2:9: the name of a topic has at most 249 letters",
        "3:22: `sasl.mechanism` must be \"plain\", \"scram-sha-256\" or \"scram-sha-512\", not \"scram-sha-1\" (did you mean",
        "3:44: the name of the user is empty",
        "3:59: a secret must not be written in the file itself",
        "3:70: unknown key `sasl.realm`",
        "4:10: there is no format `avro`",
        "5:1: unknown key `acks`",
    ];
    let (config, diagnostics) = read_text(text);
    assert!(config.is_none());
    assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
    for (diagnostic, expected) in diagnostics.iter().zip(expected) {
        assert!(diagnostic.starts_with(expected), "{diagnostic} / {expected}");
        assert!(!diagnostic.contains("hunter2"), "{diagnostic}");
    }
}

#[test]
fn missing_keys_and_useless_ones_are_reported() {
    let first = |text: &str| read_text(text).1.first().cloned().unwrap_or_default();
    assert!(first("topic = \"t\"").contains("`sink.brokers` is missing"));
    assert!(first("brokers = []\ntopic = \"t\"").contains("the sink has no broker"));
    assert!(first("brokers = [\"localhost:1\"]").contains("`topic` is missing"));
    let many: Vec<_> = (1..=17).map(|port| format!("\"localhost:{port}\"")).collect();
    assert!(first(&format!("brokers = [{}]\ntopic = \"t\"", many.join(", "))).contains("at most 16 brokers"));
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["k".to_owned()]).unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let text = format!("brokers = [\"localhost:1\"]\ntopic = \"t\"\nca = \"{}\"", ca.display());
    assert!(first(&text).contains("`ca` has no effect without TLS"), "{}", first(&text));
    assert!(read_text(&format!("{text}\ntls = true")).0.unwrap().authorities.is_some());
}

#[test]
fn topic_names_are_those_that_kafka_accepts() {
    for good in ["payments", "Shop.events-1_x", &"a".repeat(249)] {
        assert!(is_topic(good), "{good}");
    }
    for wrong in ["", ".", "..", "a b", "a/b", "größe", &"a".repeat(250)] {
        assert!(!is_topic(wrong), "{wrong}");
    }
}
