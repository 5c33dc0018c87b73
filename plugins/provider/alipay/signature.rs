//! RSA2: what is signed, in both directions.
//!
//! A request is signed over its fields, sorted, with `sign_type`; a notification over its fields without `sign` and
//! `sign_type`; an answer over the exact characters of its `…_response` member, as they came.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::form::{self, Fields};
use super::super::{BadSignature, Signing, Verified};
use crate::error::Error;
use crate::signer::{Key, Keyring};

/// Adds `sign` to the fields of a request or link.
pub(super) fn sign(fields: &mut Fields, with: Signing<'_>) -> Result<(), Error> {
    fields.remove("sign");
    let signature = with.signer.sign(form::signed_text(fields.iter()).as_bytes())?;
    fields.insert("sign".to_owned(), STANDARD.encode(signature));
    Ok(())
}

/// The members of an answer's outermost object, in order, each value as the characters that came.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Reader<'a> {
            type Value = Members<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &'a RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'a RawValue>()? {
                    if members.len() == 8 || members.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom("too many members, or one twice"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader(std::marker::PhantomData))
    }
}

/// The one `…_response` member of an answer, as it came.
fn response<'a>(members: &Members<'a>) -> Option<&'a RawValue> {
    let mut found = members.0.iter().filter(|(name, _)| name.ends_with("_response"));
    let (_, value) = found.next()?;
    found.next().is_none().then_some(*value)
}

/// What stands in the `…_response` member of an answer, believed or not.
pub(super) fn unverified_response(body: &[u8]) -> Option<&str> {
    let members: Members<'_> = serde_json::from_slice(body).ok()?;
    response(&members).map(RawValue::get)
}

/// Checks an answer; what is verified is its `…_response` member alone.
pub(super) fn verify_answer(body: &Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    let members: Members<'_> = serde_json::from_slice(body).map_err(|_| BadSignature::Missing)?;
    let text = |name: &str| {
        let value = members.0.iter().find(|(known, _)| known == name)?.1;
        serde_json::from_str::<String>(value.get()).ok()
    };
    let sign = text("sign").ok_or(BadSignature::Missing)?;
    let signed = response(&members).ok_or(BadSignature::Wrong("it has no answer in it, or more than one"))?.get();
    let key = check(&[signed], &sign, text("alipay_cert_sn").as_deref(), keys, now)?;
    Ok(Verified::vouch(body.slice_ref(signed.as_bytes()), &key.id))
}

/// Checks a notification; what is verified is the whole form.
pub(super) fn verify_notification(body: Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    let fields = form::decode(&body).ok_or(BadSignature::Wrong("it is no form in UTF-8"))?;
    let sign = fields.get("sign").ok_or(BadSignature::Missing)?;
    let certificate = fields.get("alipay_cert_sn");
    let text =
        |left_out: &[&str]| form::signed_text(fields.iter().filter(|(name, _)| !left_out.contains(&name.as_str())));
    let usual = text(&["sign", "sign_type"]);
    // Alipay's own readers differ in whether the certificate's number is signed too.
    let without_number = text(&["sign", "sign_type", "alipay_cert_sn"]);
    let texts = [usual.as_str(), without_number.as_str()];
    let texts = if certificate.is_some() { &texts[..] } else { &texts[..1] };
    let key = check(texts, sign, certificate.map(String::as_str), keys, now)?.id.clone();
    Ok(Verified::vouch(body, key))
}

/// The key that signed one of the texts. A message names its key only in certificate mode; without a name any may have.
fn check<'a>(
    texts: &[&str],
    sign: &str,
    certificate: Option<&str>,
    keys: &'a Keyring,
    now: u64,
) -> Result<&'a Key, BadSignature> {
    let signature = STANDARD.decode(sign).map_err(|_| BadSignature::Wrong("it is not base64"))?;
    let is_candidate = |key: &&Key| certificate.is_none_or(|number| key.id == number);
    if let Some(number) = certificate.filter(|_| !keys.iter().any(|key| is_candidate(&key))) {
        return Err(BadSignature::UnknownKey(number.chars().take(64).collect()));
    }
    keys.iter()
        .filter(is_candidate)
        .filter(|key| key.not_after.is_none_or(|end| now <= end))
        .find(|key| texts.iter().any(|text| key.verifier.verify(text.as_bytes(), &signature)))
        .ok_or(BadSignature::Wrong("it is not over this message, or by another key"))
}
