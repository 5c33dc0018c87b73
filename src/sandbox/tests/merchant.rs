//! Test merchant of WeChat Pay v3: signs requests, verifies responses, receives notifications. It shares no code with
//! sandbox or gateway.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::keygen::{SandboxFiles, sandbox_channel};
use crate::{Options, Sandbox};

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A sandbox with one merchant.
pub(super) struct TestSandbox {
    pub(super) sandbox: Sandbox,
    pub(super) merchant: Merchant,
    pub(super) directory: tempfile::TempDir,
}

impl TestSandbox {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = sandbox_channel(directory.path(), "main", "127.0.0.1:8443").unwrap();
        let mut options = Options::new([directory.path().to_owned()]);
        options.notify_schedule = vec![Duration::from_millis(20); 5];
        change(&mut options);
        let sandbox = Sandbox::start(options).await.unwrap();
        let merchant = Merchant::new(files, sandbox.address());
        Self { sandbox, merchant, directory }
    }

    pub(super) async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let stream = TcpStream::connect(self.sandbox.control_address()).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("host", "control");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    pub(super) async fn control_get(&self, path: &str) -> Value {
        self.control("GET", path, Value::Null).await.1
    }

    pub(super) async fn fault(&self, fault: Value) {
        let (status, answer) = self.control("POST", "/faults", fault).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Repeats a control request until the response is as expected.
    pub(super) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let value = self.control_get(path).await;
            if wanted(&value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never became so: {}", self.control_get(path).await);
    }
}

/// A response, verified or not.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

pub(super) struct Merchant {
    pub(super) files: SandboxFiles,
    pub(super) serial: String,
    pub(super) public_key_id: String,
    pub(super) api_v3: String,
    pub(super) tls: ClientConfig,
    key: RsaKeyPair,
    address: SocketAddr,
}

/// A request before signing. Tests can change each part.
pub(super) struct Unsent {
    pub(super) method: &'static str,
    pub(super) uri: String,
    pub(super) body: String,
    pub(super) nonce: String,
    pub(super) timestamp: i64,
    pub(super) mchid: String,
    pub(super) serial: String,
    pub(super) salt: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Merchant {
    pub(super) fn new(files: SandboxFiles, address: SocketAddr) -> Self {
        let read = |name: &str| -> PathBuf { files.account.join(name) };
        let account: toml::Table = toml::from_str(&std::fs::read_to_string(read("sandbox.toml")).unwrap()).unwrap();
        let der = PrivateKeyDer::from_pem_file(read("apiclient_key.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(read("ca.pem")).unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_file(read("apiclient_cert.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(roots);
        Self {
            serial: account["merchant"]["serial"].as_str().unwrap().to_owned(),
            public_key_id: account["public_key"]["id"].as_str().unwrap().to_owned(),
            api_v3: account["api_v3"].as_str().unwrap().to_owned(),
            key: RsaKeyPair::from_pkcs8(der.secret_der()).unwrap(),
            tls: tls.with_client_auth_cert(vec![certificate], der).unwrap(),
            files,
            address,
        }
    }

    pub(super) fn order(&self, number: &str, notify_url: &str) -> Value {
        serde_json::json!({
            "appid": self.files.appid, "mchid": self.files.mchid, "description": "测试商品", "out_trade_no": number,
            "notify_url": notify_url, "amount": {"total": 100, "currency": "CNY"},
        })
    }

    pub(super) fn request(&self, method: &'static str, uri: &str, body: &Value) -> Unsent {
        Unsent {
            method,
            uri: uri.to_owned(),
            body: if body.is_null() { String::new() } else { body.to_string() },
            nonce: format!("{:032x}", rand::random::<u128>()),
            timestamp: jiff::Timestamp::now().as_second(),
            mchid: self.files.mchid.clone(),
            serial: self.serial.clone(),
            salt: "",
            headers: vec![
                ("accept", "application/json".to_owned()),
                ("content-type", "application/json".to_owned()),
                ("user-agent", "test".to_owned()),
                ("wechatpay-serial", self.public_key_id.clone()),
            ],
        }
    }

    pub(super) async fn create(&self, body: &Value) -> Result<Answer, Failure> {
        self.send(self.request("POST", "/v3/pay/transactions/native", body)).await
    }

    pub(super) async fn query(&self, number: &str) -> Result<Answer, Failure> {
        let uri = format!("/v3/pay/transactions/out-trade-no/{number}?mchid={}", self.files.mchid);
        self.send(self.request("GET", &uri, &Value::Null)).await
    }

    pub(super) async fn close(&self, number: &str) -> Result<Answer, Failure> {
        let uri = format!("/v3/pay/transactions/out-trade-no/{number}/close");
        self.send(self.request("POST", &uri, &serde_json::json!({"mchid": self.files.mchid}))).await
    }

    pub(super) async fn refund(&self, body: &Value) -> Result<Answer, Failure> {
        self.send(self.request("POST", "/v3/refund/domestic/refunds", body)).await
    }

    /// Sends a request over a new connection.
    pub(super) async fn send(&self, unsent: Unsent) -> Result<Answer, Failure> {
        self.send_over(unsent, b"http/1.1").await
    }

    pub(super) async fn send_over(&self, unsent: Unsent, protocol: &[u8]) -> Result<Answer, Failure> {
        let request = self.signed(unsent);
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?);
        let response = if protocol == b"h2" {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        };
        let (parts, body) = response.into_parts();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    fn signed(&self, unsent: Unsent) -> Request<Full<Bytes>> {
        let Unsent { method, uri, body, nonce, timestamp, mchid, serial, salt, headers } = unsent;
        let text = format!("{method}\n{uri}\n{timestamp}\n{nonce}\n{body}\n{salt}");
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        let signature = STANDARD.encode(signature);
        let authorization = format!(
            "WECHATPAY2-SHA256-RSA2048 mchid=\"{mchid}\",nonce_str=\"{nonce}\",timestamp=\"{timestamp}\",\
             serial_no=\"{serial}\",signature=\"{signature}\""
        );
        let mut request = Request::builder().method(method).uri(&uri).header("authorization", authorization);
        request = request.header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(body))).unwrap()
    }

    /// Returns whether the signature of the bytes is valid and recent, with the key that the headers name.
    pub(super) fn verifies(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let key = match text("wechatpay-serial") {
            id if id == self.public_key_id => {
                let der =
                    rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_file(self.files.account.join("pub_key.pem"));
                der.unwrap().to_vec()
            }
            serial => {
                let der = CertificateDer::from_pem_file(self.files.account.join("platform_cert.pem")).unwrap();
                let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
                if certificate.raw_serial_as_string().replace(':', "").to_uppercase() != serial {
                    return false;
                }
                certificate.tbs_certificate.subject_pki.raw.to_vec()
            }
        };
        let timestamp = text("wechatpay-timestamp");
        let now = jiff::Timestamp::now().as_second();
        let fresh = timestamp.parse::<i64>().is_ok_and(|at| (now - at).abs() < 300);
        let message = [format!("{timestamp}\n{}\n", text("wechatpay-nonce")).as_bytes(), body, b"\n"].concat();
        let Ok(signature) = STANDARD.decode(text("wechatpay-signature")) else { return false };
        fresh && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(&message, &signature).is_ok()
    }

    pub(super) fn open(&self, sealed: &Value) -> Bytes {
        let text = |name: &str| sealed[name].as_str().unwrap();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.api_v3.as_bytes()).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(text("nonce").as_bytes()).unwrap();
        let mut ciphertext = STANDARD.decode(text("ciphertext")).unwrap();
        let plaintext = key.open_in_place(nonce, Aad::from(text("associated_data")), &mut ciphertext).unwrap();
        Bytes::copy_from_slice(plaintext)
    }
}

/// Receives notifications and responds with the given statuses, then with 204.
pub(super) struct Receiver {
    pub(super) url: String,
    came: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
}

impl Receiver {
    pub(super) async fn start(statuses: &[u16]) -> Self {
        let answers: Vec<_> = statuses.iter().map(|status| (*status, "")).collect();
        Self::responding(&answers, (204, "")).await
    }

    /// Starts a receiver that sends these responses in order, then always the last.
    pub(super) async fn responding(answers: &[(u16, &'static str)], last: (u16, &'static str)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/notify/main", listener.local_addr().unwrap());
        let (reply, came) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(VecDeque::from(answers.to_vec())));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, answers) = (reply.clone(), answers.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (reply, answers) = (reply.clone(), answers.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let _ = reply.send((parts.headers, body.collect().await?.to_bytes()));
                        let (status, text) = answers.lock().pop_front().unwrap_or(last);
                        let response = Response::builder().status(status).body(Full::new(Bytes::from(text)));
                        Ok::<_, hyper::Error>(response.unwrap())
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { url, came }
    }

    pub(super) async fn next(&mut self) -> (HeaderMap, Bytes) {
        tokio::time::timeout(Duration::from_secs(60), self.came.recv()).await.unwrap().unwrap()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.came.is_empty()
    }
}
