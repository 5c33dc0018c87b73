//! Runs the same tests on each kind of store: embedded ledger with memory cache, and PostgreSQL with Redis.

use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::redis::Redis;
use crate::server::Server;

/// Environment variable of a run on shared stores.
const SHARED: &str = "TOLLGATE_TEST_SHARED_STORES";

/// Test modules that do not depend on the stores and run on both kinds.
const SUITE: &[&str] = &[
    "access::",
    "bills::",
    "breaker::",
    "contract::",
    "providers::",
    "duplicate_payment::",
    "malformed::",
    "notifications::",
    "idempotency::",
    "payments::",
    "timeline::",
    "events_pull::",
    "watch::",
];

/// The ledger and cache sections of one world's `tollgate.toml`.
pub struct Stores {
    pub ledger: String,
    pub cache: String,
    /// Stops with the world.
    _redis: Option<Redis>,
}

impl Stores {
    /// Returns whether this run uses shared stores, where a gateway's own clock decides nothing.
    pub fn are_shared() -> bool {
        std::env::var_os(SHARED).is_some()
    }

    /// Returns the stores of this run.
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

    /// A chosen ledger with a memory cache.
    pub fn with_ledger(ledger: String) -> Self {
        Self { ledger, cache: String::new(), _redis: None }
    }
}

/// Creates an empty database on the server of this run.
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
        assert!(said.contains(&format!("test {module}")), "no test of {module} ran: {said}");
    }
}
