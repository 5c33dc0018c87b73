//! Keys that verify providers' responses: without one, nothing is sent.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256,
    date_time_ymd,
};
use serde_json::{Value, json};
use tollgate_sandbox::keygen::SandboxProvider;

use crate::harness::{Answer, World, WorldOptions, payment_body, signed_request_async, until};
use crate::reload::save;

/// Removes the line with this prefix from a file and returns it.
fn remove_line(file: &Path, start: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    save(file, &text.replace(&format!("{line}\n"), ""));
    line
}

fn insert_line_after(file: &Path, after: &str, line: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    save(file, &text.replace(after, &format!("{after}{line}\n")));
}

async fn reload(world: &World) {
    assert_eq!(world.reload().await.status, 200);
}

/// Asserts that nothing was sent, and returns the problem.
fn assert_not_sent(answer: &Answer) -> Value {
    let problem = answer.json();
    assert_eq!((answer.status, &problem["code"]), (503, &json!("channel_credentials_rejected")), "{problem}");
    assert_eq!((&problem["retryable"], &problem["money_state"]), (&json!("same_key"), &json!("not_sent")), "{problem}");
    problem
}

/// A WeChat Pay merchant opened since autumn 2024 has no platform certificates; here its public key is not configured.
#[tokio::test]
async fn payment_without_verification_key_is_not_sent_and_same_key_retries() {
    let edit = |conf: &Path, _| {
        remove_line(&conf.join("channels/main.toml"), "verify = ");
        let account = conf.join("channels/main/sandbox.toml");
        let text = std::fs::read_to_string(&account).unwrap();
        let (head, rest) = text.split_once("[platform_certificate]").unwrap();
        std::fs::write(&account, format!("{head}{}", &rest[rest.find("[tls]").unwrap()..])).unwrap();
    };
    let world = World::with(WorldOptions { edit, channels: vec!["main", "spare"], ..WorldOptions::default() }).await;
    for _ in 0..3 {
        let problem = assert_not_sent(&world.create("o-1", "k-1").await);
        assert_eq!(problem["provider"]["code"], "RESOURCE_NOT_EXISTS", "{problem}");
        assert!(problem["provider"]["message"].as_str().unwrap().contains("微信支付公钥"), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("PUB_KEY_ID_…") && detail.contains("`keys.verify`"), "{detail}");
    }
    let job = signed_request_async(world.gateway.listen, "/v1/payments", "k-2", &payment_body("o-2")).await;
    assert_eq!(job.status, 202, "{:?}", job.body);
    until("the job is requeued", || async {
        let timeline = world.explain_json("o-2").await;
        timeline.contains("\"what\":\"requeued\"").then_some(()).ok_or(timeline)
    })
    .await;
    assert!(
        world.provider_order("o-1").await["arrivals"].is_null()
            && world.provider_order("o-2").await["arrivals"].is_null()
    );

    let metrics = world.metrics().await;
    assert!(metrics.contains("tollgate_channel_usable_keys{channel=\"main\"} 0"), "{metrics}");
    assert!(metrics.contains("tollgate_channel_usable_keys{channel=\"spare\"} 1"), "{metrics}");
    let breakers = String::from_utf8(world.admin_request("GET", "/breakers", &[]).await.body.to_vec()).unwrap();
    assert!(breakers.contains("main: nothing is sent") && breakers.contains("PUB_KEY_ID_…"), "{breakers}");
    let log = world.log();
    let errors =
        log.lines().filter(|line| line.contains("\"level\":\"ERROR\"") && line.contains("RESOURCE_NOT_EXISTS"));
    let errors: Vec<&str> = errors.collect();
    assert!(errors.len() == 1 && errors[0].contains("PUB_KEY_ID_…"), "one error line for the cause: {errors:#?}");
    let (code, said) = crate::hosts::check(world.conf(), &["--probe"]).await;
    assert!(code == 1 && said.contains("RESOURCE_NOT_EXISTS") && said.contains("PUB_KEY_ID_…"), "{said}");
    assert!(said.contains("channels/main.toml") && !said.contains("channels/spare.toml"), "{said}");

    // The fallback channel is used, as with an open breaker.
    let routes = world.conf().join("routes.toml");
    let before = std::fs::read_to_string(&routes).unwrap();
    save(&routes, "[[route]]\nto = [{ channel = \"main\" }]\nfallback = [\"spare\"]\n");
    reload(&world).await;
    let other = world.create("o-3", "k-3").await;
    assert_eq!((other.status, &other.json()["channel"]), (201, &json!("spare")), "{:?}", other.body);
    save(&routes, &before);

    let spare = std::fs::read_to_string(world.conf().join("channels/spare.toml")).unwrap();
    assert!(spare.contains("PUB_KEY_ID_"), "{spare}");
    let account = std::fs::read_to_string(world.conf().join("channels/main/sandbox.toml")).unwrap();
    let id = account.split('"').find(|word| word.starts_with("PUB_KEY_ID_")).unwrap();
    let verify = format!("verify = [{{ id = \"{id}\", file = \"main/pub_key.pem\" }}]");
    insert_line_after(&world.conf().join("channels/main.toml"), "[keys]\n", &verify);
    reload(&world).await;
    let made = world.create("o-1", "k-1").await;
    assert_eq!(made.status, 201, "the same key succeeds: {:?}", made.body);
    assert_eq!(world.provider_order("o-1").await["arrivals"]["create"], 1);
    world.receiver.until("o-2", "payment.pending").await;
}

#[tokio::test]
async fn payment_waits_for_first_key_fetch_and_wrong_apiv3_key_is_named() {
    let mut world = World::new().await;
    world.inject_fault(json!({"operation": "certificates", "fault": "delay", "delay_ms": 1000})).await;
    let file = world.conf().join("channels/main.toml");
    remove_line(&file, "verify = ");
    reload(&world).await;
    assert_eq!(world.create("o-1", "k-1").await.status, 201, "it waited: {}", world.log());

    let right = remove_line(&file, "api_v3 = ");
    insert_line_after(&file, "[keys]\n", "api_v3 = \"plain:0123456789abcdef0123456789abcdef\"");
    reload(&world).await;
    assert_eq!(world.create("o-2", "k-2").await.status, 201, "keys fetched before a reload stay in use");
    world.gateway.kill();
    world.start().await;
    let problem = assert_not_sent(&world.until_decided("o-3", "k-3").await);
    assert!(problem["detail"].as_str().unwrap().contains("`keys.api_v3`"), "{problem}");
    assert!(world.provider_order("o-3").await["arrivals"].is_null());

    remove_line(&file, "api_v3 = ");
    insert_line_after(&file, "[keys]\n", &right);
    reload(&world).await;
    assert_eq!(world.create("o-3", "k-3").await.status, 201);
}

/// Alipay renews its certificate: it signs responses alternately with the old and the new one, in both protocols.
#[tokio::test]
async fn alipay_responses_under_old_and_renewed_certificate_are_accepted() {
    for provider in [SandboxProvider::ALIPAY_CERTIFICATES, SandboxProvider::ALIPAY_V3] {
        let world = World::with(WorldOptions { provider, ..WorldOptions::default() }).await;
        let qr = |order: &str| {
            let mut body = payment_body(order);
            body["method"] = "alipay.qr".into();
            body
        };
        for (order, fault) in [("o-1", None), ("o-2", Some("next_key")), ("o-3", None), ("o-4", Some("next_key"))] {
            if let Some(fault) = fault {
                world.inject_fault(json!({"operation": "create", "fault": fault})).await;
            }
            let answer = world.signed_request("POST", "/v1/payments", Some(order), &qr(order)).await;
            assert_eq!(answer.status, 201, "{order}: {:?} {}", answer.body, world.log());
        }
        let log = world.log();
        let fetched = log.lines().filter(|line| line.contains("the provider's keys were fetched")).count();
        assert_eq!(fetched, 1, "once: {log}");
        let metrics = world.metrics().await;
        assert!(metrics.contains("tollgate_channel_usable_keys{channel=\"main\"} 2"), "{metrics}");
    }
}

/// Gives the channel an expired Alipay certificate under an additional root. A non-RSA root does not count in the root
/// certificate serial number.
fn with_expired_certificate(conf: &Path, _: std::net::SocketAddr) {
    let account = conf.join("channels/main");
    let named = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let (mut root, root_key) = (named("Another root"), KeyPair::generate().unwrap());
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = std::fs::read_to_string(account.join("alipay_private_key.pem")).unwrap();
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key, &PKCS_RSA_SHA256).unwrap();
    let mut ended = named("Sandbox of an earlier time");
    (ended.not_before, ended.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2022, 1, 1));
    let ended = ended.signed_by(&key, &Issuer::new(root, root_key)).unwrap().pem();
    std::fs::write(account.join("alipay_cert.pem"), ended).unwrap();
    let roots = std::fs::read_to_string(account.join("alipay_root_cert.pem")).unwrap();
    std::fs::write(account.join("alipay_root_cert.pem"), roots + &root_pem).unwrap();
}

/// Fetched certificates are not stored, so every start fetches again. A payment waits for that fetch: its own response
/// would name the current certificate, too, but only after the payment was sent.
#[tokio::test]
async fn alipay_certificate_is_fetched_before_the_first_payment_after_each_restart() {
    let options = WorldOptions {
        provider: SandboxProvider::ALIPAY_CERTIFICATES,
        edit: with_expired_certificate,
        ..WorldOptions::default()
    };
    let mut world = World::with(options).await;
    let create = async |world: &World, order: &str| {
        let mut body = payment_body(order);
        body["method"] = "alipay.qr".into();
        world.signed_request("POST", "/v1/payments", Some(order), &body).await
    };
    restart_with_downloads(&mut world, json!({"fault": "cut_before"})).await;
    assert_not_sent(&create(&world, "o-1").await);
    assert!(world.provider_order("o-1").await["arrivals"].is_null(), "nothing could be verified, so nothing is sent");
    for order in ["o-1", "o-2"] {
        restart_with_downloads(&mut world, json!({"fault": "next_key", "delay_ms": 1000})).await;
        let made = create(&world, order).await;
        assert_eq!(made.status, 201, "{order} waited: {:?} {}", made.body, world.log());
        assert_eq!(world.provider_order(order).await["arrivals"]["create"], 1, "{order}");
    }
}

/// Restarts the gateway. Alipay signs everything with its renewed certificate; its downloads have this fault.
async fn restart_with_downloads(world: &mut World, mut fault: Value) {
    (fault["operation"], fault["times"]) = ("certificates".into(), 1000.into());
    world.sandbox_control("DELETE", "/faults", Value::Null).await;
    world.inject_fault(fault).await;
    world.inject_fault(json!({"operation": "*", "fault": "next_key", "times": 1000})).await;
    world.gateway.kill();
    world.start().await;
}
