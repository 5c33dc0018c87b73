//! Nonces in a Redis server that several machines share.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, SetExpiry, SetOptions, Value};
use tollgate_plugins::secret::Secret;

use super::CacheError;

/// A caller waits for no more than this, twice.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the server is, as in `rediss://user:password@cache.example.com:6379/0`. Prints without user and password.
#[derive(Clone)]
pub struct RedisUrl(Secret);

impl RedisUrl {
    /// Checks the form of an address; does not repeat it.
    pub fn new(url: Secret) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| "is not UTF-8")?;
        Client::open(text).map_err(|_| "is no address of a Redis server")?;
        Ok(Self(url))
    }

    fn client(&self) -> Option<Client> {
        Client::open(std::str::from_utf8(self.0.expose()).ok()?).ok()
    }
}

/// Only configurations are compared, so that it need not take constant time.
impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl Eq for RedisUrl {}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(***)")
    }
}

/// Each nonce is a key of its own, which Redis forgets by itself.
pub(crate) struct Nonces {
    client: Option<Client>,
    /// Made by the first caller, because it belongs to a runtime.
    connection: OnceLock<Result<ConnectionManager, CacheError>>,
}

impl Nonces {
    pub(super) fn new(url: &RedisUrl) -> Self {
        Self { client: url.client(), connection: OnceLock::new() }
    }

    pub(super) async fn first_time(&self, mark: [u8; 16], end: u64, now: u64) -> Result<bool, CacheError> {
        let connection = self.connection.get_or_init(|| self.connect()).clone()?;
        let key = format!("tollgate:nonce:{}", hex::encode(mark));
        let seconds = end.saturating_sub(now).max(1);
        // Who set it: when an answer is lost, the second try must know its own mark from somebody else's.
        let own = hex::encode(rand::random::<[u8; 16]>());
        let set = || set_once(connection.clone(), &key, &own, seconds);
        let known = match set().await {
            // Also after the server's restart: the connection notices only now.
            Err(_) => set().await?,
            Ok(known) => known,
        };
        Ok(known.is_none_or(|known| known == own))
    }

    fn connect(&self) -> Result<ConnectionManager, CacheError> {
        let client = self.client.clone().ok_or_else(|| CacheError("its address is wrong".to_owned()))?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        ConnectionManager::new_lazy_with_config(client, config).map_err(gone)
    }
}

/// Sets the key if it is not there; gives what was there.
async fn set_once(
    mut connection: ConnectionManager,
    key: &str,
    own: &str,
    seconds: u64,
) -> Result<Option<String>, CacheError> {
    let options = SetOptions::default()
        .conditional_set(redis::ExistenceCheck::NX)
        .get(true)
        .with_expiration(SetExpiry::EX(seconds));
    let mut command = redis::cmd("SET");
    command.arg(key).arg(own).arg(options);
    let answer = tokio::time::timeout(PATIENCE, command.query_async::<Value>(&mut connection)).await;
    match answer.map_err(|_| CacheError(format!("it took longer than {PATIENCE:?}")))?.map_err(gone)? {
        Value::Nil => Ok(None),
        value => redis::from_redis_value(value).map(Some).map_err(|error| CacheError(error.to_string())),
    }
}

/// The client's errors name the server's address, but neither user nor password.
fn gone(error: RedisError) -> CacheError {
    CacheError(error.to_string())
}
