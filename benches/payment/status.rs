//! Cached status query through the whole gateway, compared with nginx that answers every request with the same bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tollgate_gateway::access::{Access, Head};

use crate::drive::{self, Load, Measured, Prepared};
use crate::stage::{Stage, cpu_time, free_address, signed_request, until_open};
use crate::{CONNECTIONS, ROUNDS, row};

const REQUESTS: usize = 20_000;
const TARGET: &str = "/v1/payments/o-1";

pub async fn measure() {
    let stage = Stage::start().await;
    let gateway = stage.start_gateway().await;
    drive::run(stage.gateway, vec![write("/v1/payments", &stage.merchant_requests(1, 1)[0].body)], 201).await;
    drive::run(stage.gateway, vec![write("/v1/payments/o-1/close", b"")], 200).await;
    let body = drive::one(stage.gateway, signed(1).remove(0)).await;
    assert!(body.contains("\"closed\""), "{body}");
    let nginx = Nginx::start(&body).await;
    drive::run(nginx.address, signed(REQUESTS / 4), 200).await;
    drive::run(stage.gateway, signed(REQUESTS / 4), 200).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let check = signature_check(&stage).await;
        let load = |to| Load { requests: signed(REQUESTS), expected: 200, to };
        let bare = drive::measure(load(nginx.address), || nginx.cpu_time()).await;
        let whole = drive::measure(load(stage.gateway), || cpu_time(gateway.id().unwrap())).await;
        rounds.push((whole.rate / bare.rate, check, bare, whole));
    }
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let ratios: Vec<String> = rounds.iter().map(|round| format!("{:.2}", round.0)).collect();
    let (ratio, check, bare, whole) = rounds.swap_remove(ROUNDS / 2);
    println!("\n{REQUESTS} signed status queries of a closed payment over {CONNECTIONS} connections");
    row("nginx `return 200`", bare.cpu_each, Some(&bare));
    row("gateway, from its cache", whole.cpu_each, Some(&whole));
    row("of that, the signature's check", check, None);
    println!("requests a second, gateway / nginx = {ratio:.2}   (rounds: {})", ratios.join(" "));
    let cpu = |measured: &Measured| measured.cpu_each.as_secs_f64();
    println!("CPU a request, gateway / nginx = {:.2}", cpu(&whole) / cpu(&bare));
}

/// Returns signed queries, each with its own nonce.
fn signed(count: usize) -> Vec<Prepared> {
    (0..count).map(|_| signed_request(Method::GET, TARGET, b"")).collect()
}

fn write(target: &str, body: &[u8]) -> Prepared {
    let mut prepared = signed_request(Method::POST, target, body);
    prepared.headers.push(("idempotency-key".to_owned(), target.replace('/', "-")));
    prepared
}

/// CPU of authentication: signature and nonce.
async fn signature_check(stage: &Stage) -> Duration {
    let snapshot = stage.snapshot();
    let access = Access::new(None);
    let header =
        |(name, value): (String, String)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(&value).unwrap());
    let headers: Vec<HeaderMap> =
        signed(REQUESTS).into_iter().map(|prepared| prepared.headers.into_iter().map(header).collect()).collect();
    let started = Instant::now();
    for headers in &headers {
        let head = Head { method: "GET", scheme: "http", authority: "localhost", path_and_query: TARGET, headers };
        let now = tollgate_harness::merchant::unix_now();
        let signed = access.authenticate(&snapshot, &head, b"", now).map_err(|denied| format!("{denied:?}")).unwrap();
        assert!(access.admit(&snapshot, &signed, now, || Ok(())).await.is_ok());
    }
    started.elapsed() / REQUESTS as u32
}

/// nginx in a directory of its own; installed from Debian if missing.
struct Nginx {
    address: SocketAddr,
    master: Child,
    _directory: tempfile::TempDir,
}

impl Nginx {
    async fn start(body: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/from-debian");
        let found = Command::new(script).args(["nginx-light", "nginx"]).output().unwrap();
        let program = String::from_utf8(found.stdout).unwrap();
        assert!(!program.trim().is_empty(), "no nginx: {}", String::from_utf8_lossy(&found.stderr));
        let directory = tempfile::tempdir().unwrap();
        let (path, address) = (directory.path().display(), free_address());
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
            .concat();
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let body = body.replace('\\', "\\\\").replace('\'', "\\'").replace('$', "");
        let config = format!(
            "daemon off;\nworker_processes {threads};\npid {path}/pid;\nerror_log {path}/error.log;\n\
             events {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\nkeepalive_requests 100000000;\n{paths}\
             server {{ listen {address}; default_type application/json; location / {{ return 200 '{body}'; }} }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program.trim());
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file).arg("-e").arg(directory.path().join("error.log"));
        let master = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until_open(address).await;
        Self { address, master, _directory: directory }
    }

    /// CPU time of the workers.
    fn cpu_time(&self) -> Duration {
        let id = self.master.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|child| cpu_time(child.parse().unwrap())).sum()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM to the master also ends the workers; SIGKILL would not.
        let _ = Command::new("kill").args(["-TERM", &self.master.id().to_string()]).status();
        let _ = self.master.wait();
    }
}
