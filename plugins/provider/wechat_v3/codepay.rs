//! `wechat.codepay`: a till scans the payer's code. It is documented for APIv3, and said elsewhere to exist in APIv2 only; so
//! it is off unless the channel says `codepay = true`, and an APIv2 channel is the safer way.

use bytes::Bytes;
use http::Request;
use serde::Serialize;

use super::super::form::escape;
use super::super::wechat_account::scanned_code;
use super::Account;
use super::request::{Identity, Total, description, desk, fen, post, uri};
use crate::error::{Error, ProviderError};
use crate::payment::{Method, Order, Pay};
use crate::settings::Settings;

/// The till, as `[account]` names it.
pub(super) struct Till {
    store_id: String,
    device_id: Option<String>,
}

impl Till {
    #[cfg(test)]
    pub(super) fn new(store_id: &str, device_id: &str) -> Self {
        Self { store_id: store_id.to_owned(), device_id: Some(device_id.to_owned()) }
    }

    /// Reads the settings. Returns `Some(None)` when `codepay` is off, and `None` after a configuration mistake.
    pub(super) fn read(settings: &mut Settings<'_>, account: &Account) -> Option<Option<Self>> {
        let (on, before) = (settings.or("codepay", false), settings.problems().len());
        let (store_id, device_id): (Option<String>, _) =
            (settings.optional("store_id"), settings.optional("device_id"));
        let say = |key, message: &str, suggestion: &str| settings.problem(key, message, Some(suggestion.to_owned()));
        if !on {
            if store_id.is_some() || device_id.is_some() {
                say("store_id", "`store_id` and `device_id` are for `codepay` alone", "add `codepay = true`");
            }
            return (settings.problems().len() == before).then_some(None);
        }
        if account.sub_mchid.is_some() {
            let suggestion = "use a wechat-v2 channel, which has service providers' tills";
            say("codepay", "`codepay` is for a merchant's own account, without `sub_mchid`", suggestion);
        }
        let is_fit = |text: &String| (1..=32).contains(&text.len()) && text.is_ascii();
        if !store_id.as_ref().is_some_and(is_fit) || !device_id.iter().all(is_fit) {
            let suggestion = "name the shop as in store_id = \"0001\", and the till as in device_id = \"1\"";
            say("store_id", "`codepay` needs a `store_id` of 1 to 32 characters, as `device_id` may have", suggestion);
        }
        (settings.problems().len() == before).then_some(())?;
        Some(Some(Self { store_id: store_id?, device_id }))
    }
}

pub(super) fn is_meant(method: Method) -> bool {
    method.as_str() == "wechat.codepay"
}

pub(super) fn create(account: &Account, till: Option<&Till>, pay: &Pay) -> Result<Request<Bytes>, Error> {
    let till = till.ok_or_else(|| {
        let unfit = |sentence: &str| Error::Unsupported(sentence.to_owned());
        unfit("this WeChat Pay channel scans no codes: send `wechat.codepay` to a wechat-v2 channel, or set `codepay`")
    })?;
    let body = Create {
        whose: Identity::of(account),
        description: description(pay)?,
        out_trade_no: &pay.order.number,
        amount: Total { total: fen(pay.order.amount)?, currency: pay.order.amount.currency },
        payer: Payer { auth_code: scanned_code(pay)? },
        scene_info: Scene { device_id: till.device_id.as_deref(), store_info: Store { id: &till.store_id } },
    };
    post(uri(format!("{}/codepay", desk(account)))?, &body)
}

/// What was scanned is not closed but reversed.
pub(super) fn reverse(account: &Account, order: &Order) -> Result<Request<Bytes>, Error> {
    let path = format!("{}/out-trade-no/{}/reverse", desk(account), escape(&order.number));
    post(uri(path)?, &Identity::of(account))
}

/// Returns the result of every answer to a reversal: its form is undocumented, so the order is queried instead.
pub(super) fn reversed() -> Error {
    let message = "the reversal was taken: how the payment stands is asked next".to_owned();
    Error::Conflict(ProviderError { code: "REVERSED".to_owned(), message })
}

#[derive(Serialize)]
struct Create<'a> {
    #[serde(flatten)]
    whose: Identity<'a>,
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
