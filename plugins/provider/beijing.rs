//! Beijing time, as the older interfaces write it: without an offset, which is always eight hours.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

/// Where it is eight hours later than in UTC, all year.
pub(super) const CHINA: Offset = Offset::constant(8);

/// As in `2023-11-15 06:13:20`.
pub(super) const SPACED: &str = "%Y-%m-%d %H:%M:%S";
/// As in `20231115061320`.
pub(super) const COMPACT: &str = "%Y%m%d%H%M%S";

/// Writes a moment.
pub(super) fn write(time: Timestamp, format: &str) -> String {
    time.to_zoned(TimeZone::fixed(CHINA)).strftime(format).to_string()
}

/// The day that it is then.
pub(super) fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::fixed(CHINA)).date()
}

/// Reads a moment; what comes after whole seconds (`.123`) is left out.
pub(super) fn read(text: &str, format: &str) -> Option<Timestamp> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let time = DateTime::strptime(format, whole).ok()?;
    time.to_zoned(TimeZone::fixed(CHINA)).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_eight_hours_ahead() {
        let moment = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(write(moment, SPACED), "2023-11-15 06:13:20");
        assert_eq!(write(moment, COMPACT), "20231115061320");
        assert_eq!(read("2023-11-15 06:13:20.123", SPACED), Some(moment));
        assert_eq!(read("20231115061320", COMPACT), Some(moment));
        for bad in ["", "2023", "2023-13-15 06:13:20", "20231115061320Z"] {
            assert_eq!((read(bad, SPACED), read(bad, COMPACT)), (None, None), "{bad}");
        }
    }
}
