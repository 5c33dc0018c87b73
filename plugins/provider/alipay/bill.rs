//! Alipay bills: a signed answer contains a download link that is valid for 30 seconds. The file is not signed, and no
//! hash of it is provided.

use bytes::Bytes;
use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use super::super::bill::{Answer, BillEndpoint, BillReply, BillRequest, Bills, FUNDS, Form, Link, TRADE};
use super::super::form::Fields;
use super::super::{Signing, Verified};
use super::account::Protocol;
use super::answer::{self, split, unknown_form};
use super::codes::Interface;
use super::errors::Head;
use super::{Alipay, errors, request, v3};
use crate::error::Error;

const SERVICE: &str = "alipay.data.dataservice.bill.downloadurl.query";

#[derive(Serialize)]
struct Content {
    bill_type: &'static str,
    bill_date: String,
}

impl Bills for Alipay {
    fn kinds(&self) -> &'static [&'static str] {
        &[TRADE, FUNDS]
    }

    /// Alipay's answers contain this URL with `http://`.
    fn hosts(&self) -> &'static [&'static str] {
        &["https://dwbillcenter.alipay.com"]
    }

    fn endpoint(&self) -> BillEndpoint {
        BillEndpoint::Payments
    }

    fn bill_request(&self, bill: &BillRequest, _: Signing<'_>) -> Result<Request<Bytes>, Error> {
        let bill_type = match bill.kind {
            TRADE => "trade",
            FUNDS => "signcustomer",
            other => return Err(Error::Unsupported(format!("Alipay provides no bill of the kind `{other}`"))),
        };
        let content = Content { bill_type, bill_date: bill.day.to_string() };
        match self.account.protocol {
            Protocol::Form => {
                let mut params = Fields::from([("method".to_owned(), SERVICE.to_owned())]);
                request::put_content(&self.account, &content, &mut params)?;
                Ok(request::post(&params))
            }
            Protocol::V3 => v3::get(
                SERVICE,
                &Fields::from([
                    ("bill_type".to_owned(), content.bill_type.to_owned()),
                    ("bill_date".to_owned(), content.bill_date),
                ]),
            ),
        }
    }

    fn decode_bill(&self, _: &BillRequest, answer: Answer) -> Result<BillReply, Error> {
        let status = answer.status;
        let reply = answer.verified_or(|status, body| match self.account.protocol {
            Protocol::Form => errors::unsigned(Interface::Bill, SERVICE, status, body),
            Protocol::V3 => errors::v3(Interface::Bill, status, body, false),
        });
        reply.and_then(|reply| self.link(status, &reply)).map(BillReply::Link)
    }
}

#[derive(Deserialize)]
struct BillLocation {
    bill_download_url: String,
}

impl Alipay {
    fn link(&self, status: StatusCode, reply: &Verified) -> Result<Link, Error> {
        let content = match self.account.protocol {
            Protocol::Form => {
                let (is_from_interface, content) = split(&self.account, SERVICE, reply)?;
                let head: Head<'_> = serde_json::from_str(&content).map_err(|_| unknown_form())?;
                if &*head.code != "10000" {
                    return Err(head.error(Interface::Bill));
                }
                if !is_from_interface || status != StatusCode::OK {
                    return Err(unknown_form());
                }
                content
            }
            Protocol::V3 => {
                let content = answer::plain(&self.account, reply.bytes())?;
                if status != StatusCode::OK {
                    return Err(errors::v3(Interface::Bill, status, content.as_bytes(), true));
                }
                content
            }
        };
        let location: BillLocation = serde_json::from_str(&content).map_err(|_| unknown_form())?;
        Ok(Link { url: location.bill_download_url, is_signed: false, sha1: None, form: Form::Zip })
    }
}
