//! Encoding of operations as APIv2 requests: fields that become flat XML.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Uri};

use super::super::merchant_account::{is_transmittable, openid, scanned_code};
use super::super::{Signing, china_time};
use super::account::Account;
use super::product::Product;
use super::signature::SignType;
use super::xml::{self, Fields};
use crate::error::Error;
use crate::payment::{Currency, Money, Operation, Pay, Refund};

/// WeChat Pay's maximum order amount: ten billion yuan, in fen.
const MAX_FEN: u64 = 1_000_000_000_000;
/// Payer address if the caller gave none. The field is mandatory, but no rule of WeChat Pay depends on its value.
const UNKNOWN_ADDRESS: &str = "127.0.0.1";

/// Encodes the request, not yet signed.
pub(super) fn encode(account: &Account, operation: &Operation, with: Signing<'_>) -> Result<Request<Bytes>, Error> {
    let mut fields = Fields::new();
    let order = operation.order();
    let product = Product::of(order.method)?;
    put(&mut fields, "out_trade_no", &order.number);
    let path = match operation {
        Operation::Pay(pay) => {
            put_order(&mut fields, account, product, pay)?;
            if let Product::Codepay = product { "/pay/micropay" } else { "/pay/unifiedorder" }
        }
        Operation::Query(_) => "/pay/orderquery",
        // A payment with a scanned code cannot be closed, only reversed.
        Operation::Close(_) if product == Product::Codepay => "/secapi/pay/reverse",
        Operation::Close(_) => "/pay/closeorder",
        Operation::Refund(refund) => {
            put_refund(&mut fields, refund)?;
            "/secapi/pay/refund"
        }
        Operation::QueryRefund(refund) => {
            // A refund is identified by exactly one number; its own is the most specific.
            fields.remove("out_trade_no");
            put(&mut fields, "out_refund_no", &refund.number);
            "/pay/refundquery"
        }
    };
    put_common(&mut fields, account, account.key.sign_type, with);
    match fields.iter().find(|(_, value)| !value.chars().all(is_transmittable)) {
        None => Ok(post(path, &fields)),
        Some((name, _)) => {
            let name = api_field_name(name);
            Err(Error::Unsupported(format!(
                "`{name}` contains a control character, which WeChat Pay's XML does not accept: remove it"
            )))
        }
    }
}

/// Returns the name of a field in the gateway's API.
fn api_field_name(name: &str) -> &str {
    match name {
        "body" => "description",
        "refund_desc" => "reason",
        "openid" | "sub_openid" => "payer.openid",
        "auth_code" => "payer.auth_code",
        "spbill_create_ip" => "payer.client_ip",
        other => other,
    }
}

/// Adds the fields that every request contains.
pub(super) fn put_common(fields: &mut Fields, account: &Account, sign_type: SignType, with: Signing<'_>) {
    put(fields, "appid", &account.appid);
    put(fields, "mch_id", &account.mchid);
    for (name, value) in [("sub_appid", &account.sub_appid), ("sub_mch_id", &account.sub_mchid)] {
        if let Some(value) = value {
            put(fields, name, value);
        }
    }
    put(fields, "nonce_str", &with.stamp.nonce);
    put(fields, "sign_type", sign_type.as_str());
}

/// Builds a request with these fields as its body.
pub(super) fn post(path: &'static str, fields: &Fields) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(xml::write(fields)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    request
}

fn put_order(fields: &mut Fields, account: &Account, product: Product, pay: &Pay) -> Result<(), Error> {
    if pay.description.is_empty() || pay.description.chars().count() > 128 {
        return Err(unsupported("`description` must have 1 to 128 characters for WeChat Pay"));
    }
    put(fields, "body", &pay.description);
    put(fields, "total_fee", &fen(pay.order.amount)?);
    put(fields, "fee_type", "CNY");
    let address = pay.payer.client_ip.as_deref();
    if product == Product::H5 && address.is_none() {
        return Err(unsupported("`payer.client_ip` (the address of the payer's browser) is needed for `wechat.h5`"));
    }
    if address.is_some_and(|address| address.parse::<IpAddr>().is_err()) {
        return Err(unsupported("`payer.client_ip` must be the payer's IPv4 or IPv6 address"));
    }
    put(fields, "spbill_create_ip", address.unwrap_or(UNKNOWN_ADDRESS));
    if let Some(end) = pay.order.expires_at {
        put(fields, "time_expire", &china_time::write(end, china_time::COMPACT));
    }
    if product == Product::Codepay {
        put(fields, "auth_code", scanned_code(pay)?);
        return Ok(());
    }
    put(fields, "notify_url", notify_url(&pay.notify_url)?);
    put(fields, "trade_type", product.trade_type());
    match product {
        Product::Native => put(fields, "product_id", &pay.order.number),
        Product::Jsapi => {
            // The openid belongs to the merchant's own app if it has one, else to the service provider's app.
            let name = if account.sub_appid.is_some() { "sub_openid" } else { "openid" };
            put(fields, name, openid(pay)?);
        }
        Product::H5 => put(fields, "scene_info", r#"{"h5_info":{"type":"Wap"}}"#),
        Product::App | Product::Codepay => {}
    }
    Ok(())
}

fn put_refund(fields: &mut Fields, refund: &Refund) -> Result<(), Error> {
    put(fields, "out_refund_no", &refund.number);
    put(fields, "total_fee", &fen(refund.order.amount)?);
    put(fields, "refund_fee", &fen(refund.amount)?);
    put(fields, "refund_fee_type", "CNY");
    put(fields, "notify_url", notify_url(&refund.notify_url)?);
    if let Some(reason) = &refund.reason {
        if reason.chars().count() > 80 {
            return Err(unsupported("`reason` must have at most 80 characters for WeChat Pay"));
        }
        put(fields, "refund_desc", reason);
    }
    Ok(())
}

fn notify_url(url: &str) -> Result<&str, Error> {
    match url.len() > 256 || url.contains(['?', '#']) {
        true => Err(unsupported(
            "the notification URL must have at most 256 bytes and no `?` or `#` for WeChat Pay: change `public_url`",
        )),
        false => Ok(url),
    }
}

fn fen(money: Money) -> Result<String, Error> {
    if money.currency != Currency::CNY {
        return Err(Error::Unsupported(format!("this channel accepts CNY only, not {}", money.currency)));
    }
    match money.value {
        1..=MAX_FEN => Ok(money.value.to_string()),
        _ => Err(unsupported("`amount.value` must be from 1 fen to ten billion yuan for WeChat Pay")),
    }
}

pub(super) fn put(fields: &mut Fields, name: &str, value: &str) {
    fields.insert(name.to_owned(), value.to_owned());
}

fn unsupported(why: &str) -> Error {
    Error::Unsupported(why.to_owned())
}
