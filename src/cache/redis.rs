//! Nonces in a Redis server that several machines share.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
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
    connection: Mutex<Option<ConnectionManager>>,
}

impl Nonces {
    pub(super) fn new(url: &RedisUrl) -> Self {
        Self { client: url.client(), connection: Mutex::new(None) }
    }

    pub(super) async fn first_time(&self, mark: [u8; 16], end: u64, now: u64) -> Result<bool, CacheError> {
        let key = format!("tollgate:nonce:{}", hex::encode(mark));
        let seconds = end.saturating_sub(now).max(1);
        // Who set it: when an answer is lost, the second try must know its own mark from somebody else's.
        let own = hex::encode(rand::random::<[u8; 16]>());
        let known = match self.set_once(&key, &own, seconds).await {
            // Also after the server's restart: the connection notices only now.
            Err(_) => self.set_once(&key, &own, seconds).await?,
            Ok(known) => known,
        };
        Ok(known.is_none_or(|known| known == own))
    }

    /// Sets the key if it is not there; gives what was there.
    async fn set_once(&self, key: &str, own: &str, seconds: u64) -> Result<Option<String>, CacheError> {
        let mut connection = self.connection()?;
        let options = SetOptions::default()
            .conditional_set(redis::ExistenceCheck::NX)
            .get(true)
            .with_expiration(SetExpiry::EX(seconds));
        let mut command = redis::cmd("SET");
        command.arg(key).arg(own).arg(options);
        let answer = tokio::time::timeout(PATIENCE, command.query_async::<Value>(&mut connection)).await;
        let answer = answer.map_err(|_| CacheError(format!("it took longer than {PATIENCE:?}")))?;
        match answer.map_err(|error| self.gone(&error))? {
            Value::Nil => Ok(None),
            value => redis::from_redis_value(value).map(Some).map_err(|error| CacheError(error.to_string())),
        }
    }

    fn connection(&self) -> Result<ConnectionManager, CacheError> {
        let mut connection = self.connection.lock();
        match &*connection {
            Some(connection) => Ok(connection.clone()),
            None => self.connect().inspect(|new| *connection = Some(new.clone())),
        }
    }

    fn connect(&self) -> Result<ConnectionManager, CacheError> {
        let client = self.client.clone().ok_or_else(|| CacheError("its address is wrong".to_owned()))?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        ConnectionManager::new_lazy_with_config(client, config).map_err(|error| CacheError(error.to_string()))
    }

    /// The client's errors name the server's address, but neither user nor password.
    ///
    /// Its manager connects anew after errors of the network, and only then: what else goes wrong while it connects (a
    /// greeting that breaks off, a server with too many clients) it would repeat for ever.
    fn gone(&self, error: &RedisError) -> CacheError {
        if !error.is_io_error() {
            self.connection.lock().take();
        }
        CacheError(error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Knows no key, and says yes to everything else.
    async fn serve(mut stream: TcpStream) {
        let mut question = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut question).await {
            let asked = String::from_utf8_lossy(&question[..count]).into_owned();
            let commands = asked.lines().filter(|line| line.starts_with('*')).count();
            let answer = if asked.contains("tollgate:nonce:") { "$-1\r\n" } else { "+OK\r\n" };
            stream.write_all(answer.repeat(commands).as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_greeting_that_goes_wrong_is_not_remembered() {
        for greeting in ["+O", "-ERR max number of clients reached\r\n"] {
            let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
            let url = format!("redis://{}", listener.local_addr().unwrap());
            let nonces = Nonces::new(&RedisUrl::new(Secret::new(url)).unwrap());
            let bad = Arc::clone(&listener);
            let bad = tokio::spawn(async move {
                while let Ok((mut stream, _)) = bad.accept().await {
                    let _ = stream.read(&mut [0; 4096]).await.unwrap();
                    stream.write_all(greeting.as_bytes()).await.unwrap();
                }
            });
            nonces.first_time([1; 16], 2, 1).await.unwrap_err();
            bad.abort();
            let _ = bad.await;
            let served = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
            assert_eq!(nonces.first_time([1; 16], 2, 1).await, Ok(true), "{greeting}");
            drop(nonces);
            served.await.unwrap();
        }
    }
}
