//! Authentication of requests: account, signature over all fields, and sub-merchant.

use std::sync::Arc;

use super::reply::Reply;
use super::secret::SignType;
use super::xml::{self, Fields};
use crate::account::wechat_v2::Account;
use crate::account::{self, Accounts};

/// An authenticated request.
pub(super) struct AuthenticatedRequest {
    pub(super) account: Arc<Account>,
    /// Sign type of the request, also used for the response.
    pub(super) how: SignType,
}

/// Parses the fields of a body.
pub(super) fn read(body: &[u8]) -> Result<Fields, Reply> {
    if body.is_empty() {
        return Err(Reply::refused("post数据为空"));
    }
    let text = std::str::from_utf8(body).map_err(|_| Reply::refused("编码格式错误：请使用UTF-8编码格式"))?;
    xml::read(text).map_err(|error| Reply::refused(&format!("XML格式错误：{error}")))
}

/// Checks everything except the business rules. Rejections are unsigned, because the sender is unknown.
pub(super) fn authenticate(fields: &Fields, accounts: &Accounts) -> Result<AuthenticatedRequest, Reply> {
    let needed = |name: &str| fields.get(name).ok_or_else(|| Reply::refused(&format!("缺少参数{name}")));
    let mchid = needed("mch_id")?;
    let Some(account) = account::typed::<Account>(accounts, mchid) else {
        return Err(Reply::refused("商户号mch_id不存在"));
    };
    let how = SignType::named(fields.get("sign_type").map(String::as_str));
    let how = how.ok_or_else(|| Reply::refused("签名类型sign_type只能是MD5或HMAC-SHA256"))?;
    if *needed("sign")? != how.sign(fields, &account.api) {
        return Err(Reply::refused("签名错误，请检查后再试"));
    }
    if *needed("appid")? != account.appid {
        return Err(Reply::refused("appid和mch_id不匹配"));
    }
    if fields.get("sub_mch_id") != account.sub_mchid.as_ref() {
        return Err(Reply::refused("sub_mch_id与mch_id不匹配"));
    }
    // Without a `sub_appid`, the payer pays in the service provider's app.
    if fields.get("sub_appid").is_some_and(|appid| Some(appid) != account.sub_appid.as_ref()) {
        return Err(Reply::refused("sub_mch_id与sub_appid不匹配"));
    }
    Ok(AuthenticatedRequest { account, how })
}
