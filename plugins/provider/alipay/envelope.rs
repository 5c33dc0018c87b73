//! Envelope of an answer: locates the signed member, byte for byte.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::text::Text;
use super::super::{Member, Verified};
use super::readable::readable;

/// Maximum number of members; no answer has more.
const MAX_MEMBERS: usize = 16;

/// Parsed answer whose signature is not verified yet.
pub(super) struct Envelope<'a> {
    /// Member name, as in `alipay_trade_query_response`.
    pub(super) name: &'a str,
    /// Signed text, unchanged: an object, or a quoted string if it is encrypted.
    pub(super) value: &'a str,
    /// Byte ranges of the name and the value.
    pub(super) member: Member,
    /// Signature, as raw JSON.
    pub(super) sign: Option<&'a RawValue>,
    /// Serial number of Alipay's certificate that made the signature, as raw JSON.
    pub(super) alipay_cert_sn: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Parses an answer. Returns `None` if it has another format or a duplicated member. Ranges in the text equal
    /// ranges in the answer's bytes.
    pub(super) fn read(body: &'a str) -> Option<Self> {
        let Members(mut members) = serde_json::from_str(body).ok()?;
        let mut take = |is_it: fn(&str) -> bool| {
            let index = members.iter().position(|(name, _)| is_it(name))?;
            Some(members.swap_remove(index))
        };
        let (name, value) = take(is_response)?;
        let is_only = take(is_response).is_none();
        let sign = take(|name| name == "sign").map(|(_, raw)| raw);
        let alipay_cert_sn = take(|name| name == "alipay_cert_sn").map(|(_, raw)| raw);
        let (name, value) = (name.as_written()?, value.get());
        let member = Member { name: range_of(name, body)?, value: range_of(value, body)? };
        is_only.then_some(Self { name, value, member, sign, alipay_cert_sn })
    }

    /// Returns the name and the signed text of a verified answer.
    pub(super) fn signed(answer: &Verified) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
        let Member { name, value } = answer.members().first()?;
        let text = |range: &Range<usize>| answer.bytes().get(range.clone()).map(readable);
        Some((text(name)?, text(value)?))
    }
}

/// Returns the byte range of a part within the whole text.
fn range_of(part: &str, whole: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    Some(start..start.checked_add(part.len())?)
}

fn is_response(name: &str) -> bool {
    name.ends_with("_response")
}

/// Members of an object, each value as raw JSON.
struct Members<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with at most 16 members and no duplicates")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Text<'de>, &'de RawValue)> = Vec::with_capacity(4);
                while let Some((name, value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    if members.len() == MAX_MEMBERS || members.iter().any(|(known, _)| **known == *name) {
                        return Err(A::Error::custom("too many members, or a duplicated one"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}
