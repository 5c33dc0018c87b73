//! Routing: selects the channels of an operation, in order of preference.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tollgate_plugins::payment::Method;

pub use crate::snapshot::Routes;
use crate::snapshot::{Channel, Snapshot};
pub use tollgate_config::{Condition, DoublePayment, Question, Refusal, Route};

/// Reason why no channel can take a payment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChannel {
    /// The request names a channel that no route allows for it. A merchant does not learn whether other merchants' channels exist.
    #[error("no route allows the channel `{0}` for this payment; omit `channel` to let the routes choose")]
    Unknown(String),
    /// The named channel cannot serve the method.
    #[error("the channel `{0}` cannot serve the method `{1}`; omit `channel` to let the routes choose")]
    WrongMethod(String, Method),
    /// Every channel that could take the payment is under maintenance, the first for this many more seconds.
    #[error("every channel for this payment is under maintenance for another {0} s")]
    Maintenance(u64),
    /// The matching route has a static response.
    #[error("the route answers {} {}, and nothing is sent", .0.status, .0.code)]
    Refused(Arc<Refusal>),
    /// No route matches.
    #[error("no route leads this payment to a channel; the operator must add one to routes.toml")]
    NoRoute,
}

/// Returns the channels for a new payment. The first is used, the others only if nothing was sent.
///
/// The weighted choice depends on the order's number only, so one order always gets the same channel. A pinned channel must be
/// one that a route allows for this payment: only the operator decides which account is paid.
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
    // Leaving the channel out would not help.
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

/// Returns the route's channels that serve the method; the error is the seconds until the first one ends its maintenance.
pub fn channels(snapshot: &Snapshot, route: &Route, question: &Question<'_>) -> Result<Vec<Arc<Channel>>, u64> {
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
    fn weights_distribute_orders_and_one_order_always_gets_the_same_channel() {
        let to = [("a", 90), ("b", 10), ("never", 0)].map(|(name, weight)| (name.to_owned(), weight));
        let route = Route { to: to.to_vec(), ..Route::default() };
        let draws: Vec<_> = (0..10_000).map(|n| by_weight(&route, &n.to_string())).collect();
        let to_b = draws.iter().filter(|name| **name == "b").count();
        assert!((800..1200).contains(&to_b), "{to_b} of 10000 to b");
        assert!(!draws.contains(&"never"));
        assert_eq!(by_weight(&route, "77"), by_weight(&route, "77"));
    }
}
