//! `merchants/NAME.toml`: a caller of the gateway.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use tollgate_plugins::filter::limit::LimitConfig;
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;

use super::dependencies::Dependencies;
use super::secret::{self, Plain};
use super::sinks::{self, SinkConfig, SinkContext, SinkOwner};
use super::sources::{self, SourceConfig};
use super::toml_file::{MAX_SUGGESTIONS, TomlFile, suggest};
use super::webhook::{self, Webhook};

/// Caller of the gateway.
pub struct Merchant {
    /// Name of the file without `.toml`.
    pub name: String,
    /// Changes if anything in the file, or a secret that it names, changes.
    pub fingerprint: String,
    /// Inputs of the fingerprint.
    pub(crate) dependencies: Dependencies,
    /// Key ids with their secrets; several while a key is rotated.
    pub keys: Vec<(String, Secret)>,
    /// Destination of all events.
    pub webhook: Option<Arc<Webhook>>,
    /// Further destinations of events.
    pub sinks: Vec<SinkConfig>,
    /// Queues that signed requests are consumed from.
    pub sources: Vec<Arc<SourceConfig>>,
    /// Request limit. Its usage lives outside the snapshot and survives a reload.
    pub limit: Option<LimitConfig>,
    /// Channels whose bills the merchant may read. A bill contains the orders of every merchant on the channel.
    pub bills: Vec<String>,
}

/// Minimum length of a secret in bytes: 128 bits if each bit is random.
const MIN_SECRET_BYTES: usize = 16;

/// Parsed file.
pub(super) struct MerchantFile {
    /// Merchant; usable only if there was no error.
    pub(super) merchant: Arc<Merchant>,
    /// Key ids with their positions, to detect duplicates across merchants.
    pub(super) key_ids: Vec<(std::ops::Range<usize>, String)>,
}

/// Facts from other files that a merchant's file is checked against.
pub(super) struct MerchantContext<'a> {
    /// True in a sandbox; `None` if `tollgate.toml` is invalid, which is reported there.
    pub(super) sandbox: Option<bool>,
    /// Private networks that webhooks, sinks and sources may reach; `None` if `tollgate.toml` is invalid.
    pub(super) allowed: Option<&'a [IpNet]>,
    /// Channel files by name.
    pub(super) channels: &'a BTreeMap<String, PathBuf>,
}

/// Reads the file. The previous generation's merchant is reused if nothing about it changed.
pub(super) fn read(
    source: &TomlFile,
    mut root: Settings<'_>,
    name: &str,
    context: &MerchantContext<'_>,
    previous: Option<&Arc<Merchant>>,
) -> MerchantFile {
    let sandbox = context.sandbox.unwrap_or(true);
    let plain = match sandbox {
        true => Plain::Allowed,
        false => Plain::Refused("`public_url` in tollgate.toml is not a loopback address"),
    };
    source.hash_in("sandbox", &[u8::from(sandbox)]);
    let (mut key_ids, mut ids) = (Vec::new(), HashSet::new());
    let mut keys = Vec::new();
    for mut key in root.sections("keys") {
        let id = key_id(&mut key, &mut ids);
        let secret = secret::required(source, &mut key, "secret", plain);
        if secret.as_ref().is_some_and(|secret| secret.expose().len() < MIN_SECRET_BYTES) {
            let message = format!("the secret is too short: at least {MIN_SECRET_BYTES} bytes");
            key.problem("secret", message, Some("make one with `tollgate keygen`".to_owned()));
        }
        if let Some(id) = id {
            key_ids.push((key.span_of("id"), id.clone()));
            keys.extend(secret.map(|secret| (id, secret)));
        }
    }
    if !root.has("keys") || (keys.is_empty() && root.problems().is_empty()) {
        let suggestion = format!("add `keys = [{{ id = \"{name}-1\", secret = \"env:NAME\" }}]`");
        root.problem("keys", "a merchant must have at least one key", Some(suggestion));
    }
    let webhook = root
        .section("webhook")
        .and_then(|mut section| webhook::read(source, &mut section, "webhook", plain, context.allowed))
        .map(Arc::new);
    let broker_context = SinkContext { owner: SinkOwner::Merchant, plain, allowed: context.allowed };
    let sinks = sinks::read(source, &mut root, broker_context);
    let sources = sources::read(source, &mut root, broker_context);
    let limit = root.section("limit").and_then(|mut limit| LimitConfig::read(&mut limit));
    let bills = bills(&mut root, context.channels);
    drop(root);
    let fingerprint = source.fingerprint();
    let merchant = match previous {
        Some(previous) if previous.fingerprint == fingerprint => previous.clone(),
        _ => Arc::new(Merchant {
            name: name.to_owned(),
            fingerprint,
            dependencies: source.dependencies(),
            keys,
            webhook,
            sinks,
            sources,
            limit,
            bills,
        }),
    };
    MerchantFile { merchant, key_ids }
}

/// Reads the channels whose bills the merchant may read.
fn bills(root: &mut Settings<'_>, channels: &BTreeMap<String, PathBuf>) -> Vec<String> {
    let mut bills = Vec::new();
    for (place, name) in root.items::<String>("bills") {
        if !channels.contains_key(&name) {
            let near = || suggest(&name, channels.keys().map(String::as_str));
            let suggestion = if root.problems().len() < MAX_SUGGESTIONS { near() } else { None };
            root.problems().push(place, format!("there is no channel `{name}`"), suggestion);
        }
        bills.push(name);
    }
    bills
}

fn key_id(key: &mut Settings<'_>, others: &mut HashSet<String>) -> Option<String> {
    let id: String = key.required("id")?;
    let visible = |byte: u8| byte.is_ascii_graphic() && !b"\"'`\\".contains(&byte);
    if id.is_empty() || id.len() > 64 || !id.bytes().all(visible) {
        key.problem("id", "`id` must be 1 to 64 visible characters without spaces and quotes", None);
        return None;
    }
    if !others.insert(id.clone()) {
        key.problem("id", format!("the key id `{id}` is listed twice"), None);
        return None;
    }
    Some(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
keys = [{ id = "shop-1", secret = "plain:0123456789abcdef" }, { id = "shop-2", secret = "file:second" }]
webhook = { url = "http://127.0.0.1:1/x", secrets = ["plain:whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"] }
limit = { rate = 500, burst = 1000, in_flight = 200 }
bills = ["wechat-main"]
"#;

    fn read_text(text: &str, sandbox: bool, previous: Option<&Arc<Merchant>>) -> (Arc<Merchant>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("second"), "abcdef0123456789\r\n").unwrap();
        let source = TomlFile::with_text(&dir.path().join("shop.toml"), text.into());
        let channels = BTreeMap::from([("wechat-main".to_owned(), PathBuf::new())]);
        let allowed = ["127.0.0.0/8".parse().unwrap()];
        let context = MerchantContext { sandbox: Some(sandbox), allowed: Some(&allowed), channels: &channels };
        let (file, diagnostics) = source.read(|root| read(&source, root, "shop", &context, previous));
        let text = |diagnostic: &super::super::diagnostics::Diagnostic| {
            diagnostic.to_string().split_once("shop.toml:").unwrap().1.to_owned()
        };
        (file.unwrap().merchant, diagnostics.iter().map(text).collect())
    }

    #[test]
    fn every_key_is_read_and_secrets_are_resolved() {
        let (shop, diagnostics) = read_text(GOOD, true, None);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        assert_eq!(shop.keys[1].1.expose(), b"abcdef0123456789");
        assert_eq!(shop.webhook.as_ref().unwrap().secrets[0].expose(), b"0123456789abcdef01234567");
        assert_eq!(shop.limit, Some(LimitConfig { rate: Some(500.0), burst: Some(1000), in_flight: Some(200) }));
        assert_eq!(shop.bills, ["wechat-main"]);
        let (again, _) = read_text(GOOD, true, Some(&shop));
        assert!(Arc::ptr_eq(&shop, &again));
        let (other, _) = read_text(&format!("{GOOD} "), true, Some(&shop));
        assert!(!Arc::ptr_eq(&shop, &other));
    }

    #[test]
    fn secret_is_read_from_the_environment() {
        let (shop, diagnostics) = read_text("keys = [{ id = \"shop-1\", secret = \"env:PATH\" }]", false, None);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        assert_eq!(shop.keys[0].1.expose(), std::env::var("PATH").unwrap().as_bytes());
    }

    #[test]
    fn plain_secret_is_rejected_outside_a_sandbox() {
        let (shop, _) = read_text(GOOD, true, None);
        let (_, diagnostics) = read_text(GOOD, false, Some(&shop));
        assert_eq!(diagnostics.len(), 2, "{diagnostics:?}");
        assert!(
            diagnostics[0].starts_with("2:35: a secret may be written in the file only in a sandbox"),
            "{diagnostics:?}"
        );
    }

    #[test]
    fn every_error_is_reported_without_secrets() {
        let text = r#"
keys = [
  { id = "a b", secret = "hunter2hunter2hunter2" },
  { id = "x", secret = "env:hunter2-hunter2" },
  { id = "x", secret = "env:TOLLGATE_TEST_NOT_SET" },
  { id = "y", secret = "plain:hunter2" },
  { id = "z", secret = "file:none" },
  { id = "n", secret = 2222222222 },
  { secrte = "hunter2" },
]
limit = { rate = 0, burst = 0, in_flight = 0 }
bills = ["wechat-mian"]
[webhook]
url = "http://shop.example.com/hunter2"
secrets = ["plain:hunter2", "whsec_hunter2", 2222222222, "plain:whsec_aHVudGVyMg=="]
"#;
        let (_, diagnostics) = read_text(text, true, None);
        let expected = [
            "3:10: `id` must be 1 to 64 visible",
            "3:26: a secret must not be written in the file itself (write env:NAME, file:PATH)",
            "4:24: `env:` is not followed by the name",
            "5:10: the key id `x` is listed twice",
            "5:24: the environment variable `TOLLGATE_TEST_NOT_SET` is not set",
            "6:24: the secret is too short: at least 16 bytes",
            "7:24: `",
            "8:24: `keys.secret` must be a secret's place in quotes: \"env:NAME\" or \"file:PATH\", not a value of type",
            "9:3: `keys.id` is missing",
            "9:3: `keys.secret` is missing",
            "9:5: unknown key `keys.secrte` (did you mean `secret`?)",
            "11:18: `rate` must be",
            "11:29: `burst` must be",
            "11:44: `in_flight` must be",
            "12:10: there is no channel `wechat-mian` (did you mean `wechat-main`?)",
            "14:7: `webhook.url` must start with https://",
            "15:12: a webhook secret must be `whsec_`",
            "15:29: a secret must not be written in the file itself",
            "15:46: an item of `webhook.secrets` must be a secret's place",
            "15:58: a webhook secret must be `whsec_`",
        ];
        assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:#?}");
        for (diagnostic, expected) in diagnostics.iter().zip(expected) {
            assert!(diagnostic.starts_with(expected), "{diagnostic} / {expected}");
            assert!(!diagnostic.contains("hunter2") && !diagnostic.contains("22222"), "{diagnostic}");
        }
    }

    #[test]
    fn private_webhook_address_is_rejected_unless_its_network_is_allowed() {
        for (url, refused) in [
            ("https://10.1.2.3/x", true),
            ("https://192.168.0.1:8443/x", true),
            ("https://169.254.169.254/x", true),
            ("https://100.64.0.1/x", true),
            ("https://[fd00::1]/x", true),
            ("https://[::ffff:10.0.0.1]/x", true),
            ("http://[::1]:9000/x", true),
            ("http://127.0.0.1:9000/x", false),
            ("https://203.0.113.9/x", true),
            ("https://[3fff::1]/x", true),
            ("https://8.8.8.8/x", false),
            ("https://shop.example.com/x", false),
        ] {
            let (_, diagnostics) = read_text(&GOOD.replace("http://127.0.0.1:1/x", url), true, None);
            assert_eq!(diagnostics.len(), usize::from(refused), "{url}: {diagnostics:?}");
            assert!(diagnostics.iter().all(|text| text.contains("`delivery.allowed_networks`")), "{diagnostics:?}");
        }
    }

    #[test]
    fn merchant_without_key_and_webhook_without_secret_are_rejected() {
        let (_, diagnostics) = read_text("keys = []", true, None);
        assert!(diagnostics[0].starts_with("1:8: a merchant must have at least one key"), "{diagnostics:?}");
        let (_, diagnostics) = read_text("webhook = { url = \"https://a.example\" }", true, None);
        assert!(diagnostics.iter().any(|text| text.contains("at least one key")), "{diagnostics:?}");
        assert!(diagnostics.iter().any(|text| text.contains("`webhook.secrets` must have")), "{diagnostics:?}");
    }
}
