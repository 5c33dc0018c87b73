//! Settings of a Kafka sink. They are read in every build, so that a file is checked in full; only a build with the cargo
//! feature `kafka` has the sink itself.

mod broker_address;
#[cfg(test)]
mod tests;

use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Form, Setting, Settings};
use toml::de::DeValue;

pub use self::broker_address::BrokerAddress;
use super::{SinkContext, is_structured};
use crate::address::is_loopback;
use crate::destination::refused_address;
use crate::identity;
use crate::now::Now;
use crate::secret;
use crate::toml_file::{TomlFile, suggest};

/// Maximum number of brokers listed for a sink. They only have to lead to the cluster.
const MAX_BROKERS: usize = 16;
/// Maximum length of a topic's name in bytes.
const MAX_TOPIC: usize = 249;

/// Settings of a Kafka sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Brokers that are asked for the brokers of the cluster.
    pub brokers: Vec<BrokerAddress>,
    /// True for TLS to every broker of the cluster.
    pub tls: bool,
    /// Authorities of the brokers' certificates (DER); the public ones if `None`.
    pub authorities: Option<Vec<Vec<u8>>>,
    /// Login; `None` for a cluster that asks for none.
    pub sasl: Option<SaslConfig>,
    /// Topic that the events are produced to.
    pub topic: String,
    /// True for CloudEvents in structured mode, false for binary mode.
    pub structured: bool,
}

/// Login by SASL. Printed without the password.
#[derive(Clone, Debug)]
pub struct SaslConfig {
    /// Way to prove that the password is known.
    pub mechanism: SaslMechanism,
    /// Name of the user.
    pub user: String,
    /// Password of the user.
    pub password: Secret,
}

impl PartialEq for SaslConfig {
    fn eq(&self, other: &Self) -> bool {
        self.mechanism == other.mechanism
            && self.user == other.user
            && self.password.expose() == other.password.expose()
    }
}

impl Eq for SaslConfig {}

/// SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself (RFC 4616).
    Plain,
    /// Salted challenge and response with SHA-256 (RFC 7677).
    ScramSha256,
    /// Salted challenge and response with SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    const NAMES: [(&'static str, Self); 3] =
        [("plain", Self::Plain), ("scram-sha-256", Self::ScramSha256), ("scram-sha-512", Self::ScramSha512)];
}

impl Setting for SaslMechanism {
    const EXPECTED: &'static str = "\"plain\", \"scram-sha-256\" or \"scram-sha-512\"";
    const EXAMPLE: &'static str = "\"scram-sha-256\"";
    fn form() -> Form {
        Form::OneOf(Self::NAMES.map(|(name, _)| name).to_vec())
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let known = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, mechanism)| mechanism).ok_or_else(|| {
            let near = suggest(&text, Self::NAMES.into_iter().map(|(name, _)| name));
            format!("\"{text}\"{}", near.map_or(String::new(), |near| format!(" ({near})")))
        })
    }
}

/// Reads the keys of a Kafka sink. Returns `None` after a reported error.
pub(super) fn read(source: &TomlFile, table: &mut Settings<'_>, context: SinkContext<'_>) -> Option<KafkaConfig> {
    let before = table.problems().len();
    let brokers = brokers(table, context);
    let tls = tls(table, &brokers);
    let authorities = identity::authorities_der(source, table, "ca", Now::read());
    if authorities.is_some() && !tls {
        table.problem("ca", "`ca` has no effect without TLS; write `tls = true` or remove `ca`", None);
    }
    let sasl = table.section("sasl").and_then(|mut sasl| {
        let mechanism = sasl.required::<SaslMechanism>("mechanism");
        let user = sasl.required_as::<String>("user", "the name of the user").filter(|user| {
            let fits = !user.is_empty() && !user.chars().any(char::is_control);
            if !fits {
                sasl.problem("user", "the name of the user is empty or not printable", None);
            }
            fits
        });
        let password = secret::required(source, &mut sasl, "password", context.plain);
        Some(SaslConfig { mechanism: mechanism?, user: user?, password: password? })
    });
    let topic = table.required_as::<String>("topic", "the name of a topic that exists").filter(|topic| {
        let fits = is_topic(topic);
        if !fits {
            let message = "the name of a topic has at most 249 letters, digits, dots, hyphens and underscores";
            table.problem("topic", message, Some("as in \"payments\"".to_owned()));
        }
        fits
    });
    let structured = is_structured(table);
    let is_read = table.problems().len() == before;
    topic.filter(|_| is_read).map(|topic| KafkaConfig { brokers, tls, authorities, sasl, topic, structured })
}

fn brokers(table: &mut Settings<'_>, context: SinkContext<'_>) -> Vec<BrokerAddress> {
    let before = table.problems().len();
    let listed = table.items::<BrokerAddress>("brokers");
    let suggestion = || Some("brokers = [\"k1.example.com:9093\", \"k2.example.com:9093\"]".to_owned());
    if listed.is_empty() && table.problems().len() == before {
        let message = match table.has("brokers") {
            true => "the sink has no broker",
            false => "`sink.brokers` is missing",
        };
        table.problem("brokers", message, suggestion());
    }
    if listed.len() > MAX_BROKERS {
        let message = format!("at most {MAX_BROKERS} brokers can be listed; a few that lead to the cluster are enough");
        table.problem("brokers", message, None);
    }
    let mut brokers: Vec<BrokerAddress> = Vec::new();
    for (place, broker) in listed {
        if let Some((message, advice)) = refused_address(&broker.host, context.allowed) {
            table.problems().push(place.clone(), format!("the broker {message}"), Some(advice));
        }
        if brokers.contains(&broker) {
            table.problems().push(place, format!("the broker `{broker}` is listed twice"), None);
        } else {
            brokers.push(broker);
        }
    }
    brokers
}

/// Reads `tls`. Without the key there is TLS unless every broker is this machine.
fn tls(table: &mut Settings<'_>, brokers: &[BrokerAddress]) -> bool {
    let is_local = brokers.iter().all(|broker| is_loopback(&broker.host));
    let tls = table.or("tls", !is_local);
    if !tls && !is_local {
        let message = "`tls` must be true: without TLS only loopback addresses may be named";
        table.problem("tls", message, Some("remove `tls = false`".to_owned()));
    }
    tls
}

fn is_topic(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TOPIC).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}
