//! The gateway as a child process: start, signals, exit.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::http_client::send;

/// Maximum duration of one step between processes on the same machine, such as a start.
pub const LOCAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Environment variable with the seconds by which a gateway's clock is ahead. Only a gateway with the feature `tools` reads it.
const CLOCK_AHEAD_VARIABLE: &str = "TOLLGATE_CHAOS_CLOCK_AHEAD";

/// Gateway that runs as a child process. Dropping the handle kills the process.
#[derive(Debug)]
pub struct GatewayProcess {
    /// Address of the API, as in its configuration.
    pub address: SocketAddr,
    /// Address of the admin port, as in its configuration.
    pub admin: SocketAddr,
    /// Configuration directory.
    pub conf: PathBuf,
    /// Maximum duration of a start or an exit.
    pub timeout: Duration,
    program: PathBuf,
    log_file: PathBuf,
    process: Mutex<Option<Child>>,
    /// Clock offset in seconds, applied at the next start.
    clock_offset: AtomicI64,
    /// Standard output and error of the next start.
    stdio: Mutex<Option<(Stdio, Stdio)>>,
}

impl GatewayProcess {
    /// Returns a gateway on unused addresses that reads `DIRECTORY/conf` and logs to `DIRECTORY/gateway.log`. The process is not
    /// started.
    pub fn new(program: &Path, directory: &Path) -> Result<Self, String> {
        let conf = directory.join("conf");
        Ok(Self::at(program, conf, directory.join("gateway.log"), unused_address()?, unused_address()?))
    }

    /// Returns a gateway with this configuration directory, log file, and addresses. The process is not started.
    pub fn at(program: &Path, conf: PathBuf, log_file: PathBuf, address: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            address,
            admin,
            conf,
            timeout: LOCAL_TIMEOUT,
            program: program.to_owned(),
            log_file,
            process: Mutex::new(None),
            clock_offset: AtomicI64::new(0),
            stdio: Mutex::new(None),
        }
    }

    /// Sets the clock offset, in seconds, of the next starts. A negative offset puts the clock back.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.clock_offset.store(seconds, Ordering::Relaxed);
    }

    /// Sets standard output and error of the next start. The default is no output, and the log file.
    pub fn set_stdio(&self, output: Stdio, error: Stdio) {
        *self.stdio.lock() = Some((output, error));
    }

    /// File to which the process logs.
    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// Returns the process id; `None` if the process is not running.
    pub fn id(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Child::id)
    }

    /// Starts the process and waits until `GET /readyz` on the admin port answers 200.
    pub async fn start(&self) -> Result<(), String> {
        let url = format!("http://{}/readyz", self.admin);
        self.start_until(|| async { send("GET", &url, &[], b"").await.is_ok_and(|response| response.status == 200) })
            .await
    }

    /// Starts the process and waits until `is_ready` returns true. The error contains the end of the log.
    pub async fn start_until<F: Future<Output = bool>>(&self, is_ready: impl Fn() -> F) -> Result<(), String> {
        let child = self.spawn().map_err(|error| format!("cannot start the gateway: {error}"))?;
        *self.process.lock() = Some(child);
        let deadline = Instant::now() + self.timeout;
        while !is_ready().await {
            let has_exited = self.process.lock().as_mut().is_none_or(|child| child.try_wait().ok().flatten().is_some());
            if has_exited || Instant::now() > deadline {
                let log = std::fs::read_to_string(&self.log_file).unwrap_or_default();
                let last_lines: Vec<&str> = log.lines().rev().take(20).collect();
                return Err(format!(
                    "the gateway did not become ready; the end of its log:\n{}",
                    last_lines.into_iter().rev().collect::<Vec<_>>().join("\n")
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let (output, error) = match self.stdio.lock().take() {
            Some(stdio) => stdio,
            None => (Stdio::null(), std::fs::File::options().create(true).append(true).open(&self.log_file)?.into()),
        };
        let mut command = Command::new(&self.program);
        command.args(["run", "--conf"]).arg(&self.conf);
        match self.clock_offset.load(Ordering::Relaxed) {
            0 => {}
            offset => drop(command.env(CLOCK_AHEAD_VARIABLE, offset.to_string())),
        }
        command.stdin(Stdio::null()).stdout(output).stderr(error).spawn()
    }

    /// Kills the process with SIGKILL: no shutdown code runs.
    pub fn kill(&self) {
        if let Some(mut child) = self.process.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM and waits until the process has exited. Kills a process that does not exit in time and returns
    /// an error.
    pub async fn terminate(&self) -> Result<(), String> {
        if self.id().is_none() {
            return Ok(());
        }
        self.signal("TERM")?;
        self.wait_exit().await.map(drop)
    }

    /// Waits until the process exits by itself. Kills a process that does not exit within twice the timeout and returns an
    /// error.
    pub async fn wait_exit(&self) -> Result<ExitStatus, String> {
        let Some(mut child) = self.process.lock().take() else { return Err("the gateway does not run".to_owned()) };
        let deadline = Instant::now() + 2 * self.timeout;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(Some(status)) => return Ok(status),
                Err(error) => return Err(format!("cannot wait for the gateway: {error}")),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err("the gateway did not exit and was killed".to_owned())
    }

    /// Sends a signal, given by name without `SIG`. Does nothing if the process is not running.
    pub fn signal(&self, name: &str) -> Result<(), String> {
        let Some(id) = self.id() else { return Ok(()) };
        match Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("cannot send SIG{name} to the gateway; is the program `kill` installed?")),
        }
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a loopback address with a port that is currently unused.
pub fn unused_address() -> Result<SocketAddr, String> {
    let socket = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    socket.local_addr().map_err(|error| error.to_string())
}
