//! Service provider that acts for one merchant: messages about money contain the ids of both.

use super::super::super::merchant_account::Account;
use super::super::V3Account;
use super::*;

/// Merchant with its own app.
fn account() -> V3Account {
    merchant(Account::new("1900007000".into(), "wxsp".into(), Some("1900000109".into()), Some("wxsub".into())))
}

/// Merchant that uses the service provider's app.
fn without_app() -> V3Account {
    merchant(Account::new("1900007000".into(), "wxsp".into(), Some("1900000109".into()), None))
}

fn state() -> Value {
    json!({"sp_appid": "wxsp", "sp_mchid": "1900007000", "sub_appid": "wxsub", "sub_mchid": "1900000109",
           "out_trade_no": NUMBER, "transaction_id": "42", "trade_state": "SUCCESS",
           "amount": {"total": 6800, "currency": "CNY"}})
}

fn notice() -> Value {
    json!({"sp_mchid": "1900007000", "sub_mchid": "1900000109", "out_trade_no": NUMBER, "transaction_id": "42",
           "out_refund_no": "R1", "refund_id": "50", "refund_status": "SUCCESS",
           "amount": {"refund": 300, "total": 6800, "payer_total": 6800, "payer_refund": 300}})
}

fn query_outcome(account: &V3Account, state: &Value) -> Result<Outcome, Error> {
    let body = verified(state.to_string());
    signing(|with| account.decode(&Operation::Query(order()), StatusCode::OK, body, with))
}

fn decode_notification(account: &V3Account, event: &str, kind: &str, plain: &Value) -> Result<Event, Error> {
    let body = envelope(event, kind, plain.to_string().as_bytes()).to_string();
    account.decode_notification(verified(body))
}

fn decode_payment(account: &V3Account, state: &Value) -> Result<Event, Error> {
    decode_notification(account, "TRANSACTION.SUCCESS", "transaction", state)
}

fn decode_refund(account: &V3Account, notice: &Value) -> Result<Event, Error> {
    decode_notification(account, "REFUND.SUCCESS", "refund", notice)
}

#[test]
fn answer_without_ids_of_both_sides_is_rejected() {
    assert_eq!(query_outcome(&account(), &state()).unwrap().status, Status::Succeeded);
    for name in ["sp_appid", "sp_mchid", "sub_appid", "sub_mchid"] {
        let changed = with(state(), &format!("/{name}"), "wxother".into());
        assert!(
            is_mismatch(&query_outcome(&account(), &changed)) && is_mismatch(&decode_payment(&account(), &changed)),
            "{name}"
        );
    }
    for name in ["sp_appid", "sp_mchid", "sub_mchid"] {
        let incomplete = without(state(), name);
        assert!(matches!(query_outcome(&account(), &incomplete), Err(Error::Unclear { .. })), "{name}");
        assert!(matches!(decode_payment(&account(), &incomplete), Err(Error::Unclear { .. })), "{name}");
    }
    // Without a merchant's app, the message needs no `sub_appid`.
    assert!(query_outcome(&without_app(), &without(state(), "sub_appid")).is_ok());
    // A merchant's own order does not belong to the service provider, and vice versa.
    assert!(query_outcome(&account(), &order_state("SUCCESS")).is_err());
    let own = provider();
    assert!(query_outcome(&own.merchant, &state()).is_err());
}

#[test]
fn notification_without_ids_of_both_sides_is_rejected() {
    let event = decode_payment(&account(), &state()).unwrap();
    assert_eq!((event.order_number.as_str(), event.outcome.unwrap().amount), (NUMBER, Some(cny(6800))));
    let event = decode_refund(&account(), &notice()).unwrap();
    assert_eq!((event.refund_number.as_deref(), event.outcome.unwrap().amount), (Some("R1"), Some(cny(300))));
    for name in ["sp_mchid", "sub_mchid"] {
        assert!(is_mismatch(&decode_refund(&account(), &with(notice(), &format!("/{name}"), "1".into()))), "{name}");
        let incomplete = decode_refund(&account(), &without(notice(), name));
        assert!(matches!(incomplete, Err(Error::Unclear { .. })), "{name}");
    }
    let own = provider();
    assert!(decode_refund(&own.merchant, &notice()).is_err());
}

#[test]
fn account_name_contains_both_numbers() {
    assert_eq!(
        (account().ids.name.as_str(), account().ids.payee(), account().ids.payers_appid()),
        ("1900007000/1900000109", "1900000109", "wxsub")
    );
    assert_eq!(without_app().ids.payers_appid(), "wxsp");
}

#[test]
fn requests_use_service_provider_paths() {
    let path =
        |account: &V3Account, operation: &Operation| account.encode_operation(operation).unwrap().uri().to_string();
    for operation in [Operation::Pay(pay("wechat.native")), Operation::Query(order()), Operation::Close(order())] {
        assert!(path(&account(), &operation).starts_with("/v3/pay/partner/transactions/"), "{operation:?}");
        assert!(path(&provider().merchant, &operation).starts_with("/v3/pay/transactions/"), "{operation:?}");
    }
    let query_outcome = path(&account(), &Operation::QueryRefund(refund()));
    assert!(
        query_outcome.starts_with("/v3/refund/domestic/refunds/R1?") && query_outcome.contains("sub_mchid=1900000109"),
        "{query_outcome}"
    );
}

#[test]
fn service_provider_offers_no_bills() {
    assert!(partner().bills().is_none() && provider().bills().is_some());
}
