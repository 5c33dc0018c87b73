//! Keys and certificates in the encodings that editors leave sign, verify and connect like the originals.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tollgate_sandbox::keygen::SandboxProvider;

use crate::harness::{World, WorldOptions, payment_body};

/// Rewrites the channel's PEM files with a BOM and CRLF, in UTF-16, or on one line. The sandbox keeps the originals.
fn reencode_key_files(conf: &Path, _: SocketAddr) {
    let channels = conf.join("channels");
    let path = channels.join("main.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let names: Vec<String> =
        text.split("main/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    for (number, name) in names.iter().filter(|name| name.ends_with(".pem")).enumerate() {
        let pem = std::fs::read_to_string(channels.join("main").join(name)).unwrap();
        let content: Vec<u8> = match number % 3 {
            0 => format!("\u{feff}{}", pem.replace('\n', "\r\n")).into(),
            1 => format!("\u{feff}{pem}").encode_utf16().flat_map(u16::to_le_bytes).collect(),
            _ => pem.replace('\n', "").into(),
        };
        std::fs::write(channels.join(format!("odd_{name}")), content).unwrap();
        text = text.replace(&format!("main/{name}"), &format!("odd_{name}"));
    }
    std::fs::write(&path, text).unwrap();
}

#[tokio::test]
async fn key_files_with_bom_crlf_utf16_or_no_newlines_work() {
    for (provider, method) in
        [(SandboxProvider::WECHAT_V3, "wechat.native"), (SandboxProvider::ALIPAY_CERTIFICATES, "alipay.qr")]
    {
        let world = World::with(WorldOptions { edit: reencode_key_files, provider, ..WorldOptions::default() }).await;
        let mut order = payment_body("o-1");
        order["method"] = method.into();
        let answer = world.signed_request("POST", "/v1/payments", Some("k-1"), &order).await;
        assert_eq!(answer.status, 201, "{method}: {:?} {}", answer.body, world.log());
        let answer = world.signed_request("GET", "/v1/payments/o-1", None, &Value::Null).await;
        assert_eq!(answer.status, 200, "{method}: {:?}", answer.body);
    }
}
