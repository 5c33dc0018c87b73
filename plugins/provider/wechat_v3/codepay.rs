//! `wechat.codepay`: the merchant scans the payer's code.
//!
//! The interface is documented for APIv3, but other documents say that it exists in APIv2 only. So it is off unless the
//! channel sets `codepay = true`, and an APIv2 channel is the safer choice.

use bytes::Bytes;
use http::Request;
use serde::Serialize;

use super::super::form::escape;
use super::super::merchant_account::{Account, scanned_code};
use super::super::v3_scheme::V3Account;
use super::super::v3_scheme::request::{Identity, Total, post, uri};
use crate::error::{Error, ProviderError};
use crate::payment::{Method, Order, Pay};
use crate::settings::Settings;

/// Shop and device that scan the code, from `[account]`.
pub(super) struct ScanningShop {
    store_id: String,
    device_id: Option<String>,
}

impl ScanningShop {
    #[cfg(test)]
    pub(super) fn new(store_id: &str, device_id: &str) -> Self {
        Self { store_id: store_id.to_owned(), device_id: Some(device_id.to_owned()) }
    }

    /// Reads the settings. Returns `Some(None)` if `codepay` is off, and `None` after a configuration error.
    pub(super) fn read(settings: &mut Settings<'_>, account: &Account) -> Option<Option<Self>> {
        let (is_enabled, before) = (settings.or("codepay", false), settings.problems().len());
        let (store_id, device_id): (Option<String>, _) =
            (settings.optional("store_id"), settings.optional("device_id"));
        let report = |key, message: &str, suggestion: &str| settings.problem(key, message, Some(suggestion.to_owned()));
        if !is_enabled {
            if store_id.is_some() || device_id.is_some() {
                report("store_id", "`store_id` and `device_id` require `codepay`", "add `codepay = true`");
            }
            return (settings.problems().len() == before).then_some(None);
        }
        if account.sub_mchid.is_some() {
            let suggestion = "use a wechat-v2 channel, which supports scanned codes of service providers";
            report("codepay", "`codepay` is for a merchant's own account, without `sub_mchid`", suggestion);
        }
        let is_valid = |text: &String| (1..=32).contains(&text.len()) && text.is_ascii();
        if !store_id.as_ref().is_some_and(is_valid) || !device_id.iter().all(is_valid) {
            let suggestion = "set the shop as in store_id = \"0001\", and the device as in device_id = \"1\"";
            report(
                "store_id",
                "`codepay` needs a `store_id` of 1 to 32 ASCII characters; `device_id` has the same limit",
                suggestion,
            );
        }
        (settings.problems().len() == before).then_some(())?;
        Some(Some(Self { store_id: store_id?, device_id }))
    }
}

pub(super) fn is_codepay(method: Method) -> bool {
    method.as_str() == "wechat.codepay"
}

pub(super) fn create(merchant: &V3Account, shop: Option<&ScanningShop>, pay: &Pay) -> Result<Request<Bytes>, Error> {
    let shop = shop.ok_or_else(|| {
        let unfit = |sentence: &str| Error::Unsupported(sentence.to_owned());
        unfit("this WeChat Pay channel does not accept scanned codes: send `wechat.codepay` to a wechat-v2 channel, or set `codepay`")
    })?;
    let body = Create {
        account: Identity::of(&merchant.ids),
        description: merchant.scheme.description(pay)?,
        out_trade_no: &pay.order.number,
        amount: Total { total: merchant.scheme.fen(pay.order.amount)?, currency: pay.order.amount.currency },
        payer: Payer { auth_code: scanned_code(pay)? },
        scene_info: Scene { device_id: shop.device_id.as_deref(), store_info: Store { id: &shop.store_id } },
    };
    post(uri(format!("{}/codepay", merchant.base_path()))?, &body)
}

/// Builds a reversal. A payment with a scanned code cannot be closed, only reversed.
pub(super) fn reversal(merchant: &V3Account, order: &Order) -> Result<Request<Bytes>, Error> {
    let path = format!("{}/out-trade-no/{}/reverse", merchant.base_path(), escape(&order.number));
    post(uri(path)?, &Identity::of(&merchant.ids))
}

/// Returns the result of every answer to a reversal: its format is undocumented, so the order is queried instead.
pub(super) fn reversal_accepted() -> Error {
    let message = "the reversal was taken: how the payment stands is asked next".to_owned();
    Error::Conflict(ProviderError { code: "REVERSED".to_owned(), message })
}

#[derive(Serialize)]
struct Create<'a> {
    #[serde(flatten)]
    account: Identity<'a>,
    description: &'a str,
    out_trade_no: &'a str,
    amount: Total,
    payer: Payer<'a>,
    scene_info: Scene<'a>,
}

#[derive(Serialize)]
struct Payer<'a> {
    auth_code: &'a str,
}

#[derive(Serialize)]
struct Scene<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a str>,
    store_info: Store<'a>,
}

#[derive(Serialize)]
struct Store<'a> {
    id: &'a str,
}
