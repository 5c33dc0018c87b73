//! What a dialect adds to the bare cryptography, side by side in one run: encode + sign, verify + decode, for each provider.
//!
//! `cargo bench --bench dialects`. Machines differ and are noisy: the ratios count, not the numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;
use tollgate_plugins::payment::{Currency, Method, Money, Operation, Order, Pay, Payer};
use tollgate_plugins::provider::{Encoded, Given, PROVIDERS, Provider, Secrets, Signing, Source, Stamp};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Problems, Settings};
use tollgate_plugins::signer::{ALGORITHMS, Key, Keyring};
use toml::de::DeTable;

/// The moment at which the golden files were made.
const NOW: u64 = 1_700_000_000;
const ROUNDS: usize = 15;

/// One dialect with keys and the answer of a golden file.
struct Case {
    provider: &'static str,
    method: &'static str,
    account: &'static str,
    secrets: &'static [(&'static str, &'static str)],
    algorithm: &'static str,
    key_id: &'static str,
    private_key: &'static str,
    public_key: &'static str,
    public_key_id: &'static str,
    /// The golden file of a query.
    query: &'static str,
}

const CASES: &[Case] = &[
    Case {
        provider: "wechat-v3",
        method: "wechat.native",
        account: "mchid = \"1234567891\"\nappid = \"wxd678efh567hg6787\"",
        secrets: &[("api_v3", "0123456789abcdef0123456789abcdef")],
        algorithm: "rsa-sha256",
        key_id: "5F1C72E2A8931B72A2E13AF8DEE92471EB397115",
        private_key: "wxjava_merchant_private_key.pem",
        public_key: "wxjava_wechat_pay_public_key.pem",
        public_key_id: "440024045C4A427599D09BB4E3DE0279F2E813FD",
        query: "query.json",
    },
    Case {
        provider: "alipay",
        method: "alipay.qr",
        account: "app_id = \"2021000000000001\"",
        secrets: &[],
        algorithm: "rsa-sha256",
        key_id: "app",
        private_key: "ali_app.key.pem",
        public_key: "ali_alipay.pub.pem",
        public_key_id: "alipay",
        query: "query.json",
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
    println!("goal: at most 1.10 with RSA");
}

impl Case {
    fn run(&self) {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(self.provider);
        let key = |name: &str| std::fs::read(golden.join("keys").join(name)).unwrap();
        let algorithm = ALGORITHMS.iter().find(|algorithm| algorithm.name == self.algorithm).unwrap();
        let signer = (algorithm.signer)(self.key_id, &key(self.private_key)).unwrap();
        let verifier = (algorithm.verifier)(&key(self.public_key)).unwrap();
        let keys =
            Keyring::new(vec![Key { id: self.public_key_id.to_owned(), verifier: verifier.clone(), not_after: None }]);
        let provider = self.build();
        let stamp = Stamp { unix_time: NOW, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
        let with = Signing { signer: &*signer, keys: &keys, stamp: &stamp };

        let pay = self.pay();
        let request = || {
            let Encoded::Send(mut request) = provider.encode(&pay, with).unwrap() else { panic!("nothing to send") };
            provider.sign(&mut request, with).unwrap();
            request
        };
        let length = request().body().len() + 100;
        let text = vec![b'x'; length];
        let (signed, bare_sign) = in_turns(100, || drop(black_box(request())), || drop(black_box(signer.sign(&text))));

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
            let verified = provider.verify(Source::Answer, &headers, body.clone(), &keys, NOW).unwrap();
            provider.decode(&query, StatusCode::OK, verified, with).unwrap()
        };
        let signature = signer.sign(&body).unwrap();
        // A wrong signature of the right length costs what a right one does.
        let (read, bare_verify) =
            in_turns(1000, || drop(black_box(answer())), || _ = black_box(verifier.verify(&body, &signature)));
        println!(
            "{:<12} {:>16?} {:>16?} {:>6.2}x   {:>16?} {:>16?} {:>6.2}x",
            self.provider,
            signed,
            bare_sign,
            signed.as_secs_f64() / bare_sign.as_secs_f64(),
            read,
            bare_verify,
            read.as_secs_f64() / bare_verify.as_secs_f64(),
        );
    }

    fn build(&self) -> Box<dyn Provider> {
        let row = PROVIDERS.iter().find(|row| row.name == self.provider).unwrap();
        let secrets: Secrets =
            self.secrets.iter().map(|(name, value)| (*name, Secret::new(value.as_bytes().to_vec()))).collect();
        let table = DeTable::parse(self.account).unwrap();
        let problems = Problems::default();
        let mut settings = Settings::root(&table, &problems);
        (row.build)(&mut settings, &Given { secrets: &secrets, algorithm: Some(self.algorithm) }).unwrap()
    }

    fn pay(&self) -> Operation {
        Operation::Pay(Pay {
            order: Order {
                number: "0123456789abcdef0123456789abcdef".to_owned(),
                method: Method::parse(self.method).unwrap(),
                amount: Money { value: 888, currency: Currency::CNY },
                created_at: jiff::Timestamp::from_second(NOW.cast_signed()).unwrap(),
                provider_id: None,
            },
            description: "茶 tea".to_owned(),
            payer: Payer::default(),
            expires_at: None,
            return_url: None,
            notify_url: "https://pay.example.com/notify/main".to_owned(),
        })
    }
}

/// The time of one call of each, from the round with the middle ratio. They run in turns, so that noise falls on both.
fn in_turns(calls: u32, one: impl Fn(), other: impl Fn()) -> (Duration, Duration) {
    let time = |work: &dyn Fn()| {
        let start = Instant::now();
        (0..calls).for_each(|_| work());
        start.elapsed() / calls
    };
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| (time(&one), time(&other))).collect();
    rounds.sort_by(|a, b| (a.0.as_secs_f64() / a.1.as_secs_f64()).total_cmp(&(b.0.as_secs_f64() / b.1.as_secs_f64())));
    rounds[ROUNDS / 2]
}
