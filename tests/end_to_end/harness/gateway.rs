//! Gateway as a child process.

use std::process::Stdio;

use tollgate_harness::process::GatewayProcess;

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
    process: Option<GatewayProcess>,
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
        let program = Path::new(env!("CARGO_BIN_EXE_tollgate"));
        let mut process = GatewayProcess::at(program, self.conf.clone(), log.to_owned(), self.listen, self.admin);
        process.timeout = TEST_TIMEOUT;
        process.set_clock_offset(self.clock_ahead);
        if let Some((output, error)) = self.stdio.take() {
            process.set_stdio(output, error);
        }
        process.start_until(is_ready).await.unwrap();
        self.process = Some(process);
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

    /// Names of the process's threads, cut to 15 bytes each.
    #[cfg(feature = "kafka")]
    pub fn threads(&self) -> Vec<String> {
        let id = self.process.as_ref().unwrap().id().unwrap();
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
        // A thread may end meanwhile.
        let names = threads.flatten().flat_map(|thread| std::fs::read_to_string(thread.path().join("comm")));
        names.map(|name| name.trim().to_owned()).collect()
    }

    fn proc_status(&self, what: &str) -> String {
        let id = self.process.as_ref().unwrap().id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim().to_owned()
    }

    /// Kills the process without warning, like a power failure.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    pub fn signal(&self, name: &str) {
        self.process.as_ref().unwrap().signal(name).unwrap();
    }

    /// Waits until the process exits, and returns its exit code.
    pub async fn wait_exit(&mut self) -> i32 {
        self.process.take().unwrap().wait_exit().await.unwrap().code().unwrap_or(-1)
    }
}

/// Forces the breaker of the channel `main`: `open`, `closed` or `none`.
pub async fn force_breaker(gateway: &Gateway, how: &str) {
    let url = format!("http://{}/breakers?channel=main&force={how}", gateway.admin);
    assert_eq!(send("POST", &url, &[], b"").await.unwrap().status, 200);
}
