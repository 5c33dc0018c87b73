//! Renewal of the listeners' certificates while they serve.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::harness::{World, WorldOptions, until};

/// Writes a certificate that is valid for `days` days and returns its DER bytes.
fn write_pair(conf: &Path, name: &str, days: i64) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_hours(24)).into();
    params.not_after = (now + Duration::from_hours(24) * u32::try_from(days).unwrap()).into();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(conf.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(conf.join(format!("{name}_key.pem")), key.serialize_pem()).unwrap();
    certificate.der().to_vec()
}

fn client() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    config.dangerous().with_custom_certificate_verifier(Arc::new(Anything))
}

async fn handshake(to: SocketAddr, config: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Returns the certificate that a listener presents.
async fn shown(to: SocketAddr) -> Vec<u8> {
    let stream = handshake(to, client().with_no_client_auth()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn days_left(metrics: &str, certificate: &str) -> f64 {
    let line = format!("tollgate_certificate_days_left{{certificate=\"{certificate}\",channel=\"\"}} ");
    metrics.lines().find_map(|it| it.strip_prefix(&line)).unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn renewed_server_certificate_is_served_after_reload() {
    let edit = |conf: &Path, _| {
        write_pair(conf, "server", 2);
    };
    let server = "tls = { cert = \"server.pem\", key = \"server_key.pem\" }";
    let world = World::with(WorldOptions { edit, server, ..WorldOptions::default() }).await;
    let old = shown(world.gateway.listen).await;
    assert!((1.0..=2.0).contains(&days_left(&world.metrics().await, "server")));
    let open = TcpStream::connect(world.gateway.listen).await.unwrap();

    let new = write_pair(world.conf(), "server", 300);
    let report = world.reload().await;
    let report = String::from_utf8(report.body.to_vec()).unwrap();
    assert!(!report.contains("not in force until a restart"), "{report}");
    until("the new certificate is served", || async {
        let now = shown(world.gateway.listen).await;
        if now == new { Ok(()) } else { Err(format!("the old certificate: {}", now == old)) }
    })
    .await;
    assert!((299.0..=300.0).contains(&days_left(&world.metrics().await, "server")));
    drop(open);

    // A broken file changes nothing.
    std::fs::write(world.conf().join("server.pem"), "broken").unwrap();
    assert_eq!(world.reload().await.status, 422);
    assert_eq!(shown(world.gateway.listen).await, new);
}

/// A certificate authority that issues client certificates.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn caller(&self, serial: u64) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["caller".to_owned()]).unwrap();
        params.serial_number = Some(serial.into());
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn revokes(&self, serial: u64) -> String {
        let now = std::time::SystemTime::now();
        let list = rcgen::CertificateRevocationListParams {
            this_update: (now - Duration::from_hours(1)).into(),
            next_update: (now + Duration::from_hours(1)).into(),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: (now - Duration::from_hours(1)).into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::from_params(&self.params, &self.key)).unwrap().pem().unwrap()
    }
}

/// Returns whether a client with this certificate gets a response.
async fn gets_in(to: SocketAddr, (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>)) -> bool {
    let config = client().with_client_auth_cert(vec![certificate], key).unwrap();
    let Ok(mut stream) = handshake(to, config).await else { return false };
    // With TLS 1.3 a rejection arrives after the handshake.
    let mut read = Vec::new();
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").await.is_ok()
        && stream.read_to_end(&mut read).await.is_ok()
        && read.starts_with(b"HTTP/1.1 401 ")
}

#[tokio::test]
async fn renewed_client_ca_and_crl_apply_after_reload() {
    let edit = |conf: &Path, _| {
        write_pair(conf, "server", 30);
        std::fs::write(conf.join("callers.pem"), Authority::new("nobody").pem).unwrap();
    };
    let server = "tls = { cert = \"server.pem\", key = \"server_key.pem\", client_ca = \"callers.pem\" }";
    let world = World::with(WorldOptions { edit, server, ..WorldOptions::default() }).await;
    let listen = world.gateway.listen;
    let authority = Authority::new("callers");
    let (one, other) = (|| authority.caller(7), || authority.caller(8));
    assert!(!gets_in(listen, one()).await, "a certificate of another CA is rejected");

    std::fs::write(world.conf().join("callers.pem"), &authority.pem).unwrap();
    assert_eq!(world.reload().await.status, 200);
    assert!(gets_in(listen, one()).await && gets_in(listen, other()).await);

    std::fs::write(world.conf().join("revoked.pem"), authority.revokes(7)).unwrap();
    let file = world.conf().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("\"callers.pem\" }", "\"callers.pem\", client_crl = \"revoked.pem\" }");
    std::fs::write(&file, text).unwrap();
    assert_eq!(world.reload().await.status, 200);
    assert!(!gets_in(listen, one()).await && gets_in(listen, other()).await, "the revoked certificate is rejected");
}

#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
