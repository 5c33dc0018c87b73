//! Account of a channel of WeChat Pay or of the v3 scheme: a merchant, or a service provider acting for a merchant.

use crate::error::Error;
use crate::payment::Pay;
use crate::settings::Settings;

/// Ids of the account, under the providers' field names. An answer that contains one of these fields must match it.
pub(super) struct Account {
    pub(super) mchid: String,
    pub(super) appid: String,
    /// Merchant that the service provider acts for.
    pub(super) sub_mchid: Option<String>,
    pub(super) sub_appid: Option<String>,
    /// Account name: `mchid`, or `mchid/sub_mchid` in service provider mode. Payments of one sub-merchant can only be
    /// queried with both numbers.
    pub(super) name: String,
}

impl Account {
    /// Reads `[account]`. Reports every invalid value to `settings` and returns `None` if there is one.
    ///
    /// `console` is the host of the provider's console, for advice.
    pub(super) fn read(settings: &mut Settings<'_>, console: &str) -> Option<Self> {
        let mchid: Option<String> = settings.required_as("mchid", &mchid_advice("mchid", console));
        let appid: Option<String> = settings.required_as("appid", &appid_advice("appid"));
        let sub_mchid: Option<String> = settings.optional("sub_mchid");
        let sub_appid: Option<String> = settings.optional("sub_appid");
        let before = settings.problems().len();
        for (name, id) in [("mchid", &mchid), ("sub_mchid", &sub_mchid)] {
            if id.as_ref().is_some_and(|id| !is_id(id, |byte| byte.is_ascii_digit())) {
                settings.problem(name, format!("the {name} must be 1 to 32 digits"), Some(mchid_advice(name, console)));
            }
        }
        for (name, id) in [("appid", &appid), ("sub_appid", &sub_appid)] {
            if id.as_ref().is_some_and(|id| !is_id(id, |byte| byte.is_ascii_alphanumeric())) {
                settings.problem(
                    name,
                    format!("the {name} must be 1 to 32 letters and digits"),
                    Some(appid_advice(name)),
                );
            }
        }
        if sub_appid.is_some() && sub_mchid.is_none() {
            let suggestion = "add `sub_mchid`: the merchant for whom the service provider acts";
            settings.problem(
                "sub_appid",
                "`sub_appid` has no meaning without `sub_mchid`",
                Some(suggestion.to_owned()),
            );
        }
        if settings.problems().len() > before {
            return None;
        }
        Some(Self::new(mchid?, appid?, sub_mchid, sub_appid))
    }

    pub(super) fn new(mchid: String, appid: String, sub_mchid: Option<String>, sub_appid: Option<String>) -> Self {
        let name = sub_mchid.as_ref().map_or_else(|| mchid.clone(), |sub| format!("{mchid}/{sub}"));
        Self { mchid, appid, sub_mchid, sub_appid, name }
    }

    /// Returns the appid of the app in which the payer pays.
    pub(super) fn payers_appid(&self) -> &str {
        self.sub_appid.as_deref().unwrap_or(&self.appid)
    }

    /// Returns the merchant number of the payee.
    pub(super) fn payee(&self) -> &str {
        self.sub_mchid.as_deref().unwrap_or(&self.mchid)
    }
}

/// Returns the scanned payment code of a payment.
///
/// Returns [`Error::Unsupported`] if `payer.auth_code` is missing or malformed.
pub(super) fn scanned_code(pay: &Pay) -> Result<&str, Error> {
    let is_code = |code: &&str| {
        let is_known_start = code.get(..2).is_some_and(|start| ("10"..="15").contains(&start));
        code.len() == 18 && code.bytes().all(|byte| byte.is_ascii_digit()) && is_known_start
    };
    pay.payer.auth_code.as_deref().filter(is_code).ok_or_else(|| {
        let needed = "needs `payer.auth_code`: the 18 digits that the till scanned, beginning with 10 to 15";
        Error::Unsupported(format!("{} {needed}", pay.order.method))
    })
}

/// Returns the payer's openid of a payment inside the provider's app.
///
/// Returns [`Error::Unsupported`] if `payer.openid` is missing or malformed.
pub(super) fn openid(pay: &Pay) -> Result<&str, Error> {
    let is_openid =
        |openid: &&str| (1..=128).contains(&openid.len()) && openid.bytes().all(|byte| byte.is_ascii_graphic());
    pay.payer.openid.as_deref().filter(is_openid).ok_or_else(|| {
        let needed = "needs `payer.openid`: the payer's identity in the appid, 1 to 128 visible ASCII characters";
        Error::Unsupported(format!("{} {needed}", pay.order.method))
    })
}

/// Returns the text if the company's API can carry all of its characters; `name` is the caller's name of the field.
///
/// XML 1.0 forbids most control characters and reads a carriage return as a line feed, also in CDATA. A signature over
/// such a text would not verify.
pub(super) fn transmittable<'a>(company: &str, name: &str, text: &'a str) -> Result<&'a str, Error> {
    match text.chars().all(is_transmittable) {
        true => Ok(text),
        false => Err(Error::Unsupported(format!(
            "`{name}` contains a control character, which {company} does not accept: remove it"
        ))),
    }
}

/// Returns whether both of WeChat Pay's APIs transmit the character unchanged.
pub(super) fn is_transmittable(letter: char) -> bool {
    match letter {
        '\t' | '\n' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        other => !other.is_control(),
    }
}

fn mchid_advice(name: &str, console: &str) -> String {
    format!("copy the merchant number (商户号) from {console}, as in {name} = \"1900000109\"")
}

fn appid_advice(name: &str) -> String {
    format!("copy the AppID that is bound to the merchant number, as in {name} = \"wx8888888888888888\"")
}

fn is_id(id: &str, is_allowed: impl Fn(u8) -> bool) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(is_allowed)
}
