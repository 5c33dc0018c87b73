//! A service provider acts for one merchant: both are named wherever money is spoken of.

use super::super::super::wechat_account::Account;
use super::super::{notify, request};
use super::*;

/// With an app of the merchant's own.
fn account() -> Account {
    Account::new("1900007000".into(), "wxsp".into(), Some("1900000109".into()), Some("wxsub".into()))
}

/// The merchant pays in the service provider's app.
fn without_app() -> Account {
    Account::new("1900007000".into(), "wxsp".into(), Some("1900000109".into()), None)
}

fn news() -> Value {
    json!({"sp_appid": "wxsp", "sp_mchid": "1900007000", "sub_appid": "wxsub", "sub_mchid": "1900000109",
           "out_trade_no": NUMBER, "transaction_id": "42", "trade_state": "SUCCESS",
           "amount": {"total": 6800, "currency": "CNY"}})
}

fn notice() -> Value {
    json!({"sp_mchid": "1900007000", "sub_mchid": "1900000109", "out_trade_no": NUMBER, "transaction_id": "42",
           "out_refund_no": "R1", "refund_id": "50", "refund_status": "SUCCESS",
           "amount": {"refund": 300, "total": 6800, "payer_total": 6800, "payer_refund": 300}})
}

fn asked(account: &Account, news: &Value) -> Result<Outcome, Error> {
    signing(|with| {
        let body = news.to_string();
        super::super::answer::decode(account, &Operation::Query(order()), StatusCode::OK, body.as_bytes(), with)
    })
}

fn told(account: &Account, event: &str, kind: &str, plain: &Value) -> Result<Event, Error> {
    let body = envelope(event, kind, plain.to_string().as_bytes()).to_string();
    notify::decode(account, &provider().api_v3, body.as_bytes())
}

fn paid(account: &Account, news: &Value) -> Result<Event, Error> {
    told(account, "TRANSACTION.SUCCESS", "transaction", news)
}

fn given_back(account: &Account, notice: &Value) -> Result<Event, Error> {
    told(account, "REFUND.SUCCESS", "refund", notice)
}

#[test]
fn answers_name_the_service_provider_and_the_merchant() {
    assert_eq!(asked(&account(), &news()).unwrap().status, Status::Succeeded);
    for name in ["sp_appid", "sp_mchid", "sub_appid", "sub_mchid"] {
        let another = with(news(), &format!("/{name}"), "wxother".into());
        assert!(is_mismatch(&asked(&account(), &another)) && is_mismatch(&paid(&account(), &another)), "{name}");
    }
    for name in ["sp_appid", "sp_mchid", "sub_mchid"] {
        let silent = without(news(), name);
        assert!(matches!(asked(&account(), &silent), Err(Error::Unclear { .. })), "{name}");
        assert!(matches!(paid(&account(), &silent), Err(Error::Unclear { .. })), "{name}");
    }
    // Whoever pays in the service provider's app is told nothing of another.
    assert!(asked(&without_app(), &without(news(), "sub_appid")).is_ok());
    // A merchant's own order is none of the service provider's, and the other way round.
    assert!(asked(&account(), &order_news("SUCCESS")).is_err());
    let own = provider();
    assert!(asked(&own.account, &news()).is_err());
}

#[test]
fn notifications_name_both_too() {
    let event = paid(&account(), &news()).unwrap();
    assert_eq!((event.order_number.as_str(), event.outcome.unwrap().amount), (NUMBER, Some(cny(6800))));
    let event = given_back(&account(), &notice()).unwrap();
    assert_eq!((event.refund_number.as_deref(), event.outcome.unwrap().amount), (Some("R1"), Some(cny(300))));
    for name in ["sp_mchid", "sub_mchid"] {
        assert!(is_mismatch(&given_back(&account(), &with(notice(), &format!("/{name}"), "1".into()))), "{name}");
        let silent = given_back(&account(), &without(notice(), name));
        assert!(matches!(silent, Err(Error::Unclear { .. })), "{name}");
    }
    let own = provider();
    assert!(given_back(&own.account, &notice()).is_err());
}

#[test]
fn the_account_has_both_names() {
    assert_eq!(
        (account().name.as_str(), account().payee(), account().payers_appid()),
        ("1900007000/1900000109", "1900000109", "wxsub")
    );
    assert_eq!(without_app().payers_appid(), "wxsp");
}

#[test]
fn requests_go_to_the_service_providers_paths() {
    let path =
        |account: &Account, operation: &Operation| request::encode(account, operation).unwrap().uri().to_string();
    for operation in [Operation::Pay(pay("wechat.native")), Operation::Query(order()), Operation::Close(order())] {
        assert!(path(&account(), &operation).starts_with("/v3/pay/partner/transactions/"), "{operation:?}");
        assert!(path(&provider().account, &operation).starts_with("/v3/pay/transactions/"), "{operation:?}");
    }
    let asked = path(&account(), &Operation::QueryRefund(refund()));
    assert!(asked.starts_with("/v3/refund/domestic/refunds/R1?") && asked.contains("sub_mchid=1900000109"), "{asked}");
}

#[test]
fn a_service_providers_bill_is_not_shown_for_one_merchant() {
    assert!(partner().bills().is_none() && provider().bills().is_some());
}
