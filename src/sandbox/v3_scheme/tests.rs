#![allow(clippy::unwrap_used)]

use http::Request as HttpRequest;

use super::*;
use crate::keygen::account_kind::NewAccount;
use crate::keygen::v3_scheme::make;
use crate::v3_scheme::scheme::Paths;

/// A provider that copies the scheme under names of its own.
static COPY: V3Scheme = V3Scheme {
    name: "copy",
    authorization: "COPY-SHA256-RSA2048",
    header_prefix: "copypay",
    public_key_prefix: "COPY_KEY_",
    probe_prefix: "COPY/SIGNTEST/",
    paths: Paths {
        transactions: "/v1/trade/transactions",
        partner_transactions: "/v1/trade/partner/transactions",
        refunds: "/v1/refunds",
        certificates: "/v1/certificates",
        trade_bill: "/v1/bill/trade",
        fund_flow_bill: "/v1/bill/funds",
        bill_file: "/v1/bill/file",
    },
    qr_link: "copy://",
    h5_page: "https://copy.example/",
    has_mchid_in_refunds: true,
    notification_schedule: &[],
    account_kinds: &[],
};

/// Generates and reads an account of [`COPY`].
fn account() -> Account {
    let directory = tempfile::tempdir().unwrap();
    let new_account = NewAccount { dir: directory.path(), name: "main", host: "127.0.0.1", address: "127.0.0.1:8443" };
    let generated = make(&COPY, &new_account).unwrap();
    assert!(generated.channel.contains("provider = \"copy\""), "{}", generated.channel);
    for (file, text) in &generated.files {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    Account::read(&COPY, &AccountFile::read(directory.path()).unwrap()).unwrap()
}

#[test]
fn provider_that_copies_the_scheme_uses_its_own_header_names_and_key_ids() {
    let account = account();
    let key = account.public_key.as_ref().unwrap();
    assert!(key.id.starts_with("COPY_KEY_1900"), "{}", key.id);
    let response = Reply::ok(&json!({})).signed(&COPY, Some(key), Some(FaultKind::Signtest));
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header("copypay-serial"), header("copypay-signature-type")),
        (key.id.clone(), COPY.authorization.into())
    );
    assert!(header("copypay-signature").starts_with("COPY/SIGNTEST/"));
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("wechatpay")));
}

#[test]
fn paths_of_the_scheme_select_the_operation_and_paths_of_another_provider_none() {
    let operation = |method: &str, path: &str| {
        let (parts, ()) = HttpRequest::builder().method(method).uri(path).body(()).unwrap().into_parts();
        Route::of(&COPY, &parts).map(|route| route.operation())
    };
    for (method, path, expected) in [
        ("POST", "/v1/trade/transactions/native", Some("create")),
        ("POST", "/v1/trade/partner/transactions/jsapi", Some("create")),
        ("GET", "/v1/trade/transactions/out-trade-no/o-1", Some("query")),
        ("POST", "/v1/trade/transactions/out-trade-no/o-1/close", Some("close")),
        ("POST", "/v1/refunds", Some("refund")),
        ("GET", "/v1/refunds/r-1", Some("refund_query")),
        ("GET", "/v1/certificates", Some("certificates")),
        ("GET", "/v1/bill/trade?bill_date=2026-01-01", Some("bill")),
        ("GET", "/v1/bill/file?token=x", Some("bill_file")),
        ("DELETE", "/v1/refunds", None),
        ("POST", "/v3/pay/transactions/native", None),
        ("POST", "/v1/trade/transactionsnative", None),
    ] {
        assert_eq!(operation(method, path), expected, "{method} {path}");
        let path = path.split('?').next().unwrap();
        assert_eq!(COPY.serves(path), expected.is_some() || method == "DELETE", "{path}");
    }
}

#[test]
fn refund_of_a_provider_with_mchid_in_refunds_needs_the_mchid_of_the_sender() {
    let account = account();
    let state = &mut SandboxState::default();
    let handler = orders::OrderHandler { state, account: &account, now: Timestamp::UNIX_EPOCH };
    let given = |body: Value| handler.without_mchid(Some(body)).map_err(|reply| reply.status);
    assert_eq!(given(json!({"mchid": account.mchid, "x": 1})).ok(), Some(Some(json!({"x": 1}))));
    assert_eq!(given(json!({"mchid": "1900000000"})).err(), Some(403));
    assert_eq!(given(json!({"x": 1})).err(), Some(400));
}
