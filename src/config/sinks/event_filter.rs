//! Filter of events by their type.

use tollgate_plugins::settings::{Form, Setting};
use toml::de::DeValue;

use super::operator_event_type::OperatorEventType;
use crate::toml_file::suggest;

/// Types of events that merchants get.
const EVENT_TYPES: [&str; 10] = [
    "payment.pending",
    "payment.succeeded",
    "payment.failed",
    "payment.closed",
    "payment.unknown",
    "payment.mismatch",
    "payment.double_payment",
    "payment.refunded_elsewhere",
    "refund.succeeded",
    "refund.failed",
];

/// Maximum length of an event type in bytes.
pub(super) const MAX_TYPE: usize = 26;

/// Events that a sink gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter(Vec<String>);

impl EventFilter {
    /// Returns a filter that every event passes.
    pub(super) fn all() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Returns a filter that no event passes.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn of(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// Returns whether an event of this type passes.
    pub fn matches(&self, event_type: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, event_type))
    }
}

fn matches(pattern: &str, event_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => event_type.starts_with(prefix),
        None => event_type == pattern,
    }
}

/// Types that a filter may name.
pub(super) trait EventPattern: Setting {
    /// Returns the pattern: a type, or a group of types that ends in `*`. At least one event passes it.
    fn text(self) -> String;
}

/// Pattern of merchants' events.
pub(super) struct MerchantEventPattern(String);

/// Pattern of operator events.
pub(super) struct OperatorEventPattern(String);

/// Form of both in a schema.
const PATTERN: &str = r"^(\*|[a-z_]+\.(\*|[a-z_]+))$";

impl Setting for MerchantEventPattern {
    const EXPECTED: &'static str =
        "the type of an event or a group of them, as in \"refund.succeeded\" or \"payment.*\"";
    const EXAMPLE: &'static str = "\"payment.*\"";
    fn form() -> Form {
        Form::Pattern(PATTERN)
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        pattern(value, &EVENT_TYPES).map(Self)
    }
}

impl EventPattern for MerchantEventPattern {
    fn text(self) -> String {
        self.0
    }
}

impl Setting for OperatorEventPattern {
    const EXPECTED: &'static str =
        "the type of an operator event or a group of them, as in \"config.rejected\" or \"channel.*\"";
    const EXAMPLE: &'static str = "\"channel.*\"";
    fn form() -> Form {
        Form::Pattern(PATTERN)
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let types: Vec<_> = OperatorEventType::all().map(OperatorEventType::name).collect();
        pattern(value, &types).map(Self)
    }
}

impl EventPattern for OperatorEventPattern {
    fn text(self) -> String {
        self.0
    }
}

/// Reads a pattern that at least one of these types passes.
fn pattern(value: &DeValue<'_>, types: &[&'static str]) -> Result<String, String> {
    let text = String::read(value)?;
    let is_group = text == "*" || text.ends_with(".*");
    if (is_group || !text.contains('*')) && types.iter().any(|known| matches(&text, known)) {
        return Ok(text);
    }
    let near = suggest(&text, types.iter().copied()).filter(|_| text.len() <= 2 * MAX_TYPE);
    let near = near.map_or(String::new(), |near| format!(" ({near})"));
    Err(format!("\"{}\"{near}", text.chars().take(2 * MAX_TYPE).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_event_type_has_the_maximum_length() {
        assert_eq!(EVENT_TYPES.iter().map(|kind| kind.len()).max(), Some(MAX_TYPE));
    }
}
