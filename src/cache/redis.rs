//! The line to a Redis server that several machines share.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, RedisError, Value};
use tollgate_plugins::secret::Secret;

use super::CacheError;
use super::watch::{Watched, look};

/// A caller waits for no more than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// For so long after a failure, whoever can do without it does not try.
const PAUSE: Duration = Duration::from_secs(1);

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

/// One connection for all, over which many questions are under way at once.
pub struct Redis {
    client: Option<Client>,
    /// Made by the first caller, because it belongs to a runtime.
    connection: Mutex<Option<ConnectionManager>>,
    /// When it failed last, since it last answered.
    failed: Mutex<Option<Instant>>,
    /// Whether it can be relied on.
    pub(super) watched: Watched,
}

impl Redis {
    /// Opens no connection yet.
    pub fn new(url: &RedisUrl) -> Self {
        Self {
            client: url.client(),
            connection: Mutex::default(),
            failed: Mutex::default(),
            watched: Watched::default(),
        }
    }

    /// Whether it failed a moment ago.
    pub(super) fn is_gone(&self) -> bool {
        self.failed.lock().is_some_and(|failed| failed.elapsed() < PAUSE)
    }

    /// As [`ask`](Self::ask), unless it failed a moment ago: for what goes on without it.
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
                self.watched.doubt();
            }
        }
        answer
    }

    /// As [`ask`](Self::ask), for nonces: after an answer that failed, it is looked first whether the server has forgotten
    /// something.
    pub(super) async fn ask_surely(&self, command: &Cmd) -> Result<Value, CacheError> {
        if self.watched.is_in_doubt() {
            look(self).await?;
        }
        self.ask(command).await
    }

    /// Why no signed request can be let in.
    pub(crate) fn not_ready(&self) -> Option<String> {
        self.watched.not_ready()
    }

    pub(super) async fn asked(&self, command: &Cmd) -> Result<Value, CacheError> {
        let mut connection = self.connection()?;
        let answer = tokio::time::timeout(PATIENCE, command.query_async::<Value>(&mut connection)).await;
        let answer = answer.map_err(|_| CacheError(format!("it took longer than {PATIENCE:?}")))?;
        answer.map_err(|error| self.gone(&error))
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

    use super::super::Admitted;
    use super::super::nonces::Nonces;
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
            let nonces = Nonces::new(Arc::new(Redis::new(&RedisUrl::new(Secret::new(url)).unwrap())));
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
