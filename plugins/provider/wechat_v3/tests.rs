//! Tests of the APIv3 provider: decoding, rejection of foreign and malformed messages, signatures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use toml::de::DeTable;

use super::super::v3_scheme::{Sealed, testing};
use super::super::*;
use super::golden::*;
use super::{API_V3, SPEC};
use crate::payment::{Currency, Method, Money, NextAction, Order, Pay, Payer, Refund, Status};
use crate::settings::Problems;
use crate::signer::KeyError;

mod answers;
mod bills;
mod codes;
mod malformed;
mod partner;
mod requests;
mod sealed;
mod signatures;

const NUMBER: &str = "T20231115000001";

fn order() -> Order {
    Order {
        number: NUMBER.to_owned(),
        method: Method::parse("wechat.native").unwrap(),
        amount: cny(6800),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        expires_at: None,
        provider_id: None,
    }
}

fn cny(value: u64) -> Money {
    Money { value, currency: Currency::CNY }
}

fn pay(method: &str) -> Pay {
    Pay {
        order: Order { method: Method::parse(method).unwrap(), ..order() },
        description: "tea".to_owned(),
        payer: Payer {
            openid: Some("oUpF8uMuAJO_M2pxb1Q9zNjWeS6o".to_owned()),
            client_ip: Some("2001:db8::7".to_owned()),
            ..Payer::default()
        },
        return_url: None,
        notify_url: "https://pay.example.com/notify/wx".to_owned(),
    }
}

fn refund() -> Refund {
    Refund {
        order: order(),
        number: "R1".to_owned(),
        amount: cny(300),
        made_elsewhere: false,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        reason: None,
        notify_url: "https://pay.example.com/notify/wx".to_owned(),
    }
}

fn verified(body: impl Into<Bytes>) -> Verified {
    Verified::assertion(body.into(), CERTIFICATE)
}

fn order_state(state: &str) -> Value {
    json!({"appid": "wxd678efh567hg6787", "mchid": "1234567891", "out_trade_no": NUMBER, "transaction_id": "42",
           "trade_state": state, "success_time": "2023-11-15T06:13:25.123+08:00",
           "amount": {"total": 6800, "currency": "CNY"}})
}

fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    *value.pointer_mut(pointer).unwrap() = new;
    value
}

fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().unwrap().remove(name).unwrap();
    value
}

/// Encrypts as WeChat Pay does.
fn sealed(plain: &[u8], aad: &str) -> Value {
    testing::seal(&provider().merchant.api_key, plain, aad)
}

fn envelope(event: &str, kind: &str, plain: &[u8]) -> Value {
    testing::envelope(&provider().merchant.api_key, event, kind, plain)
}

fn is_mismatch<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Mismatch(_)))
}
