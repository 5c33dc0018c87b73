//! Lists breakers and lets an operator force them for a limited time. A state forced by the configuration file stays.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_plugins::filter::{Clock, Force};
use tollgate_plugins::payment::Kind;
use tollgate_plugins::settings::duration;

use tollgate_gateway::operations::Gateway;

/// Default duration of a forced state. It is short, so that an operator reconsiders it.
const DEFAULT_FORCE_TIME: Duration = Duration::from_secs(600);
/// Maximum duration of a forced state. Longer ones belong into the configuration file.
const MAX_FORCE_TIME: Duration = Duration::from_secs(24 * 3600);

const USAGE: &str = "use ?channel=NAME&force=open, closed, off or none; optionally &operation=pay, query, close, refund or \
                     query_refund (default: all, but `open` does not affect queries) and &for=10m (at most 24h)\n";

/// Lists one line per called channel and operation, and one per channel that sends nothing because a key is missing.
pub(super) fn listed(gateway: &Gateway) -> String {
    let now = gateway.provider_client.clock().now();
    let mut lines = String::new();
    for channel in gateway.current.load().channels.values() {
        if let Some(reason) = gateway.provider_client.keys().missing(channel) {
            let name = &channel.name;
            lines += &format!(
                "{name}: nothing is sent, because there is no key to verify the provider's response: {reason}\n"
            );
        }
        for status in channel.filters.iter().flat_map(|filter| filter.statuses(now)) {
            let operation = status.operation.as_str();
            let forced = match (status.forced, status.forced_for) {
                (None, _) => String::new(),
                (Some(force), None) => format!(", forced {} by the file", force.as_str()),
                (Some(force), Some(remaining)) => format!(", forced {} for {}s", force.as_str(), remaining.as_secs()),
            };
            let reason = if status.reason.is_empty() { String::new() } else { format!(" ({})", status.reason) };
            let (name, state, changes) = (&channel.name, status.state, status.transitions);
            lines += &format!("{name} {operation}: {state}{forced}, {changes} changes{reason}\n");
        }
    }
    if lines.is_empty() { "no breaker has seen a call yet\n".to_owned() } else { lines }
}

/// Forces a breaker's state or lifts it. Returns a description of the effect, or the usage.
pub(super) fn force(gateway: &Gateway, query: Option<&str>) -> Result<String, String> {
    let request = ForceRequest::read(query.unwrap_or_default()).ok_or_else(|| USAGE.to_owned())?;
    let snapshot = gateway.current.load();
    let channel = snapshot.channels.get(request.channel).ok_or_else(|| {
        let known: Vec<&str> = snapshot.channels.keys().map(String::as_str).collect();
        format!("there is no channel `{}`: there are {}\n", request.channel, known.join(", "))
    })?;
    let until = gateway.provider_client.clock().now() + request.time;
    let mut forced = Vec::new();
    for kind in &request.kinds {
        // `count` visits every filter, because a channel may have several breakers.
        let breakers = channel.filters.iter().filter(|filter| filter.force(*kind, request.force, until)).count();
        if breakers > 0 {
            forced.push(kind.as_str());
        }
    }
    if forced.is_empty() {
        return Err(format!(
            "the channel `{}` has no breaker: add one with `[[filter]] use = \"breaker\"`\n",
            channel.name
        ));
    }
    let (state, kinds) = (request.force.map_or("none", Force::as_str), forced.join(", "));
    let seconds = request.time.as_secs();
    tracing::warn!(channel = channel.name, state, kinds, seconds, "an operator forced the state of a breaker");
    let remaining = if request.force.is_some() { format!(" for {seconds}s") } else { String::new() };
    Ok(format!("the breaker of {} for {kinds} is forced {state}{remaining}\n", channel.name))
}

struct ForceRequest<'a> {
    channel: &'a str,
    kinds: Vec<Kind>,
    force: Option<Force>,
    time: Duration,
}

impl<'a> ForceRequest<'a> {
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
        let time = pairs.get("for").map_or(Some(DEFAULT_FORCE_TIME), |text| time(text))?;
        Some(Self { channel: pairs.get("channel")?, kinds, force, time })
    }
}

/// Parses a duration such as `90s`, `10m` or `2h`.
fn time(text: &str) -> Option<Duration> {
    duration(text).filter(|time| !time.is_zero() && *time <= MAX_FORCE_TIME)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn force_request_is_parsed_and_invalid_one_is_rejected() {
        let all = ForceRequest::read("channel=main&force=open").unwrap();
        assert_eq!((all.channel, all.force, all.time), ("main", Some(Force::Open), DEFAULT_FORCE_TIME));
        assert_eq!(all.kinds, [Kind::Pay, Kind::Close, Kind::Refund], "queries are still allowed");
        let one = ForceRequest::read("channel=main&operation=query&force=none&for=2h").unwrap();
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
            assert!(ForceRequest::read(odd).is_none(), "{odd}");
        }
    }
}
