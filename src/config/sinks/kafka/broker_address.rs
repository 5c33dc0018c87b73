//! Address of a Kafka broker: `host:port`.

use std::fmt;

use rustls_pki_types::ServerName;
use tollgate_plugins::settings::{Form, Setting};
use toml::de::DeValue;

/// Host and port of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BrokerAddress {
    /// DNS name or IP address in lower case; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl BrokerAddress {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']')?,
            // An IPv6 address without brackets has no unambiguous port.
            None => Some(host).filter(|host| !host.contains(':'))?,
        };
        let host = host.to_ascii_lowercase();
        ServerName::try_from(host.as_str()).ok()?;
        Some(Self { host, port })
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Setting for BrokerAddress {
    const EXPECTED: &'static str = "the host and the port of a broker, as in \"k1.example.com:9093\"";
    const EXAMPLE: &'static str = "\"k1.example.com:9093\"";
    fn form() -> Form {
        Form::Pattern(r"^[^/@\s]+:[0-9]+$")
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        // A URL with a password is not repeated.
        let shown = if text.contains(['/', '@']) { "a URL".to_owned() } else { format!("\"{text}\"") };
        Self::parse(&text).ok_or(shown)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn address_is_split_into_host_and_port() {
        for (text, host, port) in [
            ("K1.example.com:9093", "k1.example.com", 9093),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:9092", "::1", 9092),
        ] {
            let address = BrokerAddress::parse(text).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
            assert_eq!(address.to_string(), text.to_ascii_lowercase());
        }
        for wrong in
            ["k1", "k1:", "k1:0", "k1:65536", ":9092", "::1:9092", "[::1]", "kafka://k1:9092", "a b:1", "u:p@k:1"]
        {
            assert_eq!(BrokerAddress::parse(wrong), None, "{wrong}");
        }
    }
}
