//! Signatures, both ways. Requests and notifications are signed over their sorted parameters, and only the requests'
//! text has `sign_type` in it; answers are signed over their content's bytes as they came.

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

/// Adds what belongs to every request, and the signature. What stood in the query moves into the body: Alipay takes the two
/// together, and signs them so.
pub(super) fn sign(account: &Account, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
    let mut params = Fields::new();
    let query = request.uri().query().unwrap_or_default();
    let read =
        form::read_into(query.as_bytes(), &mut params).and_then(|()| form::read_into(request.body(), &mut params));
    read.ok_or_else(|| {
        Error::Unsupported("the request must be a form in UTF-8 without a name that comes twice".to_owned())
    })?;
    let path = PathAndQuery::try_from(request.uri().path());
    *request.uri_mut() = path.map(Uri::from).map_err(|_| Error::Unsupported("the path is none".to_owned()))?;
    *request.body_mut() = form::write(&signed(account, params, with)?).into();
    Ok(())
}

/// The parameters as they go out.
pub(super) fn signed(account: &Account, mut params: Fields, with: Signing<'_>) -> Result<Fields, Error> {
    let mut put = |name: &str, value: &str| drop(params.insert(name.to_owned(), value.to_owned()));
    put("app_id", &account.app_id);
    put("charset", "utf-8");
    put("format", "JSON");
    put(SIGN_TYPE, account.sign_type);
    put("timestamp", &time(with.stamp.unix_time)?);
    put("version", "1.0");
    if let Some(certificates) = &account.certificates {
        put("app_cert_sn", &certificates.app);
        put("alipay_root_cert_sn", &certificates.root);
    }
    if let Some(token) = &account.app_auth_token {
        put("app_auth_token", token);
    }
    // An empty value is signed by some readers and left out by others: none is sent.
    params.retain(|name, value| !value.is_empty() && name != SIGN);
    let signature = with.signer.sign(form::text(&params, &[]).as_bytes())?;
    params.insert(SIGN.to_owned(), STANDARD.encode(signature));
    Ok(params)
}

/// China's time, whatever zone this machine is in.
fn time(unix_time: u64) -> Result<String, Error> {
    let at = i64::try_from(unix_time).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map(china_time).ok_or_else(|| Error::NotSent("the clock shows no time that can be written".to_owned()))
}

pub(super) fn china_time(at: Timestamp) -> String {
    china_time::write(at, china_time::SPACED)
}

/// A time that cannot be read is left out: it does not change what became of the money.
pub(super) fn at(time: &str) -> Option<Timestamp> {
    china_time::read(time, china_time::SPACED)
}

/// Checks an answer. One without a form or a signature is told apart from one that is signed wrongly: the first may be an
/// honest refusal at the door.
pub(super) fn verify_answer(body: Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    let text = readable(&body);
    let envelope = Envelope::read(&text).ok_or(BadSignature::Missing)?;
    let signature = envelope.sign.and_then(Text::of).ok_or(BadSignature::Missing)?;
    let cert_sn = envelope.alipay_cert_sn.map(|raw| Text::of(raw).ok_or(BadSignature::Missing)).transpose()?;
    let signed = body.get(envelope.member.value.clone()).unwrap_or_default();
    let made_over = |text: &[u8]| signing_key(cert_sn.as_deref(), &[text], &signature, keys, now);
    let key = made_over(signed).or_else(|error| {
        let unescaped = matches!(text, Cow::Borrowed(_)).then(|| with_plain_slashes(envelope.value)).flatten();
        unescaped.map_or(Err(error), |text| made_over(text.as_bytes()))
    })?;
    let (id, member) = (key.id.clone(), envelope.member);
    drop(text);
    Ok(Verified::assertion_with_members(body, vec![member], id))
}

/// The content with `/` for `\/`, which is the same JSON: Alipay signs some answers before it escapes them. `None` where that is
/// no other text, or where a `\` stands for itself.
fn with_plain_slashes(value: &str) -> Option<String> {
    let is_escaped = value.contains(r"\/") && !value.contains(r"\\");
    is_escaped.then(|| value.replace(r"\/", "/"))
}

/// Checks a notification. The algorithm is the account's own, and not what the message would like it to be.
pub(super) fn verify_notification(
    account: &Account,
    body: Bytes,
    keys: &Keyring,
    now: u64,
) -> Result<Verified, BadSignature> {
    let raw = form::read_raw(&body).ok_or(BadSignature::Wrong("it is no form with every name once"))?;
    let params = readable_fields(&raw);
    let signature = params.get(SIGN).ok_or(BadSignature::Missing)?;
    if params.get(SIGN_TYPE).is_none_or(|kind| kind != account.sign_type) {
        return Err(BadSignature::Wrong("it is of another type"));
    }
    if form::hides(&params, notify::READ) {
        return Err(BadSignature::Wrong("what it covers can be read in two ways"));
    }
    let cert_sn = params.get(CERT_SN).map(String::as_str);
    // Whether the certificate's number is signed too is told in two ways.
    let mut texts = vec![form::raw_text(&raw, &[SIGN, SIGN_TYPE])];
    if cert_sn.is_some() {
        texts.push(form::raw_text(&raw, &[SIGN, SIGN_TYPE, CERT_SN]));
    }
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let key = signing_key(cert_sn, &texts, signature, keys, now)?;
    Ok(Verified::assertion(body, &key.id))
}

/// The key that made the signature: the named one, or any where none is named, as it is with bare keys.
pub(super) fn signing_key<'a>(
    named: Option<&str>,
    texts: &[&[u8]],
    signature: &str,
    keys: &'a Keyring,
    now: u64,
) -> Result<&'a Key, BadSignature> {
    let signature = from_base64(signature).ok_or(BadSignature::Wrong("it is no base64"))?;
    let is_meant = |key: &&Key| named.is_none_or(|name| key.id == name) && key.not_after.is_none_or(|end| now <= end);
    let mut candidates = keys.iter().filter(is_meant).peekable();
    if let (Some(name), None) = (named, candidates.peek()) {
        return Err(BadSignature::UnknownKey(name.chars().take(64).collect()));
    }
    let made = |key: &&Key| texts.iter().any(|text| key.verifier.verify(text, &signature));
    let key = candidates.find(made);
    key.ok_or(BadSignature::Wrong("it is not over these bytes, or not by that key"))
}
