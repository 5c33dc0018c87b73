//! `routes.toml`: which operation leads to which channels.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tollgate_plugins::settings::Settings;

use super::channel::ServedMethods;
use super::condition::{Condition, Hours};
use super::cpu::yield_cpu;
use super::time_windows::{DayOfWeek, TimeOfDay, Zone};
use super::toml_file::{MAX_SUGGESTIONS, suggest};

/// Rules of `routes.toml`.
#[derive(Debug, Default, PartialEq)]
pub struct RouteRules {
    /// Handling of money that arrives on an abandoned channel.
    pub double_payment: DoublePayment,
    /// Rules in the order of the file; the first that matches decides.
    pub rules: Vec<Route>,
}

/// Rule that maps payments to channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Payments that the route matches.
    pub wanted: Condition,
    /// Channels with weights; at least one, the sum of the weights is more than 0.
    pub to: Vec<(String, u32)>,
    /// Fallback channels in order, used only if nothing was sent on the first.
    pub fallback: Vec<String>,
    /// Static response of a route without channels.
    pub answer: Option<Arc<Refusal>>,
}

/// Static response that an operator configured for a route. Its status cannot be mistaken for the result of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 403, 422, 429 or 503.
    pub status: u16,
    /// Error code, for example `paused`.
    pub code: String,
    /// Sentence for people that says what to do.
    pub detail: String,
    /// Seconds after which a retry is worthwhile; always set for 429 and 503.
    pub retry_after: Option<u64>,
}

/// Handling of money that arrives on an abandoned channel of a payment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoublePayment {
    /// Refund it automatically.
    #[default]
    Refund,
    /// Flag it for manual review.
    Flag,
}

impl Route {
    /// Returns whether the route may select this channel.
    pub fn names(&self, channel: &str) -> bool {
        self.to.iter().any(|(name, _)| name == channel) || self.fallback.iter().any(|name| name == channel)
    }
}

/// Names that routes may refer to. Files with errors count too, so that one error is not reported twice.
pub(super) struct KnownNames<'a> {
    /// Names of merchants.
    pub(super) merchants: &'a BTreeSet<String>,
    /// Names of channels, with the methods that they serve if known.
    pub(super) channels: &'a BTreeMap<String, ServedMethods>,
}

/// Reads the file.
pub(super) fn read(mut root: Settings<'_>, names: &KnownNames<'_>) -> RouteRules {
    let double_payment = double_payment(&mut root);
    let rules = root.sections("route").into_iter().map(|table| route(table, names)).collect();
    RouteRules { double_payment, rules }
}

fn double_payment(root: &mut Settings<'_>) -> DoublePayment {
    let word: Option<String> = root.optional("double_payment");
    root.choices("double_payment", ["refund", "flag"]);
    match word.as_deref() {
        None | Some("refund") => DoublePayment::Refund,
        Some("flag") => DoublePayment::Flag,
        Some(_) => {
            let suggestion = "\"refund\" refunds the money automatically, \"flag\" marks it for manual review";
            root.problem("double_payment", "must be \"refund\" or \"flag\"", Some(suggestion.to_owned()));
            DoublePayment::Flag
        }
    }
}

fn route(mut table: Settings<'_>, names: &KnownNames<'_>) -> Route {
    yield_cpu();
    let mut route = Route::default();
    if let Some(mut wanted) = table.section("match") {
        route.wanted = conditions(&mut wanted, names);
    }
    let has_response = table.has("respond");
    route.answer = table.section("respond").and_then(answer).map(Arc::new);
    for key in ["to", "fallback"].into_iter().filter(|key| has_response && table.has(key)) {
        let message = format!("a route with `respond` has no channel, so it cannot have `{key}`");
        table.problem(key, message, Some("remove one of them".to_owned()));
    }
    let before = table.problems().len();
    let entries = table.sections("to");
    let has_entry = !entries.is_empty();
    let (mut in_to, mut in_fallback) = (HashSet::new(), HashSet::new());
    for mut entry in entries {
        let weight = entry.or("weight", 1);
        let Some(name) = entry.required::<String>("channel") else { continue };
        let is_long = entry.problems().len() >= MAX_SUGGESTIONS;
        let wrong = match in_to.insert(name.clone()) {
            false => Some((format!("the channel `{name}` is listed in `to` twice"), None)),
            true => wrong_channel(&name, names, &route, is_long),
        };
        if let Some((message, suggestion)) = wrong {
            entry.problem("channel", message, suggestion);
        }
        route.to.push((name, weight));
    }
    if !has_entry && !has_response && table.problems().len() == before {
        let suggestion = "add `to = [{ channel = \"…\" }]`, or `respond = { … }` to reject these payments".to_owned();
        table.problem("to", "a route must have at least one channel", Some(suggestion));
    } else if !route.to.is_empty() && route.to.iter().all(|(_, weight)| *weight == 0) {
        table.problem("to", "the sum of the weights must be more than 0", None);
    }
    for (place, name) in table.items::<String>("fallback") {
        // With several channels in `to`, one of them may be a fallback for another.
        let only_one = route.to.len() == 1 && route.to[0].0 == name;
        let is_long = table.problems().len() >= MAX_SUGGESTIONS;
        let wrong = if !in_fallback.insert(name.clone()) {
            Some((format!("the channel `{name}` is listed in `fallback` twice"), None))
        } else if only_one {
            Some((format!("the channel `{name}` cannot be its own fallback"), None))
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

/// Reads `respond`: the static response of a route.
fn answer(mut table: Settings<'_>) -> Option<Refusal> {
    let before = table.problems().len();
    let status = table.or("status", 503u32);
    let code = table.or("code", "paused".to_owned());
    let detail = table.or("detail", "Nothing was sent: these payments are paused by the operator.".to_owned());
    let retry_after: Option<Duration> = table.optional("retry_after");
    if ![400, 403, 422, 429, 503].contains(&status) {
        let message = "`respond.status` must be 400, 403, 422, 429 or 503: callers would take any other status for the result of a payment";
        table.problem("status", message, None);
    }
    let is_word = |text: &str| text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if code.is_empty() || !is_word(&code) {
        table.problem("code", "`respond.code` must be a word of small letters and `_`, as in \"paused\"", None);
    }
    if RESERVED_CODES.contains(&code.as_str()) {
        let message = format!("`respond.code` must be a code of your own: `{code}` has another meaning");
        table.problem("code", message, Some("as in \"paused\"".to_owned()));
    }
    if detail.is_empty() || detail.len() > 1000 {
        table.problem("detail", "`respond.detail` must be a sentence for people, of at most 1000 bytes", None);
    }
    let is_later = matches!(status, 429 | 503);
    match retry_after {
        None if is_later => {
            let advice = "add `retry_after = \"10m\"`: when callers should try again";
            table.problem("retry_after", "`respond.retry_after` is missing", Some(advice.to_owned()));
        }
        Some(_) if !is_later => {
            table.problem("retry_after", "`respond.retry_after` is for the statuses 429 and 503", None);
        }
        Some(time) if !(1..=7 * 86_400).contains(&time.as_secs()) => {
            table.problem("retry_after", "`respond.retry_after` must be from 1s to 7 days", None);
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

/// Codes with a meaning of their own. An operator's response must not use them.
const RESERVED_CODES: &[&str] = &[
    "declined",
    "request_in_progress",
    "not_found",
    "unauthorized",
    "idempotency_key_reused",
    "id_conflict",
    "invalid_state",
    "provider_response_invalid",
    "mismatch",
    "invalid_request",
    "unsupported_by_provider",
    "rate_limited",
    "internal",
    "refund_exceeds_balance",
];

fn conditions(wanted: &mut Settings<'_>, names: &KnownNames<'_>) -> Condition {
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
        let suggestion = if wanted.problems().len() < MAX_SUGGESTIONS { near() } else { None };
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

/// Checks that a channel exists and serves the route's method. With `is_long` no similar name is searched.
fn wrong_channel(name: &str, names: &KnownNames<'_>, route: &Route, is_long: bool) -> Option<(String, Option<String>)> {
    let Some(methods) = names.channels.get(name) else {
        if is_long {
            return Some((format!("there is no channel `{name}`"), None));
        }
        let suggestion = suggest(name, names.channels.keys().map(String::as_str)).or_else(|| {
            Some(format!("create channels/{name}.toml; for the sandbox: `tollgate keygen sandbox {name}`"))
        });
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

    use super::super::toml_file::TomlFile;
    use super::*;

    fn read_text(text: &str) -> (Vec<Route>, Vec<String>) {
        let source = TomlFile::with_text(Path::new("routes.toml"), text.into());
        let names = KnownNames {
            merchants: &BTreeSet::from(["shop".to_owned()]),
            channels: &BTreeMap::from([
                ("wechat-main".to_owned(), Some(["wechat.native"].as_slice())),
                ("wechat-east".to_owned(), Some(["wechat.jsapi"].as_slice())),
                ("broken".to_owned(), None),
            ]),
        };
        let (routes, diagnostics) = source.read(|root| read(root, &names));
        (routes.unwrap().rules, diagnostics.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_of_a_route_is_read() {
        let (routes, diagnostics) = read_text(
            r#"
[[route]]
match = { merchant = "shop", method = "wechat.native", currency = "CNY", amount = { at_least = 1, below = 5000000 }, time = { from = "22:00", to = "06:00", zone = "Asia/Shanghai", days = ["sat"] }, metadata = { tier = "gold" } }
to = [{ channel = "wechat-main", weight = 90 }, { channel = "broken" }]
fallback = ["wechat-main"]
[[route]]
to = [{ channel = "wechat-east" }]
[[route]]
respond = { status = 503, code = "sold_out", detail = "Come back tomorrow.", retry_after = "1h" }
[[route]]
respond = { status = 403 }
"#,
        );
        assert_eq!(diagnostics, [""; 0]);
        assert_eq!(routes.len(), 4);
        let response = routes[2].answer.as_deref().unwrap();
        assert_eq!((response.status, response.code.as_str(), response.retry_after), (503, "sold_out", Some(3600)));
        assert_eq!(
            (response.detail.as_str(), routes[3].answer.as_deref().unwrap().status),
            ("Come back tomorrow.", 403)
        );
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
    fn every_error_in_routes_is_reported() {
        let (_, diagnostics) = read_text(
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
respond = { status = 201, retry_after = "1m" }
[[route]]
respond = { code = "declined" }
to = [{ channel = "broken" }]
[[route]]
respond = { status = 429, code = "Paused", detail = "", retry_after = "0s", later = 1 }
"#,
        );
        let expected = [
            "3:22: there is no merchant `shpo` (did you mean `shop`?)",
            "3:39: `route.match.method` must be a payment method",
            "3:88: no amount is matched",
            "4:6: the sum of the weights must be more than 0",
            "4:19: there is no channel `wechat-mian` (did you mean `wechat-main`?)",
            "6:36: unknown key `route.match.curency` (did you mean `currency`?)",
            "7:19: the channel `wechat-main` does not serve the method `wechat.jsapi` of this route (it serves wechat.native)",
            "7:77: the channel `wechat-east` is listed in `to` twice",
            "8:13: there is no channel `nothing` (there are broken, wechat-east, wechat-main)",
            "8:34: the channel `broken` is listed in `fallback` twice",
            "10:6: a route must have at least one channel",
            "13:13: the channel `broken` cannot be its own fallback",
            "15:6: `route.to` must be a list of tables",
            "16:3: unknown key `rout` (did you mean `route`?)",
            "18:27: `route.match.time.from` must be a time of day",
            "18:41: `route.match.time.to` must be a time of day",
            "18:53: `route.match.time.zone` must be a time zone",
            "18:70: an item of `route.match.time.days` must be a day",
            "21:41: no time is matched: `to` must differ from `from`",
            "24:22: `respond.status` must be 400, 403, 422, 429 or 503",
            "24:41: `respond.retry_after` is for the statuses 429 and 503",
            "26:11: `respond.retry_after` is missing",
            "26:20: `respond.code` must be a code of your own: `declined`",
            "27:6: a route with `respond` has no channel, so it cannot have `to`",
            "29:34: `respond.code` must be a word of small letters",
            "29:53: `respond.detail` must be a sentence for people",
            "29:71: `respond.retry_after` must be from 1s to 7 days",
            "29:77: unknown key `route.respond.later`",
        ];
        assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
        for (diagnostic, expected) in diagnostics.iter().zip(expected) {
            assert!(diagnostic.starts_with(&format!("routes.toml:{expected}")), "{diagnostic} / {expected}");
        }
    }
}
