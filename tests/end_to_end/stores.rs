//! The same tests over each kind of stores: what one gateway keeps on its own disk and in its memory, and what several
//! would share.

use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::redis::Redis;
use crate::server::Server;

/// Set in a run over shared stores.
const SHARED: &str = "TOLLGATE_TEST_SHARED_STORES";

/// What says nothing of its stores is run over each of them.
const SUITE: &[&str] = &[
    "access::",
    "bills::",
    "breaker::",
    "contract::",
    "dialects::",
    "double::",
    "malformed::",
    "notifications::",
    "once::",
    "payments::",
    "timeline::",
];

/// The ledger and the cache of one world, as `tollgate.toml` names them.
pub struct Stores {
    pub ledger: String,
    pub cache: String,
    /// Ends with the world.
    _redis: Option<Redis>,
}

impl Stores {
    /// Whether this run is over stores that several gateways share: there a gateway's own clock decides nothing.
    pub fn are_shared() -> bool {
        std::env::var_os(SHARED).is_some()
    }

    /// What this run is over.
    pub async fn of_this_run() -> Self {
        if !Self::are_shared() {
            return Self::with_ledger("path = \"../data\"".to_owned());
        }
        let redis = Redis::start().await;
        Self {
            ledger: format!("kind = \"postgres\"\nurl = \"plain:{}\"", a_database().await),
            cache: format!("[cache]\nkind = \"redis\"\nurl = \"plain:redis://{}\"\n", redis.address),
            _redis: Some(redis),
        }
    }

    /// A ledger that a test chose, and a cache in memory.
    pub fn with_ledger(ledger: String) -> Self {
        Self { ledger, cache: String::new(), _redis: None }
    }
}

/// An empty database on the run's one server.
async fn a_database() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(|| Server::start(&[]));
    let name = format!("world_{}", GIVEN.fetch_add(1, Ordering::SeqCst));
    let (client, connection) = tokio_postgres::connect(&server.url, tokio_postgres::NoTls).await.unwrap();
    let served = tokio::spawn(connection);
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    drop(client);
    served.await.unwrap().unwrap();
    format!("{}/{name}", server.url.strip_suffix("/postgres").unwrap())
}

#[tokio::test]
async fn suite_passes_on_postgresql_and_redis() {
    let run = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(SUITE)
        .env(SHARED, "yes")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    for module in SUITE {
        assert!(said.contains(&format!("test {module}")), "nothing of {module} was run: {said}");
    }
}
