//! A gateway as a process of its own.

use std::process::{Child, Command, Stdio};

use super::*;

/// The gateway as a process.
pub struct Gateway {
    pub conf: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// How many seconds its clock is ahead from its next start on.
    pub ahead: i64,
    /// Where its next start writes, if not to nowhere and to its log file.
    pub stdio: Option<(Stdio, Stdio)>,
    process: Option<Child>,
}

impl Gateway {
    /// One that is yet to be started.
    pub(super) fn new(conf: PathBuf, listen: SocketAddr, admin: SocketAddr) -> Self {
        Self { conf, listen, admin, ahead: 0, stdio: None, process: None }
    }

    /// Starts it and waits until it may take traffic.
    pub(super) async fn start(&mut self, log: &Path) {
        let url = format!("http://{}/readyz", self.admin);
        self.start_until(log, || async { send("GET", &url, &[], b"").await.is_ok_and(|answer| answer.status == 200) })
            .await;
    }

    pub(super) async fn start_until<F: Future<Output = bool>>(&mut self, log: &Path, is_ready: impl Fn() -> F) {
        let _turn = turn().await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        if self.ahead != 0 {
            command.env("TOLLGATE_CHAOS_CLOCK_AHEAD", self.ahead.to_string());
        }
        let (stdout, stderr) = self.stdio.take().unwrap_or_else(|| {
            (Stdio::null(), std::fs::File::options().create(true).append(true).open(log).unwrap().into())
        });
        let process = command.args(["run", "--conf"]).arg(&self.conf).stdout(stdout).stderr(stderr).spawn().unwrap();
        let process = self.process.insert(process);
        let until = Instant::now() + PATIENCE;
        loop {
            if is_ready().await {
                return;
            }
            let waits = process.try_wait().unwrap().is_none() && Instant::now() < until;
            assert!(waits, "the gateway did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The memory that the process has now, in KiB.
    pub fn memory(&self) -> u64 {
        self.told_by_the_system("VmRSS:").trim_end_matches(" kB").parse().unwrap()
    }

    /// Whether the process waits for this signal, by its number; another one ends it.
    pub fn hears(&self, signal: u32) -> bool {
        let caught = u64::from_str_radix(&self.told_by_the_system("SigCgt:"), 16).unwrap();
        caught & (1 << (signal - 1)) != 0
    }

    fn told_by_the_system(&self, what: &str) -> String {
        let id = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim().to_owned()
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> i32 {
        let mut process = self.process.take().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "the gateway did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Stops a channel's payments at a gateway for a while, or lets them go on.
pub async fn force(gateway: &Gateway, how: &str) {
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
