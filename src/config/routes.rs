//! `routes.toml`: which operation leads to which channels.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tollgate_plugins::settings::Settings;

use super::background::yield_cpu;
use super::channel::Served;
use super::time_windows::{DayOfWeek, TimeOfDay, Zone};
use super::toml_file::{MOST_SUGGESTED, suggest};
use crate::routing::{Condition, DoublePayment, Hours, Refusal, Route, Routes};

/// The names that routes may use. Files with mistakes count too: one mistake is not told as two.
pub(super) struct Names<'a> {
    /// Merchants.
    pub(super) merchants: &'a BTreeSet<String>,
    /// Channels, with the methods that they serve if that is known.
    pub(super) channels: &'a BTreeMap<String, Served>,
}

/// Reads the file.
pub(super) fn read(mut root: Settings<'_>, names: &Names<'_>) -> Routes {
    let double_payment = double_payment(&mut root);
    let routes: Vec<Route> = root.sections("route").into_iter().map(|table| route(table, names)).collect();
    let mut routes = Routes::from(routes);
    routes.double_payment = double_payment;
    routes
}

fn double_payment(root: &mut Settings<'_>) -> DoublePayment {
    let word: Option<String> = root.optional("double_payment");
    root.choices("double_payment", ["refund", "flag"]);
    match word.as_deref() {
        None | Some("refund") => DoublePayment::Refund,
        Some("flag") => DoublePayment::Flag,
        Some(_) => {
            let suggestion = "\"refund\" gives the money back by itself, \"flag\" leaves it to a person";
            root.problem("double_payment", "there is no such way", Some(suggestion.to_owned()));
            DoublePayment::Flag
        }
    }
}

fn route(mut table: Settings<'_>, names: &Names<'_>) -> Route {
    yield_cpu();
    let mut route = Route::default();
    if let Some(mut wanted) = table.section("match") {
        route.wanted = conditions(&mut wanted, names);
    }
    let answers = table.has("respond");
    route.answer = table.section("respond").and_then(answer).map(Arc::new);
    for key in ["to", "fallback"].into_iter().filter(|key| answers && table.has(key)) {
        let message = format!("a route with `respond` leads nowhere, so it cannot have `{key}`");
        table.problem(key, message, Some("take one of them away".to_owned()));
    }
    let before = table.problems().len();
    let entries = table.sections("to");
    let any_entry = !entries.is_empty();
    let (mut in_to, mut in_fallback) = (HashSet::new(), HashSet::new());
    for mut entry in entries {
        let weight = entry.or("weight", 1);
        let Some(name) = entry.required::<String>("channel") else { continue };
        let is_long = entry.problems().len() >= MOST_SUGGESTED;
        let wrong = match in_to.insert(name.clone()) {
            false => Some((format!("the channel `{name}` stands in `to` twice"), None)),
            true => wrong_channel(&name, names, &route, is_long),
        };
        if let Some((message, suggestion)) = wrong {
            entry.problem("channel", message, suggestion);
        }
        route.to.push((name, weight));
    }
    if !any_entry && !answers && table.problems().len() == before {
        let suggestion = "add `to = [{ channel = \"…\" }]`, or `answer = { … }` to turn them away".to_owned();
        table.problem("to", "a route must lead to at least one channel", Some(suggestion));
    } else if !route.to.is_empty() && route.to.iter().all(|(_, weight)| *weight == 0) {
        table.problem("to", "the weights must come to more than 0 together", None);
    }
    for (place, name) in table.items::<String>("fallback") {
        // With several channels in `to`, one of them may well stand in for another.
        let only_one = route.to.len() == 1 && route.to[0].0 == name;
        let is_long = table.problems().len() >= MOST_SUGGESTED;
        let wrong = if !in_fallback.insert(name.clone()) {
            Some((format!("the channel `{name}` stands in `fallback` twice"), None))
        } else if only_one {
            Some((format!("the channel `{name}` cannot stand in for itself"), None))
        } else {
            wrong_channel(&name, names, &route, is_long)
        };
        if let Some((message, suggestion)) = wrong {
            table.problems().push(place, message, suggestion);
        }
        route.fallback.push(name);
    }
    route
}

/// What is said instead of a payment.
fn answer(mut table: Settings<'_>) -> Option<Refusal> {
    let before = table.problems().len();
    let status = table.or("status", 503u32);
    let code = table.or("code", "paused".to_owned());
    let detail = table.or("detail", "Nothing was sent: these payments are paused by the operator.".to_owned());
    let retry_after: Option<Duration> = table.optional("retry_after");
    if ![400, 403, 422, 429, 503].contains(&status) {
        let message =
            "`answer.status` must be 400, 403, 422, 429 or 503: any other tells callers something about a payment";
        table.problem("status", message, None);
    }
    let is_word = |text: &str| text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if code.is_empty() || !is_word(&code) {
        table.problem("code", "`answer.code` must be a word of small letters and `_`, as in \"paused\"", None);
    }
    if OWN_CODES.contains(&code.as_str()) {
        let message = format!("`answer.code` must be a word of your own: `{code}` tells callers something else");
        table.problem("code", message, Some("as in \"paused\"".to_owned()));
    }
    if detail.is_empty() || detail.len() > 1000 {
        table.problem("detail", "`answer.detail` must be a sentence for people, of at most 1000 bytes", None);
    }
    let is_later = matches!(status, 429 | 503);
    match retry_after {
        None if is_later => {
            let advice = "add `retry_after = \"10m\"`: when callers should try again";
            table.problem("retry_after", "`answer.retry_after` is missing", Some(advice.to_owned()));
        }
        Some(_) if !is_later => {
            table.problem("retry_after", "`answer.retry_after` is for the statuses 429 and 503", None);
        }
        Some(time) if !(1..=7 * 86_400).contains(&time.as_secs()) => {
            table.problem("retry_after", "`answer.retry_after` must be from 1s to 7 days", None);
        }
        _ => {}
    }
    let refusal = Refusal {
        status: u16::try_from(status).unwrap_or(503),
        code,
        detail,
        retry_after: retry_after.map(|time| time.as_secs()),
    };
    (table.problems().len() == before).then_some(refusal)
}

/// Words that say what became of a request, or what is wrong with it.
const OWN_CODES: &[&str] = &[
    "invalid_request",
    "unsupported_by_provider",
    "unknown_channel",
    "unauthorized",
    "declined",
    "forbidden",
    "not_found",
    "bill_not_found",
    "method_not_allowed",
    "request_timeout",
    "request_in_progress",
    "invalid_state",
    "payload_too_large",
    "expectation_failed",
    "idempotency_key_reused",
    "id_conflict",
    "refund_exceeds_balance",
    "rate_limited",
    "provider_response_invalid",
    "mismatch",
    "provider_unreachable",
    "channel_unavailable",
    "maintenance",
    "no_route",
    "queue_full",
    "channel_credentials_rejected",
    "provider_busy",
    "overloaded",
    "ledger_unavailable",
    "cache_unavailable",
    "internal",
];

fn conditions(wanted: &mut Settings<'_>, names: &Names<'_>) -> Condition {
    let mut condition = Condition {
        merchant: wanted.optional("merchant"),
        method: wanted.optional("method"),
        currency: wanted.optional("currency"),
        metadata: wanted.texts("metadata"),
        hours: wanted.section("time").and_then(hours),
        ..Condition::default()
    };
    if let Some(name) = &condition.merchant
        && !names.merchants.contains(name)
    {
        let message = format!("there is no merchant `{name}`");
        let near = || suggest(name, names.merchants.iter().map(String::as_str));
        let suggestion = if wanted.problems().len() < MOST_SUGGESTED { near() } else { None };
        wanted.problem("merchant", message, suggestion);
    }
    if let Some(mut amount) = wanted.section("amount") {
        condition.at_least = amount.optional("at_least");
        condition.below = amount.optional("below");
        let nothing_between = match (condition.at_least, condition.below) {
            (Some(least), Some(below)) => least >= below,
            (None, Some(below)) => below == 0,
            _ => false,
        };
        if nothing_between {
            amount.problem("below", "no amount is matched: `below` must be more than `at_least`", None);
        }
    }
    condition
}

fn hours(mut time: Settings<'_>) -> Option<Hours> {
    let from = time.required::<TimeOfDay>("from");
    let to = time.required::<TimeOfDay>("to");
    let zone = time.required::<Zone>("zone");
    let days = time.items::<DayOfWeek>("days").into_iter().map(|(_, day)| day.0).collect();
    let (from, to) = (from?.0, to?.0);
    if from == to {
        time.problem("to", "no time is matched: `to` must differ from `from`", None);
    }
    Some(Hours { from, to, days, zone: zone?.0 })
}

/// `is_long`: so many mistakes are known that no suggestion is made.
fn wrong_channel(name: &str, names: &Names<'_>, route: &Route, is_long: bool) -> Option<(String, Option<String>)> {
    let Some(methods) = names.channels.get(name) else {
        if is_long {
            return Some((format!("there is no channel `{name}`"), None));
        }
        let suggestion = suggest(name, names.channels.keys().map(String::as_str))
            .or_else(|| Some(format!("make channels/{name}.toml; for the sandbox: `tollgate keygen sandbox {name}`")));
        return Some((format!("there is no channel `{name}`"), suggestion));
    };
    let method = route.wanted.method?.as_str();
    let methods = methods.filter(|methods| !methods.contains(&method))?;
    let suggestion = format!("it serves {}", methods.join(", "));
    Some((format!("the channel `{name}` does not serve the method `{method}` of this route"), Some(suggestion)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::toml_file::Source;
    use super::*;

    fn read_text(text: &str) -> (Vec<Route>, Vec<String>) {
        let (routes, mistakes) = read_all(text);
        (routes.iter().cloned().collect(), mistakes)
    }

    fn read_all(text: &str) -> (Routes, Vec<String>) {
        let source = Source::with_text(Path::new("routes.toml"), text.into());
        let names = Names {
            merchants: &BTreeSet::from(["shop".to_owned()]),
            channels: &BTreeMap::from([
                ("wechat-main".to_owned(), Some(["wechat.native"].as_slice())),
                ("wechat-east".to_owned(), Some(["wechat.jsapi"].as_slice())),
                ("broken".to_owned(), None),
            ]),
        };
        let (routes, mistakes) = source.read(|root| read(root, &names));
        (routes.unwrap(), mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_is_read() {
        let (routes, mistakes) = read_text(
            r#"
[[route]]
match = { merchant = "shop", method = "wechat.native", currency = "CNY", amount = { at_least = 1, below = 5000000 }, time = { from = "22:00", to = "06:00", zone = "Asia/Shanghai", days = ["sat"] }, metadata = { tier = "gold" } }
to = [{ channel = "wechat-main", weight = 90 }, { channel = "broken" }]
fallback = ["wechat-main"]
[[route]]
to = [{ channel = "wechat-east" }]
[[route]]
answer = { status = 503, code = "sold_out", detail = "Come back tomorrow.", retry_after = "1h" }
[[route]]
answer = { status = 403 }
"#,
        );
        assert_eq!(mistakes, [""; 0]);
        assert_eq!(routes.len(), 4);
        let answer = routes[2].answer.as_deref().unwrap();
        assert_eq!((answer.status, answer.code.as_str(), answer.retry_after), (503, "sold_out", Some(3600)));
        assert_eq!((answer.detail.as_str(), routes[3].answer.as_deref().unwrap().status), ("Come back tomorrow.", 403));
        assert_eq!(routes[0].to, [("wechat-main".to_owned(), 90), ("broken".to_owned(), 1)]);
        let wanted = &routes[0].wanted;
        assert_eq!((wanted.at_least, wanted.below), (Some(1), Some(5_000_000)));
        assert_eq!(wanted.metadata, [("tier".to_owned(), "gold".to_owned())]);
        let hours = wanted.hours.as_ref().unwrap().to_string();
        assert_eq!(hours, "a time from 22:00 to 06:00 on sat in Asia/Shanghai");
        assert_eq!(routes[0].fallback, ["wechat-main"]);
        assert!(routes[1].wanted.merchant.is_none() && routes[1].wanted.method.is_none());
    }

    #[test]
    fn every_mistake_is_told() {
        let (_, mistakes) = read_text(
            r#"
[[route]]
match = { merchant = "shpo", method = "wechat.natve", amount = { at_least = 5, below = 5 } }
to = [{ channel = "wechat-mian", weight = 0 }]
[[route]]
match = { method = "wechat.jsapi", curency = "CNY" }
to = [{ channel = "wechat-main" }, { channel = "wechat-east" }, { channel = "wechat-east" }]
fallback = ["nothing", "broken", "broken"]
[[route]]
to = []
[[route]]
to = [{ channel = "broken" }]
fallback = ["broken"]
[[route]]
to = "wechat-main"
[[rout]]
[[route]]
match = { time = { from = "25:00", to = "6", zone = "China", days = ["someday"] } }
to = [{ channel = "broken" }]
[[route]]
match = { time = { from = "06:00", to = "06:00", zone = "UTC" } }
to = [{ channel = "broken" }]
[[route]]
answer = { status = 201, retry_after = "1m" }
[[route]]
answer = { code = "declined" }
to = [{ channel = "broken" }]
[[route]]
answer = { status = 429, code = "Paused", detail = "", retry_after = "0s", later = 1 }
"#,
        );
        let expected = [
            "3:22: there is no merchant `shpo` (did you mean `shop`?)",
            "3:39: `route.match.method` must be a payment method",
            "3:88: no amount is matched",
            "4:6: the weights must come to more than 0",
            "4:19: there is no channel `wechat-mian` (did you mean `wechat-main`?)",
            "6:36: unknown key `route.match.curency` (did you mean `currency`?)",
            "7:19: the channel `wechat-main` does not serve the method `wechat.jsapi` of this route (it serves wechat.native)",
            "7:77: the channel `wechat-east` stands in `to` twice",
            "8:13: there is no channel `nothing` (there are broken, wechat-east, wechat-main)",
            "8:34: the channel `broken` stands in `fallback` twice",
            "10:6: a route must lead to at least one channel",
            "13:13: the channel `broken` cannot stand in for itself",
            "15:6: `route.to` must be a list of tables",
            "16:3: unknown key `rout` (did you mean `route`?)",
            "18:27: `route.match.time.from` must be a time of day",
            "18:41: `route.match.time.to` must be a time of day",
            "18:53: `route.match.time.zone` must be a time zone",
            "18:70: an item of `route.match.time.days` must be a day",
            "21:41: no time is matched: `to` must differ from `from`",
            "24:21: `answer.status` must be 400, 403, 422, 429 or 503",
            "24:40: `answer.retry_after` is for the statuses 429 and 503",
            "26:10: `answer.retry_after` is missing",
            "26:19: `answer.code` must be a word of your own: `declined`",
            "27:6: a route with `respond` leads nowhere, so it cannot have `to`",
            "29:33: `answer.code` must be a word of small letters",
            "29:52: `answer.detail` must be a sentence for people",
            "29:70: `answer.retry_after` must be from 1s to 7 days",
            "29:76: unknown key `route.answer.later`",
        ];
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert!(mistake.starts_with(&format!("routes.toml:{expected}")), "{mistake} / {expected}");
        }
    }
}
