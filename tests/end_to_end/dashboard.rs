//! The dashboard in `conf/grafana`: the rules of Grafana's dashboard-linter, as assertions.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Units that panels use. Each is one of Grafana's.
const UNITS: [&str; 9] = ["none", "short", "percentunit", "s", "d", "bytes", "reqps", "ops", "string"];
/// Functions that take a range of a counter.
const RATES: [&str; 2] = ["rate(", "increase("];

/// Returns the dashboard.
pub fn dashboard() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/grafana/tollgate.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Query of a panel.
pub struct Target {
    pub panel: String,
    pub query: String,
}

/// Returns the queries of all panels.
pub fn targets(dashboard: &Value) -> Vec<Target> {
    let of_panel = |panel: &Value| -> Vec<Target> {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| Target { panel: text(&panel["title"]), query: text(&target["expr"]) }).collect()
    };
    panels(dashboard).into_iter().flat_map(of_panel).collect()
}

/// Returns the panels, without the rows between them.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

fn variables(dashboard: &Value) -> &Vec<Value> {
    dashboard["templating"]["list"].as_array().unwrap()
}

fn variable<'a>(dashboard: &'a Value, name: &str) -> &'a Value {
    variables(dashboard)
        .iter()
        .find(|variable| variable["name"] == name)
        .unwrap_or_else(|| panic!("no variable {name}"))
}

/// Returns the label matchers of each metric in a query, with what follows them.
fn selectors(query: &str) -> Vec<(&str, &str, &str)> {
    let starts = query.match_indices("tollgate_").map(|(at, _)| at);
    starts
        .map(|at| {
            let (name, rest) =
                query[at..].split_once('{').unwrap_or_else(|| panic!("a metric without labels: {query}"));
            let (labels, after) = rest.split_once('}').unwrap();
            (name, labels, after)
        })
        .collect()
}

#[test]
fn dashboard_is_a_fixed_importable_file() {
    let dashboard = dashboard();
    assert_eq!((&dashboard["uid"], &dashboard["title"]), (&"tollgate".into(), &"Tollgate".into()));
    assert_eq!((&dashboard["editable"], &dashboard["graphTooltip"]), (&false.into(), &1.into()));
    assert!(dashboard["id"].is_null() && dashboard["schemaVersion"].as_u64().unwrap() >= 38, "Grafana 10 or later");
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "panel ids are unique");
    let titles: BTreeSet<_> = all.iter().map(|panel| text(&panel["title"])).collect();
    assert_eq!(titles.len(), all.len(), "panel titles are unique");
    let rows = all.iter().filter(|panel| panel["type"] == "row").map(|panel| text(&panel["title"]));
    let expected =
        ["Money", "Channels", "Merchants", "Events", "Queue", "Ledger", "Cache", "Configuration", "Keys", "Process"];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
}

#[test]
fn dashboard_has_templated_data_source_job_and_instance() {
    let dashboard = dashboard();
    let source = variable(&dashboard, "datasource");
    assert_eq!((&source["type"], &source["query"]), (&"datasource".into(), &"prometheus".into()));
    assert_eq!(source["label"], "Data source");
    for (name, label) in [("job", "Job"), ("instance", "Instance")] {
        let variable = variable(&dashboard, name);
        assert_eq!((&variable["label"], &variable["allValue"]), (&label.into(), &".+".into()), "{name}");
    }
    for variable in variables(&dashboard).iter().filter(|variable| variable["type"] == "query") {
        let name = text(&variable["name"]);
        assert_eq!(variable["datasource"]["uid"], "${datasource}", "{name}");
        assert_eq!((&variable["multi"], &variable["includeAll"]), (&true.into(), &true.into()), "{name}");
        assert_eq!(variable["refresh"], 2, "{name} is read again when the time range changes");
        let query = text(&variable["query"]["query"]);
        assert!(query.starts_with("label_values(tollgate_") && query.ends_with(&format!(", {name})")), "{query}");
        let uses = format!("\"${name}\"");
        assert!(targets(&dashboard).iter().any(|target| target.query.contains(&uses)), "no panel uses {name}");
    }
}

#[test]
fn each_panel_has_data_source_title_description_unit_and_queries() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(!title.is_empty() && text(&panel["description"]).len() > 20, "{title}: {}", panel["description"]);
        let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
        assert!(UNITS.contains(&unit.as_str()), "{title}: {unit}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(!text(&target["legendFormat"]).is_empty(), "{title}");
        }
        let references: BTreeSet<_> = targets.iter().map(|target| text(&target["refId"])).collect();
        assert_eq!(references.len(), targets.len(), "{title}");
    }
}

#[test]
fn panels_do_not_overlap_and_fit_the_grid() {
    let dashboard = dashboard();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + width <= 24, "{}", panel["title"]);
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} overlaps another panel", panel["title"]);
        }
    }
}

#[test]
fn each_query_selects_job_and_instance_and_rates_counters_over_the_rate_interval() {
    let dashboard = dashboard();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    let annotations = annotations
        .iter()
        .map(|annotation| Target { panel: text(&annotation["name"]), query: text(&annotation["expr"]) });
    for Target { panel, query } in targets(&dashboard).into_iter().chain(annotations) {
        let selectors = selectors(&query);
        assert!(!selectors.is_empty(), "{panel}: {query}");
        for (name, labels, after) in selectors {
            assert!(labels.contains("job=~\"$job\"") && labels.contains("instance=~\"$instance\""), "{panel}: {query}");
            assert!(!after.starts_with('[') || after.starts_with("[$__rate_interval]"), "{panel}: {query}");
            let is_counter = ["_total", "_bucket", "_count", "_sum"].iter().any(|suffix| name.ends_with(suffix));
            let is_rated = RATES.iter().any(|function| query.contains(&format!("{function}{name}{{")));
            assert_eq!(is_counter, is_rated, "{panel}: {name} in {query}");
        }
    }
}
