//! Authentication of requests: required fields, and the signature over all of them.

use std::sync::Arc;

use super::Transaction;
use super::reply::{Refusal, refused, refused_because};
use super::signature::{SignMethod, verifies};
use crate::account::unionpay::{Account, Keys};
use crate::account::{self, Accounts};
use crate::form::Form;

/// An authenticated request.
pub(super) struct AuthenticatedRequest {
    pub(super) account: Arc<Account>,
    pub(super) method: SignMethod,
    pub(super) transaction: Transaction,
}

/// Checks everything except the business rules. Rejections are unsigned, because the sender is unknown.
pub(super) fn authenticate(path: &str, form: &Form, accounts: &Accounts) -> Result<AuthenticatedRequest, Refusal> {
    if needed(form, "version")? != "5.1.0" {
        return Err(refused_because("10", "报文格式错误：沙箱只接受version 5.1.0"));
    }
    if needed(form, "encoding")? != "UTF-8" {
        return Err(refused_because("10", "报文格式错误：沙箱只接受encoding UTF-8"));
    }
    let Some(account) = account::typed::<Account>(accounts, needed(form, "merId")?) else {
        return Err(refused_because("31", "商户状态不正确：无此商户"));
    };
    let method = SignMethod::named(needed(form, "signMethod")?);
    let method = method.ok_or_else(|| refused_because("10", "报文格式错误：signMethod"))?;
    if !method.suits(&account.keys) {
        return Err(refused_because("10", "报文格式错误：signMethod与商户的密钥不一致"));
    }
    check_certificate(form, &account)?;
    needed(form, "signature")?;
    if !verifies(&account, method, form) {
        return Err(refused("11"));
    }
    for name in ["txnType", "txnSubType", "bizType"] {
        needed(form, name)?;
    }
    let transaction = Transaction::of(path, form);
    let transaction = transaction.ok_or_else(|| refused_because("32", "无此交易权限：沙箱在此地址没有该交易"))?;
    Ok(AuthenticatedRequest { account: account.clone(), method, transaction })
}

fn needed<'a>(form: &'a Form, name: &str) -> Result<&'a str, Refusal> {
    form.get(name).ok_or_else(|| refused_because("13", &format!("报文交易要素缺失：{name}")))
}

fn check_certificate(form: &Form, account: &Account) -> Result<(), Refusal> {
    match &account.keys {
        Keys::Certificates(certificates) if needed(form, "certId")? != certificates.number => {
            Err(refused_because("11", "验证签名失败：certId不是商户的签名证书"))
        }
        Keys::Secret(_) if form.get("certId").is_some() => {
            Err(refused_because("10", "报文格式错误：只有signMethod 01和21有certId"))
        }
        _ => Ok(()),
    }
}
