//! Bills: UnionPay's statement of a clearing day. The archive stands in the signed answer itself, compressed once more.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use super::super::bill::{self, Answer, BillEndpoint, BillFile, BillReply, BillRequest, Bills, Form, Proof, TRADE};
use super::super::{Signing, Source, china_time};
use super::codes;
use super::fields::{Fields, Message};
use super::request::{request, time};
use super::{UnionPay, account::Account};
use crate::error::Error;

/// Where files are asked for, on hosts of their own.
const FILES: &str = "/";
/// What an archive may be at most, once it is out of its compression: no statement is nearly as long, and a few bytes can
/// claim to be any number.
const LARGEST: usize = 64 << 20;
/// `settleDate` has no year, so a day that is farther back would be answered with that of another year.
const OLDEST_DAYS: i32 = 364;

impl Bills for UnionPay {
    /// One archive has all: what was paid and given back (`ZM`), and what was corrected afterwards (`ZME`).
    fn kinds(&self) -> &'static [&'static str] {
        &[TRADE]
    }

    /// The test environment's is another one: `bill_hosts`.
    fn hosts(&self) -> &'static [&'static str] {
        &["https://filedownload.95516.com"]
    }

    fn desk(&self) -> BillEndpoint {
        BillEndpoint::Files
    }

    fn ask(&self, wanted: &BillRequest, with: Signing<'_>) -> Result<Request<Bytes>, Error> {
        let now = i64::try_from(with.stamp.unix_time).ok().and_then(|now| Timestamp::from_second(now).ok());
        let now = now.ok_or_else(|| Error::NotSent("the clock is beyond all years".to_owned()))?;
        can_be_named(wanted.day, now)?;
        request(Uri::from_static(FILES), self.0.codec, &fields(&self.0, wanted, now)?)
    }

    fn find(&self, wanted: &BillRequest, answer: Answer) -> Result<BillReply, Error> {
        let status = answer.status;
        let reply = answer.believed(|status, body| {
            // Some refusals are not signed. They can say no, never what the bill is.
            let said = Message::read(self.0.codec, Source::Answer, body).and_then(|fields| refusal(&fields));
            said.unwrap_or_else(|| Error::unclear(format!("it answered HTTP {} without a signature", status.as_u16())))
        })?;
        let unreadable = || Error::unclear("its answer is in no form that UnionPay writes");
        let fields = self.read(Source::Answer, &reply).ok_or_else(unreadable)?;
        agrees(&fields, "merId", &self.0.mer_id)?;
        if let Some(error) = refusal(&fields) {
            return Err(error);
        }
        if status != StatusCode::OK {
            return Err(Error::unclear(format!("it answered HTTP {} with a file", status.as_u16())));
        }
        agrees(&fields, "txnType", "76")?;
        agrees(&fields, "settleDate", &month_and_day(wanted.day))?;
        let content = unpacked(fields.get("fileContent").unwrap_or_default(), LARGEST)?;
        bill::checked(BillFile { content, form: Form::Zip, proof: Proof::Signature }).map(BillReply::BillFile)
    }
}

fn fields(account: &Account, wanted: &BillRequest, now: Timestamp) -> Result<Fields, Error> {
    if wanted.kind != TRADE {
        return Err(Error::Unsupported(format!("UnionPay has no bill `{}`", wanted.kind)));
    }
    if account.sub_merchant.is_some() {
        // Whether it would be the one merchant's or that of all is written nowhere.
        let why = "UnionPay's bills are not fetched for a platform's sub-merchants: fetch the platform's own";
        return Err(Error::Unsupported(why.to_owned()));
    }
    let mut fields = Fields::default();
    for (name, value) in [
        ("version", "5.1.0"),
        ("encoding", "UTF-8"),
        ("signMethod", account.method.code()),
        ("txnType", "76"),
        ("txnSubType", "01"),
        ("bizType", "000000"),
        ("accessType", "0"),
        ("merId", &account.mer_id),
        ("fileType", "00"),
        ("settleDate", &month_and_day(wanted.day)),
        ("txnTime", &time(now)),
    ] {
        fields.set(name, value);
    }
    Ok(fields)
}

/// Nothing is sent for a day that UnionPay would take for one of another year.
fn can_be_named(day: Date, now: Timestamp) -> Result<(), Error> {
    let last = clearing_day(now);
    let first = last.saturating_sub(OLDEST_DAYS.days());
    match (first..=last).contains(&day) {
        true => Ok(()),
        false => {
            Err(Error::Unsupported(format!("UnionPay names days without a year: ask for one from {first} to {last}")))
        }
    }
}

/// UnionPay's day ends at 23:00.
fn clearing_day(moment: Timestamp) -> Date {
    china_time::day(moment.saturating_add(SignedDuration::from_hours(1)).unwrap_or(moment))
}

fn month_and_day(day: Date) -> String {
    day.strftime("%m%d").to_string()
}

/// What the answer says of the question; nothing when it brings a file.
fn refusal(fields: &Message<'_>) -> Option<Error> {
    let (code, message) = (fields.get("respCode")?, fields.get("respMsg").unwrap_or_default());
    match codes::refusal(code, codes::Request::File, || codes::word(code, message)) {
        None if fields.get("fileContent").is_none() => {
            Some(Error::unclear("it says that there is a file but brings none"))
        }
        refused => refused,
    }
}

/// What names a merchant, a transaction or a day must name ours.
fn agrees(fields: &Message<'_>, name: &str, ours: &str) -> Result<(), Error> {
    match fields.get(name) {
        Some(theirs) if theirs == ours => Ok(()),
        Some(_) => Err(Error::Mismatch(format!("its `{name}` is another"))),
        None => Err(Error::unclear(format!("its answer is signed but has no `{name}`"))),
    }
}

pub(super) fn unpacked(content: &str, limit: usize) -> Result<Bytes, Error> {
    let packed = STANDARD.decode(content).map_err(|_| Error::unclear("its `fileContent` is no base64"))?;
    let file = decompress_to_vec_zlib_with_limit(&packed, limit);
    file.map(Bytes::from).map_err(|_| {
        Error::unclear(format!("its `fileContent` is not compressed as it should be, or is more than {limit} bytes"))
    })
}
