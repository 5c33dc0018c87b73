//! Downloads of bills. They use connections of their own, so that a long download never delays a payment, and only hosts that the
//! channel's file or the provider's documentation names.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Uri};
use tokio::sync::{Semaphore, SemaphorePermit};
use tollgate_config::{Address, BillSettings, Host, Timeouts, UpstreamSettings};

use super::{Answer, SendError, Upstream};

/// Maximum size of a bill in bytes. It is buffered until its hash is verified, because nothing sent to the merchant can be revoked.
const MAX_BILL_SIZE: usize = 64 << 20;
/// Maximum number of concurrent downloads per channel; providers generate and serve bills slowly.
const MAX_DOWNLOADS: usize = 2;
/// Timeouts of a download, which takes longer than a payment.
const BILL_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    read: Duration::from_secs(20),
    write: Duration::from_secs(20),
    total: Duration::from_secs(50),
};

/// Hosts that serve the bills of one channel.
pub struct BillHosts {
    endpoint: LazyUpstream,
    files: Vec<(Host, LazyUpstream)>,
    permits: Semaphore,
}

/// Upstream that is created on first use: most channels' bills are downloaded once a day, or never.
struct LazyUpstream {
    own: Arc<UpstreamSettings>,
    hosts: Vec<Host>,
    presents_identity: bool,
    upstream: OnceLock<Result<Upstream, String>>,
}

impl LazyUpstream {
    fn new(own: &Arc<UpstreamSettings>, hosts: Vec<Host>) -> Self {
        // The channel's certificate is presented only to hosts that also serve payments.
        let presents_identity = hosts.iter().all(|host| own.hosts.contains(host));
        Self { own: Arc::clone(own), hosts, presents_identity, upstream: OnceLock::new() }
    }

    async fn send(&self, request: &Request<Bytes>) -> Result<Answer, SendError> {
        let build = || {
            Upstream::new(UpstreamSettings {
                hosts: self.hosts.clone(),
                identity: self.own.identity.clone().filter(|_| self.presents_identity),
                timeouts: BILL_TIMEOUTS,
                answer_limit: MAX_BILL_SIZE,
                ..self.own.as_ref().clone()
            })
        };
        match self.upstream.get_or_init(build) {
            Ok(upstream) => upstream.send(request, BILL_TIMEOUTS.total).await,
            Err(why) => Err(SendError::NotSent(why.clone().into())),
        }
    }
}

impl BillHosts {
    /// Returns the hosts of a channel; `own` are its settings of payments.
    pub fn new(own: &Arc<UpstreamSettings>, BillSettings { endpoint, files }: BillSettings) -> Self {
        let mut all = own.hosts.clone();
        all.extend(files.into_iter().filter(|host| !own.hosts.contains(host)));
        let known = |host: Host| (host.clone(), LazyUpstream::new(own, vec![host]));
        Self {
            endpoint: LazyUpstream::new(own, endpoint),
            files: all.into_iter().map(known).collect(),
            permits: Semaphore::new(MAX_DOWNLOADS),
        }
    }

    /// Returns a permit for one download; `None` if too many are running.
    pub fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// Requests a bill.
    pub async fn ask(&self, request: &Request<Bytes>) -> Result<Answer, SendError> {
        self.endpoint.send(request).await
    }

    /// Downloads a file from the host that [`BillHosts::place`] found.
    pub async fn fetch(&self, place: &Place<'_>, request: &Request<Bytes>) -> Result<Answer, SendError> {
        place.hosts.send(request).await
    }

    /// Returns the host and path of a URL if the host is allowed. Alipay writes `http://`, which is fetched as `https://`. Plain HTTP is
    /// used only for hosts that are configured so, which must be loopback addresses.
    pub fn place(&self, url: &str) -> Result<Place<'_>, &'static str> {
        let address = Address::parse(url)?;
        let is_it = |host: &Host| {
            let port = if host.tls && !address.tls && address.port == 80 { 443 } else { address.port };
            host.name.eq_ignore_ascii_case(&address.host) && host.port == port && (host.tls || !address.tls)
        };
        let (_, hosts) = self.files.iter().find(|(host, _)| is_it(host)).ok_or("is on a host that is not allowed")?;
        let target = url.parse::<Uri>().ok().and_then(|uri| uri.into_parts().path_and_query);
        Ok(Place { hosts, target: target.ok_or("has no path")? })
    }
}

/// Location of a file.
pub struct Place<'a> {
    hosts: &'a LazyUpstream,
    /// Path and query.
    pub target: PathAndQuery,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tollgate_config::Pool;

    use super::*;

    fn host(name: &str, port: u16, tls: bool) -> Host {
        Host { name: name.to_owned(), port, tls }
    }

    fn hosts() -> BillHosts {
        let own = UpstreamSettings {
            channel: "a".to_owned(),
            hosts: vec![host("api.example.com", 443, true), host("127.0.0.1", 8080, false)],
            ca: None,
            identity: None,
            timeouts: BILL_TIMEOUTS,
            pool: Pool { idle: 1, idle_timeout: BILL_TIMEOUTS.read },
            answer_limit: 1,
            http2: false,
        };
        let files = vec![host("files.example.com", 443, true)];
        BillHosts::new(&Arc::new(own.clone()), BillSettings { endpoint: own.hosts, files })
    }

    #[test]
    fn link_to_unknown_host_is_rejected() {
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
    fn download_permit_is_returned_on_drop() {
        let hosts = hosts();
        let permits: Vec<_> = (0..MAX_DOWNLOADS).map(|_| hosts.turn().unwrap()).collect();
        assert!(hosts.turn().is_none());
        drop(permits);
        assert!(hosts.turn().is_some());
    }
}
