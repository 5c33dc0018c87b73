//! Where bills come from: connections of their own beside those of payments, so that a long download never makes a payment
//! wait, and only to hosts that the channel's file or the provider's documentation names.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Uri};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Answer, SendError, Upstream};
use crate::config::{Address, Host, Timeouts, UpstreamSettings};

/// The largest bill: it is held in memory until its hash is right, because nothing can be taken back once it was sent on.
const LARGEST_BILL: usize = 64 << 20;
/// Bills of one channel that are fetched at the same time; providers make and serve them slowly.
const AT_ONCE: usize = 2;
/// A file takes longer than an answer to a payment.
const PATIENCE: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    read: Duration::from_secs(20),
    write: Duration::from_secs(20),
    total: Duration::from_secs(50),
};

/// The hosts from which one channel's bills come.
pub struct BillHosts {
    desk: LazyUpstream,
    files: Vec<(Host, LazyUpstream)>,
    turns: Semaphore,
}

/// Hosts that are made ready when they are asked the first time: most channels' bills are fetched once a day, or never.
struct LazyUpstream {
    own: Arc<UpstreamSettings>,
    hosts: Vec<Host>,
    shows_identity: bool,
    made: OnceLock<Result<Upstream, String>>,
}

impl LazyUpstream {
    fn new(own: &Arc<UpstreamSettings>, hosts: Vec<Host>) -> Self {
        // Only where payments are made is the channel's certificate anybody's business.
        let shows_identity = hosts.iter().all(|host| own.hosts.contains(host));
        Self { own: Arc::clone(own), hosts, shows_identity, made: OnceLock::new() }
    }

    async fn send(&self, request: &Request<Bytes>) -> Result<Answer, SendError> {
        let make = || {
            Upstream::new(UpstreamSettings {
                hosts: self.hosts.clone(),
                identity: self.own.identity.clone().filter(|_| self.shows_identity),
                timeouts: PATIENCE,
                answer_limit: LARGEST_BILL,
                ..self.own.as_ref().clone()
            })
        };
        match self.made.get_or_init(make) {
            Ok(upstream) => upstream.send(request, PATIENCE.total).await,
            Err(why) => Err(SendError::NotSent(why.clone().into())),
        }
    }
}

impl BillHosts {
    /// `own` is how payments are made, `files` are hosts beside those; the bill is asked for at `desk`.
    pub fn new(own: &Arc<UpstreamSettings>, desk: Vec<Host>, files: Vec<Host>) -> Result<Self, String> {
        if desk.is_empty() {
            return Err("a channel with bills needs a host that has them".to_owned());
        }
        let mut all = own.hosts.clone();
        all.extend(files.into_iter().filter(|host| !own.hosts.contains(host)));
        let known = |host: Host| (host.clone(), LazyUpstream::new(own, vec![host]));
        Ok(Self {
            desk: LazyUpstream::new(own, desk),
            files: all.into_iter().map(known).collect(),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    /// Leave to fetch one bill, unless others are being fetched.
    pub fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.try_acquire().ok()
    }

    /// Asks for a bill.
    pub async fn ask(&self, request: &Request<Bytes>) -> Result<Answer, SendError> {
        self.desk.send(request).await
    }

    /// Fetches what a link names from the host that [`BillHosts::place`] found.
    pub async fn fetch(&self, place: &Place<'_>, request: &Request<Bytes>) -> Result<Answer, SendError> {
        place.hosts.send(request).await
    }

    /// The host and path that a URL names, if it is a host of these. Alipay writes `http://`, which is fetched as `https://`;
    /// nothing is ever fetched in the clear but from a host that is configured so, which only a loopback one can be.
    pub fn place(&self, url: &str) -> Result<Place<'_>, &'static str> {
        let address = Address::parse(url)?;
        let is_it = |host: &Host| {
            let port = if host.tls && !address.tls && address.port == 80 { 443 } else { address.port };
            host.name.eq_ignore_ascii_case(&address.host) && host.port == port && (host.tls || !address.tls)
        };
        let (_, hosts) = self.files.iter().find(|(host, _)| is_it(host)).ok_or("is on no host that is known for it")?;
        let target = url.parse::<Uri>().ok().and_then(|uri| uri.into_parts().path_and_query);
        Ok(Place { hosts, target: target.ok_or("has no path")? })
    }
}

/// Where a file is.
pub struct Place<'a> {
    hosts: &'a LazyUpstream,
    /// Path and query.
    pub target: PathAndQuery,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Pool;

    fn host(name: &str, port: u16, tls: bool) -> Host {
        Host { name: name.to_owned(), port, tls }
    }

    fn hosts() -> BillHosts {
        let own = UpstreamSettings {
            channel: "a".to_owned(),
            hosts: vec![host("api.example.com", 443, true), host("127.0.0.1", 8080, false)],
            ca: None,
            identity: None,
            timeouts: PATIENCE,
            pool: Pool { idle: 1, idle_timeout: PATIENCE.read },
            answer_limit: 1,
            http2: false,
        };
        BillHosts::new(&Arc::new(own.clone()), own.hosts, vec![host("files.example.com", 443, true)]).unwrap()
    }

    #[test]
    fn only_known_hosts_are_followed() {
        let hosts = hosts();
        for (url, target) in [
            ("https://api.example.com/v3/file?token=a", "/v3/file?token=a"),
            ("https://FILES.example.com:443/x", "/x"),
            ("http://files.example.com/x", "/x"),
            ("http://127.0.0.1:8080/x", "/x"),
        ] {
            assert_eq!(hosts.place(url).unwrap().target.as_str(), target, "{url}");
        }
        for url in [
            "https://evil.example/x",
            "https://api.example.com.evil.example/x",
            "https://api.example.com@evil.example/x",
            "https://evil.example/https://api.example.com/x",
            "https://api.example.com:8443/x",
            "http://files.example.com:8080/x",
            "https://127.0.0.1:8080/x",
            "ftp://files.example.com/x",
            "//files.example.com/x",
            "/x",
            "",
        ] {
            assert!(hosts.place(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_turn_comes_back() {
        let hosts = hosts();
        let turns: Vec<_> = (0..AT_ONCE).map(|_| hosts.turn().unwrap()).collect();
        assert!(hosts.turn().is_none());
        drop(turns);
        assert!(hosts.turn().is_some());
    }
}
