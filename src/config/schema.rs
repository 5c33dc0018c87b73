//! `tollgate schema`: what each file may hold, as a JSON Schema, so that editors complete and complain.
//!
//! Nothing is said here of any key: the readers of the files are run over files in which each key seems to be there, and what
//! they ask for is the schema. Only where a word decides what else is asked for (`provider`, `use`, `kind`) they are run once
//! for each word.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tollgate_plugins::registry::{FILTERS, PROVIDERS};
use tollgate_plugins::settings::{Form, Key, Outline, Settings, Shape};

use super::identity::Now;
use super::merchant::Around;
use super::routes::Names;
use super::toml_file::Source;
use super::{channel, ledger, merchant, process, routes};
use crate::output::say;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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

const FILES: [File; 4] = [File::Tollgate, File::Merchant, File::Channel, File::Routes];

/// What `tollgate schema` is asked for.
#[derive(Args, Clone, Debug)]
pub struct SchemaArgs {
    /// Of which file
    #[arg(value_enum, required_unless_present = "dir")]
    file: Option<File>,
    /// Writes it there, or all four, instead of printing it
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Prints a schema, or writes files.
pub fn run(arguments: &SchemaArgs) -> Result<(), String> {
    let Some(dir) = &arguments.dir else {
        arguments.file.iter().for_each(|file| say!("{:#}", file.schema()));
        return Ok(());
    };
    let cannot = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(dir).map_err(|error| cannot(dir, error))?;
    for file in FILES.into_iter().filter(|file| arguments.file.is_none_or(|wanted| wanted == *file)) {
        let path = dir.join(format!("{}.schema.json", file.name()));
        std::fs::write(&path, format!("{:#}\n", file.schema())).map_err(|error| cannot(&path, error))?;
        say!("{}", path.display());
    }
    Ok(())
}

impl File {
    fn name(self) -> &'static str {
        match self {
            Self::Tollgate => "tollgate",
            Self::Merchant => "merchant",
            Self::Channel => "channel",
            Self::Routes => "routes",
        }
    }

    /// As draft 2020-12 has it, with nothing that older drafts do not know.
    pub(super) fn schema(self) -> Value {
        let mut schema = match self {
            Self::Tollgate => tollgate(),
            Self::Channel => channels(),
            Self::Merchant | Self::Routes => object(&self.outline("")),
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

    /// What the reader asks for in a file with this text in it.
    fn outline(self, text: &str) -> Outline {
        let source = self.source(text);
        source.sketch(|root| self.read(&source, root))
    }

    /// In a place where there are no other files: the readers look for those that they find named.
    fn source(self, text: &str) -> Source {
        Source::with_text(Path::new("/dev/null/schema.toml"), text.to_owned())
    }

    fn read(self, source: &Source, root: Settings<'_>) {
        let now = Now::read();
        let names = Names { merchants: &Default::default(), channels: &Default::default() };
        match self {
            Self::Tollgate => drop(process::read(source, root, now)),
            Self::Merchant => {
                let around = Around { sandbox: Some(true), allowed: None, channels: &Default::default() };
                drop(merchant::read(source, root, "schema", &around, None));
            }
            Self::Channel => drop(channel::read(source, root, "schema", now, None)),
            Self::Routes => drop(routes::read(root, &names)),
        }
    }
}

/// Two sections have kinds.
fn tollgate() -> Value {
    let mut schema = object(&File::Tollgate.outline(""));
    for (section, kinds) in [("ledger", &ledger::KINDS), ("cache", &process::CACHES)] {
        let of_kind = |kind: &&str| {
            let outline = File::Tollgate.outline(&format!("[{section}]\nkind = \"{kind}\""));
            // The first is meant where none is named.
            variant(&part(&outline, section), "kind", kind, Some(kind) != kinds.first())
        };
        schema["properties"][section] = json!({"oneOf": kinds.iter().map(of_kind).collect::<Vec<_>>()});
    }
    schema
}

/// The provider decides what stands in `account` and `keys`, `use` what stands in a filter.
fn channels() -> Value {
    let of_provider = |name: &'static str| {
        let outline = File::Channel.outline(&format!("provider = \"{name}\""));
        (name, object(&outline))
    };
    let providers: Vec<_> = PROVIDERS.iter().map(|row| of_provider(row.name)).collect();
    let mut schema = providers.first().map(|(_, schema)| schema.clone()).unwrap_or_default();
    for section in ["account", "keys"] {
        // For editors, which look for words to complete in here alone; the conditions below say which of them is meant.
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

/// A table that one word makes what it is.
fn variant(outline: &Outline, key: &'static str, word: &str, required: bool) -> Value {
    let mut schema = object(outline);
    schema["properties"][key] = json!({"const": word});
    let others = schema["required"].as_array().into_iter().flatten().filter(|name| *name != key).cloned();
    let needed = others.chain(required.then(|| Value::from(key)));
    schema["required"] = needed.collect();
    schema
}

/// The table, or each of the tables, under a key.
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
    if !key.words.is_empty() {
        schema["description"] = key.words.as_str().into();
    }
    schema
}

fn form(form: &Form) -> Value {
    match form {
        // Whoever hands a file to a schema writes TOML's own times as texts.
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
