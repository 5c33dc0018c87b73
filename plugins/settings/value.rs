//! Types of configuration values and their notation in TOML.

use std::time::Duration;

use toml::de::DeValue;

use super::Form;
use crate::payment::Currency;

/// Type of a configuration value.
pub trait Setting: Sized {
    /// Description with an example; completes "must be …".
    const EXPECTED: &'static str;
    /// Valid value in TOML notation.
    const EXAMPLE: &'static str;
    /// Returns the notation, for the schema.
    fn form() -> Form;
    /// Reads a value. The error describes what was found instead.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

/// Size in bytes, for example `"64KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Setting for String {
    const EXPECTED: &'static str = "a text in quotes";
    const EXAMPLE: &'static str = "\"1\"";
    fn form() -> Form {
        Form::Text
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| describe(value))
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";
    fn form() -> Form {
        Form::Flag
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| describe(value))
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number, 0 or more";
    const EXAMPLE: &'static str = "1";
    fn form() -> Form {
        Form::Whole(i64::MAX.unsigned_abs())
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let whole = value.as_integer().and_then(|n| u64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok());
        whole.ok_or_else(|| describe(value))
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    const EXAMPLE: &'static str = "1";
    fn form() -> Form {
        Form::Whole(u32::MAX.into())
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        u64::read(value).ok().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| describe(value))
    }
}

impl Setting for f64 {
    const EXPECTED: &'static str = "a number";
    const EXAMPLE: &'static str = "1.5";
    fn form() -> Form {
        Form::Number
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let number = match value {
            DeValue::Float(float) => float.as_str().replace('_', "").parse::<f64>().ok(),
            _ => u64::read(value).ok().map(|whole| whole as f64),
        };
        number.filter(|n| n.is_finite()).ok_or_else(|| describe(value))
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration in quotes, as in \"1.5s\", \"100ms\", \"5m\", \"24h\"";
    const EXAMPLE: &'static str = "\"1.5s\"";
    fn form() -> Form {
        Form::Pattern(r"^[0-9]+(\.[0-9]*)?\s*(ms|s|m|min|h|d)$")
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().and_then(duration).ok_or_else(|| describe(value))
    }
}

impl Setting for Size {
    const EXPECTED: &'static str = "a size in quotes, as in \"64KiB\", \"1MiB\", \"500B\"";
    const EXAMPLE: &'static str = "\"64KiB\"";
    fn form() -> Form {
        Form::Pattern(r"^[0-9]+(\.[0-9]*)?\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)$")
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().and_then(parse_size).map(Self).ok_or_else(|| describe(value))
    }
}

impl Setting for Currency {
    const EXPECTED: &'static str = "a currency (ISO 4217), as in \"CNY\"";
    const EXAMPLE: &'static str = "\"CNY\"";
    fn form() -> Form {
        Form::Pattern("^[A-Z]{3}$")
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().and_then(Self::parse).ok_or_else(|| describe(value))
    }
}

impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = "a list in brackets, each item in it of the right kind";
    const EXAMPLE: &'static str = "[]";
    fn form() -> Form {
        Form::List(Box::new(T::form()))
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| describe(value))?;
        items
            .iter()
            .map(|item| {
                T::read(item.get_ref()).map_err(|found| format!("one with {found} (an item must be {})", T::EXPECTED))
            })
            .collect()
    }
}

/// Parses a duration such as `1.5s`, `500ms`, `10m`, `2h` or `1d`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "B" => 1u64,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    Some((number * factor as f64) as u64)
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Describes a value, for "must be …, not …". Strings of more than 60 bytes are not repeated. Callers must not pass secrets.
pub(crate) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.len() <= 60 => format!("\"{text}\""),
        DeValue::String(_) => "a long string".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        other => format!("a value of type {}", other.type_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_parse_and_unknown_units_are_rejected() {
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("24h"), Some(Duration::from_secs(86400)));
        for bad in ["", "5", "s", "1.2.3s", "-1s", "1e9s", "99999999999999999999999d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(parse_size("64KiB"), Some(65536));
        assert_eq!(parse_size("64kb"), None);
    }
}
