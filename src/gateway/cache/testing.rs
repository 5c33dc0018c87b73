//! Fixtures for the tests of the caches: ledger records and a Redis server.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tollgate_config::RedisUrl;
use tollgate_plugins::secret::Secret;

use super::Redis;

use tollgate_ledger::testing::a_payment;
use tollgate_ledger::{ClaimKey, ClaimResult, ExecutionPermit, Intent, Ledger, RecordId, RecordKey};

pub(crate) fn subject(order_id: &str) -> RecordId {
    RecordId { merchant: "shop".to_owned(), order_id: order_id.to_owned(), refund_id: None }
}

pub(crate) fn name(order_id: &str) -> RecordKey {
    RecordKey::of(&subject(order_id))
}

/// Claims a payment.
pub(crate) async fn claim(ledger: &Ledger, order_id: &str) -> ExecutionPermit {
    let key = ClaimKey {
        merchant: "shop".to_owned(),
        method: "POST".to_owned(),
        path: "/v1/payments".to_owned(),
        key: order_id.to_owned(),
        fingerprint: [1; 32],
    };
    match ledger.claim(key, Intent::Pay(a_payment(order_id)), Timestamp::now()).await.unwrap() {
        ClaimResult::Run(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// Redis server without persistence, stopped when this value is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    process: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers/from-debian");
        let found = Command::new(script).args(["redis-server", "redis-server"]).output().unwrap();
        let program = String::from_utf8(found.stdout).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program.trim());
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.args(["--dir", std::env::temp_dir().to_str().unwrap()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "Redis does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { address, process }
    }

    /// Returns a client, as one gateway would have.
    pub(crate) fn client(&self) -> Arc<Redis> {
        let url = Secret::new(format!("redis://{}", self.address));
        Arc::new(Redis::new(&RedisUrl::new(url)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
