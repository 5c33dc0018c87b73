//! Conditions of a route, and the payment that they are compared with.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use tollgate_plugins::payment::{Currency, Method, Money};

/// Payment to be routed.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Merchant that owns the payment.
    pub merchant: &'a str,
    /// Payment method.
    pub method: Method,
    /// Amount and currency.
    pub amount: Money,
    /// Metadata of the request.
    pub metadata: Option<&'a Map<String, Value>>,
    /// Channel that the request names.
    pub pinned: Option<&'a str>,
    /// Order number at the provider, which decides the weighted choice.
    pub number: &'a str,
    /// Time of the payment.
    pub at: Timestamp,
}

/// Conditions of a route. An unset condition matches every payment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// Required merchant.
    pub merchant: Option<String>,
    /// Required method.
    pub method: Option<Method>,
    /// Required currency.
    pub currency: Option<Currency>,
    /// Minimum amount.
    pub at_least: Option<u64>,
    /// Exclusive upper bound of the amount.
    pub below: Option<u64>,
    /// Hours in which the route applies.
    pub hours: Option<Hours>,
    /// Required metadata entries.
    pub metadata: Vec<(String, String)>,
}

impl Condition {
    /// Returns whether the payment meets all conditions.
    pub fn matches(&self, question: &Question<'_>) -> bool {
        self.merchant.as_deref().is_none_or(|name| name == question.merchant)
            && self.method.is_none_or(|wanted| wanted == question.method)
            && self.currency.is_none_or(|wanted| wanted == question.amount.currency)
            && self.at_least.is_none_or(|least| question.amount.value >= least)
            && self.below.is_none_or(|below| question.amount.value < below)
            && self.metadata.iter().all(|(name, wanted)| metadata_text(question, name) == Some(wanted))
            && self.hours.as_ref().is_none_or(|hours| hours.contain(question.at))
    }

    /// Describes the first condition that the payment does not meet.
    pub fn mismatch(&self, question: &Question<'_>) -> Option<String> {
        let Money { value, currency } = question.amount;
        let requires = |what: String| Some(format!("it requires {what}"));
        if let Some(name) = self.merchant.as_deref().filter(|name| *name != question.merchant) {
            return requires(format!("the merchant `{name}`"));
        }
        if let Some(method) = self.method.filter(|method| *method != question.method) {
            return requires(format!("the method `{method}`"));
        }
        if let Some(wanted) = self.currency.filter(|wanted| *wanted != currency) {
            return requires(format!("the currency {wanted}"));
        }
        if let Some(least) = self.at_least.filter(|least| value < *least) {
            return requires(format!("an amount of at least {least}"));
        }
        if let Some(below) = self.below.filter(|below| value >= *below) {
            return requires(format!("an amount below {below}"));
        }
        if let Some((name, wanted)) =
            self.metadata.iter().find(|(name, wanted)| metadata_text(question, name) != Some(wanted))
        {
            return requires(format!("`{wanted}` as `{name}` in the metadata"));
        }
        let hours = self.hours.as_ref().filter(|hours| !hours.contain(question.at));
        hours.and_then(|hours| requires(hours.to_string()))
    }
}

fn metadata_text<'a>(question: &Question<'a>, name: &str) -> Option<&'a str> {
    question.metadata?.get(name)?.as_str()
}

/// Daily time range on some days of the week, in a time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Hours {
    /// First minute of the range.
    pub from: Time,
    /// First minute after the range; on the next day if it is not after `from`.
    pub to: Time,
    /// Days on which the range starts; every day if empty.
    pub days: Vec<Weekday>,
    /// Time zone of `from` and `to`.
    pub zone: TimeZone,
}

impl Hours {
    /// Returns whether the range contains a moment.
    pub fn contain(&self, at: Timestamp) -> bool {
        let there = at.to_zoned(self.zone.clone()).datetime();
        let (time, day) = (there.time(), there.date().weekday());
        let begins = |day: Weekday| self.days.is_empty() || self.days.contains(&day);
        if self.from < self.to {
            return begins(day) && (self.from..self.to).contains(&time);
        }
        (time >= self.from && begins(day)) || (time < self.to && begins(day.previous()))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a time from {} to {}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))?;
        for (count, day) in self.days.iter().enumerate() {
            let name = format!("{day:?}").to_lowercase();
            write!(f, "{}{}", if count == 0 { " on " } else { ", " }, name.get(..3).unwrap_or_default())?;
        }
        write!(f, " in {}", self.zone.iana_name().unwrap_or("UTC"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hours(from: &str, to: &str, days: &[Weekday]) -> Hours {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        Hours { from: from.parse().unwrap(), to: to.parse().unwrap(), days: days.to_vec(), zone }
    }

    /// Returns a time in China; 2026-11-23 is a Monday.
    fn china(text: &str) -> Timestamp {
        format!("{text}+08:00").parse().unwrap()
    }

    #[test]
    fn hours_include_their_first_minute_and_exclude_their_last() {
        let day = hours("09:00", "18:00", &[]);
        let at = |time: &str| day.contain(china(&format!("2026-11-23T{time}:00")));
        assert_eq!(["08:59", "09:00", "17:59", "18:00"].map(at), [false, true, true, false]);
    }

    #[test]
    fn hours_over_midnight_belong_to_the_day_on_which_they_start() {
        let night = hours("22:00", "06:00", &[Weekday::Monday]);
        let at = |time: &str| night.contain(china(&format!("2026-11-{time}:00")));
        assert_eq!(["23T21:59", "23T22:00", "24T05:59", "24T06:00"].map(at), [false, true, true, false]);
        assert_eq!(["23T05:00", "24T22:00"].map(at), [false, false], "Sunday's night, Tuesday's night");
    }

    #[test]
    fn unmet_condition_is_described() {
        let metadata = serde_json::json!({"tier": "gold"});
        let question = Question {
            merchant: "shop",
            method: Method::parse("wechat.native").unwrap(),
            amount: Money { value: 99, currency: Currency::CNY },
            metadata: metadata.as_object(),
            pinned: None,
            number: "1",
            at: china("2026-11-23T12:00:00"),
        };
        let gold = |tier: &str| vec![("tier".to_owned(), tier.to_owned())];
        for (condition, mismatch) in [
            (Condition::default(), None),
            (Condition { metadata: gold("gold"), at_least: Some(99), below: Some(100), ..Condition::default() }, None),
            (
                Condition { merchant: Some("bakery".into()), ..Condition::default() },
                Some("it requires the merchant `bakery`"),
            ),
            (Condition { below: Some(99), ..Condition::default() }, Some("it requires an amount below 99")),
            (Condition { at_least: Some(100), ..Condition::default() }, Some("it requires an amount of at least 100")),
            (
                Condition { metadata: gold("silver"), ..Condition::default() },
                Some("it requires `silver` as `tier` in the metadata"),
            ),
            (
                Condition {
                    hours: Some(hours("22:00", "06:00", &[Weekday::Saturday, Weekday::Sunday])),
                    ..Condition::default()
                },
                Some("it requires a time from 22:00 to 06:00 on sat, sun in Asia/Shanghai"),
            ),
        ] {
            assert_eq!(condition.mismatch(&question).as_deref(), mismatch);
            assert_eq!(condition.matches(&question), mismatch.is_none(), "{mismatch:?}");
        }
    }
}
