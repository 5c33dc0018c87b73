//! Where it happens: directories with a real configuration, the sandbox, gateways as processes, a merchant's receiver.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tollgate_plugins::payment::provider_number;

use super::backing_services::Stores;
use super::receiver::Receiver;
use super::tcp_proxy::Relay;
use super::ways::{CHANNELS, routes};
use crate::clock::stamp;
use crate::keygen;
use crate::sandbox::{Options, Sandbox};
use crate::sign::{Credentials, plain};
use crate::stage::{Gateway, call, free};

const KEY: &str = "chaos-1";
const MERCHANT: &str = "chaos";

/// A client waits so long for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct World {
    pub(super) sandbox: Sandbox,
    pub(super) gateways: Vec<Gateway>,
    pub(super) receiver: Receiver,
    pub(super) directory: PathBuf,
    secret: String,
    /// Between the gateways and the sandbox.
    providers: Relay,
    stores: Option<Stores>,
    /// How many want the connections to be left alone.
    peace: Arc<AtomicUsize>,
}

/// As long as somebody has it, no connection is lost.
pub(super) struct FaultPause(Arc<AtomicUsize>);

impl Drop for FaultPause {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl World {
    /// With so many gateways, which share these stores unless one has its ledger in itself.
    pub(super) async fn start(seed: u64, count: usize, stores: Option<Stores>) -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("tollgate-chaos-{}", std::process::id()));
        let cannot = |error: std::io::Error| format!("cannot prepare {}: {error}", directory.display());
        let homes: Vec<PathBuf> = (1..=count).map(|number| directory.join(format!("gateway-{number}"))).collect();
        let mut gateways = Vec::new();
        for home in &homes {
            gateways.push(Gateway::new(home)?);
        }
        let address = free()?;
        let providers = Relay::open(vec![address.to_string()]).await?;
        let receiver = Receiver::open(seed).await?;
        let secret = keygen::merchant_secret();
        let Some((first, others)) = homes.split_first() else { return Err("there must be a gateway".to_owned()) };
        let conf = first.join("conf");
        common(&conf, providers.address(), &secret, &receiver.url()).map_err(cannot)?;
        others.iter().try_for_each(|home| copy(&conf, &home.join("conf"))).map_err(cannot)?;
        // Providers know one address, behind which any gateway may answer.
        let door = Relay::open(gateways.iter().map(|gateway| gateway.address.to_string()).collect()).await?;
        let sections = stores.as_ref().map_or("[ledger]\npath = \"../data\"\n", |stores| &stores.sections);
        for (gateway, home) in gateways.iter().zip(&homes) {
            let text = process(gateway, &format!("http://{}", door.address()), sections);
            std::fs::write(home.join("conf/tollgate.toml"), text).map_err(cannot)?;
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = address;
        options.notify_schedule = vec![Duration::from_millis(500); 600];
        let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
        for gateway in &gateways {
            gateway.start().await?;
        }
        Ok(Self { sandbox, gateways, receiver, directory, secret, providers, stores, peace: Arc::default() })
    }

    /// What the connections go through, by the name of what is behind it.
    pub(super) fn relays(&self) -> Vec<(&'static str, &Relay)> {
        let stores = self.stores.iter().flat_map(|stores| [("PostgreSQL", &stores.postgres), ("Redis", &stores.redis)]);
        std::iter::once(("providers", &self.providers)).chain(stores).collect()
    }

    /// Leaves the connections alone.
    pub(super) fn pause_faults(&self) -> FaultPause {
        self.peace.fetch_add(1, Ordering::SeqCst);
        self.relays().into_iter().for_each(|(_, relay)| Relay::pause_faults(relay));
        FaultPause(Arc::clone(&self.peace))
    }

    pub(super) fn is_at_peace(&self) -> bool {
        self.peace.load(Ordering::SeqCst) > 0
    }

    /// The channels' files of one gateway.
    pub(super) fn channel_files(&self, gateway: usize) -> Vec<PathBuf> {
        let folder = self.directory.join(format!("gateway-{}/conf/channels", gateway + 1));
        CHANNELS.iter().map(|(name, ..)| folder.join(format!("{name}.toml"))).collect()
    }

    /// A signed request of the merchant at one of the gateways: any number names one.
    pub(super) async fn ask(
        &self,
        door: usize,
        method: &str,
        target: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        self.ask_with(door, method, target, &[("idempotency-key", key)], body).await
    }

    /// As [`ask`](Self::ask), with these headers where they have a value.
    pub(super) async fn ask_with(
        &self,
        door: usize,
        method: &str,
        target: &str,
        more: &[(&'static str, Option<&str>)],
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let stamp = stamp();
        let secret = self.secret.as_bytes();
        let with = Credentials { key_id: KEY, secret, created: stamp.unix_time, nonce: &stamp.nonce };
        let mut headers = plain(&with, method, target, body.as_bytes());
        headers.extend(more.iter().filter_map(|(name, value)| value.map(|value| (*name, value.to_owned()))));
        let gateway = &self.gateways[door % self.gateways.len()];
        let called = tokio::time::timeout(PATIENCE, call(gateway.address, method, target, &headers, body)).await;
        called.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }

    /// What the sandbox knows of an order; `None` when nothing of it ever arrived.
    pub(super) async fn seen(&self, order: &str) -> Result<Option<Value>, String> {
        let path = format!("/orders/{}", number(order));
        match self.control("GET", &path, Value::Null).await? {
            (200, seen) => Ok(Some(seen)),
            (404, _) => Ok(None),
            (status, seen) => Err(format!("the sandbox answered {status} to {path}: {seen}")),
        }
    }

    /// The sandbox's control API; gives status and JSON.
    pub(super) async fn control(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        call(self.sandbox.control_address(), method, path, &[], body).await
    }

    /// Scripts a fault.
    pub(super) async fn fault(&self, fault: Value) -> Result<(), String> {
        match self.control("POST", "/faults", fault).await? {
            (200, _) => Ok(()),
            (_, refused) => Err(format!("the sandbox refused a fault: {refused}")),
        }
    }

    /// Ends everything, and removes the directory and the database.
    pub(super) async fn clear(self) -> Result<(), String> {
        self.gateways.iter().for_each(Gateway::kill);
        let _ = std::fs::remove_dir_all(&self.directory);
        match self.stores {
            Some(stores) => stores.clear().await,
            None => Ok(()),
        }
    }
}

/// The provider's number of an order.
pub(super) fn number(order: &str) -> String {
    provider_number(&[MERCHANT, order])
}

/// The provider's number of a refund.
pub(super) fn refund_number(order: &str, refund: &str) -> String {
    provider_number(&[MERCHANT, order, refund])
}

/// With limits that a machine cannot reach, a breaker that tries again soon, and little patience with an order that the
/// provider does not know: what is tested is money, not patience.
fn hardened(channel: &str) -> String {
    let channel = channel.replace("rate = 600", "rate = 100000");
    let channel = channel.replace("sleep_window = \"5s\"", "sleep_window = \"200ms\"");
    // Over APIv3 of WeChat Pay codes are scanned where the account says so.
    let codes = "codepay = true\nstore_id = \"0001\"";
    let is_v3 = channel.contains("provider = \"wechat-v3\"");
    let channel = if is_v3 { channel.replace("[account]\n", &format!("[account]\n{codes}\n")) } else { channel };
    format!("not_found_grace = \"10s\"\n{channel}")
}

/// What all gateways share: channels, routes and the merchant.
fn common(conf: &Path, provider: SocketAddr, secret: &str, receiver: &str) -> io::Result<()> {
    let folder = conf.join("channels");
    std::fs::create_dir_all(conf.join("merchants"))?;
    std::fs::create_dir_all(&folder)?;
    for (channel, kind) in CHANNELS {
        let file = keygen::sandbox_channel_of(*kind, &folder, channel, &provider.to_string())?.channel;
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, hardened(&text))?;
    }
    std::fs::write(conf.join("routes.toml"), routes())?;
    std::fs::write(conf.join("merchants/chaos.toml"), merchant(secret, receiver))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true => copy(&from, &to)?,
            false => std::fs::copy(&from, &to).map(drop)?,
        }
    }
    Ok(())
}

fn process(gateway: &Gateway, public: &str, stores: &str) -> String {
    let Gateway { address, admin, .. } = gateway;
    format!(
        "public_url = \"{public}\"\n[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"{admin}\"\n{stores}\
         [delivery]\nallowed_networks = [\"127.0.0.0/8\"]\n[telemetry]\nlog = \"warn\"\n"
    )
}

fn merchant(secret: &str, url: &str) -> String {
    let webhook = keygen::webhook_secret();
    format!(
        "keys = [{{ id = \"{KEY}\", secret = \"plain:{secret}\" }}]\nwebhook = {{ url = \"{url}\", secrets = [\"plain:{webhook}\"] }}\n"
    )
}
