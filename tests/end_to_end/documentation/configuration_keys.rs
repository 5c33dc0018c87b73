//! Keys that the readers of the configuration accept, from the schemas.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::is_word;

/// Every key that the configuration's readers ask for, by its path, as in `filter.rate`.
pub(super) struct Keys(BTreeSet<String>);

impl Keys {
    pub(super) fn from_schemas() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made =
            Command::new(env!("CARGO_BIN_EXE_tollgate")).args(["schema", "--dir"]).arg(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut keys = BTreeSet::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let schema: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
            gather(&schema, "", &mut keys);
        }
        assert!(keys.contains("ledger.retention.claims") && keys.contains("filter.rate"), "{keys:?}");
        Self(keys)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        let is_free = || path.rsplit_once('.').is_some_and(|(parent, _)| self.0.contains(&format!("{parent}.*")));
        self.0.contains(path) || is_free()
    }

    pub(super) fn has_last(&self, key: &str) -> bool {
        self.0.iter().any(|path| path.rsplit('.').next() == Some(key))
    }

    /// The keys of a TOML text that no reader asks for. Keys in comments count, as in `# kind = "redis"`.
    pub(super) fn unknown(&self, text: &str) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut section = String::new();
        for line in text.lines() {
            let line = line.trim_start_matches(['#', ' ']);
            let name = line.split(']').next().unwrap_or_default().trim_start_matches('[');
            if line.starts_with('[') && is_word(name) {
                section = name.to_owned();
                continue;
            }
            let is_key = line
                .split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
            let Some(table) = is_key.then(|| line.parse::<toml::Table>().ok()).flatten() else { continue };
            let mut paths = Vec::new();
            flatten(&toml::Value::Table(table), &section, &mut paths);
            unknown.extend(paths.into_iter().filter(|path| !self.has(path)));
        }
        unknown
    }
}

pub(super) fn gather(schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        gather(inner, &path, keys);
        keys.insert(path);
    }
    if schema["additionalProperties"].is_object() {
        keys.insert(format!("{path}.*"));
    }
    for inner in ["items", "then", "else", "if"].into_iter().filter_map(|name| schema.get(name)) {
        gather(inner, path, keys);
    }
    for inner in ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten() {
        gather(inner, path, keys);
    }
}

pub(super) fn flatten(value: &toml::Value, path: &str, paths: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, inner) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(inner, &path, paths);
                paths.push(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| flatten(item, path, paths)),
        _ => {}
    }
}
