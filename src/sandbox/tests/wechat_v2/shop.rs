//! Test merchant of APIv2: signs requests, verifies responses and notifications. It shares no code with sandbox or
//! gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use md5::{Digest, Md5};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Options;
use crate::keygen::{SandboxFiles, SandboxProvider, sandbox_channel_of};
use crate::tests::faults::NoCertificate;
use crate::tests::merchant::{Failure, TestSandbox};

pub(super) type Parameters = BTreeMap<String, String>;

/// A sandbox with one merchant of APIv2 and one of v3.
pub(super) struct Fixture {
    pub(super) simulator: TestSandbox,
    pub(super) shop: Shop,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::with("", |_| {}).await
    }

    /// `more` is added to the sandbox's account file.
    pub(super) async fn with(more: &str, change: impl FnOnce(&mut Options)) -> Self {
        let mut files = None;
        let simulator = TestSandbox::with(|options| {
            let made = sandbox_channel_of(SandboxProvider::WECHAT_V2, &options.accounts[0], "v2", "127.0.0.1:8443");
            let made = made.unwrap();
            let account = made.account.join("sandbox.toml");
            let text = std::fs::read_to_string(&account).unwrap();
            std::fs::write(&account, format!("{more}\n{text}")).unwrap();
            files = Some(made);
            change(options);
        })
        .await;
        let shop = Shop::new(files.unwrap(), simulator.sandbox.address());
        Self { simulator, shop }
    }

    pub(super) async fn pay(&self, number: &str) {
        let (status, answer) = self.simulator.control("POST", &format!("/orders/{number}/pay"), json!({})).await;
        assert_eq!((status, &answer["state"]), (200, &json!("SUCCESS")), "{answer}");
    }
}

pub(super) struct Shop {
    pub(super) files: SandboxFiles,
    pub(super) api: String,
    pub(super) tls: ClientConfig,
    address: SocketAddr,
}

/// A response as received.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) text: String,
    pub(super) fields: Parameters,
    /// True if the signature is valid.
    pub(super) is_signature_valid: bool,
}

impl Reply {
    pub(super) fn get(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Returns the error code, or `SUCCESS`.
    pub(super) fn code(&self) -> &str {
        match (self.get("return_code"), self.get("result_code")) {
            ("SUCCESS", "SUCCESS") => "SUCCESS",
            ("SUCCESS", _) => self.get("err_code"),
            _ => self.get("return_msg"),
        }
    }
}

pub(super) fn fields<const N: usize>(fields: [(&str, &str); N]) -> Parameters {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Shop {
    fn new(files: SandboxFiles, address: SocketAddr) -> Self {
        let read = |name: &str| files.account.join(name);
        let account: toml::Table = toml::from_str(&std::fs::read_to_string(read("sandbox.toml")).unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(read("ca.pem")).unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_file(read("apiclient_cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(read("apiclient_key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(roots);
        Self {
            api: account["api"].as_str().unwrap().to_owned(),
            tls: tls.with_client_auth_cert(vec![certificate], key).unwrap(),
            files,
            address,
        }
    }

    pub(super) fn forget_certificate(&mut self) {
        self.tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    }

    pub(super) fn order(&self, number: &str, notify_url: &str) -> Parameters {
        fields([
            ("out_trade_no", number),
            ("body", "测试 <a>&amp; ]]>"),
            ("total_fee", "100"),
            ("spbill_create_ip", "203.0.113.9"),
            ("notify_url", notify_url),
            ("trade_type", "NATIVE"),
            ("product_id", "p1"),
        ])
    }

    pub(super) fn scanned(&self, number: &str, code: &str) -> Parameters {
        let mut order = self.order(number, "");
        for name in ["notify_url", "trade_type", "product_id"] {
            order.remove(name);
        }
        order.insert("auth_code".to_owned(), code.to_owned());
        order
    }

    /// Adds the common fields and the signature. A `sign_type` among the parameters selects the method.
    pub(super) fn signed(&self, mut parameters: Parameters) -> Parameters {
        for (name, value) in [
            ("appid", self.files.appid.clone()),
            ("mch_id", self.files.mchid.clone()),
            ("nonce_str", format!("{:032x}", rand::random::<u128>())),
        ] {
            parameters.entry(name.to_owned()).or_insert(value);
        }
        let sign = self.sign(&parameters, parameters.get("sign_type").map(String::as_str));
        parameters.insert("sign".to_owned(), sign);
        parameters
    }

    fn sign(&self, parameters: &Parameters, kind: Option<&str>) -> String {
        let signed = parameters.iter().filter(|(name, value)| *name != "sign" && !value.is_empty());
        let mut pairs: Vec<_> = signed.map(|(name, value)| format!("{name}={value}")).collect();
        pairs.push(format!("key={}", self.api));
        let text = pairs.join("&");
        match kind {
            Some("HMAC-SHA256") => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.api.as_bytes());
                hex::encode(hmac::sign(&key, text.as_bytes())).to_uppercase()
            }
            _ => hex::encode(Md5::digest(text)).to_uppercase(),
        }
    }

    pub(super) async fn ask(&self, path: &str, parameters: &Parameters) -> Result<Reply, Failure> {
        let signed = self.signed(parameters.clone());
        self.send(path, &signed).await
    }

    pub(super) async fn create(&self, parameters: &Parameters) -> Result<Reply, Failure> {
        self.ask("/pay/unifiedorder", parameters).await
    }

    pub(super) async fn query(&self, number: &str) -> Result<Reply, Failure> {
        self.ask("/pay/orderquery", &fields([("out_trade_no", number)])).await
    }

    pub(super) async fn send(&self, path: &str, parameters: &Parameters) -> Result<Reply, Failure> {
        let kind = parameters.get("sign_type").map(String::as_str);
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let body = parameters.iter().map(|(name, value)| format!("<{name}>{}</{name}>", escaped(value)));
        let body = format!("<xml>{}</xml>", body.collect::<String>());
        let (status, text) = self.exchange("POST", path, body).await?;
        let fields = if text.starts_with("<xml>") { parsed(&text, "xml") } else { Parameters::new() };
        let is_signature_valid = fields.get("sign").is_some_and(|sign| *sign == self.sign(&fields, kind));
        Ok(Reply { status, text, fields, is_signature_valid })
    }

    pub(super) async fn exchange(&self, method: &str, path: &str, body: String) -> Result<(u16, String), Failure> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(self.tls.clone())).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (parts, body) = response.into_parts();
        Ok((parts.status.as_u16(), String::from_utf8(body.collect().await?.to_bytes().to_vec())?))
    }

    /// Returns a payment notification, and whether its signature is valid.
    pub(super) fn notification(&self, body: &[u8], kind: &str) -> (Parameters, bool) {
        let fields = parsed(std::str::from_utf8(body).unwrap(), "xml");
        let is_signature_valid = fields["sign"] == self.sign(&fields, Some(kind));
        (fields, is_signature_valid)
    }

    /// Returns the plain and the decrypted fields of a refund notification.
    pub(super) fn refund_notification(&self, body: &[u8]) -> (Parameters, Option<Parameters>) {
        let fields = parsed(std::str::from_utf8(body).unwrap(), "xml");
        let key = hex::encode(Md5::digest(&self.api));
        let key = UnboundCipherKey::new(&AES_256, key.as_bytes()).unwrap();
        let mut bytes = STANDARD.decode(&fields["req_info"]).unwrap();
        let key = PaddedBlockDecryptingKey::ecb_pkcs7(key).unwrap();
        let plain = key.decrypt(&mut bytes, DecryptionContext::None).ok();
        let plain = plain.and_then(|plain| std::str::from_utf8(plain).ok());
        let hidden = plain.filter(|plain| plain.starts_with("<root>")).map(|plain| parsed(plain, "root"));
        (fields, hidden)
    }
}

/// Parses the sandbox's XML: plain texts and CDATA.
fn parsed(text: &str, root: &str) -> Parameters {
    let inside = text.trim().strip_prefix(&format!("<{root}>")).unwrap().strip_suffix(&format!("</{root}>"));
    let mut rest = inside.unwrap().trim();
    let mut fields = Parameters::new();
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix('<').unwrap().split_once('>').unwrap();
        let (value, after) = after.split_once(&format!("</{name}>")).unwrap();
        let bare = value.strip_prefix("<![CDATA[").and_then(|value| value.strip_suffix("]]>")).unwrap_or(value);
        fields.insert(name.to_owned(), bare.replace("]]]]><![CDATA[>", "]]>"));
        rest = after.trim_start();
    }
    fields
}
