//! Test merchant of UnionPay: signs requests, verifies responses and notifications. It shares no code with sandbox or
//! gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::keys::Keys;
use crate::Options;
use crate::keygen::{SandboxFiles, SandboxProvider, sandbox_channel_of};
use crate::tests::merchant::{Failure, TestSandbox};

pub(super) type Fields = BTreeMap<String, String>;

/// Path of bill files.
pub(super) const FILES: &str = "";

pub(super) const FORM: &str = "application/x-www-form-urlencoded;charset=UTF-8";

/// A sandbox with one merchant of UnionPay and one of WeChat Pay.
pub(super) struct Fixture {
    pub(super) simulator: TestSandbox,
    pub(super) shop: Shop,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::with(SandboxProvider::UNIONPAY, |_| {}).await
    }

    pub(super) async fn with(provider: SandboxProvider, change: impl FnOnce(&mut Options)) -> Self {
        let mut files = None;
        let simulator = TestSandbox::with(|options| {
            let made = sandbox_channel_of(provider, &options.accounts[0], "union", "127.0.0.1:8443");
            files = Some(made.unwrap());
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
    channel: toml::Table,
    keys: Keys,
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
    pub(super) fields: Fields,
}

impl Reply {
    pub(super) fn get(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn code(&self) -> &str {
        self.get("respCode")
    }
}

impl Shop {
    fn new(files: SandboxFiles, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(files.account.join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let channel = toml::from_str(&std::fs::read_to_string(&files.channel).unwrap()).unwrap();
        Self {
            keys: Keys::read(&channel, &files.account),
            tls: Arc::new(tls.with_root_certificates(roots).with_no_client_auth()),
            channel,
            files,
            address,
        }
    }

    /// Returns the common fields with the current time.
    pub(super) fn request(&self, kind: &str, business: &str, number: &str) -> Fields {
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8)));
        let time = now.strftime("%Y%m%d%H%M%S").to_string();
        let mut fields = Fields::new();
        for (name, value) in [
            ("version", "5.1.0"),
            ("encoding", "UTF-8"),
            ("signMethod", self.keys.method()),
            ("txnType", &kind[..2]),
            ("txnSubType", &kind[2..]),
            ("bizType", business),
            ("channelType", "08"),
            ("accessType", "0"),
            ("merId", &self.files.mchid),
            ("orderId", number),
            ("txnTime", &time),
        ] {
            fields.insert(name.to_owned(), value.to_owned());
        }
        if let Some(key) = self.channel["keys"].get("sign") {
            fields.insert("certId".to_owned(), key["id"].as_str().unwrap().to_owned());
        }
        fields
    }

    /// Returns an order of one yuan.
    pub(super) fn order(&self, kind: &str, business: &str, number: &str, url: &str) -> Fields {
        let mut fields = self.request(kind, business, number);
        for (name, value) in
            [("txnAmt", "100"), ("currencyCode", "156"), ("backUrl", url), ("riskRateInfo", "{commodityName=测试 a+b}")]
        {
            fields.insert(name.to_owned(), value.to_owned());
        }
        fields
    }

    /// Returns a refund (`0400`) or a same-day cancellation (`3100`) of an order.
    pub(super) fn back(&self, kind: &str, business: &str, number: &str, original: &str, amount: &str) -> Fields {
        let mut fields = self.request(kind, business, number);
        for (name, value) in [("origQryId", original), ("txnAmt", amount), ("backUrl", super::NOWHERE)] {
            fields.insert(name.to_owned(), value.to_owned());
        }
        fields
    }

    /// Queries an order with its own time.
    pub(super) async fn query(&self, order: &Fields) -> Reply {
        let mut fields = self.request("0000", &order["bizType"], &order["orderId"]);
        fields.insert("txnTime".to_owned(), order["txnTime"].clone());
        let path = if order["bizType"] == "000000" { "backTransReq" } else { "queryTrans" };
        self.ask(path, fields).await.unwrap()
    }

    pub(super) fn sign(&self, mut fields: Fields) -> Fields {
        let signature = self.keys.sign(&joined(&fields));
        fields.insert("signature".to_owned(), signature);
        fields
    }

    pub(super) async fn ask(&self, path: &str, fields: Fields) -> Result<Reply, Failure> {
        self.send(path, self.sign(fields)).await
    }

    pub(super) async fn send(&self, path: &str, fields: Fields) -> Result<Reply, Failure> {
        self.exchange(path, FORM, encoded(&fields)).await
    }

    pub(super) async fn exchange(&self, path: &str, kind: &str, body: String) -> Result<Reply, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let target = if path == FILES { "/".to_owned() } else { format!("/gateway/api/{path}.do") };
        let request = Request::builder().method("POST").uri(target);
        let request = request.header("host", "127.0.0.1").header("content-type", kind);
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
        let fields = serde_json::from_str(&text).unwrap_or_else(|_| pairs(&text));
        Ok(Reply { status: parts.status.as_u16(), is_signature_valid: self.verifies(&fields), fields, text })
    }

    /// Returns a notification's fields, and whether its signature is valid.
    pub(super) fn notification(&self, body: &[u8]) -> (Fields, bool) {
        let text = std::str::from_utf8(body).unwrap();
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned()
        };
        let halves = text.split('&').map(|pair| pair.split_once('=').unwrap());
        let fields: Fields = halves.map(|(name, value)| (decoded(name), decoded(value))).collect();
        let is_signature_valid = self.verifies(&fields);
        (fields, is_signature_valid)
    }

    fn verifies(&self, fields: &Fields) -> bool {
        let Some(signature) = fields.get("signature") else { return false };
        let mut signed = fields.clone();
        signed.remove("signature");
        signed.retain(|_, value| !value.is_empty());
        let certificate = fields.get("signPubKeyCert").map(String::as_str);
        self.keys.believe(&joined(&signed), signature, certificate, &self.files.account)
    }
}

pub(super) fn encoded(fields: &Fields) -> String {
    let coded =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{}={}", coded(name), coded(value))).collect();
    pairs.join("&")
}

pub(super) fn joined(fields: &Fields) -> String {
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Parses the pairs of a response, which are not encoded. Text in brackets is not split.
fn pairs(text: &str) -> Fields {
    let mut depth = 0;
    let parts = text.split(|c| {
        depth += i32::from(c == '{' || c == '[') - i32::from(c == '}' || c == ']');
        c == '&' && depth == 0
    });
    parts.filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
