//! PostgreSQL process for tests.
#![allow(dead_code, reason = "not everyone stops it")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// PostgreSQL server that stops when dropped, at the latest with the test process.
pub(crate) struct Server {
    pub(crate) url: String,
    process: Child,
    line: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Server {
    /// Starts an empty server with these script arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        // Several crates of the workspace include this file.
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|it| it.join("tests/servers/postgres"));
        let script = scripts.into_iter().find(|script| script.is_file()).unwrap();
        let mut process =
            Command::new(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let url = said(&mut output);
        assert!(url.starts_with("postgres://"), "no PostgreSQL (a missing one is taken from Debian): {url}");
        Self { url, process, line: Mutex::new(Some((input, output))) }
    }

    /// Crashes the server and waits until it is down.
    pub(crate) fn crash(&self) {
        self.command("stop");
    }

    /// Shuts the server down cleanly: a standby has received every commit then.
    pub(crate) fn shut(&self) {
        self.command("shut");
    }

    /// Restarts the server after a crash.
    pub(crate) fn revive(&self) {
        self.command("start");
    }

    /// Promotes a standby to accept writes.
    pub(crate) fn promote(&self) {
        self.command("promote");
    }

    fn command(&self, command: &str) {
        let mut line = self.line.lock().unwrap();
        let (input, output) = line.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        assert_eq!(said(output), "done", "{command}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.line.lock().unwrap().take();
        let _ = self.process.wait();
    }
}

fn said(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}
