//! Operation → channels, in the order of preference.

mod condition;
mod explain;
mod table;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tollgate_plugins::payment::Method;

pub use self::condition::{Condition, Hours, Question};
pub use self::explain::{RouteArgs, run};
pub use self::table::Routes;
use crate::config::{Channel, Snapshot};

/// A rule that leads payments to channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Which payments.
    pub wanted: Condition,
    /// Channel and weight; at least one, weights sum to more than 0.
    pub to: Vec<(String, u32)>,
    /// Tried in this order when nothing was sent on the first.
    pub fallback: Vec<String>,
    /// What is said instead, where it leads to no channel.
    pub answer: Option<Arc<Refusal>>,
}

/// What an operator has said instead of a payment. Its status is one that nobody can take for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 403, 422, 429 or 503.
    pub status: u16,
    /// As in `paused`.
    pub code: String,
    /// For people: what to do.
    pub detail: String,
    /// After how many seconds it is worth another try; always given with 429 and 503.
    pub retry_after: Option<u64>,
}

/// What becomes of money that a payment left behind on a channel which it went away from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoublePayment {
    /// It goes back by itself.
    #[default]
    Refund,
    /// A person sees to it.
    Flag,
}

impl Route {
    /// Whether it may lead to this channel.
    pub fn names(&self, channel: &str) -> bool {
        self.to.iter().any(|(name, _)| name == channel) || self.fallback.iter().any(|name| name == channel)
    }
}

/// Why no channel can take a payment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChannel {
    /// The request names a channel to which no route leads this payment. Of channels that are not for a merchant it does
    /// not hear whether they exist.
    #[error("no route leads this payment to a channel `{0}`; leave `channel` out to let the routes choose")]
    Unknown(String),
    /// The named channel cannot serve the method.
    #[error("the channel `{0}` cannot serve the method `{1}`; leave `channel` out to let the routes choose")]
    WrongMethod(String, Method),
    /// Every channel that could take it is under maintenance; one is back in so many seconds.
    #[error("every channel for this payment is under maintenance for another {0} s")]
    Maintenance(u64),
    /// A rule answers by itself.
    #[error("the route answers {} {} by itself, and nothing is sent", .0.status, .0.code)]
    Refused(Arc<Refusal>),
    /// No rule matches.
    #[error("no route leads this payment to a channel; the operator must add one to routes.toml")]
    NoRoute,
}

/// The channels for a new payment: the first is used, the others only when nothing was sent. The choice by weight is
/// made by the order's number, so that the same order always comes to the same channel. A `pinned` channel must be one
/// to which some route would lead this payment: whose money goes where is the operator's word, not the caller's.
pub fn choose(snapshot: &Snapshot, question: &Question<'_>) -> Result<Vec<Arc<Channel>>, NoChannel> {
    let matching = snapshot.routes.candidates(question).filter(|route| route.wanted.matches(question));
    let Some(name) = question.pinned else {
        let mut back = None;
        for route in matching {
            if let Some(refusal) = &route.answer {
                return Err(NoChannel::Refused(Arc::clone(refusal)));
            }
            match channels(snapshot, route, question) {
                Ok(channels) if channels.is_empty() => {}
                Ok(channels) => return Ok(channels),
                Err(seconds) => back = Some(back.map_or(seconds, |known: u64| known.min(seconds))),
            }
        }
        return Err(back.map_or(NoChannel::NoRoute, NoChannel::Maintenance));
    };
    let mut matching = matching.peekable();
    // To leave the channel out would not help.
    if matching.peek().is_none() {
        return Err(NoChannel::NoRoute);
    }
    let leading = matching.find(|route| route.answer.is_some() || route.names(name));
    if let Some(refusal) = leading.and_then(|route| route.answer.as_ref()) {
        return Err(NoChannel::Refused(Arc::clone(refusal)));
    }
    let channel = snapshot.channels.get(name).filter(|_| leading.is_some());
    let channel = channel.ok_or_else(|| NoChannel::Unknown(name.to_owned()))?;
    if !channel.methods.contains(&question.method.as_str()) {
        return Err(NoChannel::WrongMethod(name.to_owned(), question.method));
    }
    match channel.maintenance(question.at) {
        Some(seconds) => Err(NoChannel::Maintenance(seconds)),
        None => Ok(vec![Arc::clone(channel)]),
    }
}

/// A route's channels that serve the method; the error says in how many seconds the first of them is back.
fn channels(snapshot: &Snapshot, route: &Route, question: &Question<'_>) -> Result<Vec<Arc<Channel>>, u64> {
    let names = std::iter::once(by_weight(route, question.number)).chain(route.fallback.iter().map(String::as_str));
    let mut found: Vec<Arc<Channel>> = Vec::new();
    let mut back = None;
    for channel in names.filter_map(|name| snapshot.channels.get(name)) {
        if !channel.methods.contains(&question.method.as_str()) || found.iter().any(|known| known.name == channel.name)
        {
            continue;
        }
        match channel.maintenance(question.at) {
            Some(seconds) => back = Some(back.map_or(seconds, |known: u64| known.min(seconds))),
            None => found.push(Arc::clone(channel)),
        }
    }
    match back.filter(|_| found.is_empty()) {
        Some(seconds) => Err(seconds),
        None => Ok(found),
    }
}

fn by_weight<'a>(route: &'a Route, number: &str) -> &'a str {
    let total: u64 = route.to.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let digest = Sha256::digest(number.as_bytes());
    let draw = digest.iter().take(8).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let mut left = draw.checked_rem(total).unwrap_or(0);
    for (name, weight) in &route.to {
        match left.checked_sub(u64::from(*weight)) {
            Some(rest) => left = rest,
            None => return name,
        }
    }
    route.to.first().map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_share_the_orders_and_an_order_stays() {
        let to = [("a", 90), ("b", 10), ("never", 0)].map(|(name, weight)| (name.to_owned(), weight));
        let route = Route { to: to.to_vec(), ..Route::default() };
        let draws: Vec<_> = (0..10_000).map(|n| by_weight(&route, &n.to_string())).collect();
        let to_b = draws.iter().filter(|name| **name == "b").count();
        assert!((800..1200).contains(&to_b), "{to_b} of 10000 to b");
        assert!(!draws.contains(&"never"));
        assert_eq!(by_weight(&route, "77"), by_weight(&route, "77"));
    }
}
