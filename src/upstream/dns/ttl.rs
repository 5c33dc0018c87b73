//! For how long the name servers say that a name's addresses hold. What the addresses are they do not decide.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A name server that lets its answers hold for no time at all is not asked all the time; one that lets them hold for days is asked
/// before that, because the system may mean something else by then.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// How long the name servers may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much longer than the system's own resolver, for which somebody may be waiting.
const LONGER: Duration = Duration::from_millis(100);

/// A question to the name servers.
pub(super) struct Asked(JoinHandle<Option<Told>>);

/// Their answer.
struct Told {
    addresses: Vec<IpAddr>,
    until: Instant,
}

/// Asks the name servers that the system has now: its settings are read each time.
pub(super) fn ask(name: &str) -> Asked {
    let system = || {
        let mut servers = TokioResolver::builder_tokio().ok()?;
        let options = servers.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        servers.build().ok()
    };
    ask_of(system(), name)
}

fn ask_of(servers: Option<TokioResolver>, name: &str) -> Asked {
    let name = name.to_owned();
    Asked(tokio::spawn(async move {
        let found = timeout(PATIENCE, servers?.lookup_ip(name)).await.ok()?.ok()?;
        Some(Told { addresses: found.iter().collect(), until: found.valid_until() })
    }))
}

impl Asked {
    /// How long these addresses hold; nothing when they are from elsewhere.
    pub(super) async fn holds(self, addresses: &[IpAddr]) -> Option<Duration> {
        let told = timeout(LONGER, self.0).await.ok()?.ok()??;
        let is_theirs = told.addresses.iter().any(|address| addresses.contains(address));
        is_theirs.then(|| told.until.saturating_duration_since(Instant::now()).clamp(BOUNDS.0, BOUNDS.1))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    use super::*;

    /// Names the one address for so many seconds, whatever is asked for; of the other kind of address there is none.
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

    /// The message of RFC 1035: head, the question once more, and for an A question one record that points to its name.
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

    async fn holds(seconds: u32, address: &str) -> Option<Duration> {
        let servers = server([192, 0, 2, 7], seconds).await;
        let asked = ask_of(servers, "pay.example.com.");
        asked.holds(&["192.0.2.6".parse().unwrap(), address.parse().unwrap()]).await
    }

    #[tokio::test]
    async fn what_the_servers_know_holds_as_long_as_they_say_within_bounds() {
        let holds_for_90 = holds(90, "192.0.2.7").await.unwrap();
        assert!(holds_for_90 > Duration::from_secs(60) && holds_for_90 <= Duration::from_secs(90), "{holds_for_90:?}");
        assert_eq!(holds(0, "192.0.2.7").await, Some(BOUNDS.0));
        assert_eq!(holds(1_000_000, "192.0.2.7").await, Some(BOUNDS.1));
    }

    #[tokio::test]
    async fn of_addresses_from_elsewhere_they_say_nothing() {
        assert_eq!(holds(90, "127.0.0.1").await, None);
        assert_eq!(ask_of(None, "pay.example.com.").holds(&["192.0.2.7".parse().unwrap()]).await, None);
    }
}
