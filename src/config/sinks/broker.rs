//! `url` and `ca` of a RabbitMQ broker, in a sink or a source.

use tollgate_plugins::settings::Settings;

use super::SinkContext;
use super::amqp_url::AmqpUrl;
use crate::destination::refused_address;
use crate::identity;
use crate::now::Now;
use crate::secret;
use crate::toml_file::TomlFile;

/// Broker with user and virtual host, and the authorities of its certificate.
pub(crate) struct Broker {
    /// Broker, user and virtual host.
    pub(crate) url: AmqpUrl,
    /// Authorities of the broker's certificate (DER); the public ones if `None`.
    pub(crate) authorities: Option<Vec<Vec<u8>>>,
}

/// Reads `url` and `ca` of a table. `what` names the kind of table in messages. `None` if a value is wrong and reported.
pub(crate) fn broker(
    source: &TomlFile,
    table: &mut Settings<'_>,
    context: SinkContext<'_>,
    what: &str,
) -> Option<Broker> {
    let advice = "a secret's place, because the URL has a password: \"env:NAME\" or \"file:PATH\"";
    let url = secret::required_as(source, table, "url", context.plain, advice);
    let url = url.and_then(|url| match AmqpUrl::parse(&url) {
        Ok(url) => Some(url),
        Err(why) => {
            let suggestion = "as in \"amqps://user:password@mq.example.com/vhost\"".to_owned();
            table.problem("url", format!("the URL of the {what} {why}"), Some(suggestion));
            None
        }
    });
    let url = url.filter(|url| match refused_address(&url.host, context.allowed) {
        Some((message, advice)) => {
            table.problem("url", format!("the URL of the {what} {message}"), Some(advice));
            false
        }
        None => true,
    });
    let before = table.problems().len();
    let authorities = identity::authorities_der(source, table, "ca", Now::read());
    let is_ca_wrong = table.problems().len() > before;
    if authorities.is_some() && url.as_ref().is_some_and(|url| !url.tls) {
        table.problem("ca", "`ca` has no effect without TLS: the URL starts with amqp://", None);
    }
    url.filter(|_| !is_ca_wrong).map(|url| Broker { url, authorities })
}
