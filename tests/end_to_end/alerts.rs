//! The alert rules in `conf/prometheus`: promtool accepts and tests them, and each has a section in the runbook.

mod faults;
mod hour;
mod prometheus;
mod recording;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use self::recording::family;

const RULES: &str = "tollgate.rules.yml";
const RULE_TESTS: &str = "tollgate.rules.test.yml";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/prometheus")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(directory().join(file)).unwrap()
}

/// Returns the names of the metrics in a query or in a file with queries, without suffixes.
pub fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("tollgate_")).map(family).collect()
}

/// Returns the values of a key in the lines of a YAML text.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{key}: ");
    text.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(&prefix)).collect()
}

#[test]
fn promtool_accepts_the_rules() {
    let checked = prometheus::promtool(&directory(), &["check", "rules", "--lint=all", "--lint-fatal", RULES]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()));
}

#[test]
fn each_alert_fires_and_stays_silent_in_promtools_tests() {
    let tested = prometheus::promtool(&directory(), &["test", "rules", RULE_TESTS]);
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&[tested.stdout, tested.stderr].concat()));
    // Each pair of name and severity is expected by some test.
    let (rules, tests) = (read(RULES), read(RULE_TESTS));
    for rule in rules.split("- alert: ").skip(1) {
        let (name, severity) = (rule.lines().next().unwrap(), values(rule, "severity")[0]);
        let expected = format!("{{alertname=\"{name}\", severity=\"{severity}\"}}");
        assert!(tests.contains(&expected), "no test expects {expected}");
    }
}

#[test]
fn each_alert_has_severity_texts_and_a_runbook_section() {
    let (rules, runbook) = (read(RULES), std::fs::read_to_string(directory().join("../README.md")).unwrap());
    let (_, runbook) = runbook.split_once("\n## Runbook\n").unwrap();
    let sections: BTreeMap<&str, &str> =
        runbook.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let mut alerts = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        assert!(name.starts_with("Tollgate"), "{name}");
        assert!(["page", "ticket"].contains(&values(rule, "severity")[0]), "{name}");
        assert_eq!((values(rule, "summary").len(), values(rule, "description").len()), (1, 1), "{name}");
        assert_eq!(values(rule, "runbook_url"), [format!("conf/README.md#{}", name.to_lowercase())], "{name}");
        let section = sections.get(name).unwrap_or_else(|| panic!("the runbook has no section {name}"));
        assert!(section.contains("\n- Look at: ") && section.contains("\n- Do: "), "{name}: {section}");
        alerts.insert(name);
    }
    assert_eq!(alerts, sections.keys().copied().collect(), "each section belongs to an alert");
}
