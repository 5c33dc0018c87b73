//! Connections are never shared between client identities, even with equal certificate serial numbers.

use std::net::SocketAddr;
use std::path::Path;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_RSA_SHA256, SerialNumber};

use crate::harness::{World, WorldOptions, enable_http2, payment_body};

#[tokio::test]
async fn channels_with_same_certificate_serial_never_share_a_connection() {
    never_shared(same_serial).await;
}

#[tokio::test]
async fn channels_with_same_certificate_serial_never_share_an_http2_connection() {
    let said = never_shared(|conf, address| {
        same_serial(conf, address);
        ["east", "west"].iter().for_each(|channel| enable_http2(conf, channel));
    })
    .await;
    assert_eq!(said.matches(", h2, ").count(), 2, "{said}");
}

async fn never_shared(edit: fn(&Path, SocketAddr)) -> String {
    let world = World::with(WorldOptions { channels: vec!["east", "west"], edit, ..WorldOptions::default() }).await;
    for round in 0..20 {
        for channel in ["east", "west"] {
            let order = format!("{channel}-{round}");
            let mut body = payment_body(&order);
            body["channel"] = channel.into();
            let answer = world.signed_request("POST", "/v1/payments", Some(&order), &body).await;
            assert_eq!(answer.status, 201, "{order}: {:?}", answer.body);
        }
    }
    let stats = world.sandbox_control("GET", "/stats", serde_json::Value::Null).await;
    assert_eq!(stats["wrong_identities"], 0, "{stats}");
    let handshakes = stats["handshakes"].as_u64().unwrap();
    assert!((2..40).contains(&handshakes), "connections are pooled per channel: {stats}");
    world.until_probed().await
}

/// Gives `west` a certificate with the serial number of `east`, over its own key.
fn same_serial(conf: &Path, _: SocketAddr) {
    let read =
        |channel: &str, file: &str| std::fs::read_to_string(conf.join("channels").join(channel).join(file)).unwrap();
    let serial_of = |channel: &str| {
        let text = read(channel, "sandbox.toml");
        text.lines().find_map(|line| Some(line.strip_prefix("serial = \"")?.trim_end_matches('"').to_owned())).unwrap()
    };
    let (east, west) = (serial_of("east"), serial_of("west"));
    let bytes: Vec<u8> = (0..40).step_by(2).map(|at| u8::from_str_radix(&east[at..at + 2], 16).unwrap()).collect();
    let authority_key = KeyPair::from_pem(&read("west", "ca_key.pem")).unwrap();
    let mut named = CertificateParams::new(Vec::new()).unwrap();
    named.distinguished_name = rcgen::DistinguishedName::new();
    named.distinguished_name.push(rcgen::DnType::CommonName, "Tollgate sandbox authority (worth nothing elsewhere)");
    let authority = Issuer::new(named, authority_key);
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&read("west", "apiclient_key.pem"), &PKCS_RSA_SHA256).unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.serial_number = Some(SerialNumber::from_slice(&bytes));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    std::fs::write(conf.join("channels/west/apiclient_cert.pem"), certificate.pem()).unwrap();
    for file in ["channels/west.toml", "channels/west/sandbox.toml"] {
        let text = std::fs::read_to_string(conf.join(file)).unwrap();
        std::fs::write(conf.join(file), text.replace(&west, &east)).unwrap();
    }
}
