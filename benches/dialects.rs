//! What a dialect adds to the bare cryptography, side by side in one run: encode + sign, verify + decode, for each provider.
//!
//! `cargo bench --bench dialects`. Machines differ and are noisy: the ratios count, not the numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic, missing_docs, unreachable_pub)]

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;
use tollgate_plugins::payment::{Currency, Method, Money, Operation, Order, Pay, Payer};
use tollgate_plugins::provider::{BuildContext, Encoded, Provider, Secrets, Signing, Source, Stamp};
use tollgate_plugins::registry::{ALGORITHMS, PROVIDERS};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Problems, Settings};
use tollgate_plugins::signer::{Key, Keyring, Signer, Verifier};
use toml::de::DeTable;

/// The moment at which the golden files were made.
const NOW: u64 = 1_700_000_000;
const ALGORITHM: &str = "rsa-sha256";
/// How often each is measured; and how many signatures, or verifications, make one measurement of about a millisecond.
const ROUNDS: usize = 500;
const SIGNATURES: u32 = 4;
const VERIFICATIONS: u32 = 40;

/// One dialect with keys and the answer of a golden file.
struct Case {
    provider: &'static str,
    method: &'static str,
    account: &'static str,
    secrets: &'static [(&'static str, &'static str)],
    /// Nothing where both sides share one key.
    rsa: Option<Rsa>,
    /// The golden file of a query.
    query: &'static str,
    /// When its answers are checked, in unix seconds.
    now: u64,
    /// What the signature of an answer covers, and the signature in base64.
    covered: fn(&HeaderMap, &str) -> (String, String),
    /// What the key signs of that.
    signed: fn(&[u8]) -> Cow<'_, [u8]>,
}

/// Both sides' keys, as files beside the golden ones.
struct Rsa {
    key_id: &'static str,
    private_key: &'static str,
    public_key: &'static str,
    public_key_id: &'static str,
}

const CASES: &[Case] = &[
    Case {
        provider: "wechat-v3",
        method: "wechat.native",
        account: "mchid = \"1234567891\"\nappid = \"wxd678efh567hg6787\"",
        secrets: &[("api_v3", "0123456789abcdef0123456789abcdef")],
        rsa: Some(Rsa {
            key_id: "5F1C72E2A8931B72A2E13AF8DEE92471EB397115",
            private_key: "wxjava_merchant_private_key.pem",
            public_key: "wxjava_wechat_pay_public_key.pem",
            public_key_id: "440024045C4A427599D09BB4E3DE0279F2E813FD",
        }),
        query: "query.json",
        now: NOW,
        covered: of_wechat,
        signed: |text| Cow::Borrowed(text),
    },
    Case {
        provider: "alipay",
        method: "alipay.qr",
        account: "app_id = \"2021000000000001\"",
        secrets: &[],
        rsa: Some(Rsa {
            key_id: "app",
            private_key: "ali_app.key.pem",
            public_key: "ali_alipay.pub.pem",
            public_key_id: "alipay",
        }),
        query: "query.json",
        now: NOW,
        covered: of_alipay,
        signed: |text| Cow::Borrowed(text),
    },
    Case {
        provider: "unionpay",
        method: "unionpay.app",
        account: "merId = \"777290058110048\"\nenvironment = \"test\"",
        secrets: &[("root_cert", "file:up_root.crt.pem"), ("middle_cert", "file:up_middle.crt.pem")],
        rsa: Some(Rsa {
            key_id: "68759663126",
            private_key: "up_merchant.key.pem",
            public_key: "up_acp.crt.pem",
            public_key_id: "unionpay",
        }),
        query: "query.json",
        // Its certificates are younger than the other golden files.
        now: 1_735_700_000,
        covered: of_unionpay,
        signed: hexadecimal,
    },
    Case {
        provider: "wechat-v2",
        method: "wechat.native",
        account: "mchid = \"10000100\"\nappid = \"wxd930ea5d5a258f4f\"",
        secrets: &[("api", "192006250b4c09247ec02edce69f6a2d")],
        rsa: None,
        query: "query.json",
        now: NOW,
        covered: |_, body| (body.to_owned(), String::new()),
        signed: |text| Cow::Borrowed(text),
    },
];

fn main() {
    println!(
        "{:<12} {:>16} {:>16} {:>7}   {:>16} {:>16} {:>7}",
        "provider", "encode + sign", "signature", "", "verify + decode", "verification", ""
    );
    for case in CASES {
        case.run();
    }
    println!("goal: at most 1.10 with RSA; beside wechat-v2 stands one HMAC-SHA256, which costs next to nothing");
}

impl Case {
    fn run(&self) {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(self.provider);
        let (signer, verifier, keys) = self.keys(&golden);
        let provider = self.build();
        let shared = hmac::Key::new(hmac::HMAC_SHA256, b"192006250b4c09247ec02edce69f6a2d");
        let stamp = Stamp { unix_time: self.now, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
        let with = Signing { signer: &*signer, keys: &keys, stamp: &stamp };

        let pay = self.pay();
        let request = || {
            let Encoded::Send(mut request) = provider.encode(&pay, with).unwrap() else { panic!("nothing to send") };
            provider.sign(&mut request, with).unwrap();
            request
        };
        let bare_sign = |text: &[u8]| match &verifier {
            Some(_) => signer.sign(text).unwrap(),
            None => hmac::sign(&shared, text).as_ref().to_vec(),
        };
        let length = request().body().len() + 100;
        let text = vec![b'x'; length];
        let bare_request = || drop(black_box(bare_sign(&(self.signed)(&text))));
        let signing = in_turns(SIGNATURES, || drop(black_box(request())), bare_request);

        let file: Value = serde_json::from_slice(&std::fs::read(golden.join(self.query)).unwrap()).unwrap();
        let body = bytes::Bytes::from(file["answer"]["body"].as_str().unwrap().to_owned());
        let headers: HeaderMap = file["answer"]["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.as_str().unwrap().parse().unwrap()))
            .collect();
        let operation = &file["operation"];
        let query = Operation::Query(Order {
            number: operation["number"].as_str().unwrap().to_owned(),
            amount: serde_json::from_value(operation["amount"].clone()).unwrap(),
            ..pay.order().clone()
        });
        let answer = || {
            let verified = provider.verify(Source::Answer, &headers, body.clone(), &keys, self.now).unwrap();
            provider.decode(&query, StatusCode::OK, verified, with).unwrap()
        };
        let (text, signature) = (self.covered)(&headers, std::str::from_utf8(&body).unwrap());
        let signature = match &verifier {
            Some(_) => STANDARD.decode(signature).unwrap(),
            None => bare_sign(text.as_bytes()),
        };
        let bare_verify = || match &verifier {
            Some(verifier) => verifier.verify(&(self.signed)(text.as_bytes()), &signature),
            None => hmac::verify(&shared, text.as_bytes(), &signature).is_ok(),
        };
        assert!(
            bare_verify(),
            "{}: the bare verification must be of what the answer's signature covers",
            self.provider
        );
        let reading = in_turns(VERIFICATIONS, || drop(black_box(answer())), || _ = black_box(bare_verify()));
        println!("{:<12} {signing}   {reading}", self.provider);
    }

    fn keys(&self, golden: &Path) -> (Arc<dyn Signer>, Option<Arc<dyn Verifier>>, Keyring) {
        let Some(rsa) = &self.rsa else { return (tollgate_plugins::signer::none(), None, Keyring::default()) };
        let key = |name: &str| std::fs::read(golden.join("keys").join(name)).unwrap();
        let algorithm = ALGORITHMS.iter().find(|algorithm| algorithm.name == ALGORITHM).unwrap();
        let signer = (algorithm.signer)(rsa.key_id, &key(rsa.private_key)).unwrap();
        let verifier = (algorithm.verifier)(&key(rsa.public_key)).unwrap();
        let key = Key { id: rsa.public_key_id.to_owned(), verifier: verifier.clone(), not_after: None };
        (signer, Some(verifier), Keyring::new(vec![key]))
    }

    fn build(&self) -> Box<dyn Provider> {
        let row = PROVIDERS.iter().find(|row| row.name == self.provider).unwrap();
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(self.provider);
        let secret = |value: &str| match value.strip_prefix("file:") {
            Some(name) => Secret::new(std::fs::read(golden.join("keys").join(name)).unwrap()),
            None => Secret::new(value.as_bytes()),
        };
        let secrets: Secrets = self.secrets.iter().map(|(name, value)| (*name, secret(value))).collect();
        let table = DeTable::parse(self.account).unwrap();
        let problems = Problems::default();
        let mut settings = Settings::root(&table, &problems);
        (row.build)(&mut settings, &BuildContext { secrets: &secrets, algorithm: self.rsa.as_ref().map(|_| ALGORITHM) })
            .unwrap()
    }

    fn pay(&self) -> Operation {
        Operation::Pay(Pay {
            order: Order {
                number: "0123456789abcdef0123456789abcdef".to_owned(),
                method: Method::parse(self.method).unwrap(),
                amount: Money { value: 888, currency: Currency::CNY },
                created_at: jiff::Timestamp::from_second(NOW.cast_signed()).unwrap(),
                expires_at: None,
                provider_id: None,
            },
            description: "茶 tea".to_owned(),
            payer: Payer::default(),
            return_url: None,
            notify_url: "https://pay.example.com/notify/main".to_owned(),
        })
    }
}

/// One call with all that the dialect adds, and one of the bare cryptography.
struct Times {
    whole: Duration,
    bare: Duration,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.whole.as_secs_f64() / self.bare.as_secs_f64();
        write!(f, "{:>16.2?} {:>16.2?} {ratio:>6.2}x", self.whole, self.bare)
    }
}

/// They run in short turns, many times, and the middle one of each is taken: whatever else runs on the machine falls on
/// both, and what disturbs only some of the turns counts for nothing.
fn in_turns(calls: u32, whole: impl Fn(), bare: impl Fn()) -> Times {
    let time = |work: &dyn Fn()| {
        let start = Instant::now();
        (0..calls).for_each(|_| work());
        start.elapsed() / calls
    };
    let (mut wholes, mut bares): (Vec<_>, Vec<_>) = (0..ROUNDS).map(|_| (time(&whole), time(&bare))).unzip();
    wholes.sort();
    bares.sort();
    Times { whole: wholes[ROUNDS / 2], bare: bares[ROUNDS / 2] }
}

/// The lines of an answer of WeChat Pay's.
fn of_wechat(headers: &HeaderMap, body: &str) -> (String, String) {
    let header = |name| headers[name].to_str().unwrap();
    let text = format!("{}\n{}\n{body}\n", header("wechatpay-timestamp"), header("wechatpay-nonce"));
    (text, header("wechatpay-signature").to_owned())
}

/// The object in an answer of Alipay's.
fn of_alipay(_: &HeaderMap, body: &str) -> (String, String) {
    let (_, rest) = body.split_once(':').unwrap();
    let (text, signature) = rest.rsplit_once(",\"sign\":\"").unwrap();
    (text.to_owned(), signature.trim_end_matches("\"}").to_owned())
}

/// The other fields of an answer of UnionPay's. In the golden files they have the order in which they are signed.
fn of_unionpay(_: &HeaderMap, body: &str) -> (String, String) {
    let (before, rest) = body.split_once("&signature=").unwrap();
    let (signature, after) = rest.split_once('&').unwrap();
    (format!("{before}&{after}"), signature.to_owned())
}

/// UnionPay signs the hexadecimal text of the hash.
fn hexadecimal(text: &[u8]) -> Cow<'_, [u8]> {
    let mut digits = vec![0; 64];
    hex::encode_to_slice(digest(&SHA256, text), &mut digits).unwrap();
    Cow::Owned(digits)
}
