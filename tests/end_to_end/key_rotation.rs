//! Keys and secrets are replaced under load; a bad key is rolled back automatically.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use serde_json::Value;
use tollgate_sandbox::keygen::{SandboxProvider, rsa_key_pair};

use crate::harness::{Merchant, OTHER, World, WorldOptions, payment_body, signed_request, until};
use crate::load::{Load, is_clear};
use crate::reload::{generation, save};

const WATCHED: &str = "[reload]\nauto_rollback = { window = \"60s\" }";

/// Gives the channel a breaker that opens soon, and its signing key in the file `sign.key`.
fn use_separate_signing_key(conf: &Path, wanted: &str, key: &str) {
    let path = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("request_volume_threshold = 20", "request_volume_threshold = 5");
    assert!(text.contains(wanted), "{text}");
    std::fs::write(&path, text.replacen(wanted, &wanted.replace(key, "sign.key"), 1)).unwrap();
    std::fs::copy(conf.join("channels").join(key), conf.join("channels/sign.key")).unwrap();
}

/// Replaces the signing key by a valid key of somebody else and expects an automatic rollback.
async fn bad_key_is_rolled_back(options: WorldOptions, method: &'static str, bad: &str, code: &str) {
    let world = World::with(WorldOptions { server: WATCHED, ..options }).await;
    let load = Load::start(&world, method).await;
    let before = generation(&world).await;
    // Only the key file changes, no TOML.
    save(&world.conf().join("channels/sign.key"), bad);
    until("the generation is rolled back", || async {
        let metrics = world.metrics().await;
        if metrics.contains("tollgate_config_rollbacks_total 1") { Ok(()) } else { Err(world.log()) }
    })
    .await;
    let why = world.log();
    assert!(why.contains("the new generation is rolled back automatically"), "{why}");
    let mut number = 0;
    until("payments succeed again", || {
        number += 1;
        let order = format!("after-{number}");
        let world = &world;
        async move {
            let mut body = payment_body(&order);
            body["method"] = method.into();
            let answer = world.signed_request("POST", "/v1/payments", Some(&order), &body).await;
            if answer.status == 201 { Ok(()) } else { Err(answer.status) }
        }
    })
    .await;
    load.until_progress().await;
    let answers = load.stop().await;
    for answer in &answers {
        assert!(is_clear(answer), "{} {:?} {}", answer.status, answer.body, world.log());
    }
    let refused = |answer: &&crate::harness::Answer| answer.status == 503 && answer.json()["provider"]["code"] == code;
    assert!(answers.iter().filter(refused).count() > 0, "the provider rejected some requests");
    assert!(generation(&world).await >= before + 2, "one generation for the bad key, one for the rollback");
    // The rejected request was not stored: the same key may retry.
    let again = answers.iter().find(refused).unwrap();
    let order = again.json()["order_id"].as_str().unwrap().to_owned();
    let mut body = payment_body(&order);
    body["method"] = method.into();
    let made = world.signed_request("POST", "/v1/payments", Some(&order), &body).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
}

/// Appends the certificate to the signing key, so that its id comes from there. Beside the API certificate in `[mtls]`, another
/// key under the same id would be rejected at load.
fn append_certificate(conf: &Path) {
    let channels = conf.join("channels");
    let path = channels.join("main.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("\"rsa-sha256\", id = \"").unwrap();
    let (_, after) = rest.split_once("\", ").unwrap();
    std::fs::write(&path, format!("{before}\"rsa-sha256\", {after}")).unwrap();
    let read = |name: &str| std::fs::read_to_string(channels.join(name)).unwrap();
    std::fs::write(channels.join("sign.key"), read("sign.key") + &read("main/apiclient_cert.pem")).unwrap();
}

/// Returns another key with a certificate that the provider never saw.
fn unknown_certificate() -> String {
    let private_key = other_private_key();
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&private_key, &PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    private_key + &certificate.pem()
}

fn other_private_key() -> String {
    rsa_key_pair().unwrap().private_key
}

#[tokio::test]
async fn bad_wechat_v3_key_is_rolled_back_without_unknown_payments() {
    let edit = |conf: &Path, _| {
        use_separate_signing_key(conf, "file = \"main/apiclient_key.pem\"", "main/apiclient_key.pem");
        append_certificate(conf);
    };
    let options = WorldOptions { edit, ..WorldOptions::default() };
    bad_key_is_rolled_back(options, "wechat.native", &unknown_certificate(), "SIGN_ERROR").await;
}

#[tokio::test]
async fn bad_wechat_v2_key_is_rolled_back_without_unknown_payments() {
    let edit = |conf: &Path, _| {
        let text = std::fs::read_to_string(conf.join("channels/main.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("api = ")).unwrap();
        let key = line.split('"').nth(1).unwrap().strip_prefix("plain:").unwrap();
        std::fs::write(conf.join("channels/api.txt"), key).unwrap();
        std::fs::write(conf.join("channels/main.toml"), text.replace(line, "api = \"file:api.txt\"")).unwrap();
        use_separate_signing_key(conf, "file:api.txt", "api.txt");
    };
    let options = WorldOptions { edit, provider: SandboxProvider::WECHAT_V2, ..WorldOptions::default() };
    bad_key_is_rolled_back(options, "wechat.native", "0123456789abcdef0123456789ABCDEF", "FAIL").await;
}

#[tokio::test]
async fn bad_alipay_key_is_rolled_back_without_unknown_payments() {
    let edit = |conf: &Path, _| {
        use_separate_signing_key(conf, "file = \"main/app_private_key.pem\"", "main/app_private_key.pem")
    };
    let options = WorldOptions { edit, provider: SandboxProvider::ALIPAY, ..WorldOptions::default() };
    bad_key_is_rolled_back(options, "alipay.qr", &other_private_key(), "isv.invalid-signature").await;
}

#[tokio::test]
async fn bad_unionpay_key_is_rolled_back_without_unknown_payments() {
    let edit =
        |conf: &Path, _| use_separate_signing_key(conf, "file = \"main/acp_sign_key.pem\"", "main/acp_sign_key.pem");
    let options = WorldOptions { edit, provider: SandboxProvider::UNIONPAY, ..WorldOptions::default() };
    bad_key_is_rolled_back(options, "unionpay.qr", &other_private_key(), "11").await;
}

#[tokio::test]
async fn changed_secret_and_key_files_are_reloaded_without_lost_payments() {
    const NEW: Merchant = Merchant { key: OTHER.key, secret: "a new secret of thirty-two bytes" };
    let edit =
        |conf: &Path, _| use_separate_signing_key(conf, "file = \"main/apiclient_key.pem\"", "main/apiclient_key.pem");
    let world = World::with(WorldOptions { edit, ..WorldOptions::default() }).await;
    let secret = world.dir.path().join("other.secret");
    save(&secret, OTHER.secret);
    let merchant = format!("keys = [{{ id = \"{}\", secret = \"file:../../other.secret\" }}]\n", OTHER.key);
    save(&world.conf().join("merchants/other.toml"), &merchant);
    until("the secret is in a file", || async {
        let generation = generation(&world).await;
        if generation == 2 { Ok(()) } else { Err(generation) }
    })
    .await;
    let load = Load::start(&world, "wechat.native").await;
    let listen = world.gateway.listen;
    let known = |merchant: &'static Merchant| async move {
        signed_request(listen, merchant, "GET", "/v1/payments/none", None, &Value::Null).await.status
    };
    assert_eq!((known(&OTHER).await, known(&NEW).await), (404, 401));

    save(&secret, &format!("{}\n", NEW.secret));
    until("the new secret is accepted", || async {
        let status = known(&NEW).await;
        if status == 404 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(known(&OTHER).await, 401, "the old secret is rejected");
    world.until_metric("tollgate_config_generation 3").await;

    // The same key with other bytes shows that the file was read again.
    let key = world.conf().join("channels/sign.key");
    let text = std::fs::read_to_string(&key).unwrap();
    save(&key, &format!("# rotated\n{text}"));
    until("the key file is reloaded", || async {
        let generation = generation(&world).await;
        if generation == 4 { Ok(()) } else { Err(generation) }
    })
    .await;
    load.until_progress().await;
    for answer in load.stop().await {
        assert_eq!(answer.status, 201, "{:?}", answer.body);
    }
}
