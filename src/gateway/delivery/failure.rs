//! Reasons why an attempt to deliver an event got no response.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Reason why there was no response. Its text appears in the log and in the payment's timeline.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    #[error("the merchant's file is missing")]
    MerchantMissing,
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
    #[error("the attempt failed with an internal error; see the log")]
    Panicked,
}
