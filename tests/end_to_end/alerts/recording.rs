//! Scrapes of gateways, with timestamps of an hour that took less.

use std::collections::BTreeSet;

/// Seconds between two scrapes.
pub const SCRAPE_INTERVAL: i64 = 30;
/// Seconds of a block of Prometheus' storage.
const BLOCK: i64 = 2 * 3600;

/// Samples in the OpenMetrics format.
pub struct Recording {
    text: String,
    pub start: i64,
    /// Time of the next scrape in Unix seconds.
    pub now: i64,
}

impl Recording {
    /// Starts a recording in the recent past, with room for two hours.
    pub fn new() -> Self {
        let start = (jiff::Timestamp::now().as_second() / BLOCK - 2) * BLOCK;
        Self { text: String::new(), start, now: start }
    }

    /// Adds a gateway's metrics as Prometheus would, or `None` if it does not answer.
    pub fn add(&mut self, instance: &str, page: Option<&str>) {
        let target = format!("job=\"tollgate\",instance=\"{instance}\"");
        self.text += &format!("up{{{target}}} {} {}\n", i32::from(page.is_some()), self.now);
        let lines = page.into_iter().flat_map(str::lines).filter(|line| !line.starts_with('#'));
        for line in lines {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = if labels == "}" { labels.to_owned() } else { format!(",{labels}") };
            self.text += &format!("{name}{{{target}{labels} {value} {}\n", self.now);
        }
    }

    /// Moves to the time of the next scrape.
    pub fn advance(&mut self) {
        self.now += SCRAPE_INTERVAL;
    }

    /// Returns the names of all metrics, without the suffixes of a histogram's series.
    pub fn names(&self) -> BTreeSet<&str> {
        self.text.lines().filter_map(|line| line.split(['{', ' ']).next()).map(family).collect()
    }

    pub fn range(&self) -> (i64, i64) {
        (self.start, self.now - SCRAPE_INTERVAL)
    }

    /// Returns the complete text.
    pub fn finish(&self) -> String {
        format!("{}# EOF\n", self.text)
    }
}

/// Returns the name of a metric without the suffix of a histogram's series.
pub fn family(name: &str) -> &str {
    let suffixes = ["_bucket", "_count", "_sum"];
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}
