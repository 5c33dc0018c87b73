//! JSON Schemas of the configuration files, for completion and validation in editors.
//!
//! No key is listed here. The readers of the files run in a mode in which every key seems to be present, and the keys that they
//! ask for form the schema. Where a value decides which other keys are read (`provider`, `use`, `kind`), they run once per value.

use std::path::Path;

use serde_json::{Map, Value, json};
use tollgate_plugins::registry::FILTERS;
use tollgate_plugins::registry::PROVIDERS;
use tollgate_plugins::settings::{Form, Key, Outline, Settings, Shape};

use super::merchant::MerchantContext;
use super::now::Now;
use super::routes::KnownNames;
use super::toml_file::TomlFile;
use super::value_checks::ValueChecks;
use super::{cache, channel, ledger, merchant, routes, sinks, sources, tollgate_toml};

/// Kind of configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// tollgate.toml
    Tollgate,
    /// merchants/*.toml
    Merchant,
    /// channels/*.toml
    Channel,
    /// routes.toml
    Routes,
}

/// Every kind of file.
pub const FILES: [File; 4] = [File::Tollgate, File::Merchant, File::Channel, File::Routes];

impl File {
    /// Returns the name, as in `tollgate.schema.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tollgate => "tollgate",
            Self::Merchant => "merchant",
            Self::Channel => "channel",
            Self::Routes => "routes",
        }
    }

    /// Returns the schema in draft 2020-12, using only keywords that older drafts know.
    pub fn schema(self) -> Value {
        let mut schema = match self {
            Self::Tollgate => tollgate(),
            Self::Channel => channels(),
            Self::Merchant => merchants(),
            Self::Routes => object(&self.outline("")),
        };
        let head = [
            ("$schema", "https://json-schema.org/draft/2020-12/schema".to_owned()),
            ("title", format!("{}.toml of Tollgate", self.name())),
        ];
        let members = schema.as_object_mut();
        members
            .into_iter()
            .for_each(|members| members.extend(head.clone().map(|(name, text)| (name.into(), text.into()))));
        schema
    }

    /// Returns the keys that the reader asks for in a file with this text.
    fn outline(self, text: &str) -> Outline {
        let source = self.source(text);
        source.sketch(|root| self.read(&source, root))
    }

    /// Returns the schema of an array of tables of these kinds.
    fn kinds(self, table: &str, kinds: &[&str]) -> Value {
        let of_kind = |kind: &&str| {
            let outline = self.outline(&format!("[[{table}]]\nkind = \"{kind}\""));
            variant(&part(&outline, table), "kind", kind, true)
        };
        json!({"type": "array", "items": {"oneOf": kinds.iter().map(of_kind).collect::<Vec<_>>()}})
    }

    /// Returns a file in a directory without other files: readers open the files that they find named.
    fn source(self, text: &str) -> TomlFile {
        TomlFile::with_text(Path::new("/dev/null/schema.toml"), text.to_owned())
    }

    fn read(self, source: &TomlFile, root: Settings<'_>) {
        let now = Now::read();
        let names = KnownNames { merchants: &Default::default(), channels: &Default::default() };
        match self {
            Self::Tollgate => drop(tollgate_toml::read(source, root, now, &ValueChecks::ACCEPT)),
            Self::Merchant => {
                let context = MerchantContext { sandbox: Some(true), allowed: None, channels: &Default::default() };
                drop(merchant::read(source, root, "schema", &context, None));
            }
            Self::Channel => drop(channel::read(source, root, "schema", now, None)),
            Self::Routes => drop(routes::read(root, &names)),
        }
    }
}

/// Returns the schema of `tollgate.toml`, in which two sections and the sinks depend on `kind`.
fn tollgate() -> Value {
    let mut schema = object(&File::Tollgate.outline(""));
    for (section, kinds) in [("ledger", &ledger::KINDS), ("cache", &cache::CACHES)] {
        let of_kind = |kind: &&str| {
            let outline = File::Tollgate.outline(&format!("[{section}]\nkind = \"{kind}\""));
            // The first kind is the default.
            variant(&part(&outline, section), "kind", kind, Some(kind) != kinds.first())
        };
        schema["properties"][section] = json!({"oneOf": kinds.iter().map(of_kind).collect::<Vec<_>>()});
    }
    schema["properties"]["sink"] = File::Tollgate.kinds("sink", &sinks::OPERATOR_KINDS);
    schema
}

/// Returns the schema of a merchant, in which `kind` decides about the other keys of a sink and of a source.
fn merchants() -> Value {
    let mut schema = object(&File::Merchant.outline(""));
    schema["properties"]["sink"] = File::Merchant.kinds("sink", &sinks::KINDS);
    schema["properties"]["source"] = File::Merchant.kinds("source", &sources::KINDS);
    schema
}

/// Returns the schema of a channel. `provider` decides about `account` and `keys`, `use` about a filter.
fn channels() -> Value {
    let of_provider = |name: &'static str| {
        let outline = File::Channel.outline(&format!("provider = \"{name}\""));
        (name, object(&outline))
    };
    let providers: Vec<_> = PROVIDERS.iter().map(|row| of_provider(row.name)).collect();
    let mut schema = providers.first().map(|(_, schema)| schema.clone()).unwrap_or_default();
    for section in ["account", "keys"] {
        // For completion in editors, which look only here. The conditions below decide which alternative is valid.
        let each = providers.iter().map(|(_, schema)| schema["properties"][section].clone());
        schema["properties"][section] = json!({"anyOf": each.collect::<Vec<_>>()});
    }
    let of_filter = |name: &&'static str| {
        let outline = File::Channel.outline(&format!("provider = \"wechat-v3\"\n[[filter]]\nuse = \"{name}\""));
        variant(&part(&outline, "filter"), "use", name, true)
    };
    let filters: Vec<_> = FILTERS.iter().map(|row| row.name).collect();
    schema["properties"]["filter"] =
        json!({"type": "array", "items": {"oneOf": filters.iter().map(of_filter).collect::<Vec<_>>()}});
    let conditions = providers.iter().map(|(name, schema)| {
        let [account, keys] = ["account", "keys"].map(|section| &schema["properties"][section]);
        json!({
            "if": {"properties": {"provider": {"const": name}}, "required": ["provider"]},
            "then": {"properties": {"account": account, "keys": keys}},
        })
    });
    schema["allOf"] = conditions.collect();
    schema
}

/// Returns the schema of a table whose keys depend on one value.
fn variant(outline: &Outline, key: &'static str, word: &str, required: bool) -> Value {
    let mut schema = object(outline);
    schema["properties"][key] = json!({"const": word});
    let others = schema["required"].as_array().into_iter().flatten().filter(|name| *name != key).cloned();
    let needed = others.chain(required.then(|| Value::from(key)));
    schema["required"] = needed.collect();
    schema
}

/// Returns the outline of the table, or of each table, under a key.
fn part(outline: &Outline, key: &str) -> Outline {
    match outline.keys().remove(key).map(|key| key.shape) {
        Some(Shape::Table(below) | Shape::Tables(below)) => below,
        _ => Outline::default(),
    }
}

fn object(outline: &Outline) -> Value {
    let keys = outline.keys();
    let required: Vec<_> = keys.iter().filter(|(_, key)| key.required).map(|(name, _)| *name).collect();
    let properties: Map<String, Value> = keys.iter().map(|(name, key)| ((*name).to_owned(), property(key))).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn property(key: &Key) -> Value {
    let mut schema = match &key.shape {
        Shape::Value(value, _) => form(value),
        Shape::Values(value, _) => json!({"type": "array", "items": form(value)}),
        Shape::Table(below) => object(below),
        Shape::Tables(below) => json!({"type": "array", "items": object(below)}),
        Shape::Texts => json!({"type": "object", "additionalProperties": {"type": "string"}}),
    };
    if !key.description.is_empty() {
        schema["description"] = key.description.as_str().into();
    }
    schema
}

fn form(form: &Form) -> Value {
    match form {
        // Validators receive TOML date-times as strings.
        Form::Text | Form::Moment => json!({"type": "string"}),
        Form::Pattern(pattern) => json!({"type": "string", "pattern": pattern}),
        Form::OneOf(words) => json!({"type": "string", "enum": words}),
        Form::Flag => json!({"type": "boolean"}),
        Form::Whole(most) => json!({"type": "integer", "minimum": 0, "maximum": most}),
        Form::Number => json!({"type": "number"}),
        Form::List(items) => json!({"type": "array", "items": self::form(items)}),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
