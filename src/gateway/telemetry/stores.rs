//! Metrics of PostgreSQL and Redis, which gateways share.

use prometheus::{IntCounter, IntGauge, Opts, Registry};

/// Every metric, named without the prefix `tollgate_`.
pub struct StoreMetrics {
    /// Claims that this gateway ended because their owner is gone, or because no execution held them.
    pub ledger_claims_taken_over_total: IntCounter,
    /// 1 while this gateway's lease in the ledger is valid, or the ledger needs none.
    pub ledger_lease: IntGauge,
    /// 1 while Redis can store nonces, or the nonces are in memory.
    pub cache_ready: IntGauge,
    /// Keys that Redis evicted since it started. An evicted nonce would be accepted again.
    pub cache_evicted_keys: IntGauge,
    /// Times that Redis lost data: a restart, a failover, `FLUSHALL`.
    pub cache_losses_total: IntCounter,
}

impl StoreMetrics {
    #[expect(clippy::expect_used, reason = "a name that Prometheus refuses fails the first test that runs")]
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::with_opts(Opts::new(name, help)).expect("metric is valid");
            registry.register(Box::new(metric.clone())).expect("metric is new");
            metric
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::with_opts(Opts::new(name, help)).expect("metric is valid");
            registry.register(Box::new(metric.clone())).expect("metric is new");
            metric
        };
        Self {
            ledger_claims_taken_over_total: counter(
                "ledger_claims_taken_over_total",
                "Claims ended here because their owner is gone, or because no execution held them",
            ),
            ledger_lease: gauge("ledger_lease", "1 while the lease of this gateway in the ledger is valid"),
            cache_ready: gauge("cache_ready", "1 while the cache can store nonces"),
            cache_evicted_keys: gauge("cache_evicted_keys", "Keys that Redis evicted since it started"),
            cache_losses_total: counter("cache_losses_total", "Times that Redis lost data"),
        }
    }
}
