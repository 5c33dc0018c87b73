//! Test application of Alipay: signs requests, verifies responses and notifications. It shares no code with sandbox
//! or gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Options;
use crate::keygen::{SandboxFiles, SandboxProvider, sandbox_channel_of};
use crate::tests::merchant::{Failure, TestSandbox};

pub(super) type Parameters = BTreeMap<String, String>;

/// A sandbox with one application and one merchant of WeChat Pay.
pub(super) struct Fixture {
    pub(super) simulator: TestSandbox,
    pub(super) app: App,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::with(SandboxProvider::ALIPAY, |_| {}).await
    }

    pub(super) async fn with(provider: SandboxProvider, change: impl FnOnce(&mut Options)) -> Self {
        let mut files = None;
        let simulator = TestSandbox::with(|options| {
            let made = sandbox_channel_of(provider, &options.accounts[0], "ali", "127.0.0.1:8443");
            files = Some(made.unwrap());
            change(options);
        })
        .await;
        let app = App::new(files.unwrap(), simulator.sandbox.address());
        Self { simulator, app }
    }

    pub(super) async fn pay(&self, number: &str) {
        let (status, answer) = self.simulator.control("POST", &format!("/orders/{number}/pay"), json!({})).await;
        assert_eq!((status, &answer["state"]), (200, &json!("SUCCESS")), "{answer}");
    }
}

pub(super) struct App {
    pub(super) files: SandboxFiles,
    pub(super) account: toml::Table,
    key: RsaKeyPair,
    alipay: Vec<u8>,
    tls: Arc<ClientConfig>,
    address: SocketAddr,
}

/// A response as received.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) text: String,
    /// True if the signature is valid.
    pub(super) is_signature_valid: bool,
    /// Value of the first member.
    pub(super) object: Value,
}

impl Reply {
    pub(super) fn code(&self) -> &str {
        self.object["sub_code"].as_str().or_else(|| self.object["code"].as_str()).unwrap_or_default()
    }
}

impl App {
    fn new(files: SandboxFiles, address: SocketAddr) -> Self {
        let read = |name: &str| files.account.join(name);
        let key = PrivatePkcs8KeyDer::from_pem_file(read("app_private_key.pem")).unwrap();
        let alipay = SubjectPublicKeyInfoDer::from_pem_file(read("alipay_public_key.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(read("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Self {
            key: RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap(),
            alipay: alipay.to_vec(),
            tls: Arc::new(tls.with_root_certificates(roots).with_no_client_auth()),
            account: toml::from_str(&std::fs::read_to_string(read("sandbox.toml")).unwrap()).unwrap(),
            files,
            address,
        }
    }

    pub(super) fn order(&self, number: &str) -> Value {
        json!({"out_trade_no": number, "total_amount": "1.00", "subject": "测试 a+b \"}"})
    }

    /// Returns all parameters except the signature.
    pub(super) fn parameters(&self, method: &str, content: &Value) -> Parameters {
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8)));
        let mut parameters = Parameters::new();
        for (name, value) in [
            ("app_id", self.files.appid.as_str()),
            ("method", method),
            ("format", "JSON"),
            ("charset", "utf-8"),
            ("sign_type", "RSA2"),
            ("timestamp", &now.strftime("%Y-%m-%d %H:%M:%S").to_string()),
            ("version", "1.0"),
            ("biz_content", &content.to_string()),
        ] {
            parameters.insert(name.to_owned(), value.to_owned());
        }
        if let Some(certificates) = self.account.get("certificates") {
            for name in ["app_cert_sn", "alipay_root_cert_sn"] {
                parameters.insert(name.to_owned(), certificates[name].as_str().unwrap().to_owned());
            }
        }
        parameters
    }

    pub(super) fn sign(&self, mut parameters: Parameters) -> Parameters {
        let text: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut signature = vec![0; self.key.public_modulus_len()];
        let text = text.join("&");
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        parameters.insert("sign".to_owned(), STANDARD.encode(signature));
        parameters
    }

    pub(super) async fn ask(&self, method: &str, content: &Value) -> Result<Reply, Failure> {
        self.send(self.sign(self.parameters(method, content))).await
    }

    pub(super) async fn ask_notified(&self, method: &str, content: &Value, url: &str) -> Result<Reply, Failure> {
        let mut parameters = self.parameters(method, content);
        parameters.insert("notify_url".to_owned(), url.to_owned());
        self.send(self.sign(parameters)).await
    }

    /// Sends some parameters in the query string and some in the body, as Alipay's SDKs do.
    pub(super) async fn send(&self, parameters: Parameters) -> Result<Reply, Failure> {
        let (body, query): (Parameters, Parameters) =
            parameters.into_iter().partition(|(name, _)| name == "biz_content" || name == "sign");
        self.exchange("POST", &encoded(&query), encoded(&body)).await
    }

    pub(super) async fn browse(&self, parameters: Parameters) -> Result<Reply, Failure> {
        self.exchange("GET", &encoded(&parameters), String::new()).await
    }

    async fn exchange(&self, method: &str, query: &str, body: String) -> Result<Reply, Failure> {
        let request = Request::builder().method(method).uri(format!("/gateway.do?{query}")).header("host", "127.0.0.1");
        let request = request.header("content-type", "application/x-www-form-urlencoded;charset=utf-8");
        let (parts, text) = self.call(request.body(Full::new(Bytes::from(body)))?).await?;
        Ok(self.read(parts.status.as_u16(), text))
    }

    /// Signs for the v3 protocol. Returns the header up to the signature, and the signature.
    pub(super) fn authorization(&self, who: &str, verb: &str, target: &str, body: &str) -> String {
        let text = format!("{who}\n{verb}\n{target}\n{body}\n");
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        format!("ALIPAY-SHA256withRSA {who},sign={}", STANDARD.encode(signature))
    }

    /// Returns application id, nonce and time of the authorization.
    pub(super) fn who(&self, milliseconds: i64) -> String {
        let certificate = self.account.get("certificates").map(|sn| sn["app_cert_sn"].as_str().unwrap());
        let certificate = certificate.map(|sn| format!(",app_cert_sn={sn}")).unwrap_or_default();
        format!("app_id={}{certificate},nonce=0123456789abcdef,timestamp={milliseconds}", self.files.appid)
    }

    pub(super) async fn send_v3(&self, request: Request<Full<Bytes>>) -> Result<Reply, Failure> {
        let (parts, text) = self.call(request).await?;
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let signed = format!("{}\n{}\n{text}\n", header("alipay-timestamp"), header("alipay-nonce"));
        let signature = header("alipay-signature");
        let is_signature_valid = !signature.is_empty() && self.verifies(&signed, signature);
        let object = serde_json::from_str(&text).unwrap_or_default();
        Ok(Reply { status: parts.status.as_u16(), text, is_signature_valid, object })
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Result<(http::response::Parts, String), Failure> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok((parts, String::from_utf8(body.collect().await?.to_bytes().to_vec())?))
    }

    fn read(&self, status: u16, text: String) -> Reply {
        let whole: Value = serde_json::from_str(&text).unwrap_or_default();
        let member = whole.as_object().and_then(|whole| whole.keys().find(|name| name.ends_with("_response")).cloned());
        let object = member.as_ref().map(|member| whole[member].clone()).unwrap_or_default();
        let raw = text.split_once("_response\":").map(|(_, rest)| rest).unwrap_or_default();
        let end = raw.rfind(",\"alipay_cert_sn\"").or_else(|| raw.rfind(",\"sign\":"));
        let raw = end.map(|end| &raw[..end]).unwrap_or_default();
        let is_signature_valid = whole["sign"].as_str().is_some_and(|sign| self.verifies(raw, sign));
        Reply { status, text, is_signature_valid, object }
    }

    fn verifies(&self, text: &str, signature: &str) -> bool {
        let signature = STANDARD.decode(signature).unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.alipay).verify(text.as_bytes(), &signature).is_ok()
    }

    /// Returns a notification's fields, and whether its signature is valid.
    pub(super) fn notification(&self, body: &[u8]) -> (Parameters, bool) {
        let text = std::str::from_utf8(body).unwrap();
        let fields: Parameters = text
            .split('&')
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap();
                let value = value.replace('+', " ");
                (name.to_owned(), percent_encoding::percent_decode_str(&value).decode_utf8().unwrap().into_owned())
            })
            .collect();
        let signed = fields.iter().filter(|(name, value)| *name != "sign" && *name != "sign_type" && !value.is_empty());
        let signed: Vec<_> = signed.map(|(name, value)| format!("{name}={value}")).collect();
        let is_signature_valid = self.verifies(&signed.join("&"), &fields["sign"]);
        (fields, is_signature_valid)
    }
}

fn encoded(parameters: &Parameters) -> String {
    let coded =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pairs: Vec<_> = parameters.iter().map(|(name, value)| format!("{}={}", coded(name), coded(value))).collect();
    pairs.join("&")
}
