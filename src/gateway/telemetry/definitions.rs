//! Names, help texts, labels and buckets of the metrics.

use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::{FewValues, Metrics, StoreMetrics};

/// Histogram buckets in seconds, from half a millisecond to the longest configured deadline.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Metrics {
    #[expect(clippy::expect_used, reason = "a name that Prometheus refuses fails the first test that runs")]
    pub(super) fn new() -> Self {
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
            streams: add_vec!(
                IntGaugeVec,
                Opts::new("streams", "Open streams of payments by kind: sse, websocket"),
                &["kind"]
            ),
            streams_total: add_vec!(
                IntCounterVec,
                Opts::new("streams_total", "Ended streams of payments by kind and reason"),
                &["kind", "end"]
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
            ledger_headroom_bytes: add_vec!(
                IntGaugeVec,
                Opts::new("ledger_headroom_bytes", "Free bytes on the ledger's disk above min_free_disk"),
                &[]
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
            delivery_queue_depth: add_vec!(
                IntGaugeVec,
                Opts::new("delivery_queue_depth", "Events waiting to be delivered"),
                &["sink"]
            ),
            delivery_oldest_seconds: add_vec!(
                GaugeVec,
                Opts::new("delivery_oldest_seconds", "Seconds since the oldest waiting event was created"),
                &["sink"]
            ),
            deliveries_total: add_vec!(
                IntCounterVec,
                Opts::new("deliveries_total", "Delivery attempts by result"),
                &["merchant", "sink", "result"]
            ),
            operator_events_total: add_vec!(
                IntCounterVec,
                Opts::new(
                    "operator_events_total",
                    "Operator events by result: published, suppressed, queue_full, dropped"
                ),
                &["type", "result"]
            ),
            operator_deliveries_total: add_vec!(
                IntCounterVec,
                Opts::new(
                    "operator_deliveries_total",
                    "Deliveries of operator events by result: delivered, failed, given_up, dropped"
                ),
                &["sink", "result"]
            ),
            source_messages_total: add_vec!(
                IntCounterVec,
                Opts::new(
                    "source_messages_total",
                    "Messages of sources by result: accepted, repeated, refused, deferred (a try that will be repeated)"
                ),
                &["merchant", "source", "result"]
            ),
            source_connected: add_vec!(
                IntGaugeVec,
                Opts::new("source_connected", "1 while messages of a source are consumed"),
                &["merchant", "source"]
            ),
            config_generation: add!(
                IntGauge,
                Opts::new("config_generation", "Number of the configuration generation in force")
            ),
            config_info: add_vec!(
                IntGaugeVec,
                Opts::new("config_info", "Hash of the configuration generation in force"),
                &["hash"]
            ),
            channel_has_fallback: add_vec!(
                IntGaugeVec,
                Opts::new("channel_has_fallback", "1 if every route to the channel has a fallback"),
                &["channel"]
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
}
