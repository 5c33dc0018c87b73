//! Connects to the first address of a host that accepts the connection (Happy Eyeballs, RFC 8305).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::failure::DeliveryError;

/// Time before the next address is tried in parallel, as recommended by RFC 8305.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Maximum number of addresses tried per host.
const MAX_ADDRESSES: usize = 32;

/// Sorts addresses for an attempt. Address families alternate (RFC 8305). Each attempt starts with another address,
/// because a host that accepts connections may still not answer.
pub(super) fn sorted(addresses: Vec<SocketAddr>, attempt: u32) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == is_v6);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut sorted = Vec::new();
    loop {
        let previous_length = sorted.len();
        sorted.extend(preferred.next());
        sorted.extend(others.next());
        if sorted.len() == previous_length {
            break;
        }
    }
    sorted.truncate(MAX_ADDRESSES);
    let offset = attempt as usize % sorted.len().max(1);
    sorted.rotate_left(offset);
    sorted
}

/// Returns the first established connection. The next address is tried when the previous one fails or exceeds
/// `ATTEMPT_DELAY`; earlier attempts continue in parallel.
pub(super) async fn connect_first(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), DeliveryError> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut failure = DeliveryError::NoAddress;
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok((address, Ok(stream)))) => return Ok((stream, address)),
                Some(Ok((address, Err(error)))) => failure = DeliveryError::Connect(address, error),
                Some(Err(_)) => {}
                None => return Err(failure),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if next.is_some() => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// A listener whose backlog is full, so that it accepts no connection.
    pub(in super::super) struct UnresponsiveListener(
        #[allow(dead_code)] TcpListener,
        #[allow(dead_code)] JoinSet<std::io::Result<TcpStream>>,
    );

    pub(in super::super) async fn unresponsive(address: &str) -> (SocketAddr, UnresponsiveListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = JoinSet::new();
        let stream = TcpStream::connect(address).await;
        connections.spawn(async { stream });
        for _ in 0..8 {
            connections.spawn(TcpStream::connect(address));
        }
        (address, UnresponsiveListener(listener, connections))
    }

    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn unresponsive_address_does_not_delay_the_next_one() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good_address = good.local_addr().unwrap();
        let (mute_address, _mute) = unresponsive("127.0.0.1").await;
        for failing in [vec![mute_address], vec![closed().await, mute_address], vec![mute_address, closed().await]] {
            let addresses = [failing, vec![good_address]].concat();
            assert_eq!(connect_first(&addresses).await.unwrap().1, good_address);
        }
        assert_eq!(connect_first(&[good_address, mute_address]).await.unwrap().1, good_address);
    }

    #[tokio::test]
    async fn unreachable_host_is_reported_with_its_reason() {
        let reason = connect_first(&[closed().await]).await.unwrap_err().to_string();
        assert!(reason.starts_with("cannot connect to 127.0.0.1:"), "{reason}");
        assert_eq!(connect_first(&[]).await.unwrap_err().to_string(), "the host has no address");
    }

    #[test]
    fn address_families_alternate_and_attempts_rotate() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let all = addresses(&["[2606::1]:1", "[2606::2]:1", "[2606::3]:1", "1.0.0.1:1"]);
        let wanted = addresses(&["[2606::1]:1", "1.0.0.1:1", "[2606::2]:1", "[2606::3]:1"]);
        assert_eq!(sorted(all.clone(), 0), wanted);
        assert_eq!(sorted(all.clone(), 4), wanted);
        assert_eq!(sorted(all, 1)[0], wanted[1]);
        assert_eq!(sorted(Vec::new(), 3), []);
        assert_eq!(sorted(vec![wanted[0]; 100], 0).len(), MAX_ADDRESSES);
    }
}
