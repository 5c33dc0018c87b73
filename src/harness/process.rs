//! The gateway as a child process of `tollgate demo` and `tollgate chaos`: start, signals, termination.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::http_client::send_request;
use crate::clock;

/// Maximum duration of one step between processes on the same machine, such as a start.
pub(crate) const LOCAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Gateway that runs as a child process. Dropping the handle kills the process.
pub(crate) struct GatewayProcess {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    directory: PathBuf,
    process: Mutex<Option<Child>>,
    /// Clock offset in seconds, applied at the next start.
    clock_offset: AtomicI64,
}

impl GatewayProcess {
    /// Returns a gateway that reads `DIRECTORY/conf` and logs to `DIRECTORY/gateway.log`. The process is not started.
    pub(crate) fn new(directory: &Path) -> Result<Self, String> {
        let (address, admin) = (unused_address()?, unused_address()?);
        Ok(Self {
            address,
            admin,
            directory: directory.to_owned(),
            process: Mutex::new(None),
            clock_offset: AtomicI64::new(0),
        })
    }

    /// Sets the clock offset, in seconds, of the next start. A negative offset puts the clock back.
    pub(crate) fn set_clock_offset(&self, seconds: i64) {
        self.clock_offset.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.directory.join("gateway.log")
    }

    /// Starts the process and waits until `GET /readyz` on the admin port answers 200.
    pub(crate) async fn start(&self) -> Result<(), String> {
        let cannot = |error: std::io::Error| format!("cannot start the gateway: {error}");
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(["run", "--conf"]).arg(self.directory.join("conf"));
        match self.clock_offset.load(Ordering::Relaxed) {
            0 => {}
            offset => drop(command.env(clock::AHEAD_VARIABLE, offset.to_string())),
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(cannot)?;
        *self.process.lock() = Some(child);
        let deadline = Instant::now() + LOCAL_TIMEOUT;
        loop {
            if let Ok((200, _)) = send_request(self.admin, "GET", "/readyz", &[], String::new()).await {
                return Ok(());
            }
            let has_exited = self.process.lock().as_mut().is_none_or(|child| child.try_wait().ok().flatten().is_some());
            if has_exited || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
                let last_lines: Vec<&str> = log.lines().rev().take(20).collect();
                return Err(format!(
                    "the gateway did not become ready; the end of its log:\n{}",
                    last_lines.into_iter().rev().collect::<Vec<_>>().join("\n")
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the process with SIGKILL: no shutdown code runs.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM and waits until the process has exited. Kills a process that does not exit in time and returns
    /// an error.
    pub(crate) async fn terminate(&self) -> Result<(), String> {
        let Some(mut child) = self.process.lock().take() else { return Ok(()) };
        let signalled = signal(&child, "TERM");
        let exit = async {
            while child.try_wait().ok().flatten().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let exited = tokio::time::timeout(2 * LOCAL_TIMEOUT, exit).await;
        if signalled.is_ok() && exited.is_ok() {
            return Ok(());
        }
        let _ = child.kill();
        let _ = child.wait();
        Err("the gateway did not exit after SIGTERM and was killed".to_owned())
    }

    /// Sends a signal, given by name without `SIG`. Does nothing if the process is not running.
    pub(crate) fn signal(&self, name: &str) -> Result<(), String> {
        self.process.lock().as_ref().map_or(Ok(()), |child| signal(child, name))
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, name: &str) -> Result<(), String> {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    match sent {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("cannot send SIG{name} to the gateway; is the program `kill` installed?")),
    }
}

/// Returns a loopback address with a port that is currently unused.
pub(crate) fn unused_address() -> Result<SocketAddr, String> {
    let socket = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    socket.local_addr().map_err(|error| error.to_string())
}
