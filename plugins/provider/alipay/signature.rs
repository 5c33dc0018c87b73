//! Signatures of the form protocol.
//!
//! Requests and notifications are signed over their sorted parameters; `sign_type` is part of the signed text of
//! requests only. Answers are signed over the unchanged bytes of their content.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Uri};
use jiff::Timestamp;

use super::super::china_time;
use super::super::form::{self, Fields};
use super::super::text::Text;
use super::super::{BadSignature, Signing, Verified};
use super::account::Account;
use super::envelope::Envelope;
use super::notify;
use super::readable::{readable, readable_fields};
use crate::error::Error;
use crate::signer::{Key, Keyring, from_base64};

const SIGN: &str = "sign";
const SIGN_TYPE: &str = "sign_type";
const CERT_SN: &str = "alipay_cert_sn";

/// Adds the common parameters and the signature. Parameters in the query move into the body, because Alipay signs query
/// and body together.
pub(super) fn sign(account: &Account, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
    let mut params = Fields::new();
    let query = request.uri().query().unwrap_or_default();
    let read =
        form::read_into(query.as_bytes(), &mut params).and_then(|()| form::read_into(request.body(), &mut params));
    read.ok_or_else(|| Error::Unsupported("the request must be a form in UTF-8 without duplicate names".to_owned()))?;
    let path = PathAndQuery::try_from(request.uri().path());
    *request.uri_mut() = path.map(Uri::from).map_err(|_| Error::Unsupported("the path is invalid".to_owned()))?;
    *request.body_mut() = form::write(&signed(account, params, with)?).into();
    Ok(())
}

/// Returns the parameters with the common parameters and the signature.
pub(super) fn signed(account: &Account, mut params: Fields, with: Signing<'_>) -> Result<Fields, Error> {
    let mut put = |name: &str, value: &str| drop(params.insert(name.to_owned(), value.to_owned()));
    put("app_id", &account.app_id);
    put("charset", "utf-8");
    put("format", "JSON");
    put(SIGN_TYPE, account.sign_type);
    put("timestamp", &request_time(with.stamp.unix_time)?);
    put("version", "1.0");
    if let Some(certificates) = &account.certificates {
        put("app_cert_sn", &certificates.app);
        put("alipay_root_cert_sn", &certificates.root);
    }
    if let Some(token) = &account.app_auth_token {
        put("app_auth_token", token);
    }
    // Some implementations sign an empty value and some omit it, so none is sent.
    params.retain(|name, value| !value.is_empty() && name != SIGN);
    let signature = with.signer.sign(form::text(&params, &[]).as_bytes())?;
    params.insert(SIGN.to_owned(), STANDARD.encode(signature));
    Ok(params)
}

/// Returns the time in China time, whatever the time zone of this machine.
fn request_time(unix_time: u64) -> Result<String, Error> {
    let at = i64::try_from(unix_time).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map(china_time).ok_or_else(|| Error::NotSent("the system clock is outside the representable range".to_owned()))
}

pub(super) fn china_time(at: Timestamp) -> String {
    china_time::write(at, china_time::SPACED)
}

/// Parses a time; `None` if it is malformed. Times are optional because they do not decide about the money.
pub(super) fn at(request_time: &str) -> Option<Timestamp> {
    china_time::read(request_time, china_time::SPACED)
}

/// Checks the signature of an answer.
///
/// Returns [`BadSignature::Missing`] for an answer without an envelope or a signature: that may be a genuine refusal of
/// the gateway. Invalid signatures return other errors.
pub(super) fn verify_answer(body: Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    let text = readable(&body);
    let envelope = Envelope::read(&text).ok_or(BadSignature::Missing)?;
    let signature = envelope.sign.and_then(Text::of).ok_or(BadSignature::Missing)?;
    let cert_sn = envelope.alipay_cert_sn.map(|raw| Text::of(raw).ok_or(BadSignature::Missing)).transpose()?;
    let signed = body.get(envelope.member.value.clone()).unwrap_or_default();
    let key_for = |text: &[u8]| signing_key(cert_sn.as_deref(), &[text], &signature, keys, now);
    let key = key_for(signed).or_else(|error| {
        let unescaped = matches!(text, Cow::Borrowed(_)).then(|| with_plain_slashes(envelope.value)).flatten();
        unescaped.map_or(Err(error), |text| key_for(text.as_bytes()))
    })?;
    let (id, member) = (key.id.clone(), envelope.member);
    drop(text);
    Ok(Verified::assertion_with_members(body, vec![member], id))
}

/// Returns the content with `/` for `\/`, which is the same JSON: Alipay signs some answers before escaping them.
/// Returns `None` if the text has no `\/`, or contains an escaped backslash.
fn with_plain_slashes(value: &str) -> Option<String> {
    let is_escaped = value.contains(r"\/") && !value.contains(r"\\");
    is_escaped.then(|| value.replace(r"\/", "/"))
}

/// Checks the signature of a notification. The algorithm is the account's, never the one that the message names.
pub(super) fn verify_notification(
    account: &Account,
    body: Bytes,
    keys: &Keyring,
    now: u64,
) -> Result<Verified, BadSignature> {
    let raw = form::read_raw(&body).ok_or(BadSignature::Wrong("not a form, or a duplicated name"))?;
    let params = readable_fields(&raw);
    let signature = params.get(SIGN).ok_or(BadSignature::Missing)?;
    if params.get(SIGN_TYPE).is_none_or(|kind| kind != account.sign_type) {
        return Err(BadSignature::Wrong("`sign_type` differs from the account's"));
    }
    if form::hides(&params, notify::READ) {
        return Err(BadSignature::Wrong("the signed text is ambiguous"));
    }
    let cert_sn = params.get(CERT_SN).map(String::as_str);
    // Sources disagree on whether the certificate's serial number is signed, so both texts are accepted.
    let mut texts = vec![form::raw_text(&raw, &[SIGN, SIGN_TYPE])];
    if cert_sn.is_some() {
        texts.push(form::raw_text(&raw, &[SIGN, SIGN_TYPE, CERT_SN]));
    }
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let key = signing_key(cert_sn, &texts, signature, keys, now)?;
    Ok(Verified::assertion(body, &key.id))
}

/// Returns the key that made the signature: the named key, or any key if none is named, as with bare keys.
pub(super) fn signing_key<'a>(
    named: Option<&str>,
    texts: &[&[u8]],
    signature: &str,
    keys: &'a Keyring,
    now: u64,
) -> Result<&'a Key, BadSignature> {
    let signature = from_base64(signature).ok_or(BadSignature::Wrong("not base64"))?;
    let is_candidate =
        |key: &&Key| named.is_none_or(|name| key.id == name) && key.not_after.is_none_or(|end| now <= end);
    let mut candidates = keys.iter().filter(is_candidate).peekable();
    if let (Some(name), None) = (named, candidates.peek()) {
        return Err(BadSignature::UnknownKey(name.chars().take(64).collect()));
    }
    let made = |key: &&Key| texts.iter().any(|text| key.verifier.verify(text, &signature));
    let key = candidates.find(made);
    key.ok_or(BadSignature::Wrong("not over these bytes, or not by that key"))
}
