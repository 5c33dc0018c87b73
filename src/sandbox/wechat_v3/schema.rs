//! Which fields each request documents, and how they may look. Any other field is refused, as the original does.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use crate::sandbox::books::Product;

/// One documented field.
pub(super) struct Field {
    name: &'static str,
    required: bool,
    form: Form,
}

enum Form {
    /// A text of so many characters, made of what the last function allows.
    Text(usize, usize, fn(&str) -> bool),
    /// A whole number of at least this.
    Whole(u64),
    Flag,
    Object(&'static [Field]),
    Objects(&'static [Field]),
    Texts,
}

/// What is wrong with a body.
#[derive(Debug)]
pub(super) struct Issue {
    /// As a JSON pointer.
    pub(super) field: String,
    pub(super) issue: String,
    pub(super) undocumented: bool,
}

/// The fields of a create request.
pub(super) fn create(product: Product) -> &'static [Field] {
    match product {
        Product::Native => CREATE_NATIVE,
        Product::App => CREATE_APP,
        Product::Jsapi => CREATE_JSAPI,
        Product::H5 => CREATE_H5,
    }
}

/// The fields of a close request.
pub(super) const CLOSE: &[Field] = &[required("mchid", Text(1, 32, is_digits))];

/// The fields of a refund request.
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

use Form::{Flag, Object, Objects, Text, Texts, Whole};

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
            // A field of the same name and form as one above: it adds nothing.
            None => optional("support_fapiao", Flag),
        },
    ]
}

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

const fn required(name: &'static str, form: Form) -> Field {
    Field { name, required: true, form }
}

const fn optional(name: &'static str, form: Form) -> Field {
    Field { name, required: false, form }
}

/// Checks a body against its fields.
pub(super) fn check(body: &Value, fields: &[Field]) -> Result<(), Issue> {
    object(body, fields, "")
}

fn object(value: &Value, fields: &[Field], path: &str) -> Result<(), Issue> {
    let wrong = |field: &str, issue: &str| Issue {
        field: format!("{path}{field}"),
        issue: issue.to_owned(),
        undocumented: false,
    };
    let Some(members) = value.as_object() else { return Err(wrong("", "must be an object")) };
    if let Some(name) = members.keys().find(|name| !fields.iter().any(|field| field.name == *name)) {
        return Err(Issue { undocumented: true, ..wrong(&format!("/{name}"), "illegal extra parameter") });
    }
    for field in fields {
        match members.get(field.name) {
            Some(value) => field.form.check(value, &format!("{path}/{}", field.name))?,
            None if field.required => return Err(wrong(&format!("/{}", field.name), "required parameter is missing")),
            None => {}
        }
    }
    Ok(())
}

impl Form {
    fn check(&self, value: &Value, path: &str) -> Result<(), Issue> {
        let list = || value.as_array().filter(|list| !list.is_empty());
        let issue = match self {
            Text(least, most, legal) => match value.as_str() {
                None => "must be a string".to_owned(),
                Some(text) if !(*least..=*most).contains(&text.chars().count()) => {
                    format!("its length must be from {least} to {most} characters")
                }
                Some(text) if !legal(text) => "its value or its characters are not allowed".to_owned(),
                Some(_) => return Ok(()),
            },
            Whole(least) => match value.as_u64() {
                Some(number) if number >= *least => return Ok(()),
                _ => format!("must be a whole number of at least {least}"),
            },
            Flag if value.is_boolean() => return Ok(()),
            Flag => "must be true or false".to_owned(),
            Object(fields) => return object(value, fields, path),
            Objects(fields) => match list() {
                Some(items) => {
                    let mut places = items.iter().enumerate();
                    return places.try_for_each(|(place, item)| object(item, fields, &format!("{path}/{place}")));
                }
                None => "must be a list".to_owned(),
            },
            Texts if list().is_some_and(|items| items.iter().all(Value::is_string)) => return Ok(()),
            Texts => "must be a list of strings".to_owned(),
        };
        Err(Issue { field: path.to_owned(), issue, undocumented: false })
    }
}

/// What an order's number is made of.
pub(super) fn is_number(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-|*".contains(c))
}

/// What a refund's number is made of.
pub(super) fn is_refund_number(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-|*@".contains(c))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_cny(text: &str) -> bool {
    text == "CNY"
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// RFC 3339 with an offset in it.
fn is_time(text: &str) -> bool {
    text.contains('T') && text.parse::<Timestamp>().is_ok()
}

/// An absolute address without query or fragment. (The original wants a public one, which a sandbox's seldom is.)
fn is_notify_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty())
        && !text.contains(['?', '#', ' '])
        && text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

fn any(_: &str) -> bool {
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_mistake_is_refused_and_its_field_named() {
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
    }
}
