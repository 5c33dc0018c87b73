//! The log: one JSON object per line on standard error. Logging neither blocks nor fails the code that logs.
//!
//! Lines are buffered up to a limit, and a separate thread writes them (`buffer`). Lines beyond the limit are dropped and counted.
//! No line contains a path of the build machine (`json`).

mod buffer;
mod json;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tollgate_config::DEFAULT_LOG_BUFFER;
use tracing::level_filters::LevelFilter;
use tracing_log::AsLog;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::buffer::Buffer;
use self::json::JsonLines;
use super::METRICS;

/// Maximum wait for the last lines when the process exits.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Level if `[telemetry] log` names none.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;
/// Targets of this program that do not begin with the crate's name.
const OWN_TARGETS: [&str; 3] = ["tollgate", "access", "breaker"];
/// Targets of libraries that log errors of callers, providers' hosts and brokers for each connection. Tollgate has its own metrics
/// and log lines for those that matter. `lapin` would also log whole messages.
const QUIET_TARGETS: [&str; 6] =
    ["pingora_proxy", "pingora_core::apps", "pingora_core::connectors", "pingora_core::protocols", "h2", "lapin"];

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    buffer: &'static Buffer,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts the log with default settings, before the configuration is read. Panics are logged too. Later calls do nothing.
pub fn start() {
    if LOG.get().is_some() {
        return;
    }
    // A duplicate descriptor, because a thread that holds the lock of `io::stderr` while its pipe is full would block all others.
    let Ok(descriptor) = io::stderr().as_fd().try_clone_to_owned() else { return };
    let buffer: &'static Buffer =
        Box::leak(Box::new(Buffer::new(bytes(DEFAULT_LOG_BUFFER), &METRICS.log_lines_dropped_total)));
    let Ok(first) = filter("info") else { return };
    let (filter, handle) = reload::Layer::new(first);
    let write = move || buffer.write_to(&mut File::from(descriptor));
    let is_running = std::thread::Builder::new().name("log".to_owned()).spawn(write).is_ok();
    if is_running && LOG.set(Log { buffer, filter: handle }).is_ok() {
        let _ = Registry::default().with(filter).with(JsonLines(buffer)).try_init();
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// Applies `[telemetry]`: the filter and the size of the buffer.
pub fn set(text: &str, buffer_limit: u64) {
    let Some(log) = LOG.get() else { return };
    log.buffer.set_limit(bytes(buffer_limit));
    if let Ok(filter) = filter(text) {
        let _ = log.filter.reload(filter);
        tracing_log::log::set_max_level(LevelFilter::current().as_log());
    }
}

/// Ends the process with this code once the last lines are written, or after `FLUSH_TIMEOUT`.
pub fn exit(code: i32) -> ! {
    flush();
    std::process::exit(code)
}

/// Waits until the buffered lines are written, for at most `FLUSH_TIMEOUT`.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.buffer.flush(FLUSH_TIMEOUT);
    }
}

/// Parses `[telemetry] log`. A level without a target applies to Tollgate. Other crates log at `warn` or that level, whichever is
/// lower, and `QUIET_TARGETS` not at all. A target with a level applies to the crate that it names.
pub fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let level_of = |directive: &str| directive.parse::<LevelFilter>().ok();
    let level = directives.clone().filter_map(level_of).next_back().unwrap_or(DEFAULT_LEVEL);
    let others = level.min(LevelFilter::WARN);
    let own = OWN_TARGETS.map(|target| format!("{target}={level}"));
    let named: Vec<&str> = directives.filter(|directive| level_of(directive).is_none()).collect();
    let is_named = |target: &str| {
        let mut targets = named.iter().filter_map(|directive| directive.split(['=', '[']).next());
        targets.any(|named| !named.is_empty() && target.starts_with(named))
    };
    let quiet = QUIET_TARGETS.into_iter().filter(|target| !is_named(target)).map(|target| format!("{target}=off"));
    let first = std::iter::once(others.to_string()).chain(own).chain(quiet);
    let all: Vec<String> = first.chain(named.iter().map(ToString::to_string)).collect();
    EnvFilter::try_new(all.join(","))
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("without a message");
    let place = panic.location().map(|place| format!("{}:{}", json::short_path(place.file()), place.line()));
    let thread = std::thread::current();
    tracing::error!(place, thread = thread.name(), "panicked: {message}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn is_logged(text: &str, target: &str, level: LevelFilter) -> bool {
        let all = filter(text).unwrap().to_string();
        let matching = all.split(',').filter_map(|directive| match directive.split_once('=') {
            Some((named, level)) if target.starts_with(named) => Some((named.len() + 1, level.parse().unwrap())),
            Some(_) => None,
            None => Some((0, directive.parse::<LevelFilter>().unwrap())),
        });
        let (_, most) = matching.max_by_key(|(length, _)| *length).unwrap();
        level <= most
    }

    #[test]
    fn level_without_target_applies_to_tollgate_and_other_crates_log_at_warn() {
        for (text, target, level, wanted) in [
            ("info", "tollgate_gateway::operations", LevelFilter::INFO, true),
            ("info", "tollgate_plugins::filter", LevelFilter::INFO, true),
            ("info", "access", LevelFilter::INFO, true),
            ("info", "pingora_core::server", LevelFilter::INFO, false),
            ("info", "pingora_core::server", LevelFilter::WARN, true),
            ("debug", "pingora_proxy", LevelFilter::ERROR, false),
            ("info", "pingora_core::apps::http_app", LevelFilter::ERROR, false),
            ("info", "h2::codec", LevelFilter::ERROR, false),
            ("info", "lapin::returned_messages", LevelFilter::WARN, false),
            ("info", "pingora_core::connectors", LevelFilter::ERROR, false),
            ("trace", "pingora_core::connectors", LevelFilter::ERROR, false),
            ("info,pingora_core::connectors=error", "pingora_core::connectors", LevelFilter::ERROR, true),
            ("info,pingora_proxy=warn", "pingora_proxy", LevelFilter::WARN, true),
            ("info,pingora_core=debug", "pingora_core::apps", LevelFilter::DEBUG, true),
            ("debug", "tollgate", LevelFilter::DEBUG, true),
            ("debug", "hyper", LevelFilter::INFO, false),
            ("debug,hyper=info", "hyper", LevelFilter::INFO, true),
            ("hyper=debug", "tollgate", LevelFilter::INFO, true),
            ("info,tollgate=debug", "tollgate", LevelFilter::DEBUG, true),
            ("error", "tollgate", LevelFilter::WARN, false),
            ("error", "hyper", LevelFilter::WARN, false),
            ("off", "tollgate", LevelFilter::ERROR, false),
            ("off", "hyper", LevelFilter::ERROR, false),
            ("", "tollgate", LevelFilter::INFO, true),
        ] {
            assert_eq!(is_logged(text, target, level), wanted, "{text}: {target} at {level}");
        }
        assert!(filter("tollgate=loud").is_err());
    }
}
