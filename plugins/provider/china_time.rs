//! China time (UTC+8, without an offset in the text), as older provider interfaces write it.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

/// UTC offset of China time. China has no daylight saving time.
pub(super) const CHINA: Offset = Offset::constant(8);

/// Pattern of `2023-11-15 06:13:20`. Each letter of a pattern stands for one digit.
pub(super) const SPACED: &str = "yyyy-MM-dd HH:mm:ss";
/// Pattern of `20231115061320`.
pub(super) const COMPACT: &str = "yyyyMMddHHmmss";

/// Letters of a pattern: year, month, day, hour, minute, second.
const LETTERS: [char; 6] = ['y', 'M', 'd', 'H', 'm', 's'];

/// Formats a time by a pattern, from the last digit to the first.
///
/// Written by hand like [`read`], because general formatters cost up to a tenth of a signature check.
pub(super) fn write(time: Timestamp, pattern: &str) -> String {
    let time = CHINA.to_datetime(time);
    let parts = [time.month(), time.day(), time.hour(), time.minute(), time.second()].map(i16::from);
    let [month, day, hour, minute, second] = parts;
    let mut numbers = [time.year(), month, day, hour, minute, second];
    let written = pattern.bytes().rev().map(|letter| match index_of(char::from(letter)) {
        Some(part) => last_digit(&mut numbers, part),
        None => letter,
    });
    let mut text: Vec<u8> = written.collect();
    text.reverse();
    String::from_utf8(text).unwrap_or_default()
}

/// Removes the last digit of a number and returns it as ASCII.
fn last_digit(numbers: &mut [i16; LETTERS.len()], part: usize) -> u8 {
    let Some(number) = numbers.get_mut(part) else { return b'0' };
    let digit = u8::try_from(*number % 10).unwrap_or_default();
    *number /= 10;
    b'0' + digit
}

/// Returns the index of the number that a letter stands for.
fn index_of(letter: char) -> Option<usize> {
    LETTERS.iter().position(|known| *known == letter)
}

/// Returns the calendar day of a time.
pub(super) fn day(time: Timestamp) -> Date {
    CHINA.to_datetime(time).date()
}

/// Parses a time by a pattern. Fractions of a second (`.123`) are ignored.
pub(super) fn read(text: &str, pattern: &str) -> Option<Timestamp> {
    read_in_year(0, text, pattern)
}

/// Parses a time by a pattern without a year.
pub(super) fn read_in_year(year: i16, text: &str, pattern: &str) -> Option<Timestamp> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    if whole.len() != pattern.len() {
        return None;
    }
    let mut numbers = [year, 0, 0, 0, 0, 0];
    for (letter, digit) in pattern.chars().zip(whole.chars()) {
        match index_of(letter).and_then(|part| numbers.get_mut(part)) {
            Some(number) => *number = number.checked_mul(10)?.checked_add(i16::try_from(digit.to_digit(10)?).ok()?)?,
            None if letter == digit => {}
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
    fn china_time_is_parsed_and_formatted_with_utc_plus_8() {
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
