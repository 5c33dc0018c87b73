//! Times in UTC+8, the time zone of every simulated provider.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

const UTC_PLUS_8: TimeZone = TimeZone::fixed(Offset::constant(8));

/// Converts a time to UTC+8.
pub(crate) fn zoned(time: Timestamp) -> Zoned {
    time.to_zoned(UTC_PLUS_8)
}

/// Formats a time in UTC+8 with `strftime`.
pub(crate) fn china(time: Timestamp, format: &str) -> String {
    zoned(time).strftime(format).to_string()
}

/// Parses a time in UTC+8 with `strptime`.
pub(crate) fn parse_china_time(format: &str, text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(format, text).ok()?;
    Some(time.to_zoned(UTC_PLUS_8).ok()?.timestamp())
}

/// Parses fourteen digits, `20231115061325`.
pub(crate) fn parse_digits(text: &str) -> Option<Timestamp> {
    let is_time = text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit());
    parse_china_time("%Y%m%d%H%M%S", text).filter(|_| is_time)
}
