//! Conformance tests with the providers' own SDKs, or the most used ones: they verify what the gateway and the sandbox send and
//! produce messages that the gateway must accept. `tests/sdk_conformance/install` fetches them from npm and PyPI.

mod alipay;
mod schema;
mod unionpay;
mod wechat_v2;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{World, send};

/// Returns the directory of the SDKs and of the browser driver, which the first call installs.
pub fn installed() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk_conformance");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk_conformance/install");
        let output = Command::new(script).arg(&directory).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the SDKs could not be installed (needs npm and PyPI): {said}");
        directory
    })
}

/// Runs a command of an SDK script with a JSON input: `.mjs` in Node, `.py` in Python.
pub async fn run_sdk(script: &'static str, command: &'static str, question: Value) -> Value {
    let work = move || {
        let directory = installed();
        let authority = Path::new(question["folder"].as_str().unwrap_or_default()).join("ca.pem");
        let program =
            if script.ends_with(".mjs") { PathBuf::from("node") } else { directory.join("python/bin/python") };
        let mut process = Command::new(program);
        process
            .arg(directory.join(script))
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Some SDKs have no setting for a private CA or for the time zone.
        process.env("NODE_EXTRA_CA_CERTS", &authority).env("SSL_CERT_FILE", &authority).env("TZ", "Asia/Shanghai");
        let mut process = process.spawn().unwrap();
        process.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script} {command}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{script} {command} gave no JSON: {said}"))
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Returns the part at `pointer` of each golden file that has it, with the file's name. Golden files are byte-exact messages of the
/// gateway.
fn golden_parts(provider: &str, pointer: &str) -> Vec<(String, Value)> {
    let folder = golden(provider);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|kind| kind != "json") || name == "vectors" {
            continue;
        }
        let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if let Some(part) = file.pointer_mut(pointer).map(Value::take).filter(|part| !part.is_null()) {
            found.push((name, part));
        }
    }
    assert!(!found.is_empty(), "no golden file in {} has {pointer}", folder.display());
    found
}

/// Asserts that every verdict equals `verdict`.
fn all_are(verdict: bool, verdicts: &Value, names: &[String]) {
    let verdicts = verdicts.as_array().unwrap();
    assert_eq!(verdicts.len(), names.len());
    for (name, given) in names.iter().zip(verdicts) {
        assert_eq!(*given, json!(verdict), "{name}");
    }
}

fn golden(provider: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(provider)
}

fn golden_key(provider: &str, name: &str) -> String {
    std::fs::read_to_string(golden(provider).join("keys").join(name)).unwrap()
}

/// Returns the sandbox's record of the channel's account.
fn account(world: &World) -> (PathBuf, toml::Table) {
    let folder = world.conf().join("channels/main");
    let table = std::fs::read_to_string(folder.join("sandbox.toml")).unwrap().parse().unwrap();
    (folder, table)
}

fn wechat_client(world: &World, number: &str) -> Value {
    let (folder, account) = account(world);
    json!({
        "url": format!("https://{}", world.sandbox.address()),
        "folder": folder,
        "number": number,
        "account": {
            "mchid": account["mchid"], "appid": account["appid"], "api_v3": account["api_v3"],
            "serial": account["merchant"]["serial"], "public_key_id": account["public_key"]["id"],
        },
    })
}

#[tokio::test]
async fn wechat_v3_sdk_verifies_requests() {
    let (names, requests): (Vec<_>, Vec<_>) = golden_parts("wechat-v3", "/request").into_iter().unzip();
    let certificate = golden_key("wechat-v3", "wxjava_merchant_certificate.pem");
    let verdicts = run_sdk("wechat.mjs", "requests", json!({"certificate": certificate, "requests": requests})).await;
    all_are(true, &verdicts, &names);
    let mut altered = requests;
    for request in &mut altered {
        request["uri"] = format!("{}x", request["uri"].as_str().unwrap()).into();
    }
    let verdicts = run_sdk("wechat.mjs", "requests", json!({"certificate": certificate, "requests": altered})).await;
    all_are(false, &verdicts, &names);
}

#[tokio::test]
async fn wechat_v2_signatures_match_sdk() {
    let (mut names, mut messages) = (Vec::new(), Vec::new());
    for pointer in ["/request/body", "/answer/body", "/notification/body"] {
        // A refund's notification is encrypted, not signed.
        let signed = golden_parts("wechat-v2", pointer).into_iter().filter(|(name, _)| name != "notification-refund");
        let (more_names, more): (Vec<_>, Vec<_>) = signed.unzip();
        names.extend(more_names);
        messages.extend(more);
    }
    let (device_names, parameters): (Vec<_>, Vec<_>) =
        golden_parts("wechat-v2", "/outcome/action/params").into_iter().unzip();
    names.extend(device_names);
    let vectors: Value =
        serde_json::from_slice(&std::fs::read(golden("wechat-v2").join("vectors.json")).unwrap()).unwrap();
    let question = |key: &Value| json!({"key": key, "messages": messages, "parameters": parameters});
    all_are(true, &run_sdk("wechat.mjs", "v2", question(&vectors["doc_vector"]["key"])).await, &names);
    all_are(false, &run_sdk("wechat.mjs", "v2", question(&json!("another key of thirty-two letters"))).await, &names);
}

/// A form's fields as a JSON object.
fn fields(form: &str) -> Value {
    let unescape = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8().unwrap().into_owned()
    };
    let pairs = form.split('&').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (unescape(name), Value::from(unescape(value)))).collect()
}

#[tokio::test]
async fn wechat_v3_sdks_work_against_sandbox_and_wrong_key_is_rejected() {
    let world = World::new().await;
    let seen = run_sdk("wechat.mjs", "client", wechat_client(&world, "process-1")).await;
    assert!(seen["code_url"].as_str().unwrap().starts_with("weixin://"), "{seen}");
    assert_eq!(
        (&seen["state"], &seen["closed"], &seen["afterwards"]),
        (&json!("NOTPAY"), &json!(204), &json!("CLOSED"))
    );
    assert_eq!(seen["forged"], 401, "{seen}");

    let seen = run_sdk("wechat.py", "client", wechat_client(&world, "process-2")).await;
    assert!(seen["code_url"].as_str().unwrap().starts_with("weixin://"), "{seen}");
    assert_eq!((&seen["created"], &seen["state"], &seen["closed"]), (&json!(200), &json!("NOTPAY"), &json!(204)));
}

#[tokio::test]
async fn wechat_v3_sdk_notification_is_accepted_and_altered_one_rejected() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    let (folder, account) = account(&world);
    let resource = json!({
        "mchid": account["mchid"], "appid": account["appid"], "out_trade_no": World::provider_order_no("o-1"),
        "transaction_id": "4200000000000000000000000001", "trade_type": "NATIVE", "trade_state": "SUCCESS",
        "success_time": "2026-01-02T03:04:05+08:00", "payer": {"openid": "o-openid"},
        "amount": {"total": 1000, "payer_total": 1000, "currency": "CNY", "payer_currency": "CNY"},
    });
    let question = json!({
        "platformKey": std::fs::read_to_string(folder.join("platform_key.pem")).unwrap(),
        "keyId": account["public_key"]["id"], "apiV3": account["api_v3"], "resource": resource,
        "type": "TRANSACTION.SUCCESS",
    });
    let made = run_sdk("wechat.mjs", "notification", question).await;
    let altered = made["body"].as_str().unwrap().replace("TRANSACTION.SUCCESS", "TRANSACTION.SUCCESs");
    assert_eq!(deliver(&world, &made, &altered).await, 400);
    assert_eq!(world.payment("o-1").await["status"], "pending");
    assert_eq!(deliver(&world, &made, made["body"].as_str().unwrap()).await, 204);
    let payment = world.until_status("o-1", "succeeded").await;
    assert_eq!(payment["provider_payment_id"], "4200000000000000000000000001");
}

/// Posts a notification with this body to the gateway and returns the status.
async fn deliver(world: &World, made: &Value, body: &str) -> u16 {
    let headers: Vec<(&'static str, String)> = made["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone().leak() as &'static str, value.as_str().unwrap().to_owned()))
        .collect();
    let url = format!("http://{}/notify/main", world.gateway.listen);
    send("POST", &url, &headers, body.as_bytes()).await.unwrap().status
}
