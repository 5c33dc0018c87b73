//! Reasons why an attempt to deliver an event failed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Reason why an attempt failed. Its text appears in the log and in the payment's timeline, and contains no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("it answered {status}")]
    Status { status: u16, retry_after: Option<String> },
    #[error("it answered 410")]
    Gone,
    #[error("the webhook's URL is invalid")]
    InvalidUrl,
    #[error("the webhook's URL has no host")]
    NoHost,
    #[error("the webhook's URL is not usable in a request")]
    UnusableUrl,
    #[error("the host is not a valid TLS server name")]
    InvalidTlsName,
    #[error("the event cannot be serialized: {0}")]
    Serialize(serde_json::Error),
    #[error("cannot resolve the host: {0}")]
    Resolve(io::Error),
    #[error("the host has no address")]
    NoAddress,
    #[error(
        "{ip} is not a public address: {purpose}; add its network to `delivery.allowed_networks` in tollgate.toml to permit it"
    )]
    NotPublic { ip: IpAddr, purpose: &'static str },
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("TLS with {0}: {1}")]
    Tls(SocketAddr, io::Error),
    #[error("TLS with {0}: no answer within {secs} s", secs = .1.as_secs())]
    TlsTimeout(SocketAddr, Duration),
    #[error("the connection failed: {0}")]
    Connection(hyper::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Reason why nothing can be sent to a broker at present.
    #[error("{0}")]
    NotConnected(String),
    #[error("the broker closed the connection: {0}")]
    Broker(String),
    #[error("the broker ended the consumption: the queue was deleted or moved")]
    Cancelled,
    #[error("the connection to the broker is closed")]
    Closed,
    #[error("the connection to the broker ended before the event was confirmed")]
    Unconfirmed,
    #[error("the broker accepts no events at present (memory or disk alarm)")]
    Blocked,
    #[error("the broker did not store the event (nack)")]
    Nack,
    #[error("the exchange routes the event to no queue: bind a queue for the routing key `{routing_key}`")]
    Returned { routing_key: String },
    #[cfg(feature = "kafka")]
    #[error("{0} is not this machine, and the sink has no TLS; write `tls = true`")]
    Unencrypted(IpAddr),
    #[cfg(feature = "kafka")]
    #[error("the connection to the broker failed: {0}")]
    BrokerConnection(io::Error),
    #[cfg(feature = "kafka")]
    #[error("the broker closed the connection")]
    BrokerClosed,
    #[cfg(feature = "kafka")]
    #[error("the broker cannot be used: {0}")]
    Protocol(&'static str),
    #[cfg(feature = "kafka")]
    #[error("the broker does not support the SASL mechanism {0}")]
    LoginMechanism(&'static str),
    #[cfg(feature = "kafka")]
    #[error("the broker refused the login; check user, password and mechanism")]
    Login,
    #[cfg(feature = "kafka")]
    #[error("Kafka did not store the event: {0}")]
    Kafka(rdkafka::types::RDKafkaErrorCode),
    #[error("the attempt failed with an internal error; see the log")]
    Panicked,
}

impl DeliveryError {
    /// Returns the `retry-after` header of the response.
    pub(super) fn retry_after(&self) -> Option<&str> {
        match self {
            Self::Status { retry_after, .. } => retry_after.as_deref(),
            _ => None,
        }
    }
}
