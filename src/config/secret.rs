//! How a secret is named in a file: `env:NAME`, `file:PATH` or, in a sandbox only, `plain:…`.

use std::ops::Range;

use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Form, Setting, Settings};
use toml::de::DeValue;

use super::toml_file::Source;

/// What a file says where a secret belongs. It may be the secret itself, put there by mistake: it is never repeated.
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

/// Whether `plain:…` may be used.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    /// It is a sandbox.
    Allowed,
    /// It is not, for this reason.
    Refused(&'static str),
}

/// Finds the secret of a key that must be there.
pub(super) fn required(
    source: &Source,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
) -> Option<Secret> {
    required_as(source, settings, key, plain, SecretText::EXPECTED)
}

/// The same; where it is missing, the advice says what belongs there.
pub(super) fn required_as(
    source: &Source,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
    advice: &str,
) -> Option<Secret> {
    let text = settings.required_as::<SecretText>(key, advice)?;
    resolve(source, settings, settings.span_of(key), &text, plain)
}

/// Finds the secret of a key that may be missing.
pub(super) fn optional(
    source: &Source,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
) -> Option<Secret> {
    let text = settings.optional::<SecretText>(key)?;
    resolve(source, settings, settings.span_of(key), &text, plain)
}

/// Finds the content of a key that may be missing, byte for byte: a certificate may be binary.
pub(super) fn optional_content(
    source: &Source,
    settings: &mut Settings<'_>,
    key: &'static str,
    plain: Plain,
) -> Option<Secret> {
    let text = settings.optional::<SecretText>(key)?;
    resolve_as(source, settings, settings.span_of(key), &text, plain, |content| content)
}

/// Finds the secret that a text names; says what is wrong at the text's place.
pub(super) fn resolve(
    source: &Source,
    settings: &Settings<'_>,
    place: Range<usize>,
    text: &SecretText,
    plain: Plain,
) -> Option<Secret> {
    resolve_as(source, settings, place, text, plain, without_newline)
}

fn resolve_as(
    source: &Source,
    settings: &Settings<'_>,
    place: Range<usize>,
    text: &SecretText,
    plain: Plain,
    trim: fn(&[u8]) -> &[u8],
) -> Option<Secret> {
    let say = |message: String, suggestion: Option<&str>| {
        settings.problems().push(place.clone(), message, suggestion.map(str::to_owned));
        None
    };
    let (scheme, rest) = text.0.split_once(':').unwrap_or(("", ""));
    match scheme {
        "env" if !is_variable_name(rest) => {
            say("what follows `env:` is no name of an environment variable".into(), Some("as in \"env:SHOP_SECRET\""))
        }
        "env" => match std::env::var_os(rest) {
            Some(value) if !trim(value.as_encoded_bytes()).is_empty() => {
                let value = value.into_encoded_bytes();
                source.feed_variable(rest, &value);
                // As from a file: `export SECRET="$(cat file; echo)"` and the like leave one.
                Some(Secret::new(trim(&value)))
            }
            _ => say(format!("the environment variable `{rest}` is not set"), Some("set it before starting tollgate")),
        },
        "file" => match source.read_named(rest) {
            Ok(content) => {
                let content = trim(content.expose());
                if content.is_empty() {
                    say(format!("the file `{rest}` is empty"), None)
                } else {
                    Some(Secret::new(content))
                }
            }
            Err(message) => say(message, None),
        },
        "plain" => match plain {
            Plain::Allowed if rest.is_empty() => say("the secret is empty".into(), None),
            Plain::Allowed => Some(Secret::new(rest)),
            Plain::Refused(reason) => say(
                format!("a secret may stand in the file only in a sandbox: {reason}"),
                Some("write env:NAME, file:PATH"),
            ),
        },
        _ => say("a secret must not stand in the file itself".into(), Some("write env:NAME, file:PATH")),
    }
}

/// So that a secret pasted after `env:` is seldom taken for a name, and then repeated.
fn is_variable_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn without_newline(content: &[u8]) -> &[u8] {
    // Editors put a byte order mark before it.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}
