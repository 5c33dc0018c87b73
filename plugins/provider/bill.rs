//! Bills: a provider's statement file for one day. Some providers answer with the file, some with a download link.
//!
//! ```text
//! BillRequest ─ bill_request ─▶ sign ═▶ provider
//! BillReply   ◀─ decode_bill ◀─ verify ◀═
//!   │ File: the bill itself
//!   └ Link ─ request ─▶ (sign) ═▶ a host of the provider
//!     BillFile ◀─ read: status, hash, format ◀═
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

/// Kind of bill with the payments and refunds of a day. Every provider with bills has this kind. It is the default.
pub const TRADE: &str = "trade";
/// Kind of bill with every movement of the account's balance in a day, including fees and withdrawals.
pub const FUNDS: &str = "funds";

/// Bill interface of a provider: encodes the request for a bill and decodes the answer.
pub trait Bills: Send + Sync {
    /// Returns the kinds of bill that the provider offers. [`TRADE`] is always among them.
    fn kinds(&self) -> &'static [&'static str];

    /// Returns the download hosts beside the channel's own hosts, from the provider's documentation.
    fn hosts(&self) -> &'static [&'static str];

    /// Returns which hosts receive the request for a bill.
    fn endpoint(&self) -> BillEndpoint;

    /// Encodes the request for a bill, not yet signed.
    fn bill_request(&self, bill: &BillRequest, with: Signing<'_>) -> Result<Request<Bytes>, Error>;

    /// Decodes the answer. Returns [`Error::NotFound`] for a day without a bill and [`Error::ProviderBusy`] for a bill
    /// that the provider is still generating.
    fn decode_bill(&self, bill: &BillRequest, answer: Answer) -> Result<BillReply, Error>;
}

/// Hosts that receive the request for a bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BillEndpoint {
    /// The channel's `hosts`, which also receive payments.
    Payments,
    /// The channel's `bill_hosts`, which serve files.
    Files,
}

/// Day and kind of the requested bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillRequest {
    /// The provider's accounting day in China time: midnight to midnight, except UnionPay, whose day ends at 23:00.
    pub day: Date,
    /// One of [`Bills::kinds`].
    pub kind: &'static str,
}

/// Answer to a request for a bill.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Body, unchanged.
    pub body: Bytes,
    /// Result of the signature check over `body`. Some providers do not sign bills, so the provider decides what an
    /// error means.
    pub checked: Result<Verified, BadSignature>,
}

impl Answer {
    /// Returns the verified bytes. Without a signature it returns the error that `refusal` decodes; with an invalid
    /// one, [`Error::Unclear`].
    pub(super) fn verified_or(self, refusal: impl FnOnce(StatusCode, &[u8]) -> Error) -> Result<Verified, Error> {
        let Self { status, body, checked } = self;
        checked.map_err(|bad| match bad {
            BadSignature::Missing => refusal(status, &body),
            bad => Error::unclear(format!("the signature of the answer (HTTP {}) is invalid: {bad}", status.as_u16())),
        })
    }
}

/// Decoded answer to a request for a bill.
#[derive(Debug)]
pub enum BillReply {
    /// The bill itself.
    File(BillFile),
    /// Download link of the bill.
    Link(Link),
}

/// Content of a bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillFile {
    /// Content as the provider wrote it.
    pub content: Bytes,
    /// File format.
    pub form: Form,
    /// Evidence that the content comes from the provider.
    pub proof: Proof,
}

/// File formats of bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated values.
    Csv,
    /// ZIP archive.
    Zip,
}

impl Form {
    /// Returns the media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Zip => "application/zip",
        }
    }

    /// Returns the file name extension, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Zip => "zip",
        }
    }

    /// Returns whether the content looks like this format. An error page served with status 200 does not.
    fn fits(self, content: &[u8]) -> bool {
        match self {
            Self::Csv => !content.is_empty() && !content.trim_ascii_start().starts_with(b"<"),
            // A ZIP archive starts with its first entry, or, if it is empty, with the end-of-directory record.
            Self::Zip => content.starts_with(b"PK\x03\x04") || content.starts_with(b"PK\x05\x06"),
        }
    }
}

/// Evidence for the origin of a bill, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The bill is part of a signed answer.
    Signature,
    /// A signed answer contains the hash of the bill.
    Hash,
    /// Only the TLS identity of the host: the provider signs nothing about the bill.
    Host,
}

impl Proof {
    /// Returns the name that API callers see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Hash => "hash",
            Self::Host => "host",
        }
    }
}

/// Download link of a bill.
///
/// The caller must check the host first: even a signed answer may only lead to a host of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Absolute URL.
    pub url: String,
    /// True if the download request is signed like other requests.
    pub is_signed: bool,
    /// Expected SHA-1 of the content, if the provider signed one.
    pub sha1: Option<[u8; 20]>,
    /// Expected file format.
    pub form: Form,
}

impl Link {
    /// Returns the download request, not yet signed.
    pub fn request(&self, target: PathAndQuery) -> Request<Bytes> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = Uri::from(target);
        let headers = request.headers_mut();
        // Errors come as JSON. WeChat Pay rejects requests that do not accept JSON.
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        request
    }

    /// Checks status, hash and format of the downloaded content.
    pub fn read(&self, status: StatusCode, content: Bytes) -> Result<BillFile, Error> {
        if status != StatusCode::OK {
            return Err(Error::unclear(format!("the bill host answered HTTP {}", status.as_u16())));
        }
        let proof = match self.sha1 {
            Some(sha1) if digest(&SHA1_FOR_LEGACY_USE_ONLY, &content).as_ref() == sha1 => Proof::Hash,
            Some(_) => return Err(Error::Mismatch("the bill's SHA-1 differs from the signed SHA-1".to_owned())),
            None => Proof::Host,
        };
        checked(BillFile { content, form: self.form, proof })
    }
}

/// Returns the file if its content has the declared format.
pub(super) fn checked(file: BillFile) -> Result<BillFile, Error> {
    match file.form.fits(&file.content) {
        true => Ok(file),
        false => Err(Error::unclear("the downloaded content is not a bill")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-1 of `hello`, computed by sha1sum.
    const HELLO: [u8; 20] = [
        0xaa, 0xf4, 0xc6, 0x1d, 0xdc, 0xc5, 0xe8, 0xa2, 0xda, 0xbe, 0xde, 0x0f, 0x3b, 0x48, 0x2c, 0xd9, 0xae, 0xa9,
        0x43, 0x4d,
    ];

    fn link(sha1: Option<[u8; 20]>, form: Form) -> Link {
        Link { url: "https://a.example/b".to_owned(), is_signed: true, sha1, form }
    }

    #[test]
    fn download_with_wrong_hash_status_or_format_is_rejected() {
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
