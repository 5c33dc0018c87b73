//! Beijing time, as the older interfaces write it: without an offset, which is always eight hours.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

/// Where it is eight hours later than in UTC, all year.
pub(super) const CHINA: Offset = Offset::constant(8);

/// As in `2023-11-15 06:13:20`. Each letter of a pattern stands for a digit.
pub(super) const SPACED: &str = "yyyy-MM-dd HH:mm:ss";
/// As in `20231115061320`.
pub(super) const COMPACT: &str = "yyyyMMddHHmmss";

/// The letters of patterns: years, months, days, hours, minutes, seconds.
const LETTERS: [char; 6] = ['y', 'M', 'd', 'H', 'm', 's'];

/// Writes a moment, from its last digit on. (By hand, as it is read: general formats cost as much as a tenth of a
/// signature's check.)
pub(super) fn write(time: Timestamp, pattern: &str) -> String {
    let time = CHINA.to_datetime(time);
    let parts = [time.month(), time.day(), time.hour(), time.minute(), time.second()].map(i16::from);
    let [month, day, hour, minute, second] = parts;
    let mut numbers = [time.year(), month, day, hour, minute, second];
    let written = pattern.bytes().rev().map(|letter| match place_of(char::from(letter)) {
        Some(part) => last_digit(&mut numbers, part),
        None => letter,
    });
    let mut text: Vec<u8> = written.collect();
    text.reverse();
    String::from_utf8(text).unwrap_or_default()
}

/// Takes the last digit off one of the numbers.
fn last_digit(numbers: &mut [i16; LETTERS.len()], part: usize) -> u8 {
    let Some(number) = numbers.get_mut(part) else { return b'0' };
    let digit = u8::try_from(*number % 10).unwrap_or_default();
    *number /= 10;
    b'0' + digit
}

/// Which number a letter stands for.
fn place_of(letter: char) -> Option<usize> {
    LETTERS.iter().position(|known| *known == letter)
}

/// The day that it is then.
pub(super) fn day(time: Timestamp) -> Date {
    CHINA.to_datetime(time).date()
}

/// Reads a moment; what comes after whole seconds (`.123`) is left out.
pub(super) fn read(text: &str, pattern: &str) -> Option<Timestamp> {
    read_in_year(0, text, pattern)
}

/// The same with a pattern that names no year.
pub(super) fn read_in_year(year: i16, text: &str, pattern: &str) -> Option<Timestamp> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    if whole.len() != pattern.len() {
        return None;
    }
    let mut numbers = [year, 0, 0, 0, 0, 0];
    for (letter, given) in pattern.chars().zip(whole.chars()) {
        match place_of(letter).and_then(|part| numbers.get_mut(part)) {
            Some(number) => *number = number.checked_mul(10)?.checked_add(i16::try_from(given.to_digit(10)?).ok()?)?,
            None if letter == given => {}
            None => return None,
        }
    }
    let [year, parts @ ..] = numbers;
    let [month, day, hour, minute, second] = parts.map(|part| i8::try_from(part).unwrap_or(-1));
    CHINA.to_timestamp(DateTime::new(year, month, day, hour, minute, second, 0).ok()?).ok()
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
        assert_eq!(read_in_year(2023, "1115061320", "MMddHHmmss"), Some(moment));
        assert_eq!(read_in_year(2023, "20231115061320", "MMddHHmmss"), None);
        for bad in [
            "",
            "2023",
            "2023-13-15 06:13:20",
            "20231115061320Z",
            "2023-11-31 06:13:20",
            "2023-11-15T06:13:20",
            "2023111506132０",
        ] {
            assert_eq!((read(bad, SPACED), read(bad, COMPACT)), (None, None), "{bad}");
        }
    }
}
