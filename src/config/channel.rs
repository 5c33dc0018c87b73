//! `channels/NAME.toml`: one account at one provider.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tollgate_plugins::filter::Filter;
use tollgate_plugins::provider::bill::{BillEndpoint, Bills};
use tollgate_plugins::provider::inspect::Location;
use tollgate_plugins::provider::{BuildContext, Need, PollInterval, Provider, ProviderSpec, PublishedKeys, Secrets};
use tollgate_plugins::registry::PROVIDERS;
use tollgate_plugins::settings::Settings;
use tollgate_plugins::signer::{Keyring, Signer};

use super::address::Address;
use super::dependencies::Dependencies;
use super::keys::{self, KeyContext};
use super::now::Now;
use super::pair::{Authority, CertificateEnd, Pair};
use super::secret::Plain;
use super::toml_file::{TomlFile, suggest};
use super::upstream::{
    Host, MAX_ANSWER_SIZE, POOL, TIMEOUTS, UpstreamSettings, host, hosts_of, payment_hosts, pool, timeouts,
};
use super::{filters, identity, pair, time_windows};

/// One account at one provider, as its file describes it.
pub struct ChannelConfig {
    /// Name of the file without `.toml`.
    pub name: String,
    /// Changes if anything in the file, or a key or secret that it names, changes.
    pub fingerprint: String,
    /// Inputs of the fingerprint.
    pub(crate) dependencies: Dependencies,
    /// Parsed certificates, retained so that the next generation need not parse them again.
    _read: (Option<Arc<Pair>>, Option<Arc<[Authority]>>),
    /// Name of the provider, for example `wechat-v3`.
    pub provider_name: &'static str,
    /// Payment methods that the provider serves.
    pub methods: &'static [&'static str],
    /// Protocol of the provider, configured for this account.
    pub provider: Box<dyn Provider>,
    /// Signs requests.
    pub signer: Arc<dyn Signer>,
    /// Provider keys that the file names.
    pub configured_keys: Keyring,
    /// Changes if previously published keys must no longer be trusted.
    pub trust: String,
    /// Hosts, identity, timeouts and connection pool. Connections are reused as long as these are equal.
    pub connection: Arc<UpstreamSettings>,
    /// Hosts that serve bills; `None` if the provider has no bills.
    pub bill_hosts: Option<BillSettings>,
    /// Filters around each call, outermost first. They share the state of their predecessors.
    pub filters: Vec<Arc<dyn Filter>>,
    /// Time after a request during which a provider's not-found is not final.
    pub not_found_grace: Duration,
    /// Minimum interval of status inquiries for a record that a caller waits for.
    pub pace: PollInterval,
    /// Limitation of this configuration, shown by `tollgate check` as a note.
    pub note: Option<&'static str>,
    /// Maintenance windows (start, end) without new payments.
    pub maintenance: Vec<(Timestamp, Timestamp)>,
}

impl ChannelConfig {
    /// Returns the seconds until the current maintenance window ends; `None` outside of one.
    pub fn maintenance(&self, now: Timestamp) -> Option<u64> {
        let window = self.maintenance.iter().find(|(from, to)| (*from..*to).contains(&now));
        window.map(|(_, to)| u64::try_from(to.duration_since(now).as_secs()).unwrap_or(0).saturating_add(1))
    }

    /// Returns the provider and its account number. Payments exist per account, not per channel.
    pub fn account(&self) -> String {
        format!("{}:{}", self.provider_name, self.provider.account())
    }
}

/// Hosts that serve bills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillSettings {
    /// Hosts where a bill is requested; at least one.
    pub endpoint: Vec<Host>,
    /// Hosts from which files are downloaded.
    pub files: Vec<Host>,
}

/// Methods that a channel's provider serves; `None` if the provider is not known.
pub(super) type ServedMethods = Option<&'static [&'static str]>;

/// Parsed file.
pub(super) struct ChannelFile {
    /// Channel; `None` if there were errors.
    pub(super) channel: Option<Arc<ChannelConfig>>,
    /// Methods of the provider, if known, so that routes can be checked although this file has errors.
    pub(super) methods: ServedMethods,
    /// Expiry of the certificates that the file names.
    pub(super) certificates: Vec<CertificateEnd>,
}

/// Reads the file. Filters take over the state of the previous generation's channel.
pub(super) fn read(
    source: &TomlFile,
    mut root: Settings<'_>,
    name: &str,
    now: Now,
    previous: Option<&Arc<ChannelConfig>>,
) -> ChannelFile {
    let row = provider(&mut root);
    let hosts = payment_hosts(&mut root);
    let bill_hosts = root.has("bill_hosts").then(|| hosts_of(&mut root, "bill_hosts"));
    let is_sandbox = !hosts.is_empty() && hosts.iter().all(|(_, address)| address.is_loopback());
    let plain = match is_sandbox {
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
                "this certificate is not for clients: its extended key usage lacks clientAuth, and hosts may reject it";
            let advice = "order one for clients (TLS Web Client Authentication)";
            mtls.problems().note(mtls_place.clone(), message, Some(advice.to_owned()));
        }
        Some(pair)
    });
    let account = root.required_section("account");
    let keys = root.required_section("keys");
    let tables = root.sections("filter");
    let Some(row) = row else {
        // Without a provider the valid keys of these tables are unknown.
        tables.into_iter().chain(account).chain(keys).for_each(Settings::ignore_rest);
        return ChannelFile { channel: None, methods: None, certificates: Vec::new() };
    };
    let (texts, names): (Vec<_>, Vec<_>) = (
        account.as_ref().map(Settings::peek_texts).unwrap_or_default(),
        hosts.iter().map(|(_, address)| address.host.clone()).collect(),
    );
    let shown = mtls.as_deref().map_or(&[][..], Pair::certificates);
    let key_context = KeyContext { mtls: shown, account: &texts, hosts: &names, now: now.0 };
    let before = root.problems().len();
    let keys = keys.map(|keys| keys::read(source, keys, row, plain, &key_context));
    if root.problems().len() > before {
        root.problems().mark_wrong_keys();
    }
    if let (Some(keys), Some(account)) = (&keys, &account) {
        keys.inspect(row, &key_context, root.problems(), |place| match place {
            Location::Account(key) => account.span_of(key),
            Location::Hosts => root.span_of("hosts"),
            Location::Mtls => mtls_place.clone(),
            _ => root.span_of("keys"),
        });
    }
    let ends = pair::ends("mtls", shown).into_iter().chain(keys.iter().flat_map(keys::Keys::ends));
    let end = |(certificate, not_after)| CertificateEnd { channel: name.to_owned(), certificate, not_after };
    let certificates = ends.map(end).collect();

    let none = Secrets::new();
    let given = BuildContext {
        secrets: keys.as_ref().map_or(&none, |keys| &keys.secrets),
        algorithm: keys.as_ref().and_then(|keys| keys.algorithm),
    };
    let provider = account.and_then(|account| build_provider(account, row, &given));
    let filters = filters::read(tables, previous.map_or(&[], |previous| &previous.filters));
    let settings = Arc::new(UpstreamSettings {
        channel: name.to_owned(),
        hosts: hosts.into_iter().map(|(_, address)| host(address)).collect(),
        ca: ca.as_deref().map(pair::anchors),
        identity: mtls.as_ref().map(|pair| pair.identity.clone()),
        timeouts,
        pool,
        answer_limit: MAX_ANSWER_SIZE,
        http2,
    });
    let has_identity = settings.identity.is_some();
    let bill_hosts = bill_hosts.map(|hosts| hosts.into_iter().map(|(_, address)| host(address)).collect());
    let built = || {
        if !root.problems().is_empty() {
            return None;
        }
        let provider = provider?;
        let bills = provider.bills().map(|bills| bills_from(bills, &settings, bill_hosts, is_sandbox)).transpose();
        let bills = bills.map_err(|message| root.problem("bill_hosts", message, None)).ok()?;
        if bills.is_none() && root.has("bill_hosts") {
            root.problem(
                "bill_hosts",
                format!("{} provides no bills", row.name),
                Some("remove `bill_hosts`".to_owned()),
            );
            return None;
        }
        let trust = trust(row, provider.as_ref(), &settings);
        let keys = keys?;
        Some(Arc::new(ChannelConfig {
            name: name.to_owned(),
            fingerprint: source.fingerprint(),
            dependencies: source.dependencies(),
            _read: (mtls, ca),
            provider_name: row.name,
            methods: row.methods,
            provider,
            signer: keys.signer?,
            trust,
            configured_keys: keys.verify,
            connection: settings,
            bill_hosts: bills,
            filters,
            not_found_grace: not_found_grace.unwrap_or(row.not_found_grace),
            pace: row.poll_interval,
            note: row.without_mtls.filter(|_| !has_identity),
            maintenance,
        }))
    };
    ChannelFile { channel: built(), methods: Some(row.methods), certificates }
}

/// Returns the identity of everything that published keys depend on: account, hosts and trust anchor.
fn trust(row: &ProviderSpec, provider: &dyn Provider, settings: &UpstreamSettings) -> String {
    let anchor = provider.published_keys().map(PublishedKeys::trust_anchor).unwrap_or_default();
    format!("{} {} {:?} {anchor}", row.name, provider.account(), settings.hosts)
}

/// Reads `not_found_grace`; `None` means the provider's default.
fn not_found_grace(root: &mut Settings<'_>) -> Option<Duration> {
    let window: Duration = root.optional("not_found_grace")?;
    let fits = (1..=24 * 3600).contains(&window.as_secs());
    if !fits {
        let suggestion = "omit it for the provider's default, or write for example not_found_grace = \"30s\"";
        root.problem("not_found_grace", "`not_found_grace` must be from 1s to 24h", Some(suggestion.to_owned()));
    }
    fits.then_some(window)
}

/// Returns the bill hosts: `bill_hosts`, else those that the provider documents. A sandbox never uses the documented hosts.
fn bills_from(
    bills: &dyn Bills,
    own: &Arc<UpstreamSettings>,
    configured: Option<Vec<Host>>,
    is_sandbox: bool,
) -> Result<BillSettings, String> {
    let documented = || {
        let known: Vec<_> = bills.hosts().iter().filter_map(|url| Address::parse(url).ok()).map(host).collect();
        if is_sandbox { own.hosts.clone() } else { known }
    };
    let files = configured.unwrap_or_else(documented);
    let endpoint = if bills.endpoint() == BillEndpoint::Files { files.clone() } else { own.hosts.clone() };
    if endpoint.is_empty() {
        return Err("a channel with bills needs a host that serves them".to_owned());
    }
    Ok(BillSettings { endpoint, files })
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

fn build_provider(
    mut account: Settings<'_>,
    row: &ProviderSpec,
    given: &BuildContext<'_>,
) -> Option<Box<dyn Provider>> {
    let problems = account.problems();
    let (before, span) = (problems.len(), account.span());
    let provider = (row.build)(&mut account, given);
    drop(account);
    // A missing secret is already reported.
    let complete = row
        .secrets
        .iter()
        .all(|field| !matches!(field.need, Need::Required(_)) || given.secrets.contains_key(field.name));
    if provider.is_none() && problems.len() == before && complete && !problems.are_keys_wrong() {
        problems.push(span, format!("{} cannot be built from this account", row.name), None);
    }
    provider
}
