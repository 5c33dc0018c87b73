//! References to secrets in configuration files: `env:NAME`, `file:PATH` or, in a sandbox only, `plain:…`.

use std::ops::Range;

use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Form, Setting, Settings};
use toml::de::DeValue;

use super::toml_file::TomlFile;

/// Unresolved reference to a secret. A user may have pasted the secret itself, so the text is never printed.
pub(super) struct SecretText(String);

impl Setting for SecretText {
    const EXPECTED: &'static str = "a secret's place in quotes: \"env:NAME\" or \"file:PATH\"";
    const EXAMPLE: &'static str = "\"env:PATH\"";
    fn form() -> Form {
        Form::Pattern(r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|plain:.+)$")
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(|text| Self(text.to_owned())).ok_or_else(|| format!("a value of type {}", value.type_str()))
    }
}

/// Permission to write a secret as `plain:…`.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    /// Allowed in a sandbox.
    Allowed,
    /// Rejected, with the reason.
    Refused(&'static str),
}

/// Resolves the secret of a required key.
pub(super) fn required(
    source: &TomlFile,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
) -> Option<Secret> {
    required_as(source, settings, key, plain, SecretText::EXPECTED)
}

/// Resolves the secret of a required key; `advice` is the suggestion if the key is missing.
pub(super) fn required_as(
    source: &TomlFile,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
    advice: &str,
) -> Option<Secret> {
    let text = settings.required_as::<SecretText>(key, advice)?;
    resolve(source, settings, settings.span_of(key), &text, plain)
}

/// Resolves the secret of an optional key.
pub(super) fn optional(
    source: &TomlFile,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
) -> Option<Secret> {
    let text = settings.optional::<SecretText>(key)?;
    resolve(source, settings, settings.span_of(key), &text, plain)
}

/// Resolves an optional key to the exact bytes of its content: a certificate may be binary.
pub(super) fn optional_content(
    source: &TomlFile,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
) -> Option<Secret> {
    let text = settings.optional::<SecretText>(key)?;
    resolve_as(source, settings, settings.span_of(key), &text, plain, |content| content)
}

/// Resolves a secret reference. Reports errors at `place`.
pub(super) fn resolve(
    source: &TomlFile,
    settings: &Settings<'_>,
    place: Range<usize>,
    text: &SecretText,
    plain: Plain,
) -> Option<Secret> {
    resolve_as(source, settings, place, text, plain, without_newline)
}

fn resolve_as(
    source: &TomlFile,
    settings: &Settings<'_>,
    place: Range<usize>,
    text: &SecretText,
    plain: Plain,
    trim: fn(&[u8]) -> &[u8],
) -> Option<Secret> {
    let report = |message: String, suggestion: Option<&str>| {
        settings.problems().push(place.clone(), message, suggestion.map(str::to_owned));
        None
    };
    let (scheme, rest) = text.0.split_once(':').unwrap_or(("", ""));
    match scheme {
        "env" if !is_variable_name(rest) => report(
            "`env:` is not followed by the name of an environment variable".into(),
            Some("as in \"env:SHOP_SECRET\""),
        ),
        "env" => match std::env::var_os(rest) {
            Some(value) if !trim(value.as_encoded_bytes()).is_empty() => {
                let value = value.into_encoded_bytes();
                source.add_variable(rest, &value);
                // Commands like `export SECRET="$(cat file; echo)"` leave a trailing newline.
                Some(Secret::new(trim(&value)))
            }
            _ => {
                report(format!("the environment variable `{rest}` is not set"), Some("set it before starting tollgate"))
            }
        },
        "file" => match source.read_named(rest) {
            Ok(content) => {
                let content = trim(content.expose());
                if content.is_empty() {
                    report(format!("the file `{rest}` is empty"), None)
                } else {
                    Some(Secret::new(content))
                }
            }
            Err(message) => report(message, None),
        },
        "plain" => match plain {
            Plain::Allowed if rest.is_empty() => report("the secret is empty".into(), None),
            Plain::Allowed => Some(Secret::new(rest)),
            Plain::Refused(reason) => report(
                format!("a secret may be written in the file only in a sandbox: {reason}"),
                Some("write env:NAME, file:PATH"),
            ),
        },
        _ => report("a secret must not be written in the file itself".into(), Some("write env:NAME, file:PATH")),
    }
}

/// Returns whether `text` is a valid name of an environment variable. A secret pasted after `env:` seldom is one, so an
/// invalid name is not echoed.
fn is_variable_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn without_newline(content: &[u8]) -> &[u8] {
    // Some editors write a byte order mark.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}
