//! Prometheus process on a private port, with samples of the past, and its tool.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{free_address, send, until};

/// Paths of `promtool` and `prometheus`.
static PROGRAMS: LazyLock<[String; 2]> = LazyLock::new(|| {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/prometheus");
    let output = Command::new(script).output().unwrap();
    let (found, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut paths = found.lines().map(str::to_owned);
    [paths.next(), paths.next()].map(|path| path.unwrap_or_else(|| panic!("Prometheus could not be installed: {said}")))
});

/// Runs `promtool` in a directory.
pub fn promtool(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(&PROGRAMS[0]).current_dir(directory).args(arguments).output().unwrap()
}

/// Prometheus server that scrapes nothing. Stops when dropped.
pub struct Prometheus {
    address: SocketAddr,
    process: Child,
    _directory: TempDir,
}

/// A series of a query's result: Unix seconds with values.
pub type Series = Vec<(i64, f64)>;

/// An alert rule.
pub struct Rule {
    pub name: String,
    pub severity: String,
    pub query: String,
    /// Seconds for which the query must have a result.
    pub hold: i64,
}

impl Prometheus {
    /// Imports these samples, in the OpenMetrics format, and starts a server with the rules.
    pub async fn with_samples(samples: &str, rules: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("samples.txt"), samples).unwrap();
        let import = ["tsdb", "create-blocks-from", "openmetrics", "--quiet", "samples.txt", "data"];
        let imported = promtool(directory.path(), &import);
        assert!(imported.status.success(), "{imported:?}");
        let configuration = format!("rule_files: [{}]\n", rules.display());
        std::fs::write(directory.path().join("prometheus.yml"), configuration).unwrap();
        let address = free_address();
        let process = Command::new(&PROGRAMS[1])
            .current_dir(directory.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--storage.tsdb.retention.time=10y"])
            // Without a scraper nobody marks series as ended.
            .args(["--query.lookback-delta=45s", &format!("--web.listen-address={address}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { address, process, _directory: directory };
        until("Prometheus is ready", || async {
            let answer = send("GET", &format!("http://{address}/-/ready"), &[], b"").await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(()).ok_or("not ready")
        })
        .await;
        server
    }

    /// Returns the alert rules as the server understands them.
    pub async fn rules(&self) -> Vec<Rule> {
        let answer = self.get("rules?type=alert").await;
        let groups = answer["data"]["groups"].as_array().unwrap();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rules
            .map(|rule| Rule {
                name: text(&rule["name"]),
                severity: text(&rule["labels"]["severity"]),
                query: text(&rule["query"]),
                hold: rule["duration"].as_f64().unwrap() as i64,
            })
            .collect()
    }

    /// Evaluates a query at each step, in seconds.
    pub async fn evaluate(&self, query: &str, (start, end): (i64, i64), step: i64) -> Vec<Series> {
        let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let answer = self.get(&format!("query_range?query={query}&start={start}&end={end}&step={step}")).await;
        let series = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {answer}"));
        let sample = |pair: &Value| Some((pair[0].as_f64()? as i64, pair[1].as_str()?.parse().ok()?));
        series.iter().map(|series| series["values"].as_array().unwrap().iter().filter_map(sample).collect()).collect()
    }

    async fn get(&self, target: &str) -> Value {
        send("GET", &format!("http://{}/api/v1/{target}", self.address), &[], b"").await.unwrap().json()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Rule {
    /// Returns when the alert first fires: its query has had a result with the same labels for `hold`.
    pub fn first_firing(&self, results: &[Series], step: i64) -> Option<i64> {
        let of_series = |series: &Series| {
            let mut run: Option<(i64, i64)> = None;
            series.iter().find_map(|(at, _)| {
                let since = run.filter(|(_, last)| last + step == *at).map_or(*at, |(since, _)| since);
                run = Some((since, *at));
                (at - since >= self.hold).then_some(*at)
            })
        };
        results.iter().filter_map(of_series).min()
    }
}
