//! Whole payments per second: signed requests in, over the sandbox, settled; on the embedded ledger, and on PostgreSQL and Redis
//! on the same machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::ROUNDS;
use crate::drive::{self, Measured};
use crate::row;
use crate::server::Server;
use crate::stage::{Process, Stage, cpu_time, free_address, until_open};

pub async fn measure(payments: usize) {
    let (server, redis) = ([Server::start(&["--synced"]), Server::start(&["--synced"])], Redis::start().await);
    let shared = |server: &Server| redis.stores(&server.url);
    let stages = [
        ("embedded, one gateway", Stage::start().await),
        ("PostgreSQL, one gateway", Stage::with(1, &shared(&server[0]), &["main"]).await),
        ("PostgreSQL, three gateways", Stage::with(3, &shared(&server[1]), &["main"]).await),
    ];
    let mut runs = Vec::new();
    for (name, stage) in &stages {
        runs.push((*name, stage, stage.start_gateways().await, Vec::new()));
    }
    // Interleaved after a warm-up round; the median rate is printed.
    for round in 0..=ROUNDS {
        for (_, stage, processes, measured) in &mut runs {
            let requests = stage.merchant_requests(round * payments, payments / ROUNDS);
            let cpu = || processes.iter().map(|process| cpu_time(process.id().unwrap())).sum::<Duration>();
            let run = drive::measure_over(&stage.gateways, requests, 201, cpu).await;
            if round > 0 {
                measured.push(run);
            }
        }
    }
    println!("\nwhole payments ({payments} signed wechat.native creates over 32 connections; all on this machine)");
    for (name, _, _, mut measured) in runs {
        measured.sort_by(|one: &Measured, other| one.rate.total_cmp(&other.rate));
        let run = measured.swap_remove(ROUNDS / 2);
        row(name, run.cpu_each, Some(&run));
    }
}

/// Redis server without persistence.
pub struct Redis {
    url: String,
    _process: Process,
}

impl Redis {
    pub async fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/from-debian");
        let found = Command::new(script).args(["redis-server", "redis-server"]).output().unwrap();
        let program = String::from_utf8(found.stdout).unwrap();
        let address = free_address();
        let mut command = Command::new(program.trim());
        command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir", env!("CARGO_TARGET_TMPDIR")]);
        let process = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until_open(address).await;
        Self { url: format!("redis://{address}"), _process: process }
    }

    /// `[ledger]` and `[cache]` of gateways that share this Redis and the PostgreSQL at this URL.
    pub fn stores(&self, postgres: &str) -> String {
        format!(
            "[ledger]\nkind = \"postgres\"\nurl = \"plain:{postgres}\"\n[cache]\nkind = \"redis\"\nurl = \"plain:{}\"\n",
            self.url
        )
    }
}
