//! Tests of the Alipay provider: decoding, rejection of foreign and malformed messages, signatures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::form::{self, Fields};
use super::super::*;
use super::envelope::Envelope;
use super::golden::*;
use super::{Alipay, readable};
use crate::payment::{Currency, Method, Money, NextAction, Order, Pay, Payer, Refund, Refunded, Status};
use crate::signer::Key;

mod accounts;
mod answers;
mod bills;
mod certificates;
mod charsets;
mod codes;
mod malformed;
mod notifications;
mod requests;
mod signatures;
pub(super) mod v3;

const NUMBER: &str = "0123456789abcdef0123456789abcdef";
const REFUND: &str = "fedcba9876543210fedcba9876543210";
const AES: &str = "IAYCrfqrTRSgOkmDArMsJw==";

fn order(method: &str) -> Order {
    Order {
        number: NUMBER.to_owned(),
        method: Method::parse(method).unwrap(),
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
        order: order(method),
        description: "tea".to_owned(),
        payer: Payer {
            auth_code: Some("286412345678901234".to_owned()),
            buyer_id: Some("2088102116773037".to_owned()),
            ..Payer::default()
        },
        return_url: None,
        notify_url: "https://pay.example.com/notify/ali".to_owned(),
    }
}

fn refund() -> Refund {
    Refund {
        order: order("alipay.qr"),
        number: REFUND.to_owned(),
        amount: cny(300),
        made_elsewhere: false,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        reason: None,
        notify_url: "https://pay.example.com/notify/ali".to_owned(),
    }
}

/// Wraps a body as verified, with the member that the signature check locates.
fn verified(body: impl Into<Bytes>) -> Verified {
    let body = body.into();
    match Envelope::read(&readable::readable(&body)).map(|envelope| envelope.member) {
        Some(member) => Verified::assertion_with_members(body, vec![member], "k"),
        None => Verified::assertion(body, "k"),
    }
}

fn read(form: &[u8]) -> Fields {
    let mut params = Fields::new();
    form::read_into(form, &mut params).unwrap();
    params
}

/// Encodes and signs an operation, and returns the sent fields.
fn sent(provider: &Alipay, operation: &Operation) -> Result<Fields, Error> {
    signing(|with| {
        let Encoded::Send(mut request) = provider.encode(operation, with)? else { panic!("nothing to send") };
        provider.sign(&mut request, with)?;
        Ok(read(request.body()))
    })
}

fn with(mut value: Value, name: &str, new: impl Into<Value>) -> Value {
    value[name] = new.into();
    value
}

fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().unwrap().remove(name).unwrap();
    value
}

fn is_mismatch<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Mismatch(_)))
}

fn is_unclear<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unclear { .. }))
}
