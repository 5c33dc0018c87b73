//! A merchant that pulls its events with a cursor, from any gateway.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::environment::ChaosEnvironment;
use super::sink_record::SinkRecord;

/// Pause after a request that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// Number of failed requests in a row after which the end of the events counts as unreachable.
const MAX_FAILURES: u32 = 150;

/// Reader with its cursor and everything that it has read.
#[derive(Default)]
pub(super) struct PullReader {
    pub(super) record: SinkRecord,
    cursor: Option<String>,
    /// Gateway that receives the next request. Increased with each page.
    gateway: usize,
}

impl PullReader {
    /// Reads with long polls until `stop` is true.
    pub(super) async fn read_until(
        mut self,
        environment: Arc<ChaosEnvironment>,
        mut stop: watch::Receiver<bool>,
    ) -> Self {
        loop {
            let is_failed = tokio::select! {
                page = self.read_page(&environment, "&wait=5s") => page.is_err(),
                _ = stop.wait_for(|stop| *stop) => return self,
            };
            if is_failed {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Reads until a gateway answers that there are no more events.
    pub(super) async fn read_to_end(&mut self, environment: &ChaosEnvironment) -> Result<(), String> {
        let mut failures = 0;
        loop {
            match self.read_page(environment, "").await {
                Ok(true) => return Ok(()),
                Ok(false) => failures = 0,
                Err(error) if failures == MAX_FAILURES => return Err(error),
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads one page. Returns whether there are no more events. A cancelled read changes nothing.
    async fn read_page(&mut self, environment: &ChaosEnvironment, wait: &str) -> Result<bool, String> {
        let after = self.cursor.as_ref().map_or_else(String::new, |cursor| format!("&after={cursor}"));
        let target = format!("/v1/events?limit=100{after}{wait}");
        self.gateway += 1;
        let page = match environment.send(self.gateway, "GET", &target, None, &Value::Null).await? {
            (200, page) => page,
            (status, problem) => return Err(format!("a gateway responded with {status} to {target}: {problem}")),
        };
        for event in page["data"].as_array().into_iter().flatten() {
            self.record.accept(event);
        }
        self.cursor = page["next"].as_str().map(str::to_owned).or(self.cursor.take());
        Ok(page["done"] == true)
    }
}
