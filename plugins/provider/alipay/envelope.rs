//! The answer's outside: which part of it is signed, exactly as it came.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::text::Text;
use super::super::{Member, Verified};
use super::readable::readable;

/// More members than any answer has.
const MOST: usize = 16;

/// An answer, taken apart and not yet believed.
pub(super) struct Envelope<'a> {
    /// As in `alipay_trade_query_response`.
    pub(super) name: &'a str,
    /// The signed text, untouched: an object, or a quoted text when it is encrypted.
    pub(super) value: &'a str,
    /// Where the two are.
    pub(super) member: Member,
    /// The signature, as JSON writes it.
    pub(super) sign: Option<&'a RawValue>,
    /// Which of Alipay's certificates belongs to the signature, as JSON writes it.
    pub(super) alipay_cert_sn: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// `None` when it has another form, or a member twice. Places in the text are places in the answer's bytes.
    pub(super) fn read(body: &'a str) -> Option<Self> {
        let Members(mut members) = serde_json::from_str(body).ok()?;
        let mut take = |is_it: fn(&str) -> bool| {
            let place = members.iter().position(|(name, _)| is_it(name))?;
            Some(members.swap_remove(place))
        };
        let (name, value) = take(is_response)?;
        let is_only = take(is_response).is_none();
        let sign = take(|name| name == "sign").map(|(_, raw)| raw);
        let alipay_cert_sn = take(|name| name == "alipay_cert_sn").map(|(_, raw)| raw);
        let (name, value) = (name.as_written()?, value.get());
        let member = Member { name: place(name, body)?, value: place(value, body)? };
        is_only.then_some(Self { name, value, member, sign, alipay_cert_sn })
    }

    /// The name and the signed text of an answer that was verified.
    pub(super) fn signed(answer: &Verified) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
        let Member { name, value } = answer.members().first()?;
        let text = |place: &Range<usize>| answer.bytes().get(place.clone()).map(readable);
        Some((text(name)?, text(value)?))
    }
}

/// Where a part of a text is in it.
fn place(part: &str, whole: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    Some(start..start.checked_add(part.len())?)
}

fn is_response(name: &str) -> bool {
    name.ends_with("_response")
}

/// The members of an object, each value as it was written.
struct Members<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with few members, each once")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Text<'de>, &'de RawValue)> = Vec::with_capacity(4);
                while let Some((name, value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    if members.len() == MOST || members.iter().any(|(known, _)| **known == *name) {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}
