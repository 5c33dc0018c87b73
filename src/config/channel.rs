//! `channels/NAME.toml`: one account at one provider.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tollgate_plugins::provider::bill::{BillEndpoint, Bills};
use tollgate_plugins::provider::inspect::Place;
use tollgate_plugins::provider::{BuildContext, Need, Provider, ProviderSpec, PublishedKeys, Secrets};
use tollgate_plugins::registry::PROVIDERS;
use tollgate_plugins::settings::Settings;
use tollgate_plugins::signer::{Key, Keyring};

use super::address::Address;
use super::identity::{self, Now};
use super::keys::Beside;
use super::secret::Plain;
use super::toml_file::{Source, suggest};
use super::{CertificateEnd, Channel, Host, Pool, Timeouts, UpstreamSettings, filters, keys, time_windows};
use crate::upstream::{ANSWER_LIMIT, BillHosts, Upstream};

/// The methods that a channel's provider serves; `None` while the provider is not known.
pub(super) type Served = Option<&'static [&'static str]>;

/// What came of one file.
pub(super) struct ChannelFile {
    /// Nothing when there were mistakes, and seldom even then.
    pub(super) channel: Option<Arc<Channel>>,
    /// What the provider serves, if it is known, so that routes can be checked although the file has mistakes.
    pub(super) methods: Served,
    /// Ends of the certificates that the file names.
    pub(super) certificates: Vec<CertificateEnd>,
}

/// Reads the file. Of the channel of the generation before, the filters' states go on.
pub(super) fn read(
    source: &Source,
    mut root: Settings<'_>,
    name: &str,
    now: Now,
    previous: Option<&Arc<Channel>>,
) -> ChannelFile {
    let row = provider(&mut root);
    let hosts = payment_hosts(&mut root);
    let bill_hosts = root.has("bill_hosts").then(|| hosts_of(&mut root, "bill_hosts"));
    let all_loopback = !hosts.is_empty() && hosts.iter().all(|(_, address)| address.is_loopback());
    let plain = match all_loopback {
        true => Plain::Allowed,
        false => Plain::Refused("a host of this channel is not a loopback address"),
    };
    let ca = identity::authorities(source, &mut root, "ca", now);
    let timeouts = root.section("timeouts").map_or(TIMEOUTS, timeouts);
    let pool = root.section("pool").map_or(POOL, pool);
    let http2 = root.or("http2", false);
    let maintenance = time_windows::windows(&mut root);
    let not_found_grace = not_found_grace(&mut root);
    let mut mtls_place = root.span();
    let mtls = root.section("mtls").and_then(|mut mtls| {
        mtls_place = mtls.span_of("cert");
        let pair = identity::read(source, &mut mtls, now, plain)?;
        if !pair.is_for_clients() {
            let message =
                "this certificate is not for clients: its extended key usage lacks clientAuth, and hosts may refuse it";
            let advice = "order one for clients (TLS Web Client Authentication)";
            mtls.problems().note(mtls_place.clone(), message, Some(advice.to_owned()));
        }
        Some(pair)
    });
    let account = root.required_section("account");
    let keys = root.required_section("keys");
    let tables = root.sections("filter");
    let Some(row) = row else {
        // Without a provider nobody knows which keys belong there.
        tables.into_iter().chain(account).chain(keys).for_each(Settings::ignore_rest);
        return ChannelFile { channel: None, methods: None, certificates: Vec::new() };
    };
    let (texts, names): (Vec<_>, Vec<_>) = (
        account.as_ref().map(Settings::peek_texts).unwrap_or_default(),
        hosts.iter().map(|(_, address)| address.host.clone()).collect(),
    );
    let shown = mtls.as_deref().map_or(&[][..], identity::Pair::certificates);
    let beside = Beside { mtls: shown, account: &texts, hosts: &names, now: now.0 };
    let before = root.problems().len();
    let keys = keys.map(|keys| keys::read(source, keys, row, plain, &beside));
    if root.problems().len() > before {
        root.problems().mark_wrong_keys();
    }
    if let (Some(keys), Some(account)) = (&keys, &account) {
        keys.inspect(row, &beside, root.problems(), |place| match place {
            Place::Account(key) => account.span_of(key),
            Place::Hosts => root.span_of("hosts"),
            Place::Mtls => mtls_place.clone(),
            _ => root.span_of("keys"),
        });
    }
    let ends = identity::ends("mtls", shown).into_iter().chain(keys.iter().flat_map(keys::Keys::ends));
    let end = |(certificate, not_after)| CertificateEnd { channel: name.to_owned(), certificate, not_after };
    let certificates = ends.map(end).collect();

    let none = Secrets::new();
    let given = BuildContext {
        secrets: keys.as_ref().map_or(&none, |keys| &keys.secrets),
        algorithm: keys.as_ref().and_then(|keys| keys.algorithm),
    };
    let provider = account.and_then(|account| dialect(account, row, &given));
    let filters = filters::read(tables, previous.map_or(&[], |previous| &previous.filters));
    let settings = Arc::new(UpstreamSettings {
        channel: name.to_owned(),
        hosts: hosts.into_iter().map(|(_, address)| host(address)).collect(),
        ca: ca.as_deref().map(identity::anchors),
        identity: mtls.as_ref().map(|pair| pair.identity.clone()),
        timeouts,
        pool,
        answer_limit: ANSWER_LIMIT,
        http2,
    });
    let has_identity = settings.identity.is_some();
    let bill_hosts = bill_hosts.map(|hosts| hosts.into_iter().map(|(_, address)| host(address)).collect());
    let built = || {
        if !root.problems().is_empty() {
            return None;
        }
        let provider = provider?;
        let bills = provider.bills().map(|bills| bills_from(bills, &settings, bill_hosts, all_loopback)).transpose();
        let bills = bills.map_err(|message| root.problem("bill_hosts", message, None)).ok()?;
        if bills.is_none() && root.has("bill_hosts") {
            root.problem("bill_hosts", format!("{} has no bills", row.name), Some("take it away".to_owned()));
            return None;
        }
        let trust = trust(row, provider.as_ref(), &settings);
        let fetched = previous.filter(|previous| previous.trust == trust);
        // What has the same connections goes on with them.
        let connections = connections(&settings);
        let previous = previous.filter(|previous| previous.connections == connections);
        let upstream = match previous {
            Some(previous) => Arc::clone(&previous.upstream),
            None => {
                let made = Upstream::new(settings.as_ref().clone());
                Arc::new(made.map_err(|message| root.problem("hosts", message, None)).ok()?)
            }
        };
        let keys = keys?;
        Some(Arc::new(Channel {
            name: name.to_owned(),
            fingerprint: source.fingerprint(),
            trace: source.trace(),
            _read: (mtls, ca),
            provider_name: row.name,
            methods: row.methods,
            provider,
            signer: keys.signer?,
            keys: ArcSwap::from_pointee(with_fetched(&keys.verify, fetched, now)),
            trust,
            configured_keys: keys.verify,
            upstream,
            connections,
            bills,
            filters,
            not_found_grace: not_found_grace.unwrap_or(row.not_found_grace),
            pace: row.pace,
            note: row.without_mtls.filter(|_| !has_identity),
            maintenance,
        }))
    };
    ChannelFile { channel: built(), methods: Some(row.methods), certificates }
}

/// Identity of everything that published keys depend on: the account, its hosts, and the roots that vouch for them.
fn trust(row: &ProviderSpec, provider: &dyn Provider, settings: &UpstreamSettings) -> String {
    let anchor = provider.published_keys().map(PublishedKeys::trust_anchor).unwrap_or_default();
    format!("{} {} {:?} {anchor}", row.name, provider.account(), settings.hosts)
}

/// The configured keys, and those that the provider published before a reload. Without them its answers would not be believed until
/// they are fetched again.
fn with_fetched(configured: &Keyring, previous: Option<&Arc<Channel>>, Now(now): Now) -> Keyring {
    let now = u64::try_from(now).unwrap_or_default();
    let is_in = |keyring: &Keyring, id: &str| keyring.iter().any(|key| key.id == id);
    let known: Vec<Key> = previous
        .iter()
        .flat_map(|previous| {
            let is_fetched = |key: &&Key| !is_in(&previous.configured_keys, &key.id);
            previous.keys.load().iter().filter(is_fetched).cloned().collect::<Vec<_>>()
        })
        .collect();
    let fetched = known.into_iter().filter(|key| key.is_valid(now) && !is_in(configured, &key.id));
    Keyring::new(configured.iter().cloned().chain(fetched).collect())
}

/// Nothing when the provider's own is meant.
fn not_found_grace(root: &mut Settings<'_>) -> Option<Duration> {
    let window: Duration = root.optional("not_found_grace")?;
    let fits = (1..=24 * 3600).contains(&window.as_secs());
    if !fits {
        let suggestion = "leave it away for what the provider needs, or write it as in not_found_grace = \"30s\"";
        root.problem("not_found_grace", "`not_found_grace` must be from 1s to 24h", Some(suggestion.to_owned()));
    }
    fits.then_some(window)
}

/// Without `bill_hosts` those that the provider documents, but never from a sandbox: it must not lead out of this machine.
fn bills_from(
    bills: &dyn Bills,
    own: &Arc<UpstreamSettings>,
    configured: Option<Vec<Host>>,
    all_loopback: bool,
) -> Result<BillHosts, String> {
    let documented = || {
        let known: Vec<_> = bills.hosts().iter().filter_map(|url| Address::parse(url).ok()).map(host).collect();
        if all_loopback { own.hosts.clone() } else { known }
    };
    let files = configured.unwrap_or_else(documented);
    let desk = if bills.endpoint() == BillEndpoint::Files { files.clone() } else { own.hosts.clone() };
    BillHosts::new(own, desk, files)
}

/// Everything that decides whether a connection may go on being used.
fn connections(settings: &UpstreamSettings) -> [u8; 32] {
    // Each by name, so that none is forgotten.
    let UpstreamSettings { channel, hosts, ca, identity, timeouts, pool, answer_limit, http2 } = settings;
    let mut hasher = Sha256::new();
    hasher.update(format!("{channel:?} {hosts:?} {timeouts:?} {pool:?} {answer_limit} {http2}"));
    let shown = identity.iter().flat_map(|identity| identity.certificates.iter().map(Vec::as_slice));
    let key = identity.iter().map(|identity| identity.key.expose());
    for (what, bytes) in
        [("ca", ca.iter().flatten().map(Vec::as_slice).collect::<Vec<_>>()), ("mtls", shown.chain(key).collect())]
    {
        for bytes in bytes {
            hasher.update(format!("{what}:{}:", bytes.len()));
            hasher.update(bytes);
        }
    }
    hasher.finalize().into()
}

fn host(Address { tls, host, port, .. }: Address) -> Host {
    Host { name: host, port, tls }
}

fn provider(root: &mut Settings<'_>) -> Option<&'static ProviderSpec> {
    let name: Option<String> = root.required("provider");
    root.choices("provider", PROVIDERS.iter().map(|row| row.name));
    let name = name?;
    let row = PROVIDERS.iter().find(|row| row.name == name);
    if row.is_none() {
        let message = format!("there is no provider `{name}`");
        root.problem("provider", message, suggest(&name, PROVIDERS.iter().map(|row| row.name)));
    }
    row
}

fn dialect(mut account: Settings<'_>, row: &ProviderSpec, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let problems = account.problems();
    let (before, span) = (problems.len(), account.span());
    let provider = (row.build)(&mut account, given);
    drop(account);
    // A secret that is missing was told already.
    let complete = row
        .secrets
        .iter()
        .all(|field| !matches!(field.need, Need::Required(_)) || given.secrets.contains_key(field.name));
    if provider.is_none() && problems.len() == before && complete && !problems.are_keys_wrong() {
        problems.push(span, format!("{} cannot be built from this account", row.name), None);
    }
    provider
}

fn payment_hosts(root: &mut Settings<'_>) -> Vec<(Range<usize>, Address)> {
    let before = root.problems().len();
    let hosts = hosts_of(root, "hosts");
    if hosts.is_empty() && root.problems().len() == before {
        let suggestion = "add `hosts = [\"https://…\"]`".to_owned();
        root.problem("hosts", "a channel must have at least one host", Some(suggestion));
    }
    hosts
}

fn hosts_of(root: &mut Settings<'_>, key: &'static str) -> Vec<(Range<usize>, Address)> {
    let mut hosts: Vec<(Range<usize>, Address)> = Vec::new();
    for (place, text) in root.items::<String>(key) {
        let wrong = match Address::parse(&text) {
            Err(wrong) => Some(wrong),
            Ok(host) if !host.path.is_empty() || host.has_query => {
                Some("must have no path: the provider's own is put there")
            }
            Ok(host) if !host.tls && !host.is_loopback() => {
                Some("must start with https://; http:// is for loopback only")
            }
            Ok(host) if hosts.iter().any(|(_, other)| *other == host) => Some("stands here twice"),
            Ok(host) => {
                hosts.push((place.clone(), host));
                None
            }
        };
        if let Some(wrong) = wrong {
            root.problems().push(place, format!("a host of `{key}` {wrong}"), None);
        }
    }
    hosts
}

pub(super) const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    read: Duration::from_secs(2),
    write: Duration::from_secs(2),
    total: Duration::from_secs(5),
};

fn timeouts(mut section: Settings<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.or("connect", TIMEOUTS.connect),
        read: section.or("read", TIMEOUTS.read),
        write: section.or("write", TIMEOUTS.write),
        total: section.or("total", TIMEOUTS.total),
    };
    let Timeouts { connect, read, write, total } = timeouts;
    for (key, time) in [("connect", connect), ("read", read), ("write", write), ("total", total)] {
        if time.is_zero() {
            section.problem(key, format!("`timeouts.{key}` must be more than 0"), None);
        }
    }
    if total < connect {
        let message = "`timeouts.total` must be at least as long as `timeouts.connect`, which is a part of it";
        section.problem("total", message, None);
    }
    timeouts
}

const POOL: Pool = Pool { idle: 128, idle_timeout: Duration::from_secs(60) };

fn pool(mut section: Settings<'_>) -> Pool {
    let idle = section.or("idle", POOL.idle as u64);
    let pool = Pool {
        idle: usize::try_from(idle).unwrap_or(usize::MAX),
        idle_timeout: section.or("idle_timeout", POOL.idle_timeout),
    };
    if !(1..=65_536).contains(&idle) {
        section.problem("idle", "`pool.idle` must be from 1 to 65536", None);
    }
    if pool.idle_timeout.is_zero() {
        section.problem("idle_timeout", "`pool.idle_timeout` must be more than 0", None);
    }
    pool
}
