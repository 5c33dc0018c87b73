//! The READMEs and the example configuration: every path, command, key, metric and error code that they name exists.

mod configuration_keys;
mod document;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::configuration_keys::Keys;
use self::document::Document;

const READMES: [&str; 7] = [
    "README.md",
    "README.zh-CN.md",
    "conf/README.md",
    "plugins/README.md",
    "tests/README.md",
    "benches/README.md",
    "src/README.md",
];
const EXAMPLES: [&str; 4] =
    ["conf/tollgate.toml", "conf/routes.toml", "conf/merchants/shop.toml", "conf/channels/wechat-sandbox.toml.example"];
const FOLDERS: [&str; 7] = ["src/", "plugins/", "conf/", "tests/", "benches/", ".ci/", "proptest-regressions/"];
/// The README is one page.
const MAX_LINES: usize = 150;

#[test]
fn readme_paths_and_links_exist() {
    let mut missing = Vec::new();
    for file in READMES {
        let document = Document::read(file);
        let paths = document.spans.iter().filter(|span| {
            FOLDERS.iter().any(|folder| span.starts_with(folder))
                && !span.contains([' ', '*', '…'])
                && !has_placeholder(span)
        });
        missing.extend(paths.filter(|path| !root().join(path).exists()).map(|path| format!("{file}: {path}")));
        let folder = root().join(file).parent().unwrap().to_path_buf();
        for link in document.links() {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { root().join(file) } else { folder.join(path) };
            let has_anchor = || fs::read_to_string(&target).is_ok_and(|text| headings(&text).contains(anchor));
            if !target.exists() || !(anchor.is_empty() || has_anchor()) {
                missing.push(format!("{file}: ({link})"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn readme_commands_and_options_exist() {
    let commands = subcommands(&[]);
    let keygen = subcommands(&["keygen"]);
    let benches = ["Cargo.toml", "plugins/Cargo.toml"].map(read).concat();
    let parts = read("benches/payment/main.rs");
    let (mut unknown, mut named) = (Vec::new(), BTreeSet::new());
    for file in READMES.into_iter().chain(EXAMPLES) {
        for line in Document::read(file).code() {
            for call in line.split(['|', ';', '(']).filter_map(arguments_of_tollgate) {
                let mut words = call.iter().filter(|word| !word.starts_with('-'));
                let Some(command) = words.next() else { continue };
                if !commands.contains(*command) {
                    unknown.push(format!("{file}: tollgate {command}"));
                    continue;
                }
                named.insert((*command).to_owned());
                let mut path = vec![*command];
                if let Some(what) = words.next().filter(|_| *command == "keygen") {
                    path.push(what);
                    if !keygen.contains(*what) {
                        unknown.push(format!("{file}: tollgate keygen {what}"));
                        continue;
                    }
                }
                let is_option = |word: &&str| word.starts_with("--") && word.len() > 2;
                let options: Vec<&str> = call.iter().copied().filter(is_option).collect();
                let help = if options.is_empty() { String::new() } else { help(&path) };
                let known: BTreeSet<_> = help.split([' ', ',', '\n', '[', ']', '=']).collect();
                let wrong = options.iter().filter(|option| !known.contains(*option));
                unknown.extend(wrong.map(|option| format!("{file}: {path:?} {option}")));
            }
            if let Some((_, bench)) = line.split_once("--bench ") {
                let mut words = bench.split_whitespace();
                let name = words.next().unwrap();
                let part = words.next().filter(|dashes| *dashes == "--").and_then(|_| words.next());
                if !benches.contains(&format!("name = \"{name}\"")) {
                    unknown.push(format!("{file}: --bench {name}"));
                }
                unknown.extend(
                    part.filter(|part| !parts.contains(&format!("\"{part}\"")))
                        .map(|part| format!("{file}: -- {part}")),
                );
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    let undocumented: Vec<_> = commands.iter().filter(|command| !named.contains(*command)).collect();
    assert!(undocumented.is_empty(), "no README names these commands: {undocumented:?}");
}

#[test]
fn readme_configuration_keys_exist() {
    let keys = Keys::from_schemas();
    let mut unknown = Vec::new();
    for file in EXAMPLES {
        unknown.extend(keys.unknown(&read(file)).into_iter().map(|key| format!("{file}: {key}")));
    }
    for file in READMES {
        let document = Document::read(file);
        for block in document.blocks.iter().filter(|block| block.language == "toml") {
            unknown.extend(keys.unknown(&block.lines.join("\n")).into_iter().map(|key| format!("{file}: {key}")));
        }
        for span in &document.spans {
            if let Some((section, key)) = span.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
                // `[[sink]]` has another pair of brackets.
                let section = section.trim_matches(['[', ']']);
                let path = key.split_whitespace().next().map(|key| format!("{section}.{key}")).unwrap();
                if !keys.has(&path) {
                    unknown.push(format!("{file}: [{section}] {key}"));
                }
            }
            let key = span.split_once(" = ").map(|(key, _)| key).filter(|key| is_word(key));
            unknown.extend(key.filter(|key| !keys.has_last(key)).map(|key| format!("{file}: {key}")));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn readme_metrics_exist() {
    let source: String =
        sources("src/gateway/telemetry").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut unknown = Vec::new();
    for file in READMES.into_iter().chain(EXAMPLES) {
        let text = read(file);
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics = words.filter_map(|word| word.strip_prefix("tollgate_"));
        let is_unknown = |metric: &&str| !source.contains(&format!("\"{metric}\""));
        unknown.extend(metrics.filter(is_unknown).map(|metric| format!("{file}: tollgate_{metric}")));
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn readme_error_codes_are_those_of_the_gateway() {
    let files = ["src/gateway/problem", "src/gateway/operations", "src/gateway/proxy", "src/gateway/listener"]
        .map(sources)
        .concat();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let source: String = texts.map(|text| text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()).collect();
    let raised: BTreeSet<_> = source
        .split("StatusCode::")
        .filter_map(|rest| rest.split_once(", \""))
        .filter(|(status, _)| status.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .filter_map(|(_, rest)| Some(rest.split_once('"')?.0))
        .filter(|code| is_word(code))
        .collect();
    assert!(raised.contains("queue_full") && raised.len() > 20, "{raised:?}");
    let table = Document::read("README.md").table_of("`code` |");
    let unknown: Vec<_> = table.iter().filter(|code| !source.contains(&format!("\"{code}\""))).collect();
    assert!(unknown.is_empty(), "the README lists error codes that do not exist: {unknown:?}");
    let missing: Vec<_> = raised.iter().filter(|code| !table.contains(**code)).collect();
    assert!(missing.is_empty(), "the README's list lacks the error codes {missing:?}");
    for file in READMES {
        let document = Document::read(file);
        let unknown: Vec<_> = document.after_a_status.difference(&table).collect();
        assert!(unknown.is_empty(), "{file} names error codes that the README's list lacks: {unknown:?}");
    }
}

#[test]
fn readme_timeline_entries_exist() {
    let source: String = sources("src/ledger/timeline").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let tags = Document::read("src/README.md").first_column("| `what` |");
    assert!(tags.contains("provider_call"), "{tags:?}");
    let variant = |tag: &str| {
        let capital = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
        format!("\n    {}", tag.split('_').map(capital).collect::<String>())
    };
    let unknown: Vec<_> = tags.iter().filter(|tag| !source.contains(&variant(tag))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn both_languages_of_the_readme_name_the_same_commands_and_words() {
    let [english, chinese] = ["README.md", "README.zh-CN.md"].map(Document::read);
    assert!(english.lines <= MAX_LINES && chinese.lines <= MAX_LINES, "{}, {}", english.lines, chinese.lines);
    assert_eq!(english.commands(), chinese.commands());
    let difference: Vec<_> = english.spans.symmetric_difference(&chinese.spans).collect();
    assert!(difference.is_empty(), "{difference:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Returns `NAME.rs` and every Rust file under `NAME/`.
fn sources(name: &str) -> Vec<PathBuf> {
    let mut files = vec![root().join(format!("{name}.rs"))];
    let mut folders = vec![root().join(name)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    files.retain(|file| file.exists());
    files
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Whether a path or an argument stands for another one, as `NAME` and `DIR` do.
fn has_placeholder(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_alphabetic())
        .any(|word| word.len() > 2 && word != "README" && word.bytes().all(|byte| byte.is_ascii_uppercase()))
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter_map(|line| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()));
    titles
        .map(|title| {
            let anchor = title.to_lowercase().replace(' ', "-");
            anchor.chars().filter(|letter| letter.is_alphanumeric() || *letter == '-').collect()
        })
        .collect()
}

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn subcommands(of: &[&str]) -> BTreeSet<String> {
    let help = help(of);
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Returns the words after `tollgate`, without the global `--conf DIR`; `None` if the text is no call of it.
fn arguments_of_tollgate(text: &str) -> Option<Vec<&str>> {
    let text = text.trim().trim_start_matches("exec ").trim_start_matches("$ ");
    let text = text.split("  #").next()?;
    let rest = match text.strip_prefix("cargo run -- ") {
        Some(rest) => rest,
        None => text.strip_prefix("tollgate ")?,
    };
    let mut words = Vec::new();
    let mut given = rest.split_whitespace();
    while let Some(word) = given.next() {
        match word {
            "--conf" => drop(given.next()),
            "&" | "#" => break,
            word => words.push(word.trim_end_matches([',', '.', '`'])),
        }
    }
    Some(words)
}
