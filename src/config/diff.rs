//! Describes the difference between two configuration generations. Names keys and files, never values.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::condition::Condition;
use super::cpu::yield_cpu;
use super::dependencies::Dependencies;
use super::model::Config;
use super::routes::{Route, RouteRules};

/// Maximum number of changed files described by their keys.
const MAX_DETAILED: usize = 50;
/// Maximum number of keys listed per file.
const MAX_KEYS: usize = 20;

/// Returns the changes from `old` to `new`.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut found = Vec::new();
    differences("merchant", &old.merchants, &new.merchants, |merchant| &merchant.dependencies, &mut found);
    differences("channel", &old.channels, &new.channels, |channel| &channel.dependencies, &mut found);
    if old.sources.routes != new.sources.routes {
        found.push(with_details("routes.toml changed", routes(&old.routes, &new.routes)));
    }
    if old.sources.process != new.sources.process {
        found.push(with_details("tollgate.toml changed", keys(&old.sources.dependencies, &new.sources.dependencies)));
    }
    found
}

fn differences<T>(
    kind: &str,
    old: &BTreeMap<String, Arc<T>>,
    new: &BTreeMap<String, Arc<T>>,
    dependencies: impl Fn(&T) -> &Dependencies,
    found: &mut Vec<String>,
) {
    let mut detailed = 0;
    for (name, value) in new {
        yield_cpu();
        match old.get(name) {
            None => found.push(format!("{kind} {name} added")),
            Some(before) if !Arc::ptr_eq(before, value) => {
                detailed += 1;
                let heading = format!("{kind} {name} changed");
                found.push(if detailed > MAX_DETAILED {
                    heading
                } else {
                    with_details(&heading, keys(dependencies(before), dependencies(value)))
                });
            }
            Some(_) => {}
        }
    }
    found.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{kind} {name} removed")));
}

fn with_details(heading: &str, mut details: Vec<String>) -> String {
    let more = details.len().saturating_sub(MAX_KEYS);
    details.truncate(MAX_KEYS);
    if more > 0 {
        details.push(format!("{more} more"));
    }
    if details.is_empty() { heading.to_owned() } else { format!("{heading}: {}", details.join(", ")) }
}

/// Returns the keys of a file that differ, and the named files whose content differs.
fn keys(old: &Dependencies, new: &Dependencies) -> Vec<String> {
    let mut found = Vec::new();
    let texts = [old, new].map(|dependencies| String::from_utf8_lossy(dependencies.text.expose()).into_owned());
    let [before, after] = texts.each_ref().map(|text| DeTable::parse_recoverable(text).0);
    tables("", before.get_ref(), after.get_ref(), &mut found);
    let known: HashMap<_, _> = old.items.iter().map(|item| (&item.reference, item)).collect();
    for item in &new.items {
        let text = item.reference.to_string();
        if known.get(&item.reference).is_some_and(|before| item.differs(before)) && !found.contains(&text) {
            found.push(text);
        }
    }
    // The fingerprint also depends on other files, for example on whether plain secrets are allowed.
    if found.is_empty() {
        found.push("its layout, its comments, or its context in other files".to_owned());
    }
    found
}

fn tables(path: &str, old: &DeTable<'_>, new: &DeTable<'_>, found: &mut Vec<String>) {
    let name = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in new {
        match old.get(&**key.get_ref()) {
            Some(before) => values(&name(key.get_ref()), before.get_ref(), value.get_ref(), found),
            None => found.push(name(key.get_ref())),
        }
    }
    found.extend(old.keys().map(|key| &**key.get_ref()).filter(|key| !new.contains_key(*key)).map(name));
}

fn values(path: &str, old: &DeValue<'_>, new: &DeValue<'_>, found: &mut Vec<String>) {
    match (old, new) {
        (DeValue::Table(old), DeValue::Table(new)) => tables(path, old, new, found),
        (DeValue::Array(old), DeValue::Array(new)) if old.len() == new.len() => {
            for (place, (old, new)) in old.iter().zip(new.iter()).enumerate() {
                values(&format!("{path}[{place}]"), old.get_ref(), new.get_ref(), found);
            }
        }
        _ => {
            if !is_same(old, new) {
                found.push(path.to_owned());
            }
        }
    }
}

fn is_same(old: &DeValue<'_>, new: &DeValue<'_>) -> bool {
    match (old, new) {
        (DeValue::String(old), DeValue::String(new)) => old == new,
        (DeValue::Boolean(old), DeValue::Boolean(new)) => old == new,
        (DeValue::Datetime(old), DeValue::Datetime(new)) => old == new,
        (DeValue::Integer(old), DeValue::Integer(new)) => (old.as_str(), old.radix()) == (new.as_str(), new.radix()),
        (DeValue::Float(old), DeValue::Float(new)) => old.as_str() == new.as_str(),
        _ => false,
    }
}

/// Returns the changed routes by their numbers, which `tollgate route` prints too.
fn routes(old: &RouteRules, new: &RouteRules) -> Vec<String> {
    let (before, after): (Vec<&Route>, Vec<&Route>) = (old.rules.iter().collect(), new.rules.iter().collect());
    let same = before.iter().zip(&after).take_while(|(old, new)| old == new).count();
    let (before, after) = (&before[same..], &after[same..]);
    let same_at_end = before.iter().rev().zip(after.iter().rev()).take_while(|(old, new)| old == new).count();
    let (before, after) = (&before[..before.len() - same_at_end], &after[..after.len() - same_at_end]);
    let span = |count: usize| match count {
        1 => format!("route {}", same + 1),
        _ => format!("routes {} to {}", same + 1, same + count),
    };
    let mut found = Vec::new();
    if old.double_payment != new.double_payment {
        found.push("double_payment".to_owned());
    }
    match (before.len(), after.len()) {
        (0, 0) => {}
        (0, added) => found.push(format!("{} new", span(added))),
        (removed, 0) => found.push(format!("{} removed", span(removed))),
        (removed, added) if removed != added => found.push(format!("{} replaced by {added} others", span(removed))),
        _ => {
            let each = before.iter().zip(after).enumerate().filter(|(_, (old, new))| old != new);
            found.extend(each.map(|(place, (old, new))| {
                format!("route {} ({})", same + place + 1, joined(route(old, new).into_iter()))
            }));
        }
    }
    found
}

fn route(old: &Route, new: &Route) -> Vec<&'static str> {
    // Destructured, so that a new condition cannot be forgotten.
    let Condition { merchant, method, currency, at_least, below, hours, metadata } = &old.wanted;
    let other = &new.wanted;
    let same = [
        ("match.merchant", *merchant == other.merchant),
        ("match.method", *method == other.method),
        ("match.currency", *currency == other.currency),
        ("match.amount.at_least", *at_least == other.at_least),
        ("match.amount.below", *below == other.below),
        ("match.time", *hours == other.hours),
        ("match.metadata", *metadata == other.metadata),
        ("to", old.to == new.to),
        ("fallback", old.fallback == new.fallback),
        ("respond", old.answer == new.answer),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

fn joined(text: impl Iterator<Item = impl Display>) -> String {
    text.map(|word| word.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::toml_file::TomlFile;
    use super::*;

    fn dependencies(dir: &Path, text: &str) -> Dependencies {
        let source = TomlFile::with_text(&dir.join("x.toml"), text.to_owned());
        source.read_named("key.pem").unwrap();
        source.dependencies()
    }

    #[test]
    fn changed_keys_are_named_without_values() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key.pem"), "one").unwrap();
        let old = dependencies(
            dir.path(),
            "a = 1\nold = 2\n[timeouts]\ntotal = \"5s\"\n[[filter]]\nrate = 0x10\n[[filter]]\nbase = \"1s\"\nlist = [1]\n",
        );
        let new = dependencies(
            dir.path(),
            "# note\na = 1\nsecret = \"hunter2\"\ntimeouts = { total = \"4s\" }\n[[filter]]\nrate = 0x10\n[[filter]]\nbase = \"2s\"\nlist = [1, 2]\n",
        );
        let found = keys(&old, &new);
        assert_eq!(found, ["secret", "timeouts.total", "filter[1].base", "filter[1].list", "old"]);
        std::fs::write(dir.path().join("key.pem"), "two").unwrap();
        assert_eq!(
            keys(&old, &dependencies(dir.path(), &String::from_utf8_lossy(old.text.expose()))),
            ["the content of key.pem"]
        );
        let commented = format!("# {}", String::from_utf8_lossy(old.text.expose()));
        std::fs::write(dir.path().join("key.pem"), "one").unwrap();
        assert!(keys(&old, &dependencies(dir.path(), &commented.replacen("# ", "#\n", 1)))[0].contains("its comments"));
    }

    #[test]
    fn changed_routes_are_named_by_number_and_key() {
        let route = |name: &str, below: u64| Route {
            wanted: Condition { below: Some(below), ..Condition::default() },
            to: vec![(name.to_owned(), 1)],
            ..Route::default()
        };
        let of = |list: &[Route]| RouteRules { rules: list.to_vec(), ..RouteRules::default() };
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| route(name, 5));
        let abc = of(&[a.clone(), b.clone(), c.clone()]);
        for (new, expected) in [
            (vec![a.clone(), b.clone(), c.clone()], ""),
            (vec![a.clone(), route("x", 6), c.clone()], "route 2 (match.amount.below, to)"),
            (vec![a.clone(), b.clone(), d.clone(), c.clone()], "route 3 new"),
            (vec![a.clone(), b.clone(), c.clone(), d.clone(), d.clone()], "routes 4 to 5 new"),
            (vec![b.clone(), c.clone()], "route 1 removed"),
            (vec![a.clone()], "routes 2 to 3 removed"),
            (vec![a.clone(), d.clone()], "routes 2 to 3 replaced by 1 others"),
            (vec![d.clone(), b.clone(), d], "route 1 (to), route 3 (to)"),
        ] {
            assert_eq!(routes(&abc, &of(&new)).join(", "), expected);
        }
        let mut flagged = of(&[a, b, c]);
        flagged.double_payment = crate::DoublePayment::Flag;
        assert_eq!(routes(&abc, &flagged), ["double_payment"]);
    }

    #[test]
    fn long_list_of_changes_is_truncated() {
        let found = with_details("x changed", (0..100).map(|number| number.to_string()).collect());
        assert!(found.starts_with("x changed: 0, 1,") && found.ends_with("19, 80 more"), "{found}");
    }
}
