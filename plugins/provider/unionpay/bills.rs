//! UnionPay bills: the statement of a clearing day. The signed answer contains the archive, compressed once more.

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

/// Path of file requests, on hosts of their own.
const FILE_PATH: &str = "/";
/// Maximum size of a decompressed archive, in bytes. No statement is nearly as large, and a few compressed bytes can
/// expand without limit.
const MAX_ARCHIVE_BYTES: usize = 64 << 20;
/// Maximum age of a bill in days. `settleDate` has no year, so an older day would return the bill of another year.
const MAX_BILL_AGE_DAYS: i32 = 364;

impl Bills for UnionPay {
    /// One archive contains everything: payments and refunds (`ZM`), and later corrections (`ZME`).
    fn kinds(&self) -> &'static [&'static str] {
        &[TRADE]
    }

    /// The test environment has another host: set `bill_hosts`.
    fn hosts(&self) -> &'static [&'static str] {
        &["https://filedownload.95516.com"]
    }

    fn endpoint(&self) -> BillEndpoint {
        BillEndpoint::Files
    }

    fn bill_request(&self, bill: &BillRequest, with: Signing<'_>) -> Result<Request<Bytes>, Error> {
        let now = i64::try_from(with.stamp.unix_time).ok().and_then(|now| Timestamp::from_second(now).ok());
        let now =
            now.ok_or_else(|| Error::NotSent("the system clock is outside the representable range".to_owned()))?;
        check_day(bill.day, now)?;
        request(Uri::from_static(FILE_PATH), self.0.codec, &fields(&self.0, bill, now)?)
    }

    fn decode_bill(&self, bill: &BillRequest, answer: Answer) -> Result<BillReply, Error> {
        let status = answer.status;
        let reply = answer.verified_or(|status, body| {
            // Some refusals are not signed. An unsigned answer may refuse, but never deliver a bill.
            let unsigned_refusal =
                Message::read(self.0.codec, Source::Answer, body).and_then(|fields| refusal(&fields));
            unsigned_refusal.unwrap_or_else(|| Error::unclear(format!("unsigned HTTP {} answer", status.as_u16())))
        })?;
        let unreadable = || Error::unclear("the answer is in a format that UnionPay does not use");
        let fields = self.read(Source::Answer, &reply).ok_or_else(unreadable)?;
        check_field(&fields, "merId", &self.0.mer_id)?;
        if let Some(error) = refusal(&fields) {
            return Err(error);
        }
        if status != StatusCode::OK {
            return Err(Error::unclear(format!("HTTP {} answer with a file", status.as_u16())));
        }
        check_field(&fields, "txnType", "76")?;
        check_field(&fields, "settleDate", &month_and_day(bill.day))?;
        let content = decompress(fields.get("fileContent").unwrap_or_default(), MAX_ARCHIVE_BYTES)?;
        bill::checked(BillFile { content, form: Form::Zip, proof: Proof::Signature }).map(BillReply::File)
    }
}

fn fields(account: &Account, bill: &BillRequest, now: Timestamp) -> Result<Fields, Error> {
    if bill.kind != TRADE {
        return Err(Error::Unsupported(format!("UnionPay provides no bill of the kind `{}`", bill.kind)));
    }
    if account.sub_merchant.is_some() {
        // It is undocumented whether the bill would cover this sub-merchant or all of them.
        let why =
            "bills of a platform's sub-merchants are not supported: request the bill of the platform's own account";
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
        ("settleDate", &month_and_day(bill.day)),
        ("txnTime", &time(now)),
    ] {
        fields.set(name, value);
    }
    Ok(fields)
}

/// Rejects a day that UnionPay would take for a day of another year.
fn check_day(day: Date, now: Timestamp) -> Result<(), Error> {
    let last = clearing_day(now);
    let first = last.saturating_sub(MAX_BILL_AGE_DAYS.days());
    match (first..=last).contains(&day) {
        true => Ok(()),
        false => {
            Err(Error::Unsupported(format!("UnionPay's bill days have no year: request a day from {first} to {last}")))
        }
    }
}

/// Returns UnionPay's clearing day, which ends at 23:00 China time.
fn clearing_day(moment: Timestamp) -> Date {
    china_time::day(moment.saturating_add(SignedDuration::from_hours(1)).unwrap_or(moment))
}

fn month_and_day(day: Date) -> String {
    day.strftime("%m%d").to_string()
}

/// Returns the error in an answer; `None` if the answer contains a file.
fn refusal(fields: &Message<'_>) -> Option<Error> {
    let (code, message) = (fields.get("respCode")?, fields.get("respMsg").unwrap_or_default());
    match codes::refusal(code, codes::Request::File, || codes::provider_error(code, message)) {
        None if fields.get("fileContent").is_none() => {
            Some(Error::unclear("the answer reports a file but contains none"))
        }
        refused => refused,
    }
}

/// Checks a field that identifies the merchant, the transaction type or the day.
fn check_field(fields: &Message<'_>, name: &str, ours: &str) -> Result<(), Error> {
    match fields.get(name) {
        Some(theirs) if theirs == ours => Ok(()),
        Some(_) => Err(Error::Mismatch(format!("`{name}` does not match"))),
        None => Err(Error::unclear(format!("the signed answer has no `{name}`"))),
    }
}

pub(super) fn decompress(content: &str, limit: usize) -> Result<Bytes, Error> {
    let compressed = STANDARD.decode(content).map_err(|_| Error::unclear("`fileContent` is not base64"))?;
    let file = decompress_to_vec_zlib_with_limit(&compressed, limit);
    file.map(Bytes::from)
        .map_err(|_| Error::unclear(format!("`fileContent` is not valid zlib data, or is larger than {limit} bytes")))
}
