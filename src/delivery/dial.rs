//! Connects to a host by the first of its addresses that takes the connection (Happy Eyeballs, RFC 8305).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long one address has before the next one is tried beside it; RFC 8305 recommends this.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The most addresses of one host that are tried.
const MAX_ADDRESSES: usize = 32;

/// Sorts addresses for an attempt: the families take turns, as RFC 8305 says, and each attempt begins with another address,
/// because one that takes connections may still not answer.
pub(super) fn sorted(addresses: Vec<SocketAddr>, attempt: u32) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == is_v6);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut sorted = Vec::new();
    loop {
        let before = sorted.len();
        sorted.extend(preferred.next());
        sorted.extend(others.next());
        if sorted.len() == before {
            break;
        }
    }
    sorted.truncate(MAX_ADDRESSES);
    let first = attempt as usize % sorted.len().max(1);
    sorted.rotate_left(first);
    sorted
}

/// Returns the first connection that is there. The addresses are tried in this order, each next one when the one before it
/// failed or has had its time; those before go on beside it.
pub(super) async fn first(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), String> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut why = "the host has no address".to_owned();
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok((address, Ok(stream)))) => return Ok((stream, address)),
                Some(Ok((address, Err(error)))) => why = format!("cannot connect to {address}: {error}"),
                Some(Err(_)) => {}
                None => return Err(why),
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

    /// A listener that takes no connection, because its queue is full.
    pub(in super::super) struct Mute(
        #[allow(dead_code)] TcpListener,
        #[allow(dead_code)] JoinSet<std::io::Result<TcpStream>>,
    );

    pub(in super::super) async fn mute(address: &str) -> (SocketAddr, Mute) {
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
        (address, Mute(listener, connections))
    }

    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn address_that_takes_no_connection_does_not_hold_up_the_next_one() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good_address = good.local_addr().unwrap();
        let (mute_address, _mute) = mute("127.0.0.1").await;
        for before in [vec![mute_address], vec![closed().await, mute_address], vec![mute_address, closed().await]] {
            let addresses = [before, vec![good_address]].concat();
            assert_eq!(first(&addresses).await.unwrap().1, good_address);
        }
        assert_eq!(first(&[good_address, mute_address]).await.unwrap().1, good_address);
    }

    #[tokio::test]
    async fn host_without_an_address_that_works_says_why() {
        let why = first(&[closed().await]).await.unwrap_err();
        assert!(why.starts_with("cannot connect to 127.0.0.1:"), "{why}");
        assert_eq!(first(&[]).await.unwrap_err(), "the host has no address");
    }

    #[test]
    fn families_take_turns_and_attempts_begin_with_another_address() {
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
