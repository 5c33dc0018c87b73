//! Who is meant at WeChat Pay, in both of its APIs: a merchant, or a service provider that acts for one.

use crate::error::Error;
use crate::payment::Pay;
use crate::settings::Settings;

/// By WeChat Pay's own names; every answer that names them must name these.
pub(super) struct Account {
    pub(super) mchid: String,
    pub(super) appid: String,
    /// Whom a service provider acts for.
    pub(super) sub_mchid: Option<String>,
    pub(super) sub_appid: Option<String>,
    /// Both numbers of a service provider's: what one merchant was paid is known there only.
    pub(super) name: String,
}

impl Account {
    /// Reads it; says every mistake.
    pub(super) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let mchid: Option<String> = settings.required_as("mchid", &mchid_from("mchid"));
        let appid: Option<String> = settings.required_as("appid", &appid_from("appid"));
        let sub_mchid: Option<String> = settings.optional("sub_mchid");
        let sub_appid: Option<String> = settings.optional("sub_appid");
        let before = settings.problems().len();
        for (name, id) in [("mchid", &mchid), ("sub_mchid", &sub_mchid)] {
            if id.as_ref().is_some_and(|id| !is_id(id, |byte| byte.is_ascii_digit())) {
                settings.problem(name, format!("the {name} must be 1 to 32 digits"), Some(mchid_from(name)));
            }
        }
        for (name, id) in [("appid", &appid), ("sub_appid", &sub_appid)] {
            if id.as_ref().is_some_and(|id| !is_id(id, |byte| byte.is_ascii_alphanumeric())) {
                settings.problem(
                    name,
                    format!("the {name} must be 1 to 32 letters and digits"),
                    Some(appid_from(name)),
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

    /// In whose app the payer pays.
    pub(super) fn payers_appid(&self) -> &str {
        self.sub_appid.as_deref().unwrap_or(&self.appid)
    }

    /// Who is paid.
    pub(super) fn payee(&self) -> &str {
        self.sub_mchid.as_deref().unwrap_or(&self.mchid)
    }
}

/// What a till scanned, for `wechat.codepay`.
pub(super) fn scanned_code(pay: &Pay) -> Result<&str, Error> {
    let is_code = |code: &&str| {
        let is_known_start = code.get(..2).is_some_and(|start| ("10"..="15").contains(&start));
        code.len() == 18 && code.bytes().all(|byte| byte.is_ascii_digit()) && is_known_start
    };
    pay.payer.auth_code.as_deref().filter(is_code).ok_or_else(|| {
        let needed =
            "wechat.codepay needs `payer.auth_code`: the 18 digits that the till scanned, beginning with 10 to 15";
        Error::Unsupported(needed.to_owned())
    })
}

/// The payer's identity in an app, for `wechat.jsapi`.
pub(super) fn openid(pay: &Pay) -> Result<&str, Error> {
    let is_openid =
        |openid: &&str| (1..=128).contains(&openid.len()) && openid.bytes().all(|byte| byte.is_ascii_graphic());
    pay.payer.openid.as_deref().filter(is_openid).ok_or_else(|| {
        let needed =
            "wechat.jsapi needs `payer.openid`: the payer's identity in the appid, 1 to 128 visible ASCII characters";
        Error::Unsupported(needed.to_owned())
    })
}

/// Refuses a text for the payer that holds characters which WeChat Pay cannot carry; `name` is the caller's name of the field.
/// XML 1.0 forbids most controls and takes a carriage return for a line feed, also in CDATA: a signature over it would be
/// wrong.
pub(super) fn carried<'a>(name: &str, text: &'a str) -> Result<&'a str, Error> {
    match text.chars().all(is_carried) {
        true => Ok(text),
        false => Err(Error::Unsupported(format!(
            "`{name}` has a control character, which WeChat Pay cannot carry: leave it out"
        ))),
    }
}

/// Whether each of WeChat Pay's APIs carries the character as it is.
pub(super) fn is_carried(letter: char) -> bool {
    match letter {
        '\t' | '\n' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        other => !other.is_control(),
    }
}

fn mchid_from(name: &str) -> String {
    format!("copy the merchant number (商户号) from pay.weixin.qq.com, as in {name} = \"1900000109\"")
}

fn appid_from(name: &str) -> String {
    format!("copy the AppID that is bound to the merchant number, as in {name} = \"wx8888888888888888\"")
}

fn is_id(id: &str, fits: impl Fn(u8) -> bool) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(fits)
}
