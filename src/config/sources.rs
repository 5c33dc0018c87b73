//! `[[source]]` of a merchant: queues that its signed requests are consumed from.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tollgate_plugins::settings::Settings;

use super::config_name::is_name;
use super::sinks::{AmqpUrl, Broker, SinkContext, broker, is_amqp_name};
use super::toml_file::{TomlFile, suggest};

/// Kinds of sources.
pub(super) const KINDS: [&str; 1] = ["rabbitmq"];
/// Maximum number of sources of a merchant. Each has a connection of its own.
const MAX_SOURCES: usize = 16;
/// Default and bounds of `prefetch`. Each message in memory may have the size that the broker allows.
const DEFAULT_PREFETCH: u16 = 32;
const MAX_PREFETCH: u16 = 256;
/// Default and bounds of `max_age`. The upper bound is an hour less than claims are kept at least, so that every message that
/// is young enough finds the claim of its first delivery, also on a gateway whose clock differs.
const DEFAULT_MAX_AGE: Duration = Duration::from_hours(1);
const MIN_MAX_AGE: Duration = Duration::from_mins(1);
const MAX_MAX_AGE: Duration = Duration::from_hours(23);

/// Queue of a RabbitMQ broker that a merchant's signed requests are consumed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// Name, unique among the merchant's sources. A message is bound to it by its nonce.
    pub name: String,
    /// Broker, user and virtual host.
    pub url: AmqpUrl,
    /// Authorities of the broker's certificate (DER); the public ones if `None`.
    pub authorities: Option<Vec<Vec<u8>>>,
    /// Queue, which exists.
    pub queue: String,
    /// Maximum number of messages that are not acknowledged, and so of those in memory.
    pub prefetch: u16,
    /// Maximum age of a signature whose nonce is for this source alone. Others may be five minutes old.
    pub max_age: Duration,
    /// Exchange that refused messages are published to. Without one, the broker's policy for the queue decides about them.
    pub dead_letter: Option<String>,
}

/// Reads all `[[source]]` tables.
pub(super) fn read(source: &TomlFile, root: &mut Settings<'_>, context: SinkContext<'_>) -> Vec<Arc<SourceConfig>> {
    let (mut sources, mut names) = (Vec::new(), HashSet::new());
    let tables = root.sections("source");
    if tables.len() > MAX_SOURCES {
        root.problem("source", format!("a merchant may have at most {MAX_SOURCES} sources"), None);
    }
    for mut table in tables {
        let name = name(&mut table, &mut names);
        let kind: Option<String> = table.required_as("kind", "\"rabbitmq\"");
        table.choices("kind", KINDS);
        match kind.as_deref() {
            Some("rabbitmq") => sources.extend(rabbitmq(source, &mut table, context, name).map(Arc::new)),
            // The keys of an unknown kind are not further errors.
            Some(other) => {
                let message = format!("there is no source of kind `{other}`");
                table.problem("kind", message, suggest(other, KINDS.into_iter()));
                table.ignore_rest();
            }
            None => table.ignore_rest(),
        }
    }
    sources
}

fn name(table: &mut Settings<'_>, others: &mut HashSet<String>) -> Option<String> {
    let name: String = table.required_as("name", "a name for metrics and nonces, as in \"orders-in\"")?;
    let message = if !is_name(&name) {
        "`source.name` may have small letters, digits and hyphens, at most 63 characters".to_owned()
    } else if !others.insert(name.clone()) {
        format!("the source `{name}` is listed twice")
    } else {
        return Some(name);
    };
    table.problem("name", message, Some("as in \"orders-in\"".to_owned()));
    None
}

fn rabbitmq(
    source: &TomlFile,
    table: &mut Settings<'_>,
    context: SinkContext<'_>,
    name: Option<String>,
) -> Option<SourceConfig> {
    let broker = broker(source, table, context, "source");
    let queue: Option<String> = table.required_as("queue", "the name of a queue that exists");
    let queue = queue.filter(|queue| {
        let fits = !queue.is_empty() && is_amqp_name(queue);
        if !fits {
            table.problem("queue", "the name of the queue is empty, longer than 255 bytes or not printable", None);
        }
        fits
    });
    let prefetch = table.or("prefetch", u64::from(DEFAULT_PREFETCH));
    let prefetch = u16::try_from(prefetch).ok().filter(|prefetch| (1..=MAX_PREFETCH).contains(prefetch));
    if prefetch.is_none() {
        table.problem("prefetch", format!("`source.prefetch` must be from 1 to {MAX_PREFETCH}"), None);
    }
    let max_age = table.or("max_age", DEFAULT_MAX_AGE);
    if !(MIN_MAX_AGE..=MAX_MAX_AGE).contains(&max_age) {
        let message =
            "`source.max_age` must be from \"1m\" to \"23h\": the record that detects a repetition is kept for a day";
        table.problem("max_age", message, Some("\"1h\"".to_owned()));
    }
    let dead_letter: Option<String> = table.optional("dead_letter");
    let is_exchange = |name: &String| !name.is_empty() && is_amqp_name(name);
    if dead_letter.as_ref().is_some_and(|name| !is_exchange(name)) {
        let message = "`source.dead_letter` must be the name of an exchange that exists; the default exchange would route a refused message back into its queue";
        table.problem("dead_letter", message, None);
    }
    let ((Broker { url, authorities }, queue), (name, prefetch)) = broker.zip(queue).zip(name.zip(prefetch))?;
    Some(SourceConfig { name, url, authorities, queue, prefetch, max_age, dead_letter })
}
