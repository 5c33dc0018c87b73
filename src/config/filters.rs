//! `[[filter]]` of a channel: the filters around each call, outermost first.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_plugins::filter::{Filter, State};
use tollgate_plugins::registry::FILTERS;
use tollgate_plugins::settings::Settings;

use super::toml_file::suggest;

/// Reads the tables. A filter takes over the state of its predecessor: the previous filter of the same name and of the same
/// position among those of that name.
pub(super) fn read(tables: Vec<Settings<'_>>, previous: &[Arc<dyn Filter>]) -> Vec<Arc<dyn Filter>> {
    let mut seen: HashMap<&'static str, usize> = HashMap::new();
    let mut filters = Vec::new();
    for mut table in tables {
        let name: Option<String> = table.required("use");
        table.choices("use", FILTERS.iter().map(|row| row.name));
        let Some(name) = name else { continue };
        let Some(row) = FILTERS.iter().find(|row| row.name == name) else {
            let message = format!("there is no filter `{name}`");
            table.problem("use", message, suggest(&name, FILTERS.iter().map(|row| row.name)));
            // The keys of an unknown filter are not further errors.
            table.ignore_rest();
            continue;
        };
        let nth = seen.entry(row.name).or_default();
        let state = state_of(previous, row.name, *nth);
        *nth += 1;
        let before = table.problems().len();
        let span = table.span_of("use");
        let problems = table.problems();
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

fn state_of(filters: &[Arc<dyn Filter>], name: &str, nth: usize) -> Option<State> {
    filters.iter().filter(|filter| filter.name() == name).nth(nth).and_then(|filter| filter.state())
}
