//! Breakers, seen and forced by an operator for a while. What is forced by the file is the file's to lift.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_plugins::filter::{Clock, Force};
use tollgate_plugins::payment::Kind;
use tollgate_plugins::settings::duration;

use crate::gateway::Gateway;

/// How long a state stays forced when nothing is said of it: an incident is over, or somebody looks again.
const FOR: Duration = Duration::from_secs(600);
/// Longer is the file's.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

const USAGE: &str = "write ?channel=NAME&force=open, closed, off or none; also &operation=pay, query, close, refund or \
                     query_refund (without: all, but `open` leaves queries alone) and &for=10m (at most 24h)\n";

/// A line for each channel and operation that was called, and for each channel on which nothing is sent for want of a key.
pub(super) fn listed(gateway: &Gateway) -> String {
    let now = gateway.exchanger.clock().now();
    let mut lines = String::new();
    for channel in gateway.current.load().channels.values() {
        if let Some(why) = gateway.exchanger.keys().missing(channel) {
            let name = &channel.name;
            lines += &format!("{name}: nothing is sent, because no key could verify the provider's answer: {why}\n");
        }
        for stance in channel.filters.iter().flat_map(|filter| filter.statuses(now)) {
            let operation = stance.operation.as_str();
            let forced = match (stance.forced, stance.forced_for) {
                (None, _) => String::new(),
                (Some(force), None) => format!(", forced {} by the file", force.as_str()),
                (Some(force), Some(left)) => format!(", forced {} for {}s", force.as_str(), left.as_secs()),
            };
            let reason = if stance.reason.is_empty() { String::new() } else { format!(" ({})", stance.reason) };
            let (name, state, changes) = (&channel.name, stance.state, stance.transitions);
            lines += &format!("{name} {operation}: {state}{forced}, {changes} changes{reason}\n");
        }
    }
    if lines.is_empty() { "no breaker has seen a call yet\n".to_owned() } else { lines }
}

/// Forces a state, or lifts it; says what it did, or how to ask.
pub(super) fn force(gateway: &Gateway, query: Option<&str>) -> Result<String, String> {
    let wanted = Wanted::read(query.unwrap_or_default()).ok_or_else(|| USAGE.to_owned())?;
    let snapshot = gateway.current.load();
    let channel = snapshot.channels.get(wanted.channel).ok_or_else(|| {
        let known: Vec<&str> = snapshot.channels.keys().map(String::as_str).collect();
        format!("there is no channel `{}`: there are {}\n", wanted.channel, known.join(", "))
    })?;
    let until = gateway.exchanger.clock().now() + wanted.time;
    let mut forced = Vec::new();
    for kind in &wanted.kinds {
        // All of them, without a short cut: a channel may have more than one.
        let takers = channel.filters.iter().filter(|filter| filter.force(*kind, wanted.force, until)).count();
        if takers > 0 {
            forced.push(kind.as_str());
        }
    }
    if forced.is_empty() {
        return Err(format!(
            "the channel `{}` has no breaker: add one with `[[filter]] use = \"breaker\"`\n",
            channel.name
        ));
    }
    let (state, kinds) = (wanted.force.map_or("none", Force::as_str), forced.join(", "));
    let seconds = wanted.time.as_secs();
    tracing::warn!(channel = channel.name, state, kinds, seconds, "an operator forced the breaker");
    let left = if wanted.force.is_some() { format!(" for {seconds}s") } else { String::new() };
    Ok(format!("the breaker of {} for {kinds} is forced {state}{left}\n", channel.name))
}

struct Wanted<'a> {
    channel: &'a str,
    kinds: Vec<Kind>,
    force: Option<Force>,
    time: Duration,
}

impl<'a> Wanted<'a> {
    fn read(query: &'a str) -> Option<Self> {
        let pairs: Option<BTreeMap<&str, &str>> = query.split('&').map(|pair| pair.split_once('=')).collect();
        let pairs = pairs?;
        if pairs.keys().any(|name| !["channel", "operation", "force", "for"].contains(name)) {
            return None;
        }
        let force = match *pairs.get("force")? {
            "none" => None,
            word => Some(Force::parse(word)?),
        };
        let kinds = match pairs.get("operation") {
            Some(name) => vec![Kind::ALL.into_iter().find(|kind| kind.as_str() == *name)?],
            None => Kind::ALL.into_iter().filter(|kind| force != Some(Force::Open) || !kind.is_query()).collect(),
        };
        let time = pairs.get("for").map_or(Some(FOR), |text| time(text))?;
        Some(Self { channel: pairs.get("channel")?, kinds, force, time })
    }
}

/// As in the files: `90s`, `10m`, `2h`.
fn time(text: &str) -> Option<Duration> {
    duration(text).filter(|time| !time.is_zero() && *time <= LONGEST)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_and_odd_ones_are_not() {
        let all = Wanted::read("channel=main&force=open").unwrap();
        assert_eq!((all.channel, all.force, all.time), ("main", Some(Force::Open), FOR));
        assert_eq!(all.kinds, [Kind::Pay, Kind::Close, Kind::Refund], "the truth can still be asked");
        let one = Wanted::read("channel=main&operation=query&force=none&for=2h").unwrap();
        assert_eq!((one.kinds, one.force, one.time.as_secs()), (vec![Kind::Query], None, 7200));
        for odd in [
            "",
            "channel=main",
            "force=open",
            "channel=main&force=shut",
            "channel=main&force=open&operation=pray",
            "channel=main&force=open&for=2d",
            "channel=main&force=open&for=25h",
            "channel=main&force=open&for=0s",
            "channel=main&force=open&for=é",
            "channel=main&force=open&for=",
            "channel=main&force=open&forever=1",
            "channel=main&force",
        ] {
            assert!(Wanted::read(odd).is_none(), "{odd}");
        }
    }
}
