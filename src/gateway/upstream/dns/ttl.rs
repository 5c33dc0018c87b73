//! TTL of a name from the name servers. They do not decide about its addresses.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Bounds of a TTL. A minimum, so that a TTL of 0 does not cause a lookup for each payment; a maximum, because the system may resolve
/// the name differently before a long TTL ends.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// Timeout of the query to the name servers.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Additional wait after the system's resolver has answered, because a payment may be waiting.
const EXTRA_WAIT: Duration = Duration::from_millis(100);

/// Query to the name servers in progress.
pub(super) struct TtlQuery(JoinHandle<Option<TtlAnswer>>);

/// Answer of the name servers.
struct TtlAnswer {
    addresses: Vec<IpAddr>,
    until: Instant,
}

/// Queries the name servers that the system currently uses: its settings are read each time.
pub(super) fn query(name: &str) -> TtlQuery {
    let system = || {
        let mut servers = TokioResolver::builder_tokio().ok()?;
        let options = servers.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        servers.build().ok()
    };
    query_with(system(), name)
}

fn query_with(servers: Option<TokioResolver>, name: &str) -> TtlQuery {
    let name = name.to_owned();
    TtlQuery(tokio::spawn(async move {
        let found = timeout(QUERY_TIMEOUT, servers?.lookup_ip(name)).await.ok()?.ok()?;
        Some(TtlAnswer { addresses: found.iter().collect(), until: found.valid_until() })
    }))
}

impl TtlQuery {
    /// Returns the TTL of these addresses; `None` if the name servers return none of them.
    pub(super) async fn ttl(self, addresses: &[IpAddr]) -> Option<Duration> {
        let reply = timeout(EXTRA_WAIT, self.0).await.ok()?.ok()??;
        let is_theirs = reply.addresses.iter().any(|address| addresses.contains(address));
        is_theirs.then(|| reply.until.saturating_duration_since(Instant::now()).clamp(TTL_BOUNDS.0, TTL_BOUNDS.1))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    use super::*;

    /// Name server that answers every A query with this address and TTL, and other queries with nothing.
    async fn server(address: [u8; 4], seconds: u32) -> Option<TokioResolver> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                socket.send_to(&answer(&bytes[..length], address, seconds), from).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = at.port();
        let servers = vec![NameServerConfig::new(at.ip(), true, vec![connection])];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        Some(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap())
    }

    /// Returns a message of RFC 1035: header, question, and for an A question one record that points to its name.
    fn answer(question: &[u8], address: [u8; 4], seconds: u32) -> Vec<u8> {
        let name_end = 12 + question[12..].iter().position(|length| *length == 0).unwrap() + 1;
        let is_v4 = question[name_end..name_end + 2] == [0, 1];
        let mut answer = [&question[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]].concat();
        answer.extend(&question[12..name_end + 4]);
        if is_v4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(seconds.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address);
        }
        answer
    }

    async fn ttl(seconds: u32, address: &str) -> Option<Duration> {
        let servers = server([192, 0, 2, 7], seconds).await;
        let asked = query_with(servers, "pay.example.com.");
        asked.ttl(&["192.0.2.6".parse().unwrap(), address.parse().unwrap()]).await
    }

    #[tokio::test]
    async fn ttl_of_known_addresses_is_clamped_to_bounds() {
        let ttl_of_90 = ttl(90, "192.0.2.7").await.unwrap();
        assert!(ttl_of_90 > Duration::from_secs(60) && ttl_of_90 <= Duration::from_secs(90), "{ttl_of_90:?}");
        assert_eq!(ttl(0, "192.0.2.7").await, Some(TTL_BOUNDS.0));
        assert_eq!(ttl(1_000_000, "192.0.2.7").await, Some(TTL_BOUNDS.1));
    }

    #[tokio::test]
    async fn addresses_unknown_to_the_name_servers_have_no_ttl() {
        assert_eq!(ttl(90, "127.0.0.1").await, None);
        assert_eq!(query_with(None, "pay.example.com.").ttl(&["192.0.2.7".parse().unwrap()]).await, None);
    }
}
