//! Documented fields and formats per request. Other fields are rejected, as by WeChat Pay.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::fields::FieldType::{Flag, Object, Objects, Text, Texts, Whole};
use crate::fields::{Field, any, optional, required};

/// Payment product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Native,
    Jsapi,
    App,
    H5,
    Codepay,
}

impl Product {
    /// Returns the product of a path segment.
    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Native, Self::Jsapi, Self::App, Self::H5, Self::Codepay];
        all.into_iter().find(|product| product.as_str() == name)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Jsapi => "jsapi",
            Self::App => "app",
            Self::H5 => "h5",
            Self::Codepay => "codepay",
        }
    }

    pub(super) fn trade_type(self) -> &'static str {
        match self {
            Self::Native => "NATIVE",
            Self::Jsapi => "JSAPI",
            Self::App => "APP",
            Self::H5 => "MWEB",
            Self::Codepay => "MICROPAY",
        }
    }
}

/// Returns the fields of a create request.
pub(super) fn create(product: Product) -> &'static [Field] {
    match product {
        Product::Native => CREATE_NATIVE,
        Product::App => CREATE_APP,
        Product::Jsapi => CREATE_JSAPI,
        Product::H5 => CREATE_H5,
        Product::Codepay => CREATE_CODEPAY,
    }
}

/// Fields of a close request.
pub(super) const CLOSE: &[Field] = &[required("mchid", Text(1, 32, is_digits))];

/// Fields of a reversal of a scanned code.
pub(super) const REVERSE: &[Field] = &[required("appid", Text(1, 32, any)), required("mchid", Text(1, 32, is_digits))];

/// Fields of a refund request.
pub(super) const REFUND: &[Field] = &[
    optional("transaction_id", Text(1, 32, any)),
    optional("out_trade_no", Text(6, 32, is_number)),
    required("out_refund_no", Text(1, 64, is_refund_number)),
    optional("reason", Text(1, 80, any)),
    optional("notify_url", Text(8, 255, is_notify_url)),
    optional("funds_account", Text(1, 32, |text| matches!(text, "AVAILABLE" | "UNSETTLED"))),
    required(
        "amount",
        Object(&[
            required("refund", Whole(1)),
            required("total", Whole(1)),
            required("currency", Text(3, 3, is_cny)),
            optional("from", Objects(&[required("account", Text(1, 32, any)), required("amount", Whole(1))])),
        ]),
    ),
    optional(
        "goods_detail",
        Objects(&[
            required("merchant_goods_id", Text(1, 32, any)),
            optional("wechatpay_goods_id", Text(1, 32, any)),
            optional("goods_name", Text(1, 256, any)),
            required("unit_price", Whole(0)),
            required("refund_amount", Whole(0)),
            required("refund_quantity", Whole(1)),
        ]),
    ),
];

const CREATE_NATIVE: &[Field] = &create_fields(optional("scene_info", Object(SCENE)), None);
const CREATE_APP: &[Field] = CREATE_NATIVE;
const CREATE_JSAPI: &[Field] = &create_fields(
    optional("scene_info", Object(SCENE)),
    Some(required("payer", Object(&[required("openid", Text(1, 128, any))]))),
);
const CREATE_H5: &[Field] = &create_fields(required("scene_info", Object(SCENE_H5)), None);

const fn create_fields(scene: Field, payer: Option<Field>) -> [Field; 15] {
    [
        required("appid", Text(1, 32, any)),
        required("mchid", Text(1, 32, is_digits)),
        required("description", Text(1, 127, any)),
        required("out_trade_no", Text(6, 32, is_number)),
        optional("time_expire", Text(1, 64, is_time)),
        optional("attach", Text(1, 128, any)),
        required("notify_url", Text(8, 255, is_notify_url)),
        optional("goods_tag", Text(1, 32, any)),
        optional("support_fapiao", Flag),
        optional("limit_pay", Texts),
        required("amount", Object(AMOUNT)),
        optional("detail", Object(DETAIL)),
        optional("settle_info", Object(SETTLEMENT)),
        scene,
        match payer {
            Some(payer) => payer,
            // Placeholder: the same field as above.
            None => optional("support_fapiao", Flag),
        },
    ]
}

/// A scanned code is final soon and has no notification: no `notify_url`, no `time_expire`.
const CREATE_CODEPAY: &[Field] = &[
    required("appid", Text(1, 32, any)),
    required("mchid", Text(1, 32, is_digits)),
    required("description", Text(1, 127, any)),
    required("out_trade_no", Text(6, 32, is_number)),
    optional("attach", Text(1, 128, any)),
    optional("goods_tag", Text(1, 32, any)),
    optional("support_fapiao", Flag),
    optional("limit_pay", Texts),
    required("amount", Object(AMOUNT)),
    optional("detail", Object(DETAIL)),
    optional("settle_info", Object(SETTLEMENT)),
    required("payer", Object(&[required("auth_code", Text(18, 18, is_auth_code))])),
    required(
        "scene_info",
        Object(&[
            optional("device_id", Text(1, 32, any)),
            optional("device_ip", Text(2, 45, is_ip)),
            required("store_info", Object(&[optional("id", Text(1, 32, any)), optional("out_id", Text(1, 32, any))])),
        ]),
    ),
];

const AMOUNT: &[Field] = &[required("total", Whole(1)), optional("currency", Text(3, 3, is_cny))];

const SETTLEMENT: &[Field] = &[optional("profit_sharing", Flag)];

const DETAIL: &[Field] = &[
    optional("cost_price", Whole(0)),
    optional("invoice_id", Text(1, 32, any)),
    optional(
        "goods_detail",
        Objects(&[
            required("merchant_goods_id", Text(1, 32, any)),
            optional("wechatpay_goods_id", Text(1, 32, any)),
            optional("goods_name", Text(1, 256, any)),
            required("quantity", Whole(1)),
            required("unit_price", Whole(0)),
        ]),
    ),
];

const STORE: Field = optional(
    "store_info",
    Object(&[
        required("id", Text(1, 32, any)),
        optional("name", Text(1, 256, any)),
        optional("area_code", Text(1, 32, any)),
        optional("address", Text(1, 512, any)),
    ]),
);

const SCENE: &[Field] =
    &[required("payer_client_ip", Text(2, 45, is_ip)), optional("device_id", Text(1, 32, any)), STORE];

const SCENE_H5: &[Field] = &[
    required("payer_client_ip", Text(2, 45, is_ip)),
    optional("device_id", Text(1, 32, any)),
    STORE,
    required(
        "h5_info",
        Object(&[
            required("type", Text(1, 32, any)),
            optional("app_name", Text(1, 64, any)),
            optional("app_url", Text(1, 128, any)),
            optional("bundle_id", Text(1, 128, any)),
            optional("package_name", Text(1, 128, any)),
        ]),
    ),
];

/// Returns whether the characters of an order number are allowed.
pub(super) fn is_number(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-|*".contains(c))
}

/// Returns whether the characters of a refund number are allowed.
pub(super) fn is_refund_number(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-|*@".contains(c))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether the text is a payment code.
fn is_auth_code(text: &str) -> bool {
    is_digits(text) && text.get(..2).is_some_and(|start| ("10"..="15").contains(&start))
}

fn is_cny(text: &str) -> bool {
    text == "CNY"
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Returns whether the text is RFC 3339 with an offset.
fn is_time(text: &str) -> bool {
    text.contains('T') && text.parse::<Timestamp>().is_ok()
}

/// Returns whether the text is an absolute URL without query and fragment. WeChat Pay requires a public host; the
/// sandbox does not.
fn is_notify_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty())
        && !text.contains(['?', '#', ' '])
        && text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::check;

    #[test]
    fn invalid_fields_are_rejected_with_their_names() {
        let good = json!({
            "appid": "wx8888888888888888", "mchid": "1900000109", "description": "测试商品", "out_trade_no": "T20231115",
            "notify_url": "https://pay.example.com/notify/wx", "amount": {"total": 1, "currency": "CNY"},
        });
        check(&good, create(Product::Native)).unwrap();
        let long = "长".repeat(128);
        for (pointer, name, value) in [
            ("", "payer", json!({"openid": "o"})),
            ("", "description", json!(long)),
            ("", "description", Value::Null),
            ("", "out_trade_no", json!("short")),
            ("", "out_trade_no", json!("not/allowed")),
            ("", "notify_url", json!("https://pay.example.com/notify?x=1")),
            ("", "notify_url", json!("ftp://pay.example.com/")),
            ("", "time_expire", json!("2030-01-01T00:00:00")),
            ("/amount", "total", json!(0)),
            ("/amount", "total", json!(1.5)),
            ("/amount", "total", json!("1")),
            ("/amount", "currency", json!("USD")),
            ("/amount", "extra", json!(1)),
        ] {
            let mut bad = good.clone();
            bad.pointer_mut(pointer).unwrap()[name] = value.clone();
            let issue = check(&bad, create(Product::Native)).unwrap_err();
            assert_eq!(issue.field, format!("{pointer}/{name}"), "{value}");
        }
        assert_eq!(check(&good, create(Product::Jsapi)).unwrap_err().field, "/payer");
        assert_eq!(check(&good, create(Product::H5)).unwrap_err().field, "/scene_info");
        assert_eq!(check(&good, create(Product::Codepay)).unwrap_err().field, "/notify_url");
        let mut scanned = good.clone();
        scanned.as_object_mut().unwrap().remove("notify_url");
        scanned["scene_info"] = json!({"device_id": "1", "store_info": {"id": "0001"}});
        for (code, is_good) in
            [("131234567890123456", true), ("161234567890123456", false), ("13123456789012345x", false)]
        {
            scanned["payer"] = json!({"auth_code": code});
            assert_eq!(check(&scanned, create(Product::Codepay)).is_ok(), is_good, "{code}");
        }
    }
}
