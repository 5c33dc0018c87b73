//! `[[filter]]` of a channel: what stands around each call, outermost first.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_plugins::filter::breaker::{REQUEST_VOLUME_THRESHOLD, ROLLING_WINDOW};
use tollgate_plugins::filter::{FILTERS, Filter, State};
use tollgate_plugins::settings::Settings;

use super::source::suggest;

/// Reads the tables. A filter goes on with the memory of the one in whose place it stands: of the same name, and as many
/// of that name before it.
pub(super) fn read(tables: Vec<Settings<'_>>, previous: &[Arc<dyn Filter>]) -> Vec<Arc<dyn Filter>> {
    let mut seen: HashMap<&'static str, usize> = HashMap::new();
    let most = tables.iter().filter_map(Most::of).min_by(|a, b| a.rate.total_cmp(&b.rate));
    let mut filters = Vec::new();
    for mut table in tables {
        let name: Option<String> = table.required("use");
        table.choices("use", FILTERS.iter().map(|row| row.name));
        let Some(name) = name else { continue };
        let Some(row) = FILTERS.iter().find(|row| row.name == name) else {
            let message = format!("there is no filter `{name}`");
            table.problem("use", message, suggest(&name, FILTERS.iter().map(|row| row.name)));
            // Its keys are not mistakes of their own.
            table.ignore_rest();
            continue;
        };
        let nth = seen.entry(row.name).or_default();
        let state = state_of(previous, row.name, *nth);
        *nth += 1;
        let before = table.problems().len();
        let span = table.span_of("use");
        let problems = table.problems();
        if let Some(most) = most.filter(|_| row.name == "breaker") {
            most.check(&table);
        }
        let filter = (row.build)(&mut table, state);
        drop(table);
        match filter {
            Some(filter) => filters.push(filter),
            None if problems.len() == before => {
                problems.push(span, format!("the filter `{name}` cannot be built from this"), None);
            }
            None => {}
        }
    }
    filters
}

/// What a limit lets through, wherever it stands: what it turns away no breaker counts.
#[derive(Clone, Copy)]
struct Most {
    rate: f64,
    burst: f64,
}

impl Most {
    fn of(table: &Settings<'_>) -> Option<Self> {
        let is_limit = table.peek::<String>("use")? == "limit";
        let rate = table.peek::<f64>("rate").filter(|rate| is_limit && *rate > 0.0)?;
        Some(Self { rate, burst: table.peek::<u64>("burst").map_or_else(|| rate.ceil(), |burst| burst as f64) })
    }

    /// Notes a breaker that so few calls can never open.
    fn check(self, breaker: &Settings<'_>) {
        let threshold = breaker.peek("request_volume_threshold").unwrap_or(REQUEST_VOLUME_THRESHOLD);
        let window = breaker.peek("rolling_window").unwrap_or(ROLLING_WINDOW);
        let calls = (self.burst + self.rate * window.as_secs_f64()).floor();
        if calls < f64::from(threshold) {
            let message = format!(
                "this breaker can never open: the `limit` of this channel lets at most {calls} calls through within its \
                 `rolling_window` of {window:?}, and its `request_volume_threshold` is {threshold}"
            );
            let advice = "lower `request_volume_threshold`, or make `rolling_window` longer".to_owned();
            let key = if breaker.has("request_volume_threshold") { "request_volume_threshold" } else { "use" };
            breaker.problem(key, message, Some(advice));
        }
    }
}

fn state_of(filters: &[Arc<dyn Filter>], name: &str, nth: usize) -> Option<State> {
    filters.iter().filter(|filter| filter.name() == name).nth(nth).map(|filter| filter.state())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::source::Source;
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let source = Source::with_text(Path::new("main.toml"), text.into());
        let (filters, mistakes) = source.read(|mut root| read(root.sections("filter"), &[]));
        drop(filters.unwrap());
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_breaker_that_the_limit_keeps_from_ever_opening_is_refused() {
        let with = |limit: &str, breaker: &str| {
            mistakes(&format!("[[filter]]\nuse = \"limit\"\n{limit}\n[[filter]]\nuse = \"breaker\"\n{breaker}\n"))
        };
        let refused = with("rate = 1", "");
        assert!(refused.len() == 1 && refused[0].contains("main.toml:5:7: this breaker can never open"), "{refused:?}");
        assert!(refused[0].contains("at most 11 calls") && refused[0].contains("is 20"), "{refused:?}");
        let refused = with("rate = 0.5\nburst = 4", "request_volume_threshold = 10");
        assert!(refused[0].contains("main.toml:7:28: this breaker can never open"), "{refused:?}");
        for (limit, breaker) in [
            ("rate = 2", ""),
            ("rate = 1\nburst = 10", ""),
            ("in_flight = 1", ""),
            ("rate = 1", "rolling_window = \"20s\""),
            ("rate = 1", "request_volume_threshold = 11"),
        ] {
            assert_eq!(with(limit, breaker), [""; 0], "{limit} {breaker}");
        }
    }
}
