//! The schemas describe exactly what the readers accept.

use std::collections::BTreeSet;

use clap::ValueEnum as _;
use tollgate_sandbox::keygen::{SandboxProvider, sandbox_channel_of};

use super::*;
use crate::Diagnostic;

/// Returns every path in a schema, for example `filter.rate`.
fn paths(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(name.clone());
        found.extend(paths(property).into_iter().map(|below| format!("{name}.{below}")));
    }
    for inside in ["oneOf", "anyOf", "allOf"] {
        found.extend(schema[inside].as_array().into_iter().flatten().flat_map(paths));
    }
    for inside in ["items", "then"] {
        found.extend(schema.get(inside).into_iter().flat_map(paths));
    }
    found
}

/// Returns one file text per value that decides which other keys are read.
fn every_kind(file: File) -> Vec<String> {
    match file {
        File::Routes => vec![String::new()],
        File::Merchant => {
            let of_table = |table: &str, kinds: &[&str]| -> Vec<String> {
                kinds.iter().map(|kind| format!("[[{table}]]\nkind = \"{kind}\"\n")).collect()
            };
            [of_table("sink", &sinks::KINDS), of_table("source", &sources::KINDS)].concat()
        }
        File::Tollgate => {
            let kinds = ledger::KINDS.iter().flat_map(|ledger| cache::CACHES.map(|cache| (ledger, cache)));
            let kinds = kinds.map(|(ledger, cache)| format!("ledger.kind = \"{ledger}\"\ncache.kind = \"{cache}\"\n"));
            let sinks = sinks::OPERATOR_KINDS.map(|kind| format!("[[sink]]\nkind = \"{kind}\"\n"));
            kinds.chain(sinks).collect()
        }
        File::Channel => {
            let providers = PROVIDERS.iter().map(|row| format!("provider = \"{}\"\n", row.name));
            let filters =
                FILTERS.iter().map(|row| format!("provider = \"wechat-v3\"\n[[filter]]\nuse = \"{}\"\n", row.name));
            providers.chain(filters).collect()
        }
    }
}

/// Returns a table with every key of an outline, except those in `given`.
fn filled(outline: &Outline, given: &str) -> String {
    let line = |(name, key): (&'static str, Key)| {
        let value = match key.shape {
            Shape::Value(Form::OneOf(words), _) => format!("\"{}\"", words[0]),
            Shape::Value(_, example) => example.to_owned(),
            Shape::Values(_, example) => format!("[{example}]"),
            Shape::Table(below) => format!("{{ {} }}", filled(&below, given)),
            Shape::Tables(below) => format!("[{{ {} }}]", filled(&below, given)),
            Shape::Texts => "{ any = \"text\" }".to_owned(),
        };
        format!("{name} = {value}")
    };
    let is_given = |name: &str| given.contains(&format!("{name} ="));
    outline.keys().into_iter().filter(|(name, _)| !is_given(name)).map(line).collect::<Vec<_>>().join(", ")
}

/// Returns the diagnostics of a file, and the keys that its reader asked for.
fn read(file: File, text: &str) -> (Vec<Diagnostic>, BTreeSet<String>) {
    let source = file.source(text);
    source.read_watching(|root| file.read(&source, root))
}

#[test]
fn schema_contains_every_key_that_its_reader_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let channels: Vec<String> = SandboxProvider::value_variants()
        .iter()
        .enumerate()
        .map(|(count, provider)| {
            let made = sandbox_channel_of(*provider, dir.path(), &format!("c{count}"), "127.0.0.1:1").unwrap();
            std::fs::read_to_string(made.channel).unwrap()
        })
        .collect();
    assert!(channels.len() >= 5);
    let example = |name: &str| std::fs::read_to_string(Path::new("../../conf").join(name)).unwrap();
    let examples = [
        (File::Tollgate, vec![example("tollgate.toml")]),
        (File::Merchant, vec![example("merchants/shop.toml")]),
        (File::Channel, [vec![example("channels/wechat-sandbox.toml.example")], channels].concat()),
        (File::Routes, vec![example("routes.toml")]),
    ];
    for (file, mut texts) in examples {
        let known = paths(&file.schema());
        for kind in every_kind(file) {
            texts.push(whole(file, &kind));
        }
        for text in texts {
            let (_, asked) = read(file, &text);
            let unknown: Vec<_> = asked.difference(&known).collect();
            assert!(unknown.is_empty(), "{file:?}: {unknown:?} in\n{text}");
        }
    }
}

/// Returns a file with every key of its kind.
fn whole(file: File, kind: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (name, key) in file.outline(kind).keys() {
        if kind.contains(&format!("{name} =")) {
            continue;
        }
        let one = match &key.shape {
            Shape::Value(Form::OneOf(words), _) => format!("{name} = \"{}\"", words[0]),
            Shape::Value(_, example) => format!("{name} = {example}"),
            Shape::Values(_, example) => format!("{name} = [{example}]"),
            Shape::Table(below) => {
                let given: Vec<&str> = kind.lines().filter(|line| line.starts_with(&format!("{name}."))).collect();
                let more = filled(below, &given.join("\n").replace(&format!("{name}."), ""));
                let given = given.iter().map(|line| line.trim_start_matches(&format!("{name}.")));
                format!("{name} = {{ {} }}", given.chain([more.as_str()]).collect::<Vec<_>>().join(", "))
            }
            Shape::Tables(below) if kind.contains(&format!("[[{name}]]")) => {
                let word = kind.lines().last().unwrap_or_default();
                format!("{name} = [{{ {word}, {} }}]", filled(below, word))
            }
            Shape::Tables(below) => format!("{name} = [{{ {} }}]", filled(below, "")),
            Shape::Texts => format!("{name} = {{ any = \"text\" }}"),
        };
        lines.push(one);
    }
    let head = kind.lines().filter(|line| line.starts_with("provider"));
    head.map(str::to_owned).chain(lines).collect::<Vec<_>>().join("\n")
}

#[test]
fn reader_accepts_every_key_of_its_schema() {
    for file in FILES {
        let mut seen = BTreeSet::new();
        for kind in every_kind(file) {
            let text = whole(file, &kind);
            let (diagnostics, asked) = read(file, &text);
            let messages: Vec<_> = diagnostics.iter().map(ToString::to_string).collect();
            // A key that no reader asks for, or a value of another type than required.
            let is_refused = |messages: &&String| {
                messages.contains("unknown key") || messages.contains("` must be ") && messages.contains(", not ")
            };
            let refused: Vec<_> = messages.iter().filter(is_refused).collect();
            assert!(refused.is_empty(), "{refused:#?} in\n{text}");
            seen.extend(asked);
        }
        let unread: Vec<_> = paths(&file.schema()).difference(&seen).cloned().collect();
        assert!(unread.is_empty(), "{file:?}: no reader asks for {unread:?}");
    }
}

#[test]
fn reader_accepts_every_value_of_a_choice() {
    fn choices(outline: &Outline, above: &str, found: &mut Vec<(String, &'static str, &'static str)>) {
        for (name, key) in outline.keys() {
            match key.shape {
                Shape::Value(Form::OneOf(words), _) => {
                    found.extend(words.into_iter().map(|word| (above.to_owned(), name, word)));
                }
                Shape::Table(below) => choices(&below, name, found),
                _ => {}
            }
        }
    }
    let refused = ["there is no", "must be \"", "is unknown", "supports no algorithm", "must be a payment"];
    let mut count = 0;
    for file in FILES {
        for kind in every_kind(file) {
            let mut found = Vec::new();
            choices(&file.outline(&kind), "", &mut found);
            for (above, name, word) in found {
                count += 1;
                let path = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
                if kind.contains(&format!("{path} =")) {
                    continue;
                }
                let text = format!("{path} = \"{word}\"\n{kind}");
                let (diagnostics, _) = read(file, &text);
                let messages = diagnostics.iter().filter(|diagnostic| diagnostic.line == 1).map(ToString::to_string);
                let messages: Vec<_> =
                    messages.filter(|messages| refused.iter().any(|word| messages.contains(word))).collect();
                assert!(messages.is_empty(), "{messages:?} in\n{text}");
            }
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn schema_has_types_descriptions_and_choices() {
    let channel = File::Channel.schema();
    assert_eq!(channel["additionalProperties"], false);
    assert_eq!(channel["properties"]["timeouts"]["properties"]["total"]["type"], "string");
    let words = channel["properties"]["timeouts"]["properties"]["total"]["description"].as_str().unwrap();
    assert!(words.contains("a duration in quotes"), "{words}");
    let providers = channel["properties"]["provider"]["enum"].as_array().unwrap();
    assert!(providers.contains(&"unionpay".into()), "{providers:?}");
    let filters = channel["properties"]["filter"]["items"]["oneOf"].as_array().unwrap();
    assert!(filters.iter().any(|filter| filter["properties"]["use"]["const"] == "breaker"));
    let ledger = &File::Tollgate.schema()["properties"]["ledger"]["oneOf"];
    assert_eq!((&ledger[0]["required"], &ledger[1]["required"]), (&json!([]), &json!(["url", "kind"])), "{ledger}");
}
