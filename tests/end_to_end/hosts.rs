//! Provider hosts: probes report failures before a payment, HTTP/2 never resends, a hung provider delays no other channel.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{SHOP, World, WorldOptions, enable_http2, payment_body, signed_request, until};

/// Replaces text in a channel's file.
fn edit(conf: &Path, channel: &str, from: &str, to: &str) {
    let file = conf.join("channels").join(format!("{channel}.toml"));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
}

/// Writes a certificate and key that the sandbox's CA did not issue.
fn write_foreign_certificate(conf: &Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["foreign.example.com".to_owned()]).unwrap();
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(conf.join(format!("channels/{name}_cert.pem")), certificate.pem()).unwrap();
    std::fs::write(conf.join(format!("channels/{name}_key.pem")), key.serialize_pem()).unwrap();
}

/// Moves the secret into a file: a channel with a non-loopback host may not have it in its TOML.
fn secret_in_a_file(conf: &Path) {
    let text = std::fs::read_to_string(conf.join("channels/main.toml")).unwrap();
    let (_, rest) = text.split_once("\"plain:").unwrap();
    let (secret, _) = rest.split_once('"').unwrap();
    std::fs::write(conf.join("channels/main/api_v3"), secret).unwrap();
    edit(conf, "main", &format!("\"plain:{secret}\""), "\"file:main/api_v3\"");
}

const OWN_CERTIFICATE: &str = "cert = \"main/apiclient_cert.pem\"\nkey = \"main/apiclient_key.pem\"";
const FOREIGN_CERTIFICATE: &str = "cert = \"foreign_cert.pem\"\nkey = \"foreign_key.pem\"";

fn with_foreign_certificate(conf: &Path, _: SocketAddr) {
    write_foreign_certificate(conf, "foreign");
    edit(conf, "main", OWN_CERTIFICATE, FOREIGN_CERTIFICATE);
}

pub async fn check(conf: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let Output { status, stdout, stderr } =
        command.args(["check", "--conf"]).arg(conf).args(arguments).output().await.unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), said)
}

/// Checks the probe result on the admin port, in the metric and in `check --probe`. Returns the gateway's log.
async fn assert_probe(world: &World, reached: i64, expected: &str) -> String {
    let said = world.until_probed().await;
    assert!(said.contains(expected), "{said}");
    let metrics = world.metrics().await;
    let gauge = metrics.lines().find(|line| line.starts_with("tollgate_channel_probe{channel=\"main\"")).unwrap();
    assert!(gauge.ends_with(&format!(" {reached}")), "{gauge}");
    let (code, said) = check(world.conf(), &["--probe"]).await;
    assert!(said.contains(expected), "{said}");
    assert_eq!(i64::from(code), 1 - reached, "{said}");
    let (code, said) = check(world.conf(), &[]).await;
    assert_eq!(code, 0, "check without --probe reports no error: {said}");
    world.log()
}

#[tokio::test]
async fn probe_reports_host_failure_before_a_payment() {
    let edit_first: fn(&Path, SocketAddr) = |conf, address| {
        with_foreign_certificate(conf, address);
        secret_in_a_file(conf);
    };
    let world = World::with(WorldOptions { edit: edit_first, ..WorldOptions::default() }).await;
    let log = assert_probe(&world, 0, "our client certificate was rejected").await;
    assert!(log.contains("payments on this channel would fail: our client certificate was rejected"), "{log}");
    assert_eq!(world.sandbox_control("GET", "/stats", Value::Null).await["requests"], 0, "a probe sends no request");

    let reload = async |from: &str, to: &str| {
        edit(world.conf(), "main", from, to);
        let answer = world.reload().await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    };
    reload(FOREIGN_CERTIFICATE, OWN_CERTIFICATE).await;
    assert_probe(&world, 1, ": ok: TLS 1.3, http/1.1, ").await;

    let address = world.sandbox.address();
    reload("ca = \"main/ca.pem\"", "ca = \"foreign_cert.pem\"").await;
    assert_probe(&world, 0, "the certificate of the host is not trusted").await;
    reload("ca = \"foreign_cert.pem\"", "ca = \"main/ca.pem\"").await;

    let closed = crate::harness::free_address();
    reload(&address.to_string(), &closed.to_string()).await;
    let log = assert_probe(&world, 0, &format!("{closed}: connection refused")).await;
    assert!(log.contains("payments on this channel would fail: connection refused"), "{log}");

    // A DNS failure is reported, and the generation is activated nevertheless.
    reload(&closed.to_string(), "nowhere.invalid:8443").await;
    let log = assert_probe(&world, 0, "nowhere.invalid:8443: name not found").await;
    assert!(log.contains("payments on this channel would fail: name not found"), "{log}");
    reload("nowhere.invalid:8443", &address.to_string()).await;
    assert_probe(&world, 1, ": ok: TLS 1.3, http/1.1, ").await;
    let metrics = world.metrics().await;
    assert_eq!(
        metrics.matches("tollgate_channel_probe{").count(),
        1,
        "the metric of a removed host is gone: {metrics}"
    );
    let known = format!("tollgate_upstream_addresses{{channel=\"main\",host=\"{address}\",state=\"known\"}} 1");
    assert!(metrics.contains(&known), "{metrics}");
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
}

#[tokio::test]
async fn probe_reports_rejected_client_certificate_over_http2() {
    let edit: fn(&Path, SocketAddr) = |conf, address| {
        with_foreign_certificate(conf, address);
        enable_http2(conf, "main");
    };
    let world = World::with(WorldOptions { edit, ..WorldOptions::default() }).await;
    assert_probe(&world, 0, "our client certificate was rejected").await;
}

#[tokio::test]
async fn http2_refused_stream_is_retried_and_unclear_one_never_resent() {
    let edit: fn(&Path, SocketAddr) = |conf, _| enable_http2(conf, "main");
    let world = World::with(WorldOptions { edit, ..WorldOptions::default() }).await;
    assert!(world.until_probed().await.contains(", h2, "));
    world.inject_fault(json!({"operation": "create", "fault": "refuse_stream", "times": 2})).await;
    let answer = world.create("o-1", "k-1").await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["create"]), (&json!(1), &json!(1)), "{seen}");
    assert_eq!(world.sandbox_control("GET", "/faults", Value::Null).await, json!([]), "both streams were refused");

    world.inject_fault(json!({"operation": "create", "fault": "refuse_stream", "times": 3})).await;
    let answer = world.create("o-2", "k-2").await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("provider_unreachable")), "{:?}", answer.body);
    let again = world.create("o-2", "k-2").await;
    assert_eq!((again.status, again.is_replayed()), (201, false), "{:?}", again.body);

    for fault in ["cut_unread", "cut_before", "cut_after"] {
        let order = fault.replace('_', "-");
        world.inject_fault(json!({"operation": "create", "fault": fault})).await;
        let answer = world.create(&order, &order).await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{fault}: {:?}", answer.body);
        until(&format!("{fault} is resolved"), || async {
            let payment = world.payment(&order).await;
            (payment["status"] != "unknown").then_some(()).ok_or(payment)
        })
        .await;
        world.create(&order, &order).await;
        let seen = world.provider_order(&order).await;
        match fault {
            "cut_after" => world.assert_created_once(&order).await,
            "cut_before" => assert_eq!(seen["arrivals"]["create"], 1, "{seen}"),
            _ => assert_eq!(seen["arrivals"]["create"], Value::Null, "{seen}"),
        }
    }
}

/// Number of payments that hang, and of payments on another channel meanwhile.
const HUNG_PAYMENTS: usize = 64;
const OTHER_PAYMENTS: usize = 200;

#[tokio::test]
async fn hung_provider_does_not_delay_other_channels() {
    let patient: fn(&Path, SocketAddr) = |conf, _| {
        edit(conf, "hung", "read = \"60s\"", "read = \"120s\"");
        edit(conf, "hung", "total = \"100s\"", "total = \"120s\"");
    };
    let world =
        World::with(WorldOptions { channels: vec!["main", "hung"], edit: patient, ..WorldOptions::default() }).await;
    let alone = pay(&world, "alone").await;

    let account = std::fs::read_to_string(world.conf().join("channels/hung.toml")).unwrap();
    let mchid = account.lines().find_map(|line| line.strip_prefix("mchid = ")).unwrap().trim_matches('"').to_owned();
    let hang = json!({"operation": "create", "fault": "delay_before", "delay_ms": 120_000, "mchid": mchid, "times": HUNG_PAYMENTS});
    world.inject_fault(hang).await;
    let listen = world.gateway.listen;
    let hung: Vec<_> = (0..HUNG_PAYMENTS)
        .map(|number| {
            tokio::spawn(async move {
                let mut order = payment_body(&format!("hung-{number}"));
                order["channel"] = "hung".into();
                signed_request(listen, &SHOP, "POST", "/v1/payments", Some(&format!("hung-{number}")), &order).await
            })
        })
        .collect();
    until("all payments of the channel hang", || async {
        let faults = world.sandbox_control("GET", "/faults", Value::Null).await;
        (faults == json!([])).then_some(()).ok_or(faults)
    })
    .await;

    let beside = pay(&world, "beside").await;
    assert!(hung.iter().all(|payment| !payment.is_finished()), "the hung payments stayed open");
    println!("{OTHER_PAYMENTS} payments, p50 and p99: alone {alone:?}, beside {HUNG_PAYMENTS} that hang {beside:?}");
    hung.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Creates payments from eight clients; all must succeed. Returns the median and the 99th percentile.
async fn pay(world: &World, name: &str) -> (Duration, Duration) {
    let listen = world.gateway.listen;
    let clients = (0..8).map(|client| {
        let name = format!("{name}-{client}");
        tokio::spawn(async move {
            let mut took = Vec::new();
            for number in 0..OTHER_PAYMENTS / 8 {
                let (order, started) = (format!("{name}-{number}"), Instant::now());
                let answer =
                    signed_request(listen, &SHOP, "POST", "/v1/payments", Some(&order), &payment_body(&order)).await;
                assert_eq!(answer.status, 201, "{order}: {:?}", answer.body);
                took.push(started.elapsed());
            }
            took
        })
    });
    let mut took: Vec<_> = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        took.extend(client.await.unwrap());
    }
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}
