//! Operation → channels, in the order of preference.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tollgate_plugins::payment::{Method, Money};

use crate::config::{Channel, Route, Snapshot};

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
    /// No rule matches.
    #[error("no route leads this payment to a channel; add one to routes.toml or name a `channel`")]
    NoRoute,
}

/// The channels for a new payment: the first is used, the others only when nothing was sent. The choice by weight is
/// made by the order's number, so that the same order always comes to the same channel. A `pinned` channel must be one
/// to which some route would lead this payment: whose money goes where is the operator's word, not the caller's.
pub fn choose(
    snapshot: &Snapshot,
    merchant: &str,
    method: Method,
    amount: Money,
    pinned: Option<&str>,
    number: &str,
) -> Result<Vec<Arc<Channel>>, NoChannel> {
    let serves = |channel: &&Arc<Channel>| channel.methods.contains(&method.as_str());
    if let Some(name) = pinned {
        let leads = |route: &&Route| route.matches(merchant, method, amount) && route.names(name);
        let channel = snapshot.channels.get(name).filter(|_| snapshot.routes.iter().any(|route| leads(&route)));
        let channel = channel.ok_or_else(|| NoChannel::Unknown(name.to_owned()))?;
        return match serves(&channel) {
            true => Ok(vec![Arc::clone(channel)]),
            false => Err(NoChannel::WrongMethod(name.to_owned(), method)),
        };
    }
    let matching = snapshot.routes.iter().filter(|route| route.matches(merchant, method, amount));
    for route in matching {
        let names = std::iter::once(by_weight(route, number)).chain(route.fallback.iter().map(String::as_str));
        let mut channels: Vec<Arc<Channel>> = Vec::new();
        for channel in names.filter_map(|name| snapshot.channels.get(name)).filter(serves) {
            if !channels.iter().any(|known| known.name == channel.name) {
                channels.push(Arc::clone(channel));
            }
        }
        if !channels.is_empty() {
            return Ok(channels);
        }
    }
    Err(NoChannel::NoRoute)
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

    fn route(to: &[(&str, u32)]) -> Route {
        Route {
            merchant: None,
            method: None,
            currency: None,
            at_least: Some(10),
            below: Some(100),
            to: to.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
            fallback: Vec::new(),
        }
    }

    #[test]
    fn weights_share_the_orders_and_an_order_stays() {
        let route = route(&[("a", 90), ("b", 10), ("never", 0)]);
        let draws: Vec<_> = (0..10_000).map(|n| by_weight(&route, &n.to_string())).collect();
        let to_b = draws.iter().filter(|name| **name == "b").count();
        assert!((800..1200).contains(&to_b), "{to_b} of 10000 to b");
        assert!(!draws.contains(&"never"));
        assert_eq!(by_weight(&route, "77"), by_weight(&route, "77"));
    }

    #[test]
    fn an_amount_range_takes_its_lower_end_and_leaves_its_upper() {
        let route = route(&[("a", 1)]);
        let Some(method) = Method::parse("wechat.native") else { panic!("method") };
        let matches = |value| {
            let currency = tollgate_plugins::payment::Currency::CNY;
            route.matches("shop", method, Money { value, currency })
        };
        assert_eq!([9, 10, 99, 100].map(matches), [false, true, true, false]);
    }
}
