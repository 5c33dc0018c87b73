//! Log output: a slow, blocked or closed reader neither delays nor fails payments.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{SHOP, World, WorldOptions, send, try_signed_request, until};
use crate::status_cache::reading;

const DROPPED: &str = "tollgate_log_lines_dropped_total";

/// Starts a world whose gateway logs into a pipe.
async fn with_pipe() -> (World, PipeReader) {
    let server = "[telemetry]\nlog_buffer = \"64KiB\"";
    let mut world = World::with(WorldOptions { server, ..WorldOptions::default() }).await;
    world.gateway.kill();
    let (reader, writer) = pipe().unwrap();
    world.gateway.stdio = Some((Stdio::null(), writer.into()));
    world.start().await;
    (world, reader)
}

/// Sends requests until log lines are dropped.
async fn fill(world: &World) {
    let before = reading(&world.gateway, DROPPED).await;
    for _ in 0..100 {
        for number in 0..50 {
            let target = format!("/v1/payments/none-{number}");
            try_signed_request(world.gateway.listen, &SHOP, "GET", &target, None, b"").await.unwrap();
        }
        if reading(&world.gateway, DROPPED).await > before {
            return;
        }
    }
    panic!("no line was dropped");
}

/// Reads lines, each of which must be JSON, until one contains `wanted`.
fn read_until(reader: PipeReader, wanted: &'static str) -> (BufReader<PipeReader>, Value) {
    let mut lines = BufReader::new(reader);
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the log ended");
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if line.contains(wanted) {
            return (lines, value);
        }
    }
}

#[tokio::test]
async fn blocked_log_reader_delays_neither_payments_nor_shutdown() {
    let (mut world, reader) = with_pipe().await;
    fill(&world).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    assert_eq!(world.admin_request("GET", "/readyz", &[]).await.status, 200);

    let read = tokio::task::spawn_blocking(move || read_until(reader, "log lines were dropped"));
    let asking = async {
        loop {
            world.payment("o-1").await;
        }
    };
    let (_stuck, warning) = tokio::select! {
        read = read => read.unwrap(),
        () = asking => unreachable!(),
    };
    assert_eq!(
        (&warning["level"], warning["fields"]["dropped"].as_u64() > Some(0)),
        (&json!("WARN"), true),
        "{warning}"
    );

    fill(&world).await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
}

#[tokio::test]
async fn webhook_retries_stay_on_schedule_with_closed_output() {
    let mut world = World::new().await;
    world.gateway.kill();
    let [(_, out), (_, err)] = [pipe().unwrap(), pipe().unwrap()];
    world.gateway.stdio = Some((out.into(), err.into()));
    world.start().await;
    world.receiver.answer_with(500);
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let first = Instant::now();
    until("the attempt is recorded", || async {
        let timeline = world.explain_json("o-1").await;
        if timeline.contains("it answered 500") { Ok(()) } else { Err(timeline) }
    })
    .await;
    // The second attempt is due after 4.5 s at the earliest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let attempts = world.receiver.events_of("o-1").len();
    assert!(attempts == 1 || first.elapsed() > Duration::from_secs(4), "{attempts} attempts");
    assert!(reading(&world.gateway, DROPPED).await > 0.0);
    assert_eq!(world.admin_request("GET", "/readyz", &[]).await.status, 200);
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
}

#[tokio::test]
async fn log_lines_are_json_without_source_paths() {
    let server = "[telemetry]\nlog = \"info,pingora=debug\"";
    let world = World::with(WorldOptions { server, ..WorldOptions::default() }).await;
    let mut stranger = TcpStream::connect(world.gateway.listen).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nbroken header\r\n\r\n").await.unwrap();
    world.create("o-1", "k-1").await;
    let log = until("the log contains lines of the library named in the filter", || async {
        let log = world.log();
        let is_there = log.contains("Fail to proxy") && log.contains("create_payment");
        if is_there { Ok(log) } else { Err(log) }
    })
    .await;
    let log = &log[..=log.rfind('\n').unwrap()];
    for line in log.lines() {
        assert!(!line.contains(".rs\"") && !line.contains("/registry/"), "{line}");
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let is_named = ["tollgate", "access", "breaker", "pingora"].iter().any(|name| {
            let target = line["target"].as_str().unwrap();
            target.starts_with(name)
        });
        assert!(is_named || ["WARN", "ERROR"].map(Value::from).contains(&line["level"]), "{line}");
    }
}

// The commands block one thread; the sandbox needs another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_with_closed_output_exits_without_panic() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    for command in [
        &["--help"][..],
        &["schema", "channel"],
        &["check"],
        &["check", "--probe"],
        &["diff"],
        &["explain", "o-1"],
        &["route", "--merchant", "shop", "--method", "wechat.native", "--amount", "1"],
        &["keygen", "merchant"],
        &["sign", "--key", "k", "--secret", "plain:0123456789abcdef", "GET", "http://127.0.0.1/"],
        &["rollback", "--to", "99"],
        &["nonsense"],
    ] {
        let run = |out: Stdio, err: Stdio| {
            let mut tollgate = Command::new(env!("CARGO_BIN_EXE_tollgate"));
            let process = tollgate.arg("--conf").arg(world.conf()).args(command).stdout(out).stderr(err).spawn();
            process.unwrap().wait_with_output().unwrap()
        };
        let (gone, with_reader) = (|| Stdio::from(pipe().unwrap().1), run(Stdio::null(), Stdio::null()));
        let quiet = run(gone(), Stdio::piped());
        let said = String::from_utf8_lossy(&quiet.stderr);
        assert!(!said.contains("panicked"), "{command:?}: {said}");
        assert_eq!(quiet.status.code(), with_reader.status.code(), "{command:?}: {said}");
        assert_eq!(run(gone(), gone()).status.code(), with_reader.status.code(), "{command:?}");
    }
    let url = format!("http://{}/healthz", world.gateway.admin);
    assert_eq!(send("GET", &url, &[], b"").await.unwrap().status, 200);
}
