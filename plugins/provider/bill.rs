//! Bills: a provider's statement file for a day. Some providers answer with the file itself, some with a link to it.
//!
//! ```text
//! Wanted ─ ask ─▶ sign ═▶ provider
//! Found  ◀─ find ◀─ verify ◀═
//!   │ File: that is it
//!   └ Link ─ request ─▶ (sign) ═▶ a host of the provider
//!     File ◀─ read: status, hash, form ◀═
//! ```

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use jiff::civil::Date;

use super::{BadSignature, Signing, Verified};
use crate::error::Error;

#[cfg(test)]
pub(super) mod golden;

/// A day's payments and refunds: every provider that has bills has this one, and it is meant when nobody says which.
pub const TRADE: &str = "trade";
/// Everything that moved the money of the account in a day, fees and withdrawals too.
pub const FUNDS: &str = "funds";

/// A provider that hands out bills.
pub trait Bills: Send + Sync {
    /// The kinds of bill that it has, [`TRADE`] among them.
    fn kinds(&self) -> &'static [&'static str];

    /// The hosts beside the channel's own that hand out files, by the provider's documentation.
    fn hosts(&self) -> &'static [&'static str];

    /// Which of them is asked.
    fn desk(&self) -> BillEndpoint;

    /// The request for a bill, not yet signed.
    fn ask(&self, wanted: &BillRequest, with: Signing<'_>) -> Result<Request<Bytes>, Error>;

    /// Reads the answer. [`Error::NotFound`] is a day without a bill, [`Error::ProviderBusy`] one whose bill is still being made.
    fn find(&self, wanted: &BillRequest, answer: Answer) -> Result<BillReply, Error>;
}

/// Who is asked for a bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BillEndpoint {
    /// The hosts that take payments.
    Payments,
    /// The hosts that hand out files.
    Files,
}

/// Which bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillRequest {
    /// As the provider counts days: midnight to midnight in Beijing, but UnionPay's end at 23:00.
    pub day: Date,
    /// One of [`Bills::kinds`].
    pub kind: &'static str,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body as it came.
    pub body: Bytes,
    /// The body again, if its signature holds, or why not: some providers sign none of their bills, and the dialect knows.
    pub checked: Result<Verified, BadSignature>,
}

impl Answer {
    /// The signed bytes, or what is to be said of an answer that is signed wrongly; `refusal` reads one without a signature.
    pub(super) fn believed(self, refusal: impl FnOnce(StatusCode, &[u8]) -> Error) -> Result<Verified, Error> {
        let Self { status, body, checked } = self;
        checked.map_err(|bad| match bad {
            BadSignature::Missing => refusal(status, &body),
            bad => Error::unclear(format!("the answer ({}) is not believed: {bad}", status.as_u16())),
        })
    }
}

/// What the provider's answer is.
#[derive(Debug)]
pub enum BillReply {
    /// The bill.
    BillFile(BillFile),
    /// Where the bill is.
    Link(Link),
}

/// A bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillFile {
    /// As the provider wrote it.
    pub content: Bytes,
    /// What kind of file it is.
    pub form: Form,
    /// Why it is believed.
    pub proof: Proof,
}

/// The kinds of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated values.
    Csv,
    /// An archive.
    Zip,
}

impl Form {
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Zip => "application/zip",
        }
    }

    /// The end of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Zip => "zip",
        }
    }

    /// Whether the content looks like it: an error page that comes with 200 does not.
    fn fits(self, content: &[u8]) -> bool {
        match self {
            Self::Csv => !content.is_empty() && !content.trim_ascii_start().starts_with(b"<"),
            // An archive begins with its first file, or with its end when there is none in it.
            Self::Zip => content.starts_with(b"PK\x03\x04") || content.starts_with(b"PK\x05\x06"),
        }
    }
}

/// Why a file is believed, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It stands in a signed answer.
    Signature,
    /// A signed answer names its hash.
    Hash,
    /// Nothing but the TLS identity of the host it came from: the provider signs nothing about it.
    Host,
}

impl Proof {
    /// Its name, as callers are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Hash => "hash",
            Self::Host => "host",
        }
    }
}

/// Where a bill is. Whoever follows it looks at the host first: no answer, however well signed, may lead elsewhere than to
/// the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The whole URL.
    pub url: String,
    /// Whether the request is signed as others are.
    pub is_signed: bool,
    /// What the content must hash to.
    pub sha1: Option<[u8; 20]>,
    /// What kind of file it is.
    pub form: Form,
}

impl Link {
    /// The request for the file, not yet signed.
    pub fn request(&self, target: PathAndQuery) -> Request<Bytes> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = Uri::from(target);
        let headers = request.headers_mut();
        // An error would come as JSON, and WeChat Pay refuses requests that do not take it.
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        request
    }

    /// Checks what came.
    pub fn read(&self, status: StatusCode, content: Bytes) -> Result<BillFile, Error> {
        if status != StatusCode::OK {
            return Err(Error::unclear(format!("the bill's host answered HTTP {}", status.as_u16())));
        }
        let proof = match self.sha1 {
            Some(sha1) if digest(&SHA1_FOR_LEGACY_USE_ONLY, &content).as_ref() == sha1 => Proof::Hash,
            Some(_) => return Err(Error::Mismatch("the bill's content does not hash to what was signed".to_owned())),
            None => Proof::Host,
        };
        checked(BillFile { content, form: self.form, proof })
    }
}

/// Refuses a file that is none.
pub(super) fn checked(file: BillFile) -> Result<BillFile, Error> {
    match file.form.fits(&file.content) {
        true => Ok(file),
        false => Err(Error::unclear("what came is no bill")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `hello`; from sha1sum.
    const HELLO: [u8; 20] = [
        0xaa, 0xf4, 0xc6, 0x1d, 0xdc, 0xc5, 0xe8, 0xa2, 0xda, 0xbe, 0xde, 0x0f, 0x3b, 0x48, 0x2c, 0xd9, 0xae, 0xa9,
        0x43, 0x4d,
    ];

    fn link(sha1: Option<[u8; 20]>, form: Form) -> Link {
        Link { url: "https://a.example/b".to_owned(), is_signed: true, sha1, form }
    }

    #[test]
    fn a_file_is_what_was_hashed_or_nothing() {
        let read = |link: Link, status: u16, content: &'static [u8]| {
            link.read(StatusCode::from_u16(status).unwrap(), Bytes::from_static(content))
        };
        assert_eq!(read(link(Some(HELLO), Form::Csv), 200, b"hello").unwrap().proof, Proof::Hash);
        assert!(matches!(read(link(Some(HELLO), Form::Csv), 200, b"hallo"), Err(Error::Mismatch(_))));
        assert!(matches!(read(link(Some(HELLO), Form::Csv), 302, b"hello"), Err(Error::Unclear { .. })));
        assert_eq!(read(link(None, Form::Zip), 200, b"PK\x03\x04").unwrap().proof, Proof::Host);
        for page in [&b"<html>expired</html>"[..], b"", b" \n<Error/>"] {
            assert!(matches!(read(link(None, Form::Csv), 200, page), Err(Error::Unclear { .. })));
            assert!(matches!(read(link(None, Form::Zip), 200, page), Err(Error::Unclear { .. })));
        }
    }
}
