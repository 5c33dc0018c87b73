#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::super::sinks::SinkOwner;
use super::*;
use crate::secret::Plain;

/// Reads sources from the text, with 127.0.0.0/8 as the allowed network. Returns the diagnostics without the path.
fn read_text(text: &str) -> (Vec<Arc<SourceConfig>>, Vec<String>) {
    let source = TomlFile::with_text(Path::new("conf/merchants/shop.toml"), text.into());
    let allowed = ["127.0.0.0/8".parse().unwrap()];
    let context = SinkContext { owner: SinkOwner::Merchant, plain: Plain::Allowed, allowed: Some(&allowed) };
    let (sources, diagnostics) = source.read(|mut root| read(&source, &mut root, context));
    let after_path = |text: String| text.split_once("shop.toml:").unwrap().1.to_owned();
    (sources.unwrap(), diagnostics.iter().map(|diagnostic| after_path(diagnostic.to_string())).collect())
}

#[test]
fn every_key_of_a_source_is_read_and_optional_ones_have_defaults() {
    let least = "[[source]]\nname = \"orders-in\"\nkind = \"rabbitmq\"\nurl = \"plain:amqp://pay:p@127.0.0.1:5673/eu\"\nqueue = \"orders\"\n";
    let (sources, diagnostics) = read_text(least);
    assert_eq!(diagnostics, [""; 0]);
    let [source] = &sources[..] else { panic!("{sources:?}") };
    assert_eq!((source.name.as_str(), source.queue.as_str(), source.url.port), ("orders-in", "orders", 5673));
    assert_eq!((source.prefetch, source.max_age, &source.dead_letter), (32, Duration::from_hours(1), &None));
    let more = "prefetch = 1\nmax_age = \"23h\"\ndead_letter = \"refused\"\n";
    let (sources, diagnostics) = read_text(&format!("{least}{more}"));
    assert_eq!(diagnostics, [""; 0]);
    let SourceConfig { prefetch, max_age, dead_letter, .. } = &*sources[0];
    assert_eq!((*prefetch, *max_age, dead_letter.as_deref()), (1, Duration::from_hours(23), Some("refused")));
}

#[test]
fn every_error_of_a_source_is_reported_with_its_line_and_without_the_url() {
    let text = r#"
[[source]]
name = "Orders"
kind = "rabbitmq"
url = "plain:amqps://user:hunter2@mq.example.com?x=1"
queue = ""
prefetch = 0
max_age = "24h"
dead_letter = ""
[[source]]
name = "a"
kind = "kafka"
[[source]]
name = "a"
kind = "rabbitmq"
url = "plain:amqps://user:hunter2@10.0.0.1"
queu = "orders"
prefetch = 257
max_age = "1s"
[[source]]
url = "env:X"
"#;
    let (sources, diagnostics) = read_text(text);
    assert!(sources.is_empty(), "{sources:?}");
    let expected = [
        "3:8: `source.name` may have small letters",
        "5:7: the URL of the source must have no ?query",
        "6:9: the name of the queue is empty",
        "7:12: `source.prefetch` must be from 1 to 256",
        "8:11: `source.max_age` must be from \"1m\" to \"23h\"",
        "9:15: `source.dead_letter` must be the name of an exchange",
        "12:8: there is no source of kind `kafka`",
        "13:1: `source.queue` is missing",
        "14:8: the source `a` is listed twice",
        "16:7: the URL of the source is not a public address: 10.0.0.1 is",
        "17:1: unknown key `source.queu` (did you mean `queue`?)",
        "18:12: `source.prefetch` must be from 1 to 256",
        "19:11: `source.max_age` must be from",
        "20:1: `source.name` is missing",
        "20:1: `source.kind` is missing",
    ];
    assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
    for (diagnostic, expected) in diagnostics.iter().zip(expected) {
        assert!(diagnostic.starts_with(expected), "{diagnostic} / {expected}");
        assert!(!diagnostic.contains("hunter2"), "{diagnostic}");
    }
}

#[test]
fn too_many_sources_are_rejected() {
    let one = |number| {
        format!(
            "[[source]]\nname = \"s{number}\"\nkind = \"rabbitmq\"\nurl = \"plain:amqp://localhost\"\nqueue = \"q\"\n"
        )
    };
    let text = |count| (0..count).map(one).collect::<String>();
    assert_eq!(read_text(&text(16)).1, [""; 0]);
    assert!(read_text(&text(17)).1[0].contains("at most 16 sources"));
}
