//! What is seen from outside: metrics and the log.

pub mod filter_metrics;
pub mod log;

mod cardinality;
mod stores;

use std::sync::LazyLock;

pub use self::cardinality::{FewValues, LABELS, Labels};
pub use self::stores::StoreMetrics;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The process's metrics. One set for all, because Prometheus knows a process by one page.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Every metric, by its name without the prefix `tollgate_`.
pub struct Metrics {
    registry: Registry,
    /// Those of the stores that several machines share.
    pub stores: StoreMetrics,
    /// Answered requests by merchant, channel, operation and code.
    pub requests_total: IntCounterVec,
    /// Seconds from the first byte of a request to its answer.
    pub request_duration_seconds: HistogramVec,
    /// Requests being served now.
    pub requests_in_flight: IntGauge,
    /// Exchanges with providers by channel, operation and result.
    pub provider_requests_total: IntCounterVec,
    /// Seconds of one exchange with a provider.
    pub provider_request_duration_seconds: HistogramVec,
    /// 0 closed, 1 half open, 2 open; by channel and operation.
    pub breaker_state: GaugeVec,
    /// Changes of a breaker's state.
    pub breaker_transitions: GaugeVec,
    /// The same by from which state to which and why.
    pub breaker_transitions_total: IntCounterVec,
    /// Calls inside a channel's limit now.
    pub limit_in_flight: GaugeVec,
    /// Calls of a channel that are being tried again now.
    pub retries_in_flight: GaugeVec,
    /// Second tries of a channel's calls, and those that the budget did not allow.
    pub retries_total: IntCounterVec,
    /// Calls that a channel is thought to bear at the same time; by operation.
    pub adaptive_limit: GaugeVec,
    /// Those that it has now.
    pub adaptive_in_flight: GaugeVec,
    /// The latency that counts as usual.
    pub adaptive_baseline_seconds: GaugeVec,
    /// Calls that were turned away because it had as many as it bears.
    pub adaptive_shed_total: IntCounterVec,
    /// Requests that were turned away at the door because there were too many, by what they wanted.
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
    /// Seconds of one ledger commit, its sync included.
    pub ledger_commit_seconds: Histogram,
    /// Transactions in one ledger commit.
    pub ledger_batch_size: Histogram,
    /// 1 when there is room on the ledger's disk for new payments.
    pub ledger_accepts_writes: IntGauge,
    /// Rows of the ledger that went because they were old, by list.
    pub ledger_purged_total: IntCounterVec,
    /// 1 while nothing is purged because the clock jumped.
    pub ledger_purge_refused: IntGauge,
    /// Seconds by which this machine's clock is ahead of PostgreSQL's.
    pub clock_offset_seconds: Gauge,
    /// Age of the oldest that is left in the ledger, by list.
    pub ledger_oldest_seconds: GaugeVec,
    /// Payments and refunds whose end is unknown.
    pub unknown_payments: IntGauge,
    /// Seconds since the oldest of them became unknown.
    pub unknown_oldest_seconds: Gauge,
    /// Payments and refunds that the resolver gave up to a person.
    pub manual_review_total: IntCounterVec,
    /// Payments for which money was found on a channel that they had gone away from, by that channel.
    pub double_payments_total: IntCounterVec,
    /// What was accepted to be made later and waits.
    pub queue_depth: IntGauge,
    /// Seconds since the oldest of it was accepted.
    pub queue_oldest_seconds: Gauge,
    /// What came to the queue and what became of it: accepted, full, share_full, executed, requeued, expired.
    pub queue_total: IntCounterVec,
    /// Notifications by channel and result.
    pub notifications_total: IntCounterVec,
    /// Events waiting to be delivered.
    pub delivery_queue_depth: IntGauge,
    /// Attempts to deliver, by merchant and result.
    pub deliveries_total: IntCounterVec,
    /// The generation that is in force.
    pub config_generation: IntGauge,
    /// 1 when the last reload was taken, 0 when it was refused.
    pub config_last_reload_success: IntGauge,
    /// Reloads by result.
    pub config_reloads_total: IntCounterVec,
    /// New generations that were taken back by themselves.
    pub config_rollbacks_total: IntCounter,
    /// Seconds that the last reload took, its rests included.
    pub config_reload_seconds: Gauge,
    /// What reloads changed, by kind of file.
    pub config_changes_total: IntCounterVec,
    /// How many keys of `tollgate.toml` wait for a restart.
    pub config_needs_restart: IntGauge,
    /// Days until a certificate ends, by channel and which.
    pub certificate_days_left: GaugeVec,
    /// Status queries by whether the cache had the answer: `hit`, `miss`, `unknown` (no such order, without looking), `stale`
    /// (the provider could not be asked), `bypass` (the caller wanted the provider's word).
    pub status_cache_total: IntCounterVec,
    /// Nonces of signed requests that this process remembers.
    pub nonces_remembered: IntGauge,
    /// Signed requests whose nonce could not be remembered, by why: `full`, `forgotten`.
    pub nonces_refused_total: IntCounterVec,
    /// 1 while answers of other machines are believed, which Redis shares.
    pub status_cache_shared: IntGauge,
    /// Payments and refunds read from the ledger one by one.
    pub ledger_reads_total: IntCounter,
    /// Names in the filter of what exists; 0 while there is none.
    pub order_filter_entries: IntGauge,
    /// Its size.
    pub order_filter_bytes: IntGauge,
    /// The part of what does not exist that it takes for existing, estimated.
    pub order_filter_false_positive_rate: Gauge,
    /// Build facts as labels; always 1.
    pub build_info: IntGaugeVec,
    /// Addresses of a channel's host: all that are known, and those that stand behind the others.
    pub upstream_addresses: IntGaugeVec,
    /// Lines of the log that were dropped, because nobody read them fast enough or they could not be written.
    pub log_lines_dropped_total: IntCounter,
    /// Look-ups of hosts' names that failed.
    pub upstream_lookup_failures_total: IntCounterVec,
    /// Refusals of providers whose code is in no table.
    pub unlisted_refusals_total: IntCounterVec,
    /// Verified notifications that cannot be used, by the provider's name of the event.
    pub notifications_unusable_total: IntCounterVec,
    /// Labels whose values come from providers.
    pub few: FewValues,
    /// 1 when a channel's host was reached as a payment would reach it, 0 when it was not.
    pub channel_probe: IntGaugeVec,
    /// Keys that could verify the provider's answers now, of channels whose provider names its keys.
    pub channel_usable_keys: IntGaugeVec,
    /// Seconds spent waiting in the connection pool and connecting, by channel and whether one was reused.
    pub upstream_connections_total: CounterVec,
}

/// Upper bounds in seconds, from half a millisecond to the longest deadline that anyone sets.
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
                Opts::new("requests_total", "Answered requests"),
                &["merchant", "channel", "operation", "code"]
            ),
            request_duration_seconds: add_vec!(
                HistogramVec,
                seconds("request_duration_seconds", "Seconds from a request's first byte to its answer"),
                &["merchant", "channel", "operation"]
            ),
            requests_in_flight: add!(IntGauge, Opts::new("requests_in_flight", "Requests being served now")),
            provider_requests_total: add_vec!(
                IntCounterVec,
                Opts::new("provider_requests_total", "Exchanges with providers"),
                &["channel", "operation", "result"]
            ),
            provider_request_duration_seconds: add_vec!(
                HistogramVec,
                seconds("provider_request_duration_seconds", "Seconds of one exchange with a provider"),
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
                Opts::new("retries_in_flight", "Calls of a channel that are being tried again now"),
                &["channel"]
            ),
            retries_total: add_vec!(
                IntCounterVec,
                Opts::new(
                    "retries_total",
                    "Second tries of a channel's calls, and those that the budget did not allow"
                ),
                &["channel", "result"]
            ),
            adaptive_limit: add_vec!(
                GaugeVec,
                Opts::new("adaptive_limit", "Calls that a channel is thought to bear at the same time"),
                &["channel", "operation"]
            ),
            adaptive_in_flight: add_vec!(
                GaugeVec,
                Opts::new("adaptive_in_flight", "Calls that a channel with an adaptive limit has now"),
                &["channel", "operation"]
            ),
            adaptive_baseline_seconds: add_vec!(
                GaugeVec,
                Opts::new("adaptive_baseline_seconds", "The latency that an adaptive limit takes for usual"),
                &["channel", "operation"]
            ),
            adaptive_shed_total: add_vec!(
                IntCounterVec,
                Opts::new("adaptive_shed_total", "Calls that an adaptive limit turned away"),
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
                Opts::new("requests_shed_total", "Requests turned away at the door because there were too many"),
                &["kind"]
            ),
            limit_in_flight: add_vec!(
                GaugeVec,
                Opts::new("limit_in_flight", "Calls inside a channel's limit now"),
                &["channel"]
            ),
            ledger_commit_seconds: add!(
                Histogram,
                seconds("ledger_commit_seconds", "Seconds of one ledger commit, its sync included")
            ),
            ledger_batch_size: add!(
                Histogram,
                HistogramOpts::new("ledger_batch_size", "Transactions in one ledger commit")
                    .buckets(vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
            ),
            ledger_accepts_writes: add!(
                IntGauge,
                Opts::new("ledger_accepts_writes", "1 when there is room on the ledger's disk for new payments")
            ),
            ledger_purged_total: add_vec!(
                IntCounterVec,
                Opts::new("ledger_purged_total", "Rows that went because they were old"),
                &["rows"]
            ),
            ledger_purge_refused: add!(IntGauge, Opts::new("ledger_purge_refused", "Whether the clock has jumped")),
            clock_offset_seconds: add!(Gauge, Opts::new("clock_offset_seconds", "Seconds ahead of PostgreSQL's clock")),
            ledger_oldest_seconds: add_vec!(
                GaugeVec,
                Opts::new("ledger_oldest_seconds", "Age of the oldest that is left"),
                &["list"]
            ),
            unknown_payments: add!(
                IntGauge,
                Opts::new("unknown_payments", "Payments and refunds whose end is unknown")
            ),
            unknown_oldest_seconds: add!(
                Gauge,
                Opts::new("unknown_oldest_seconds", "Seconds since the oldest unknown one became so")
            ),
            manual_review_total: add_vec!(
                IntCounterVec,
                Opts::new("manual_review_total", "What does not go on by itself: a person must look at it"),
                &["channel"]
            ),
            double_payments_total: add_vec!(
                IntCounterVec,
                Opts::new("double_payments_total", "Payments with money on a channel that they had gone away from"),
                &["channel"]
            ),
            queue_depth: add!(IntGauge, Opts::new("queue_depth", "What was accepted to be made later and waits")),
            queue_oldest_seconds: add!(
                Gauge,
                Opts::new("queue_oldest_seconds", "Seconds since the oldest of what waits in the queue was accepted")
            ),
            queue_total: add_vec!(
                IntCounterVec,
                Opts::new("queue_total", "What came to the queue, and what became of it"),
                &["operation", "result"]
            ),
            notifications_total: add_vec!(
                IntCounterVec,
                Opts::new("notifications_total", "Providers' notifications"),
                &["channel", "result"]
            ),
            delivery_queue_depth: add!(IntGauge, Opts::new("delivery_queue_depth", "Events waiting to be delivered")),
            deliveries_total: add_vec!(
                IntCounterVec,
                Opts::new("deliveries_total", "Attempts to deliver an event"),
                &["merchant", "result"]
            ),
            config_generation: add!(IntGauge, Opts::new("config_generation", "The generation that is in force")),
            config_last_reload_success: add!(
                IntGauge,
                Opts::new("config_last_reload_success", "1 when the last reload was taken, 0 when it was refused")
            ),
            config_reloads_total: add_vec!(IntCounterVec, Opts::new("config_reloads_total", "Reloads"), &["result"]),
            config_rollbacks_total: add!(
                IntCounter,
                Opts::new("config_rollbacks_total", "New generations that were taken back by themselves")
            ),
            config_reload_seconds: add!(
                Gauge,
                Opts::new("config_reload_seconds", "Seconds that the last reload took, its rests included")
            ),
            config_changes_total: add_vec!(
                IntCounterVec,
                Opts::new("config_changes_total", "Files that reloads changed, by kind"),
                &["kind"]
            ),
            config_needs_restart: add!(
                IntGauge,
                Opts::new("config_needs_restart", "Keys of tollgate.toml whose new values wait for a restart")
            ),
            certificate_days_left: add_vec!(
                GaugeVec,
                Opts::new("certificate_days_left", "Days until a certificate ends"),
                &["channel", "certificate"]
            ),
            status_cache_total: add_vec!(
                IntCounterVec,
                Opts::new("status_cache_total", "Status queries by whether the cache had the answer"),
                &["result"]
            ),
            nonces_remembered: add!(
                IntGauge,
                Opts::new("nonces_remembered", "Nonces of signed requests that this process remembers")
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
                Opts::new("status_cache_shared", "1 while answers of other machines are believed, which Redis shares")
            ),
            ledger_reads_total: add!(
                IntCounter,
                Opts::new("ledger_reads_total", "Payments and refunds read from the ledger one by one")
            ),
            order_filter_entries: add!(
                IntGauge,
                Opts::new("order_filter_entries", "Names in the filter of what exists; 0 while there is none")
            ),
            order_filter_bytes: add!(IntGauge, Opts::new("order_filter_bytes", "Size of the filter of what exists")),
            order_filter_false_positive_rate: add!(
                Gauge,
                Opts::new(
                    "order_filter_false_positive_rate",
                    "The part of what does not exist that the filter takes for existing, estimated"
                )
            ),
            build_info: add_vec!(IntGaugeVec, Opts::new("build_info", "Facts of the build"), &["version"]),
            upstream_addresses: add_vec!(
                IntGaugeVec,
                Opts::new("upstream_addresses", "Addresses of a channel's host: known, and of these unhealthy"),
                &["channel", "host", "state"]
            ),
            log_lines_dropped_total: add!(
                IntCounter,
                Opts::new(
                    "log_lines_dropped_total",
                    "Lines of the log that were dropped: not read in time, or not written"
                )
            ),
            upstream_lookup_failures_total: add_vec!(
                IntCounterVec,
                Opts::new("upstream_lookup_failures_total", "Look-ups of a host's name that failed"),
                &["host"]
            ),
            channel_probe: add_vec!(
                IntGaugeVec,
                Opts::new("channel_probe", "1 when the channel's host was reached as a payment would reach it"),
                &["channel", "host"]
            ),
            unlisted_refusals_total: add_vec!(
                IntCounterVec,
                Opts::new("unlisted_refusals_total", "Refusals of providers whose code is in no table"),
                &["channel", "code"]
            ),
            notifications_unusable_total: add_vec!(
                IntCounterVec,
                Opts::new("notifications_unusable_total", "Verified notifications that cannot be used"),
                &["channel", "event"]
            ),
            few: FewValues::default(),
            channel_usable_keys: add_vec!(
                IntGaugeVec,
                Opts::new(
                    "channel_usable_keys",
                    "Keys that could verify the provider's answers now; without any, nothing is sent on the channel"
                ),
                &["channel"]
            ),
            upstream_connections_total: add_vec!(
                CounterVec,
                Opts::new("upstream_connections_total", "Connections taken for exchanges"),
                &["channel", "reused"]
            ),
            stores: StoreMetrics::new(&registry),
            registry,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    /// The page that Prometheus reads.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_valid_and_on_the_page() {
        METRICS.requests_total.with_label_values(&["shop", "wechat", "pay", "201"]).inc();
        let page = METRICS.render();
        assert!(page.contains("tollgate_requests_total{channel=\"wechat\",code=\"201\""), "{page}");
        assert!(page.contains("tollgate_config_last_reload_success"), "{page}");
    }
}
