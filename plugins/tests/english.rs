//! Measures of plain English: how doc comments begin, how long the page's sentences are, and what test names say.

use std::path::{Path, PathBuf};

/// Words that open a clause instead of naming a thing.
const CLAUSE: &[&str] = &[
    "What", "How", "Whether", "Who", "Whose", "Where", "When", "Those", "So", "The same", "As", "Until", "None",
    "Nothing", "Of", "If",
];
/// Highest share of doc comments that open with a clause, in percent.
const MAX_CLAUSES: usize = 3;
/// Highest median length of the page's sentences, in words.
const MAX_MEDIAN: usize = 18;
/// Highest length of one sentence of the page, in words.
const MAX_SENTENCE: usize = 30;
/// Least length of a test name, in words: subject, condition and result.
const MIN_TEST_NAME: usize = 4;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// Every source file of these folders of the repository, with its path for messages.
fn files(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &PathBuf| {
        (path.strip_prefix(&root).unwrap().display().to_string(), std::fs::read_to_string(path).unwrap())
    };
    folders.iter().flat_map(|folder| sources(&root.join(folder))).map(|path| read(&path)).collect()
}

fn opens_with_clause(comment: &str) -> bool {
    CLAUSE.iter().any(|words| comment.strip_prefix(words).is_some_and(|rest| rest.starts_with([' ', ',', ';'])))
}

#[test]
fn doc_comments_open_with_a_noun_or_verb_instead_of_a_clause() {
    let (mut count, mut clauses) = (0, Vec::new());
    for (file, text) in files(&["plugins", "src"]) {
        let mut is_inside = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim);
            if let Some(comment) = comment.filter(|comment| !is_inside && !comment.is_empty()) {
                count += 1;
                if opens_with_clause(comment) {
                    clauses.push(format!("{file}:{} {comment}", number + 1));
                }
            }
            is_inside = comment.is_some();
        }
    }
    assert!(count > 5000, "{count}");
    assert!(clauses.len() * 100 <= count * MAX_CLAUSES, "{} of {count}: {clauses:#?}", clauses.len());
}

/// Returns the sentences of running text, without tables, code blocks and headings.
fn sentences(text: &str) -> Vec<String> {
    let (mut prose, mut is_code) = (String::new(), false);
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if is_code || line.starts_with(['|', '#', '`']) && !line.starts_with("`U") {
            prose.push_str(". ");
            continue;
        }
        let is_item =
            line.starts_with("- ") || line.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
        prose.push_str(if line.is_empty() || is_item { ". " } else { " " });
        prose.push_str(line.trim_start_matches(|first: char| first.is_ascii_digit() || "- .".contains(first)));
    }
    let ends = prose.replace(".\n", ". ").replace(": ", ". ");
    let sentences = ends.split(". ").map(str::trim).filter(|sentence| sentence.split_whitespace().count() > 1);
    sentences.map(str::to_owned).collect()
}

#[test]
fn readme_sentences_are_short_enough() {
    let text = super::read("plugins/README.md");
    let mut lengths: Vec<_> =
        sentences(&text).into_iter().map(|sentence| (sentence.split_whitespace().count(), sentence)).collect();
    lengths.sort();
    assert!(lengths.len() > 40, "{}", lengths.len());
    let median = lengths[lengths.len() / 2].0;
    assert!(median <= MAX_MEDIAN, "{median}");
    let (longest, sentence) = lengths.last().unwrap();
    assert!(*longest <= MAX_SENTENCE, "{longest} words: {sentence}");
}

#[test]
fn test_names_say_subject_condition_and_result() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (file, text) in files(&["plugins"]) {
        let mut lines = text.lines().map(str::trim);
        while lines.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")) {
            let function =
                lines.by_ref().find_map(|line| line.split_once("fn ")?.1.split_once('(').map(|(name, _)| name));
            let name = function.unwrap();
            let words: Vec<_> = name.split('_').collect();
            let is_short = words.len() < MIN_TEST_NAME && !name.starts_with("golden_files");
            if is_short || words.iter().any(|word| ["what", "works", "told"].contains(word)) {
                wrong.push(format!("{file}: {name}"));
            }
            count += 1;
        }
    }
    assert!(count > 300, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
