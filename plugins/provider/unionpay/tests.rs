//! Tests of the UnionPay provider: decoding, rejection of foreign and malformed messages, signatures.

use proptest::prelude::*;
use toml::de::DeTable;

use super::super::*;
use super::fields::{Codec, Fields, SIGNATURE};
use super::golden::*;
use super::{SPEC, UnionPay};
use crate::error::ProviderError;
use crate::payment::{Currency, Method, Money, NextAction, Order, Pay, Payer, Refund, Status};
use crate::secret::Secret;
use crate::settings::Problems;

mod answers;
mod bills;
mod certificates;
mod configuration;
mod malformed;
mod notifications;
mod reports;
mod requests;
mod signatures;

const NUMBER: &str = "0123456789abcdef0123456789abcdef";
const REFUND_NUMBER: &str = "fedcba9876543210fedcba9876543210";
const QUERY_ID: &str = "202501010000007777928";
/// 2025-01-01 00:00 China time.
const ORDERED: i64 = 1_735_660_800;
const ORDERED_TEXT: &str = "20250101000000";

fn cny(value: u64) -> Money {
    Money { value, currency: Currency::CNY }
}

fn order(method: &str) -> Order {
    Order {
        number: NUMBER.to_owned(),
        method: Method::parse(&format!("unionpay.{method}")).unwrap(),
        amount: cny(6800),
        created_at: jiff::Timestamp::from_second(ORDERED).unwrap(),
        expires_at: None,
        provider_id: Some(QUERY_ID.to_owned()),
    }
}

fn pay(method: &str) -> Pay {
    Pay {
        order: Order { provider_id: None, ..order(method) },
        description: "测试 商品+1".to_owned(),
        payer: Payer { auth_code: Some("6220123456789012345".to_owned()), ..Payer::default() },
        return_url: Some("https://shop.example.com/thanks".to_owned()),
        notify_url: "http://127.0.0.1/n".to_owned(),
    }
}

fn refund() -> Refund {
    Refund {
        order: order("page"),
        number: REFUND_NUMBER.to_owned(),
        amount: cny(300),
        made_elsewhere: false,
        created_at: jiff::Timestamp::from_second(ORDERED).unwrap(),
        reason: None,
        notify_url: "http://127.0.0.1/n".to_owned(),
    }
}

fn operations() -> Vec<Operation> {
    let methods = ["page", "app", "qr", "barcode"];
    let mut operations: Vec<_> = methods.iter().map(|method| Operation::Pay(pay(method))).collect();
    operations.extend(methods.iter().map(|method| Operation::Query(order(method))));
    operations.extend([
        Operation::Close(order("barcode")),
        Operation::Refund(refund()),
        Operation::QueryRefund(refund()),
    ]);
    operations
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    pairs.iter().for_each(|(name, value)| fields.set(name, value));
    fields
}

/// Returns the fields of an answer about the test order.
fn answer_fields(code: &str) -> Fields {
    fields(&[
        ("merId", MER_ID),
        ("orderId", NUMBER),
        ("txnTime", ORDERED_TEXT),
        ("txnAmt", "6800"),
        ("currencyCode", "156"),
        ("respCode", code),
        ("respMsg", "成功[0000000]"),
    ])
}

fn with(mut fields: Fields, name: &str, value: &str) -> Fields {
    fields.set(name, value);
    fields
}

fn decode(operation: &Operation, fields: &Fields) -> Result<Outcome, Error> {
    decode_at(operation, fields, NOW)
}

fn decode_at(operation: &Operation, fields: &Fields, now: u64) -> Result<Outcome, Error> {
    let reply = Verified::assertion(Bytes::from(answer_body(fields.clone())), "k");
    signing_at(now, |with| provider().decode(operation, StatusCode::OK, reply, with))
}

fn provider_error(code: &str) -> ProviderError {
    ProviderError { code: code.to_owned(), message: "成功[0000000]".to_owned() }
}

fn is_unclear<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unclear { .. }))
}

fn is_mismatch<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Mismatch(_)))
}

fn no_keys() -> Keyring {
    Keyring::default()
}
