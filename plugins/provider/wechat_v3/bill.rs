//! APIv3 bills: a signed answer contains the download link and the hash of the file. The file itself is not signed.

use bytes::Bytes;
use http::{Request, StatusCode};
use serde::Deserialize;

use super::super::Signing;
use super::super::answer_codes::Interface;
use super::super::bill::{Answer, BillEndpoint, BillReply, BillRequest, Bills, FUNDS, Form, Link, TRADE};
use super::super::v3_scheme::{answer, request};
use super::WechatV3;
use super::codes::CODES;
use crate::error::Error;

/// Kinds of bill.
const KINDS: &[&str] = &[TRADE, "trade_success", "trade_refund", FUNDS, "funds_operation", "funds_fees"];

/// Returns the interface, and the parameter that selects the bill.
fn interface(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        TRADE => ("tradebill", "bill_type=ALL"),
        "trade_success" => ("tradebill", "bill_type=SUCCESS"),
        "trade_refund" => ("tradebill", "bill_type=REFUND"),
        FUNDS => ("fundflowbill", "account_type=BASIC"),
        "funds_operation" => ("fundflowbill", "account_type=OPERATION"),
        "funds_fees" => ("fundflowbill", "account_type=FEES"),
        _ => return None,
    })
}

impl Bills for WechatV3 {
    fn kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    /// The files come from the API hosts.
    fn hosts(&self) -> &'static [&'static str] {
        &[]
    }

    fn endpoint(&self) -> BillEndpoint {
        BillEndpoint::Payments
    }

    fn bill_request(&self, bill: &BillRequest, _: Signing<'_>) -> Result<Request<Bytes>, Error> {
        let interface = interface(bill.kind);
        let (name, choice) = interface
            .ok_or_else(|| Error::Unsupported(format!("WeChat Pay provides no bill of the kind `{}`", bill.kind)))?;
        request::uri(format!("/v3/bill/{name}?bill_date={}&{choice}", bill.day)).map(request::get)
    }

    fn decode_bill(&self, _: &BillRequest, answer: Answer) -> Result<BillReply, Error> {
        let status = answer.status;
        let reply = answer.verified_or(|status, body| CODES.unsigned(Interface::Bill, status, body))?;
        match status {
            StatusCode::OK => link(answer::read(reply.bytes())?).map(BillReply::Link),
            _ => Err(CODES.refusal(Interface::Bill, status, reply.bytes())),
        }
    }
}

#[derive(Deserialize)]
struct BillLocation {
    hash_type: String,
    hash_value: String,
    download_url: String,
}

/// Decodes the link. The hash covers the uncompressed file, which is what the gateway requests.
fn link(location: BillLocation) -> Result<Link, Error> {
    let mut sha1 = [0; 20];
    let is_sha1 = location.hash_type.eq_ignore_ascii_case("SHA1")
        && hex::decode_to_slice(&location.hash_value, &mut sha1).is_ok();
    if !is_sha1 {
        return Err(Error::unclear("the answer contains no SHA-1 of the bill"));
    }
    Ok(Link { url: location.download_url, is_signed: true, sha1: Some(sha1), form: Form::Csv })
}
