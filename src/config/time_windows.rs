//! Time values in configuration files: time of day, day of the week, time zone, moment, maintenance window.

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use tollgate_plugins::settings::{Form, Setting, Settings};
use toml::de::DeValue;

/// Time of day, for example `"22:00"`.
pub(super) struct TimeOfDay(pub(super) Time);

impl Setting for TimeOfDay {
    const EXPECTED: &'static str = "a time of day in quotes, as in \"22:00\"";
    const EXAMPLE: &'static str = "\"22:00\"";
    fn form() -> Form {
        Form::Pattern("^([01][0-9]|2[0-3]):[0-5][0-9]$")
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let is_short = text.len() == 5 && text.as_bytes().get(2) == Some(&b':');
        let time = Some(&text).filter(|_| is_short).and_then(|text| Time::strptime("%H:%M", text).ok());
        time.map(Self).ok_or_else(|| format!("\"{text}\""))
    }
}

/// Day of the week, for example `"sat"`.
pub(super) struct DayOfWeek(pub(super) Weekday);

impl Setting for DayOfWeek {
    const EXPECTED: &'static str = "a day: \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\" or \"sun\"";
    const EXAMPLE: &'static str = "\"sat\"";
    fn form() -> Form {
        Form::OneOf(vec!["mon", "tue", "wed", "thu", "fri", "sat", "sun"])
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let day = match text.as_str() {
            "mon" => Weekday::Monday,
            "tue" => Weekday::Tuesday,
            "wed" => Weekday::Wednesday,
            "thu" => Weekday::Thursday,
            "fri" => Weekday::Friday,
            "sat" => Weekday::Saturday,
            "sun" => Weekday::Sunday,
            _ => return Err(format!("\"{text}\"")),
        };
        Ok(Self(day))
    }
}

/// Time zone, for example `"Asia/Shanghai"`.
pub(super) struct Zone(pub(super) TimeZone);

impl Setting for Zone {
    const EXPECTED: &'static str = "a time zone, as in \"Asia/Shanghai\" or \"UTC\"";
    const EXAMPLE: &'static str = "\"Asia/Shanghai\"";
    fn form() -> Form {
        Form::Text
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        TimeZone::get(&text).map(Self).map_err(|_| format!("\"{text}\""))
    }
}

/// Moment, for example `2026-12-01T02:00:00+08:00`, with or without quotes.
pub(super) struct Moment(pub(super) Timestamp);

impl Setting for Moment {
    const EXPECTED: &'static str = "a moment with its offset, as in 2026-12-01T02:00:00+08:00";
    const EXAMPLE: &'static str = "2026-12-01T02:00:00+08:00";
    fn form() -> Form {
        Form::Moment
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_datetime().map_or_else(|| String::read(value), |moment| Ok(moment.to_string()))?;
        text.parse().map(Self).map_err(|_| text)
    }
}

/// Reads the windows of `[[maintenance]]`.
pub(super) fn windows(root: &mut Settings<'_>) -> Vec<(Timestamp, Timestamp)> {
    let mut windows = Vec::new();
    for mut window in root.sections("maintenance") {
        let from = window.required::<Moment>("from");
        let to = window.required::<Moment>("to");
        let (Some(Moment(from)), Some(Moment(to))) = (from, to) else { continue };
        if from >= to {
            window.problem("to", "`to` must be after `from`", None);
        }
        windows.push((from, to));
    }
    windows
}
