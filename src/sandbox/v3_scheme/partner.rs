//! Service providers: separate paths, and ids of two parties. Requests are converted to a merchant's form, and order
//! objects back to the service provider's form.

use serde_json::{Map, Value, json};

use super::reply::{Reply, parameter};
use crate::account::v3_scheme::{Account, Merchant};

/// Converts a request body to a merchant's form.
pub(super) fn inward(account: &Account, body: Option<Value>) -> Result<Option<Value>, Reply> {
    let (Some(merchant), Some(Value::Object(mut body))) = (&account.merchant_of, body.clone()) else { return Ok(body) };
    take(&mut body, "sub_mchid", Some(&merchant.mchid))?;
    // Refunds contain only the sub-merchant's id.
    if body.contains_key("sp_mchid") {
        take(&mut body, "sp_mchid", Some(&account.mchid))?;
        body.insert("mchid".to_owned(), json!(account.mchid));
    }
    if body.contains_key("sp_appid") {
        take(&mut body, "sp_appid", Some(&account.appid))?;
        let app = merchant.appid.as_deref().filter(|_| body.contains_key("sub_appid"));
        take(&mut body, "sub_appid", app)?;
        body.insert("appid".to_owned(), json!(account.appid));
    }
    if let Some(payer) = body.get_mut("payer").and_then(Value::as_object_mut) {
        let name = if merchant.appid.is_some() { "sub_openid" } else { "sp_openid" };
        let openid = payer.remove(name).ok_or_else(|| parameter("body", &format!("/payer/{name}"), "must be given"))?;
        payer.insert("openid".to_owned(), openid);
    }
    Ok(Some(Value::Object(body)))
}

/// Removes a field, which must have exactly this value or be absent.
fn take(body: &mut Map<String, Value>, name: &str, wanted: Option<&str>) -> Result<(), Reply> {
    let given = body.remove(name);
    match (given.as_ref().and_then(Value::as_str), wanted) {
        (None, Some(_)) => Err(parameter("body", &format!("/{name}"), "must be given")),
        (given, wanted) if given == wanted => Ok(()),
        _ => Err(Reply::error(403, "NO_AUTH", &format!("{name}与服务商不匹配"))),
    }
}

/// Converts an order or a refund notification to the service provider's form.
pub(super) fn outward(account: &Account, mut object: Value) -> Value {
    let Some(Merchant { mchid, appid }) = &account.merchant_of else { return object };
    let Some(fields) = object.as_object_mut() else { return object };
    for (name, theirs) in [("mchid", "sp_mchid"), ("appid", "sp_appid")] {
        if let Some(value) = fields.remove(name) {
            fields.insert(theirs.to_owned(), value);
        }
    }
    fields.insert("sub_mchid".to_owned(), json!(mchid));
    if let Some(appid) = appid.as_ref().filter(|_| fields.contains_key("sp_appid")) {
        fields.insert("sub_appid".to_owned(), json!(appid));
    }
    if let Some(payer) = fields.get_mut("payer").and_then(Value::as_object_mut)
        && let Some(openid) = payer.remove("openid")
    {
        payer.insert(if appid.is_some() { "sub_openid" } else { "sp_openid" }.to_owned(), openid);
    }
    object
}

/// Returns the required query string of an order query: the ids of the sender.
pub(super) fn whose(account: &Account) -> String {
    match &account.merchant_of {
        None => format!("mchid={}", account.mchid),
        Some(merchant) => format!("sp_mchid={}&sub_mchid={}", account.mchid, merchant.mchid),
    }
}
