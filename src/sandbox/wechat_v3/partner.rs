//! Service providers: they have paths of their own, and name two sides. Everything between is as for a merchant, so requests
//! are turned into a merchant's words on their way in, and what is told of orders into theirs on the way out.

use serde_json::{Map, Value, json};

use super::orders::parameter;
use super::reply::Reply;
use crate::sandbox::account::wechat_v3::{Account, Merchant};

/// The request's body as a merchant would have sent it.
pub(super) fn inward(account: &Account, body: Option<Value>) -> Result<Option<Value>, Reply> {
    let (Some(merchant), Some(Value::Object(mut body))) = (&account.merchant_of, body.clone()) else { return Ok(body) };
    take(&mut body, "sub_mchid", Some(&merchant.mchid))?;
    // Refunds name the merchant alone.
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

/// Takes a field out; it must be exactly this, or not be there.
fn take(body: &mut Map<String, Value>, name: &str, wanted: Option<&str>) -> Result<(), Reply> {
    let given = body.remove(name);
    match (given.as_ref().and_then(Value::as_str), wanted) {
        (None, Some(_)) => Err(parameter("body", &format!("/{name}"), "must be given")),
        (given, wanted) if given == wanted => Ok(()),
        _ => Err(Reply::error(403, "NO_AUTH", &format!("{name}与服务商不匹配"))),
    }
}

/// An order, or the news of a refund, as the service provider is told it.
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

/// The query that must come with an order's number: who asks, and nothing else.
pub(super) fn whose(account: &Account) -> String {
    match &account.merchant_of {
        None => format!("mchid={}", account.mchid),
        Some(merchant) => format!("sp_mchid={}&sub_mchid={}", account.mchid, merchant.mchid),
    }
}
