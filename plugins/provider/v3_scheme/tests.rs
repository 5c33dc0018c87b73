//! A second company's names: every part of the scheme that may differ does.

use super::super::golden::{self, NOW, keys};
use super::*;
use crate::payment::Status;

const SCHEME: V3Scheme = V3Scheme {
    company: "Example Pay",
    authorization: "ExamplePay-RSA",
    header_prefix: "examplepay",
    public_key_prefix: None,
    probe_prefix: None,
    paths: Paths {
        transactions: "/v1/trade/transactions",
        partner_transactions: "/v1/trade/partner/transactions",
        refunds: "/v1/trade/refunds",
        certificates: "/v1/certificates",
    },
    products: &[("sandbox.qr", Product::Native)],
    jsapi_sign_type: "ExamplePay-RSA",
    app_package: "Sign=ExamplePay",
    has_mchid_in_refunds: true,
    codes: AnswerCodes { rows: &[], final_with_500: &[], credentials: &[] },
    key_advice: KeyAdvice { use_public_key: "a", check_signer: "b", check_api_key: "c", ask_provider: "d" },
};

fn account() -> V3Account {
    let ids = Account::new("1900000109".to_owned(), "app1".to_owned(), None, None);
    V3Account::new(&SCHEME, ids, keys::SECRET).unwrap()
}

#[test]
fn golden_files_of_another_company_match() {
    let needed =
        ["pay", "query", "close", "refund", "query-refund", "refund-refused", "refund-unsigned", "notification"];
    testing::check_with_neutral_keys("v3-scheme", &account(), &needed);
}

#[test]
fn names_of_another_company_do_not_verify_or_decode() {
    let message = || {
        let mut message = golden::Message { status: Some(200), body: "{}".to_owned(), ..Default::default() };
        SCHEME.sign_message(&*keys::provider_signer(), &mut message);
        message
    };
    let verify = |message: &golden::Message| {
        account().verify(Source::Answer, &message.header_map(), message.body.clone().into(), &keys::keyring(), NOW)
    };
    assert_eq!(verify(&message()).unwrap().key_id(), keys::PROVIDER_KEY);
    let renamed = |from: &str, to: &str| {
        let mut message = message();
        message.headers = message.headers.into_iter().map(|(name, value)| (name.replace(from, to), value)).collect();
        message
    };
    assert_eq!(verify(&renamed("examplepay-", "wechatpay-")).unwrap_err(), BadSignature::Missing);
    let mut other = message();
    other.headers.insert("examplepay-signature-type".to_owned(), "WECHATPAY2-SHA256-RSA2048".to_owned());
    assert_eq!(verify(&other).unwrap_err(), BadSignature::Wrong("unknown signature type"));
    let Err(Error::Unsupported(why)) = account().encode_operation(&golden::pay("wechat.native")) else { panic!() };
    assert!(why.contains("`wechat.native` is not a payment method of Example Pay"), "{why}");
}

#[test]
fn keys_are_fetched_from_the_path_of_the_company() {
    let account = account();
    let keys = account.published_keys().unwrap();
    assert_eq!(keys.request(None).unwrap().uri(), "/v1/certificates");
    let mut answer = Response::new(Bytes::from_static(b"<html>"));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    let refused = keys.read(&answer, &Keyring::default(), NOW).err().unwrap();
    assert_eq!((refused.why.as_str(), refused.advice), ("Example Pay returned no certificates: HTTP 502", "d"));
}

#[test]
fn sealed_content_opens_with_the_account_secret_only() {
    let sealed: Sealed = serde_json::from_value(testing::seal(&account().api_key, b"plain", "aad")).unwrap();
    assert_eq!(sealed.open(&account().api_key).unwrap(), b"plain");
    let other = Aes256Gcm::new_from_slice(&[7; 32]).unwrap();
    assert_eq!(sealed.open(&other), Err("not encrypted with our APIv3 key"));
}

#[test]
fn code_without_a_row_is_unlisted_and_no_success() {
    let operation = golden::pay("sandbox.qr");
    let reply = Verified::assertion(Bytes::from_static(br#"{"code":"NEW","message":"m"}"#), "k");
    let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
    let (signer, keys) = (keys::merchant_signer(), keys::keyring());
    let with = Signing { signer: &*signer, keys: &keys, stamp: &stamp };
    let error = account().decode(&operation, StatusCode::FORBIDDEN, reply, with).unwrap_err();
    assert_eq!(error.code(), "unlisted_refusal");
    let paid = Verified::assertion(Bytes::from_static(br#"{"code_url":"q"}"#), "k");
    assert_eq!(account().decode(&operation, StatusCode::OK, paid, with).unwrap().status, Status::Pending);
}
