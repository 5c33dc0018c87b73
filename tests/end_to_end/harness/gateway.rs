//! Gateway as a child process.

use std::process::{Child, Command, Stdio};

use super::*;

/// Gateway process with its configuration and addresses.
pub struct Gateway {
    pub conf: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// Seconds by which the clock is ahead, from the next start on.
    pub clock_ahead: i64,
    /// Standard output and error of the next start; default: none and the log file.
    pub stdio: Option<(Stdio, Stdio)>,
    process: Option<Child>,
}

impl Gateway {
    /// A gateway that is not started yet.
    pub(super) fn new(conf: PathBuf, listen: SocketAddr, admin: SocketAddr) -> Self {
        Self { conf, listen, admin, clock_ahead: 0, stdio: None, process: None }
    }

    /// Starts the process and waits until it is ready.
    pub(super) async fn start(&mut self, log: &Path) {
        let url = format!("http://{}/readyz", self.admin);
        self.start_until(log, || async { send("GET", &url, &[], b"").await.is_ok_and(|answer| answer.status == 200) })
            .await;
    }

    pub(super) async fn start_until<F: Future<Output = bool>>(&mut self, log: &Path, is_ready: impl Fn() -> F) {
        let _permit = startup_permit().await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        if self.clock_ahead != 0 {
            command.env("TOLLGATE_CHAOS_CLOCK_AHEAD", self.clock_ahead.to_string());
        }
        let (stdout, stderr) = self.stdio.take().unwrap_or_else(|| {
            (Stdio::null(), std::fs::File::options().create(true).append(true).open(log).unwrap().into())
        });
        let process = command.args(["run", "--conf"]).arg(&self.conf).stdout(stdout).stderr(stderr).spawn().unwrap();
        let process = self.process.insert(process);
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            if is_ready().await {
                return;
            }
            let waits = process.try_wait().unwrap().is_none() && Instant::now() < until;
            assert!(waits, "the gateway did not become ready: {}", std::fs::read_to_string(log).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        self.proc_status("VmRSS:").trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns whether the process has a handler for this signal number. Without one the signal would kill it.
    pub fn handles_signal(&self, signal: u32) -> bool {
        let caught = u64::from_str_radix(&self.proc_status("SigCgt:"), 16).unwrap();
        caught & (1 << (signal - 1)) != 0
    }

    fn proc_status(&self, what: &str) -> String {
        let id = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim().to_owned()
    }

    /// Kills the process without warning, like a power failure.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits until the process exits, and returns its exit code.
    pub async fn wait_exit(&mut self) -> i32 {
        let mut process = self.process.take().unwrap();
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "the gateway did not exit");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Forces the breaker of the channel `main`: `open`, `closed` or `none`.
pub async fn force_breaker(gateway: &Gateway, how: &str) {
    let url = format!("http://{}/breakers?channel=main&force={how}", gateway.admin);
    assert_eq!(send("POST", &url, &[], b"").await.unwrap().status, 200);
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
