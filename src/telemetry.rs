//! Telemetry: metrics and the log.

pub mod filter_metrics;
pub mod log;

mod cardinality;
mod ledger_metrics;
mod stores;

use std::sync::LazyLock;

pub use self::cardinality::{FewValues, LABELS, Labels};
pub(crate) use self::ledger_metrics::LedgerMetrics;
pub use self::stores::StoreMetrics;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
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
    /// Events waiting to be delivered.
    pub delivery_queue_depth: IntGauge,
    /// Delivery attempts by merchant and result.
    pub deliveries_total: IntCounterVec,
    /// Number of the generation in force.
    pub config_generation: IntGauge,
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

/// Histogram buckets in seconds, from half a millisecond to the longest configured deadline.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Metrics {
    #[expect(clippy::expect_used, reason = "a name that Prometheus refuses fails the first test that runs")]
    fn new() -> Self {
        let registry = Registry::new_custom(Some("tollgate".into()), None).expect("prefix is valid");
        macro_rules! add {
            ($kind:ident, $opts:expr $(, $labels:expr)?) => {{
                let metric = $kind::with_opts($opts).expect("metric is valid");
                registry.register(Box::new(metric.clone())).expect("metric is new");
                metric
            }};
        }
        macro_rules! add_vec {
            ($kind:ident, $opts:expr, $labels:expr) => {{
                let metric = $kind::new($opts, $labels).expect("metric is valid");
                registry.register(Box::new(metric.clone())).expect("metric is new");
                metric
            }};
        }
        let seconds = |name, help| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let metrics = Self {
            requests_total: add_vec!(
                IntCounterVec,
                Opts::new("requests_total", "Answered requests by merchant, channel, operation and code"),
                &["merchant", "channel", "operation", "code"]
            ),
            request_duration_seconds: add_vec!(
                HistogramVec,
                seconds("request_duration_seconds", "Seconds from a request's first byte to its response"),
                &["merchant", "channel", "operation"]
            ),
            requests_in_flight: add!(IntGauge, Opts::new("requests_in_flight", "Requests in flight")),
            provider_requests_total: add_vec!(
                IntCounterVec,
                Opts::new("provider_requests_total", "Provider calls by result"),
                &["channel", "operation", "result"]
            ),
            provider_request_duration_seconds: add_vec!(
                HistogramVec,
                seconds("provider_request_duration_seconds", "Seconds of one provider call"),
                &["channel", "operation"]
            ),
            breaker_state: add_vec!(
                GaugeVec,
                Opts::new("breaker_state", "0 closed, 1 half open, 2 open"),
                &["channel", "operation"]
            ),
            breaker_transitions: add_vec!(
                GaugeVec,
                Opts::new("breaker_transitions", "Changes of a breaker's state"),
                &["channel", "operation"]
            ),
            breaker_transitions_total: add_vec!(
                IntCounterVec,
                Opts::new("breaker_transitions_total", "Changes of a breaker's state, with the reason"),
                &["channel", "operation", "from", "to", "reason"]
            ),
            retries_in_flight: add_vec!(
                GaugeVec,
                Opts::new("retries_in_flight", "Calls of a channel that are being retried"),
                &["channel"]
            ),
            retries_total: add_vec!(
                IntCounterVec,
                Opts::new("retries_total", "Retries of a channel's calls, and retries that the budget did not allow"),
                &["channel", "result"]
            ),
            adaptive_limit: add_vec!(
                GaugeVec,
                Opts::new("adaptive_limit", "Adaptive concurrency limit of a channel"),
                &["channel", "operation"]
            ),
            adaptive_in_flight: add_vec!(
                GaugeVec,
                Opts::new("adaptive_in_flight", "Calls in flight under an adaptive limit"),
                &["channel", "operation"]
            ),
            adaptive_baseline_seconds: add_vec!(
                GaugeVec,
                Opts::new("adaptive_baseline_seconds", "Baseline latency of an adaptive limit"),
                &["channel", "operation"]
            ),
            adaptive_shed_total: add_vec!(
                IntCounterVec,
                Opts::new("adaptive_shed_total", "Calls rejected by an adaptive limit"),
                &["channel", "operation"]
            ),
            connections: add_vec!(IntGaugeVec, Opts::new("connections", "Open connections"), &["listener"]),
            connections_limit: add_vec!(
                IntGaugeVec,
                Opts::new("connections_limit", "Maximum number of open connections"),
                &["listener"]
            ),
            connections_closed_total: add_vec!(
                IntCounterVec,
                Opts::new("connections_closed_total", "Connections that the gateway closed or refused"),
                &["listener", "reason"]
            ),
            accept_errors_total: add_vec!(
                IntCounterVec,
                Opts::new("accept_errors_total", "Failed attempts to accept a connection"),
                &["listener"]
            ),
            buffered_bytes: add!(IntGauge, Opts::new("buffered_bytes", "Bytes of request bodies in memory")),
            requests_shed_total: add_vec!(
                IntCounterVec,
                Opts::new("requests_shed_total", "Requests rejected by admission control"),
                &["kind"]
            ),
            limit_in_flight: add_vec!(
                GaugeVec,
                Opts::new("limit_in_flight", "Calls in flight within a channel's limit"),
                &["channel"]
            ),
            ledger_commit_seconds: add!(
                Histogram,
                seconds("ledger_commit_seconds", "Seconds of one ledger commit, its fsync included")
            ),
            ledger_batch_size: add!(
                Histogram,
                HistogramOpts::new("ledger_batch_size", "Transactions in one ledger commit")
                    .buckets(vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
            ),
            ledger_accepts_writes: add!(
                IntGauge,
                Opts::new("ledger_accepts_writes", "1 if the ledger's disk has room for new payments")
            ),
            ledger_purged_total: add_vec!(
                IntCounterVec,
                Opts::new("ledger_purged_total", "Expired rows purged from the ledger"),
                &["rows"]
            ),
            ledger_purge_refused: add!(
                IntGauge,
                Opts::new("ledger_purge_refused", "1 while purging is paused because the clock jumped")
            ),
            clock_offset_seconds: add!(Gauge, Opts::new("clock_offset_seconds", "Seconds ahead of PostgreSQL's clock")),
            ledger_oldest_seconds: add_vec!(
                GaugeVec,
                Opts::new("ledger_oldest_seconds", "Age of the oldest row in the ledger"),
                &["list"]
            ),
            unknown_payments: add!(
                IntGauge,
                Opts::new("unknown_payments", "Payments and refunds with an unknown outcome")
            ),
            unknown_oldest_seconds: add!(
                Gauge,
                Opts::new(
                    "unknown_oldest_seconds",
                    "Seconds since the oldest unknown payment or refund became unknown"
                )
            ),
            manual_review_total: add_vec!(
                IntCounterVec,
                Opts::new("manual_review_total", "Payments and refunds that need manual review"),
                &["channel"]
            ),
            double_payments_total: add_vec!(
                IntCounterVec,
                Opts::new("double_payments_total", "Payments that received money on an abandoned channel"),
                &["channel"]
            ),
            queue_depth: add!(IntGauge, Opts::new("queue_depth", "Queued jobs")),
            queue_oldest_seconds: add!(
                Gauge,
                Opts::new("queue_oldest_seconds", "Seconds since the oldest queued job was accepted")
            ),
            queue_total: add_vec!(
                IntCounterVec,
                Opts::new("queue_total", "Jobs of the queue by result"),
                &["operation", "result"]
            ),
            notifications_total: add_vec!(
                IntCounterVec,
                Opts::new("notifications_total", "Provider notifications by result"),
                &["channel", "result"]
            ),
            delivery_queue_depth: add!(IntGauge, Opts::new("delivery_queue_depth", "Events waiting to be delivered")),
            deliveries_total: add_vec!(
                IntCounterVec,
                Opts::new("deliveries_total", "Delivery attempts by result"),
                &["merchant", "result"]
            ),
            config_generation: add!(
                IntGauge,
                Opts::new("config_generation", "Number of the configuration generation in force")
            ),
            config_last_reload_success: add!(
                IntGauge,
                Opts::new("config_last_reload_success", "1 if the last reload succeeded, 0 if it was rejected")
            ),
            config_reloads_total: add_vec!(
                IntCounterVec,
                Opts::new("config_reloads_total", "Reloads by result"),
                &["result"]
            ),
            config_rollbacks_total: add!(
                IntCounter,
                Opts::new("config_rollbacks_total", "Automatic rollbacks of new generations")
            ),
            config_reload_seconds: add!(
                Gauge,
                Opts::new("config_reload_seconds", "Seconds that the last reload took, its sleeps included")
            ),
            config_changes_total: add_vec!(
                IntCounterVec,
                Opts::new("config_changes_total", "Files that reloads changed, by kind"),
                &["kind"]
            ),
            config_needs_restart: add!(
                IntGauge,
                Opts::new("config_needs_restart", "Keys of tollgate.toml whose new values take effect after a restart")
            ),
            certificate_days_left: add_vec!(
                GaugeVec,
                Opts::new("certificate_days_left", "Days until a certificate expires"),
                &["channel", "certificate"]
            ),
            status_cache_total: add_vec!(
                IntCounterVec,
                Opts::new("status_cache_total", "Status queries by cache result"),
                &["result"]
            ),
            nonces_remembered: add!(
                IntGauge,
                Opts::new("nonces_remembered", "Nonces of signed requests in this process")
            ),
            nonces_refused_total: add_vec!(
                IntCounterVec,
                Opts::new(
                    "nonces_refused_total",
                    "Signed requests answered 503 because their nonce could not be remembered (full) or is no longer known (forgotten)"
                ),
                &["reason"]
            ),
            status_cache_shared: add!(
                IntGauge,
                Opts::new("status_cache_shared", "1 while statuses cached by other gateways in Redis are used")
            ),
            ledger_reads_total: add!(
                IntCounter,
                Opts::new("ledger_reads_total", "Single payments and refunds read from the ledger")
            ),
            order_filter_entries: add!(
                IntGauge,
                Opts::new("order_filter_entries", "Entries in the filter of existing orders; 0 while there is none")
            ),
            order_filter_bytes: add!(
                IntGauge,
                Opts::new("order_filter_bytes", "Size of the filter of existing orders in bytes")
            ),
            order_filter_false_positive_rate: add!(
                Gauge,
                Opts::new(
                    "order_filter_false_positive_rate",
                    "Estimated false-positive rate of the filter of existing orders"
                )
            ),
            build_info: add_vec!(IntGaugeVec, Opts::new("build_info", "Build information"), &["version"]),
            upstream_addresses: add_vec!(
                IntGaugeVec,
                Opts::new("upstream_addresses", "Addresses of a channel's host: known, and ejected as unhealthy"),
                &["channel", "host", "state"]
            ),
            log_lines_dropped_total: add!(
                IntCounter,
                Opts::new("log_lines_dropped_total", "Log lines dropped: not read in time, or not written")
            ),
            upstream_lookup_failures_total: add_vec!(
                IntCounterVec,
                Opts::new("upstream_lookup_failures_total", "Failed DNS lookups of a provider's host"),
                &["host"]
            ),
            channel_probe: add_vec!(
                IntGaugeVec,
                Opts::new("channel_probe", "1 if a probe reached the channel's host as a payment would"),
                &["channel", "host"]
            ),
            unlisted_refusals_total: add_vec!(
                IntCounterVec,
                Opts::new("unlisted_refusals_total", "Provider rejections with an unlisted error code"),
                &["channel", "code"]
            ),
            notifications_unusable_total: add_vec!(
                IntCounterVec,
                Opts::new("notifications_unusable_total", "Verified notifications that cannot be processed"),
                &["channel", "event"]
            ),
            few: FewValues::default(),
            channel_usable_keys: add_vec!(
                IntGaugeVec,
                Opts::new(
                    "channel_usable_keys",
                    "Keys that can verify the provider's responses; with 0 nothing is sent on the channel"
                ),
                &["channel"]
            ),
            upstream_connections_total: add_vec!(
                CounterVec,
                Opts::new("upstream_connections_total", "Connections used for provider calls"),
                &["channel", "reused"]
            ),
            stores: StoreMetrics::new(&registry),
            registry,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

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
