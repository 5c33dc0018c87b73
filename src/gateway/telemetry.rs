//! Telemetry: metrics and the log.

pub mod filter_metrics;
pub mod log;

mod cardinality;
mod config_metrics;
mod definitions;
mod ledger_metrics;
mod stores;

use std::sync::LazyLock;

pub use self::cardinality::{FewValues, LABELS, Labels};
pub(crate) use self::ledger_metrics::LedgerMetrics;
pub use self::stores::StoreMetrics;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

/// Metrics of the process. There is one registry, because Prometheus scrapes one page per process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Every metric, named without the prefix `tollgate_`.
pub struct Metrics {
    registry: Registry,
    /// Metrics of PostgreSQL and Redis, which gateways share.
    pub stores: StoreMetrics,
    /// Answered requests by merchant, channel, operation and code.
    pub requests_total: IntCounterVec,
    /// Seconds from the first byte of a request to its response.
    pub request_duration_seconds: HistogramVec,
    /// Requests in flight.
    pub requests_in_flight: IntGauge,
    /// Open streams of payments by kind.
    pub streams: IntGaugeVec,
    /// Ended streams of payments by kind and reason.
    pub streams_total: IntCounterVec,
    /// Provider calls by channel, operation and result.
    pub provider_requests_total: IntCounterVec,
    /// Seconds of one provider call.
    pub provider_request_duration_seconds: HistogramVec,
    /// Breaker state by channel and operation: 0 closed, 1 half open, 2 open.
    pub breaker_state: GaugeVec,
    /// Number of state changes of a breaker.
    pub breaker_transitions: GaugeVec,
    /// State changes of a breaker by old state, new state and reason.
    pub breaker_transitions_total: IntCounterVec,
    /// Calls in flight within a channel's limit.
    pub limit_in_flight: GaugeVec,
    /// Calls of a channel that are being retried.
    pub retries_in_flight: GaugeVec,
    /// Retries of a channel's calls, and retries that the budget did not allow.
    pub retries_total: IntCounterVec,
    /// Current adaptive concurrency limit by channel and operation.
    pub adaptive_limit: GaugeVec,
    /// Calls in flight under an adaptive limit.
    pub adaptive_in_flight: GaugeVec,
    /// Baseline latency of an adaptive limit.
    pub adaptive_baseline_seconds: GaugeVec,
    /// Calls rejected by an adaptive limit.
    pub adaptive_shed_total: IntCounterVec,
    /// Requests rejected by admission control, by kind.
    pub requests_shed_total: IntCounterVec,
    /// Open connections, by listener.
    pub connections: IntGaugeVec,
    /// Maximum number of open connections, by listener.
    pub connections_limit: IntGaugeVec,
    /// Connections that the gateway closed or refused, by listener and reason.
    pub connections_closed_total: IntCounterVec,
    /// Failed attempts to accept a connection, by listener.
    pub accept_errors_total: IntCounterVec,
    /// Bytes of request bodies in memory.
    pub buffered_bytes: IntGauge,
    /// Seconds of one ledger commit, its fsync included.
    pub ledger_commit_seconds: Histogram,
    /// Transactions in one ledger commit.
    pub ledger_batch_size: Histogram,
    /// 1 if the ledger's disk has room for new payments.
    pub ledger_accepts_writes: IntGauge,
    /// Free bytes on the embedded ledger's disk above `min_free_disk`. Without a series if the ledger is in PostgreSQL.
    pub ledger_headroom_bytes: IntGaugeVec,
    /// Expired rows purged from the ledger, by list.
    pub ledger_purged_total: IntCounterVec,
    /// 1 while purging is paused because the clock jumped.
    pub ledger_purge_refused: IntGauge,
    /// Seconds by which this machine's clock is ahead of PostgreSQL's.
    pub clock_offset_seconds: Gauge,
    /// Age of the oldest row in the ledger, by list.
    pub ledger_oldest_seconds: GaugeVec,
    /// Payments and refunds with an unknown outcome.
    pub unknown_payments: IntGauge,
    /// Seconds since the oldest of them became unknown.
    pub unknown_oldest_seconds: Gauge,
    /// Payments and refunds that need manual review.
    pub manual_review_total: IntCounterVec,
    /// Payments that received money on an abandoned channel, by that channel.
    pub double_payments_total: IntCounterVec,
    /// Queued jobs.
    pub queue_depth: IntGauge,
    /// Seconds since the oldest queued job was accepted.
    pub queue_oldest_seconds: Gauge,
    /// Jobs of the queue by operation and result.
    pub queue_total: IntCounterVec,
    /// Notifications by channel and result.
    pub notifications_total: IntCounterVec,
    /// Events waiting to be delivered, by sink.
    pub delivery_queue_depth: IntGaugeVec,
    /// Seconds since the oldest waiting event was created, by sink.
    pub delivery_oldest_seconds: GaugeVec,
    /// Delivery attempts by merchant, sink and result.
    pub deliveries_total: IntCounterVec,
    /// Operator events by type and result.
    pub operator_events_total: IntCounterVec,
    /// Attempts to deliver operator events, and events that were lost, by sink and result.
    pub operator_deliveries_total: IntCounterVec,
    /// Messages of sources by merchant, source and result.
    pub source_messages_total: IntCounterVec,
    /// 1 while messages of a source are consumed.
    pub source_connected: IntGaugeVec,
    /// Number of the generation in force.
    pub config_generation: IntGauge,
    /// Hash of the generation in force as a label; always 1.
    pub config_info: IntGaugeVec,
    /// 1 if every route to the channel has a fallback, else 0.
    pub channel_has_fallback: IntGaugeVec,
    /// 1 if the last reload succeeded, 0 if it was rejected.
    pub config_last_reload_success: IntGauge,
    /// Reloads by result.
    pub config_reloads_total: IntCounterVec,
    /// Automatic rollbacks of new generations.
    pub config_rollbacks_total: IntCounter,
    /// Seconds that the last reload took, its sleeps included.
    pub config_reload_seconds: Gauge,
    /// Files that reloads changed, by kind.
    pub config_changes_total: IntCounterVec,
    /// Number of changed keys of `tollgate.toml` that take effect after a restart.
    pub config_needs_restart: IntGauge,
    /// Days until a certificate expires, by channel and certificate.
    pub certificate_days_left: GaugeVec,
    /// Status queries by cache result: `hit`, `miss`, `unknown` (no such order), `stale` (the provider was unreachable), `bypass` (the
    /// caller asked for the provider's current answer).
    pub status_cache_total: IntCounterVec,
    /// Nonces of signed requests in this process.
    pub nonces_remembered: IntGauge,
    /// Signed requests rejected because of their nonce, by reason: `full`, `forgotten`.
    pub nonces_refused_total: IntCounterVec,
    /// 1 while statuses cached by other gateways in Redis are used.
    pub status_cache_shared: IntGauge,
    /// Single payments and refunds read from the ledger.
    pub ledger_reads_total: IntCounter,
    /// Entries in the filter of existing orders; 0 while there is none.
    pub order_filter_entries: IntGauge,
    /// Size of that filter in bytes.
    pub order_filter_bytes: IntGauge,
    /// Estimated false-positive rate of that filter.
    pub order_filter_false_positive_rate: Gauge,
    /// Build information as labels; always 1.
    pub build_info: IntGaugeVec,
    /// Addresses of a channel's host by state: known, and ejected as unhealthy.
    pub upstream_addresses: IntGaugeVec,
    /// Log lines dropped because standard error was not read in time or could not be written.
    pub log_lines_dropped_total: IntCounter,
    /// Failed DNS lookups of providers' hosts.
    pub upstream_lookup_failures_total: IntCounterVec,
    /// Provider rejections with an unlisted error code.
    pub unlisted_refusals_total: IntCounterVec,
    /// Verified notifications that cannot be processed, by the provider's event name.
    pub notifications_unusable_total: IntCounterVec,
    /// Labels with values from providers, bounded in number.
    pub few: FewValues,
    /// 1 if a probe reached the channel's host as a payment would, else 0.
    pub channel_probe: IntGaugeVec,
    /// Keys that can currently verify responses, for channels whose provider identifies its keys.
    pub channel_usable_keys: IntGaugeVec,
    /// Connections used for provider calls, by channel and by whether a pooled one was reused.
    pub upstream_connections_total: CounterVec,
}

impl Metrics {
    /// Renders the metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_valid_and_rendered() {
        METRICS.requests_total.with_label_values(&["shop", "wechat", "pay", "201"]).inc();
        let page = METRICS.render();
        assert!(page.contains("tollgate_requests_total{channel=\"wechat\",code=\"201\""), "{page}");
        assert!(page.contains("tollgate_config_last_reload_success"), "{page}");
    }
}
