//! Destinations of events: which addresses they may have.

use std::net::IpAddr;

use ipnet::IpNet;

use super::special_purpose;

/// Returns why events may not be sent to this host, with advice: its address is private, and no network in `allowed`
/// contains it. Names are checked again after they are resolved.
pub(super) fn refused_address(host: &str, allowed: Option<&[IpNet]>) -> Option<(String, String)> {
    let ip = host.parse::<IpAddr>().ok()?.to_canonical();
    let is_allowed = allowed.is_none_or(|networks| networks.iter().any(|network| network.contains(&ip)));
    let purpose = special_purpose::not_global(ip).filter(|_| !is_allowed)?;
    let advice = format!("add \"{ip}\" or its network to `delivery.allowed_networks` in tollgate.toml to permit it");
    Some((format!("is not a public address: {ip} is {purpose}"), advice))
}
