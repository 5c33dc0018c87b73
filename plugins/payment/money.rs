//! Money as whole minor units of a currency.

use std::fmt;

use serde::{Deserialize, Serialize};

/// ISO 4217 currency code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    /// Chinese yuan.
    pub const CNY: Self = Self(*b"CNY");

    /// Parses a code; `None` unless it is three ASCII capitals.
    pub fn parse(code: &str) -> Option<Self> {
        let bytes: [u8; 3] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_uppercase).then_some(Self(bytes))
    }

    /// Returns the three letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&code).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{code}` is not a currency: use three capital letters (ISO 4217), as in \"CNY\""
            ))
        })
    }
}

/// Amount in the currency's minor unit (fen, cents). It is whole and not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Number of minor units.
    pub value: u64,
    /// Currency of the minor units.
    pub currency: Currency,
}

impl Money {
    /// Formats the amount with two decimals, as in `88.88`. The currency's minor unit must be one hundredth.
    pub fn yuan(self) -> String {
        format!("{}.{:02}", self.value / 100, self.value % 100)
    }

    /// Parses yuan with at most two decimals: `88.88`, `88.8` or `88`. Signs and exponents are rejected.
    pub fn of_yuan(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "00"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 2 {
            return None;
        }
        let fen = if part.len() == 1 { part.parse::<u64>().ok()? * 10 } else { part.parse().ok()? };
        let value = whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(fen)?;
        Some(Self { value, currency: Currency::CNY })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (minor units)", self.value, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_with_fraction_sign_or_unknown_field_is_rejected() {
        let read = |text: &str| serde_json::from_str::<Money>(text);
        assert!(read(r#"{"value":1,"currency":"CNY"}"#).is_ok());
        for bad in [
            r#"{"value":-1,"currency":"CNY"}"#,
            r#"{"value":1.5,"currency":"CNY"}"#,
            r#"{"value":99999999999999999999,"currency":"CNY"}"#,
            r#"{"value":"1","currency":"CNY"}"#,
            r#"{"value":1,"currency":"cny"}"#,
            r#"{"value":1,"currency":"CNY","unit":"fen"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn yuan_round_trip_exactly_and_fractions_of_a_fen_are_rejected() {
        for (text, value) in
            [("0.01", 1), ("88.88", 8888), ("88.8", 8880), ("88", 8800), ("100000000.00", 10_000_000_000)]
        {
            assert_eq!(Money::of_yuan(text), Some(Money { value, currency: Currency::CNY }), "{text}");
        }
        for bad in ["", ".", "1.", ".1", "-1", "+1", "1.001", "1e2", " 1", "1,00", "1.0.0", "١", "184467440737095517"]
        {
            assert_eq!(Money::of_yuan(bad), None, "{bad}");
        }
        for value in [0, 1, 10, 99, 100, 101, 6800, u64::MAX / 100 * 100] {
            let money = Money { value, currency: Currency::CNY };
            assert_eq!(Money::of_yuan(&money.yuan()), Some(money));
        }
    }
}
