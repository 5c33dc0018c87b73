//! Redis process on a private port.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{free_address, until};

/// Returns the path of a program, which is installed from its Debian package if missing.
fn program(package: &str, name: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/from-debian");
    let output = Command::new(script).args([package, name]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success() && !found.is_empty(), "{name} is missing and could not be installed: {said}");
    found
}

/// Redis server without persistence.
pub struct Redis {
    pub address: SocketAddr,
    arguments: &'static [&'static str],
    process: Option<Child>,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further arguments.
    pub async fn start_with(arguments: &'static [&'static str]) -> Self {
        let mut redis = Self { address: free_address(), arguments, process: None };
        redis.start_again().await;
        redis
    }

    pub async fn start_again(&mut self) {
        static PROGRAM: OnceLock<String> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| program("redis-server", "redis-server"));
        let mut command = Command::new(program);
        command.args(["--bind", &self.address.ip().to_string(), "--port", &self.address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir", env!("CARGO_TARGET_TMPDIR")]);
        // Each node has its own cluster configuration file.
        command.args(["--cluster-config-file", &format!("nodes-{}.conf", self.address)]).args(self.arguments);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let address = self.address;
        until("Redis answers", || async move {
            let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.write_all(b"PING\r\n").await.map_err(|error| error.to_string())?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
            if answer == *b"+PONG" { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
