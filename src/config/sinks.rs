//! `[[sink]]` of a merchant, beside or instead of its webhook, and of the operator: destinations of events.

mod amqp_url;
mod broker;
mod event_filter;
mod kafka;
mod operator_event_type;
mod routing_key;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;
use tollgate_plugins::settings::Settings;

pub use self::amqp_url::AmqpUrl;
pub(super) use self::broker::{Broker, broker};
pub use self::event_filter::EventFilter;
use self::event_filter::{EventPattern, MerchantEventPattern, OperatorEventPattern};
pub use self::kafka::{BrokerAddress, KafkaConfig, SaslConfig, SaslMechanism};
pub use self::operator_event_type::OperatorEventType;
pub use self::routing_key::{RoutingKey, RoutingValues};
use super::config_name::is_name;
use super::secret::Plain;
use super::toml_file::{TomlFile, suggest};
use super::webhook::{self, Webhook};

/// Kinds of a merchant's sinks. `kafka` is refused in a build without the feature of that name.
pub(super) const KINDS: [&str; 3] = ["rabbitmq", "kafka", "discard"];
/// Kinds of the operator's sinks. Nothing waits for them durably, so nothing has to be discarded.
pub(super) const OPERATOR_KINDS: [&str; 3] = ["webhook", "rabbitmq", "kafka"];
/// Name of the webhook among the merchant's sinks.
const WEBHOOK: &str = "webhook";
/// Maximum number of sinks of a merchant, and of the operator.
const MAX_SINKS: usize = 16;
/// Maximum length of the name of an exchange or a queue in bytes (AMQP's short string).
const MAX_AMQP_NAME: usize = 255;
/// Notations of the message's body.
const FORMATS: [&str; 2] = ["binary", "structured"];

/// Destination of a merchant's events beside its webhook, or of operator events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Name, unique within its file; never `webhook` in a merchant's.
    pub name: String,
    /// Events that the sink gets.
    pub events: EventFilter,
    /// Kind of the destination with its settings.
    pub kind: SinkKind,
}

/// Kind of a destination with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// URL that signed events are posted to. Only the operator has it as a sink.
    Webhook(Arc<Webhook>),
    /// Exchange of a RabbitMQ broker.
    RabbitMq(Arc<RabbitMqConfig>),
    /// Topic of a Kafka cluster.
    #[cfg(feature = "kafka")]
    Kafka(Arc<KafkaConfig>),
    /// Waiting events are dropped. For a sink that is to be removed.
    Discard,
}

/// Settings of a RabbitMQ sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RabbitMqConfig {
    /// Broker, user and virtual host.
    pub url: AmqpUrl,
    /// Authorities of the broker's certificate (DER); the public ones if `None`.
    pub authorities: Option<Vec<Vec<u8>>>,
    /// Exchange that the events are published to.
    pub exchange: String,
    /// Routing key of each message.
    pub routing_key: RoutingKey,
    /// True if the exchange is declared as a durable topic exchange.
    pub declare: bool,
    /// True for CloudEvents in structured mode, false for binary mode.
    pub structured: bool,
}

/// Owner of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkOwner {
    Merchant,
    Operator,
}

impl SinkOwner {
    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Merchant => &KINDS,
            Self::Operator => &OPERATOR_KINDS,
        }
    }

    /// Returns the advice for a missing `kind`.
    fn kind_advice(self) -> &'static str {
        match self {
            Self::Merchant => "\"rabbitmq\" or \"kafka\", or \"discard\" to drop waiting events",
            Self::Operator => "\"webhook\", \"rabbitmq\" or \"kafka\"",
        }
    }
}

/// Facts from other files that sinks are checked against.
#[derive(Clone, Copy)]
pub(super) struct SinkContext<'a> {
    pub(super) owner: SinkOwner,
    pub(super) plain: Plain,
    /// Private networks that sinks may reach; `None` if `tollgate.toml` is invalid.
    pub(super) allowed: Option<&'a [IpNet]>,
}

/// Reads all `[[sink]]` tables.
pub(super) fn read(source: &TomlFile, root: &mut Settings<'_>, context: SinkContext<'_>) -> Vec<SinkConfig> {
    let (mut sinks, mut names) = (Vec::new(), HashSet::new());
    let tables = root.sections("sink");
    if tables.len() > MAX_SINKS {
        let owner = match context.owner {
            SinkOwner::Merchant => "a merchant",
            SinkOwner::Operator => "the operator",
        };
        root.problem("sink", format!("{owner} may have at most {MAX_SINKS} sinks"), None);
    }
    for mut table in tables {
        let name = name(&mut table, context.owner, &mut names);
        let (kinds, advice) = (context.owner.kinds(), context.owner.kind_advice());
        let kind: Option<String> = table.required_as("kind", advice);
        table.choices("kind", kinds.iter().copied());
        let Some(kind) = kind else {
            table.ignore_rest();
            continue;
        };
        let settings = match kind.as_str() {
            "webhook" if context.owner == SinkOwner::Operator => {
                webhook::read(source, &mut table, "sink", context.plain, context.allowed)
                    .map(|webhook| SinkKind::Webhook(Arc::new(webhook)))
            }
            "rabbitmq" => rabbitmq(source, &mut table, context).map(|settings| SinkKind::RabbitMq(Arc::new(settings))),
            "kafka" => kafka(source, &mut table, context),
            "discard" if context.owner == SinkOwner::Merchant => {
                let message = "this sink gets no events, and those that wait for it are dropped";
                let advice = "remove the sink once `tollgate_deliveries_total{result=\"discarded\"}` stands still";
                table.problems().note(table.span_of("kind"), message, Some(advice.to_owned()));
                Some(SinkKind::Discard)
            }
            other => {
                let suggestion = suggest(other, kinds.iter().copied());
                table.problem("kind", format!("there is no sink of kind `{other}`"), suggestion);
                // The keys of an unknown kind are not further errors.
                table.ignore_rest();
                continue;
            }
        };
        let events = match settings {
            Some(SinkKind::Discard) => EventFilter::none(),
            _ if context.owner == SinkOwner::Operator => events::<OperatorEventPattern>(&mut table),
            _ => events::<MerchantEventPattern>(&mut table),
        };
        sinks.extend(name.zip(settings).map(|(name, kind)| SinkConfig { name, events, kind }));
    }
    sinks
}

fn name(table: &mut Settings<'_>, owner: SinkOwner, others: &mut HashSet<String>) -> Option<String> {
    let name: String = table.required_as("name", "a name for metrics and timelines, as in \"orders-mq\"")?;
    let message = if !is_name(&name) {
        "`sink.name` may have small letters, digits and hyphens, at most 63 characters".to_owned()
    } else if name == WEBHOOK && owner == SinkOwner::Merchant {
        "`webhook` is the name of the merchant's webhook".to_owned()
    } else if !others.insert(name.clone()) {
        format!("the sink `{name}` is listed twice")
    } else {
        return Some(name);
    };
    table.problem("name", message, Some("as in \"orders-mq\"".to_owned()));
    None
}

/// Reads the event filter. Without the key the sink gets all events; with an empty list it gets no new ones.
fn events<P: EventPattern>(table: &mut Settings<'_>) -> EventFilter {
    let is_listed = table.has("events");
    let before = table.problems().len();
    let patterns: Vec<_> = table.items::<P>("events").into_iter().map(|(_, pattern)| pattern.text()).collect();
    if is_listed && patterns.is_empty() && table.problems().len() == before {
        let message = "this sink gets no new events; those that wait for it are still delivered";
        table.problems().note(table.span_of("events"), message, None);
    }
    if is_listed { EventFilter::of(patterns) } else { EventFilter::all() }
}

/// Reads `format`. Returns whether the events are sent as CloudEvents in structured mode.
fn is_structured(table: &mut Settings<'_>) -> bool {
    let format = table.or("format", FORMATS[0].to_owned());
    table.choices("format", FORMATS);
    if !FORMATS.contains(&format.as_str()) {
        table.problem("format", format!("there is no format `{format}`"), suggest(&format, FORMATS.into_iter()));
    }
    format == FORMATS[1]
}

#[cfg(feature = "kafka")]
fn kafka(source: &TomlFile, table: &mut Settings<'_>, context: SinkContext<'_>) -> Option<SinkKind> {
    kafka::read(source, table, context).map(|settings| SinkKind::Kafka(Arc::new(settings)))
}

/// Reports that this build has no Kafka. The keys are read all the same, so that every error in them is reported too.
#[cfg(not(feature = "kafka"))]
fn kafka(source: &TomlFile, table: &mut Settings<'_>, context: SinkContext<'_>) -> Option<SinkKind> {
    let suggestion = "build it with `cargo build --release --features kafka`, or choose another kind of sink";
    table.problem("kind", "this tollgate was built without Kafka", Some(suggestion.to_owned()));
    drop(kafka::read(source, table, context));
    None
}

fn rabbitmq(source: &TomlFile, table: &mut Settings<'_>, context: SinkContext<'_>) -> Option<RabbitMqConfig> {
    let broker = broker(source, table, context, "sink");
    let exchange: Option<String> =
        table.required_as("exchange", "the name of an exchange that exists, or of one that `declare = true` makes");
    let exchange = exchange.filter(|exchange| {
        let fits = is_amqp_name(exchange);
        if !fits {
            table.problem("exchange", "the name of the exchange is longer than 255 bytes or not printable", None);
        }
        fits
    });
    let declare = table.or("declare", false);
    if declare && exchange.as_ref().is_some_and(|name| name.is_empty() || name.starts_with("amq.")) {
        table.problem("declare", "this exchange exists in every broker and cannot be declared", None);
    }
    let routing_key = table.or("routing_key", RoutingKey::default());
    if context.owner == SinkOwner::Operator && routing_key.is_about_payments() {
        let message = "operator events have no payment method and no currency";
        let suggestion = "use {type}, {channel} and {merchant}; the last two are empty where an event has none";
        table.problem("routing_key", message, Some(suggestion.to_owned()));
    }
    let structured = is_structured(table);
    broker.zip(exchange).map(|(Broker { url, authorities }, exchange)| RabbitMqConfig {
        url,
        authorities,
        exchange,
        routing_key,
        declare,
        structured,
    })
}

/// Returns whether a text can be the name of an exchange or a queue.
pub(super) fn is_amqp_name(text: &str) -> bool {
    text.len() <= MAX_AMQP_NAME && !text.chars().any(char::is_control)
}
