//! Client of the Redis server that several gateways share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, RedisError, Value};
use tollgate_config::{CacheKind, RedisUrl};
use tollgate_plugins::secret::Secret;

use super::CacheError;
use super::redis_health::{RedisHealth, field, mark};
use crate::clock;

/// Timeout of a command and of connecting.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);
/// Marker key. It contains the Unix second in which a gateway created it, and a random number.
const MARKER: &str = "tollgate:mark";
/// Time after a failure in which optional commands are not attempted.
const OPTIONAL_COMMAND_PAUSE: Duration = Duration::from_secs(1);

/// Checks the form of an address. The error does not repeat it.
pub fn check_redis_url(url: &Secret) -> Result<(), &'static str> {
    let text = std::str::from_utf8(url.expose()).map_err(|_| "is not UTF-8")?;
    Client::open(text).map_err(|_| "is not the address of a Redis server")?;
    Ok(())
}

/// Client with one multiplexed connection.
pub struct Redis {
    client: Option<Client>,
    /// Created by the first caller, because it belongs to a runtime.
    connection: Mutex<Option<ConnectionManager>>,
    /// Time of the last failure since the last reply.
    failed: Mutex<Option<Instant>>,
    /// Health of the server.
    pub(super) health: RedisHealth,
}

impl Redis {
    /// Returns the client, if Redis is configured. Opens no connection yet.
    pub fn from_config(cache: &CacheKind) -> Option<Arc<Self>> {
        match cache {
            CacheKind::Memory => None,
            CacheKind::Redis(url) => Some(Arc::new(Self::new(url))),
        }
    }

    /// Creates a client. Opens no connection yet.
    pub fn new(url: &RedisUrl) -> Self {
        Self {
            client: std::str::from_utf8(url.secret().expose()).ok().and_then(|url| Client::open(url).ok()),
            connection: Mutex::default(),
            failed: Mutex::default(),
            health: RedisHealth::default(),
        }
    }

    /// Returns whether a command failed within [`OPTIONAL_COMMAND_PAUSE`].
    pub(super) fn is_gone(&self) -> bool {
        self.failed.lock().is_some_and(|failed| failed.elapsed() < OPTIONAL_COMMAND_PAUSE)
    }

    /// Like [`ask`](Self::ask), but fails at once if a command failed a moment ago. For callers that can do without Redis.
    pub(super) async fn try_ask(&self, command: &Cmd) -> Result<Value, CacheError> {
        if self.is_gone() {
            return Err(CacheError("it did not answer a moment ago".to_owned()));
        }
        self.ask(command).await
    }

    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, CacheError> {
        let answer = self.asked(command).await;
        let mut failed = self.failed.lock();
        match &answer {
            Ok(_) => *failed = None,
            Err(_) => {
                *failed = Some(Instant::now());
                self.health.doubt();
            }
        }
        answer
    }

    /// Like [`ask`](Self::ask), for nonces: after a failed command, the server is first checked for lost data.
    pub(super) async fn ask_surely(&self, command: &Cmd) -> Result<Value, CacheError> {
        if self.health.is_in_doubt() {
            self.check().await?;
        }
        self.ask(command).await
    }

    /// Returns the reason why no signed request can be accepted.
    pub fn not_ready(&self) -> Option<String> {
        self.health.not_ready()
    }

    /// Checks that Redis accepts writes, and whether it lost data.
    pub(super) async fn check(&self) -> Result<(), CacheError> {
        let now = (clock::unix_now(), Instant::now());
        let own = mark(now.0);
        let answer = self.asked(redis::cmd("SET").arg(MARKER).arg(&own).arg("NX").arg("GET")).await;
        let found = answer.and_then(|answer| {
            redis::from_redis_value::<Option<String>>(answer).map_err(|error| CacheError(error.to_string()))
        });
        match found {
            Ok(found) => {
                let run = self.info(Some("server")).await.ok();
                self.health.found(found, own, run.and_then(|info| field(&info, "run_id")), now);
                Ok(())
            }
            Err(error) => {
                self.health.failed(error.0.clone());
                Err(error)
            }
        }
    }

    /// Returns the reply of `INFO`.
    pub(super) async fn info(&self, section: Option<&str>) -> Result<String, CacheError> {
        let answer = self.asked(redis::cmd("INFO").arg(section)).await?;
        redis::from_redis_value(answer).map_err(|error| CacheError(error.to_string()))
    }

    async fn asked(&self, command: &Cmd) -> Result<Value, CacheError> {
        let mut connection = self.connection()?;
        let answer = tokio::time::timeout(COMMAND_TIMEOUT, command.query_async::<Value>(&mut connection)).await;
        let answer = answer.map_err(|_| CacheError(format!("it took longer than {COMMAND_TIMEOUT:?}")))?;
        answer.map_err(|error| self.to_cache_error(&error))
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
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
        ConnectionManager::new_lazy_with_config(client, config).map_err(|error| CacheError(error.to_string()))
    }

    /// Converts an error. The client's errors contain the server's address, but neither user nor password.
    ///
    /// The connection manager reconnects only after network errors. Any other failure while connecting (an interrupted greeting, too
    /// many clients) would be repeated for ever, so the manager is dropped.
    fn to_cache_error(&self, error: &RedisError) -> CacheError {
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

    use super::super::Admitted;
    use super::super::nonces::Nonces;
    use super::*;

    /// Serves a client: no key exists, and every other command succeeds.
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
    async fn failed_greeting_is_not_repeated_for_ever() {
        for greeting in ["+O", "-ERR max number of clients reached\r\n"] {
            let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
            let url = format!("redis://{}", listener.local_addr().unwrap());
            let nonces = Nonces::new(Arc::new(Redis::new(&RedisUrl::new(Secret::new(url)))));
            let bad = Arc::clone(&listener);
            let bad = tokio::spawn(async move {
                while let Ok((mut stream, _)) = bad.accept().await {
                    let _ = stream.read(&mut [0; 4096]).await.unwrap();
                    stream.write_all(greeting.as_bytes()).await.unwrap();
                }
            });
            nonces.admit(("shop", [1; 16]), (2, 1), None).await.unwrap_err();
            bad.abort();
            let _ = bad.await;
            let served = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
            let admitted = nonces.admit(("shop", [1; 16]), (2, 1), None).await;
            assert_eq!(admitted, Ok(Admitted { first_time: true, counted: None }), "{greeting}");
            drop(nonces);
            served.await.unwrap();
        }
    }
}
