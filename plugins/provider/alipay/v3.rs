//! Alipay's v3 protocol: JSON with a path for each interface, signatures in headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, StatusCode, Uri};

use super::super::form::{self, Fields};
use super::super::{BadSignature, Signing, Verified};
use super::account::Account;
use super::answer::{Reply, outcome, plain};
use super::codes::Interface;
use super::errors;
use super::request::{content, serialize_content, service, url};
use super::signature::signing_key;
use crate::error::{Error, ProviderError};
use crate::payment::{Operation, Outcome};
use crate::signer::Keyring;

const SCHEME: &str = "ALIPAY-SHA256withRSA";
/// Maximum clock difference of an answer, in milliseconds.
const MAX_CLOCK_DIFFERENCE: u64 = 300_000;

const REQUEST_ID: HeaderName = HeaderName::from_static("alipay-request-id");
const ROOT_CERT_SN: HeaderName = HeaderName::from_static("alipay-root-cert-sn");
const APP_AUTH_TOKEN: HeaderName = HeaderName::from_static("alipay-app-auth-token");
const ENCRYPT_TYPE: HeaderName = HeaderName::from_static("alipay-encrypt-type");

const TIMESTAMP: HeaderName = HeaderName::from_static("alipay-timestamp");
const NONCE: HeaderName = HeaderName::from_static("alipay-nonce");
const SIGNATURE: HeaderName = HeaderName::from_static("alipay-signature");
const SN: HeaderName = HeaderName::from_static("alipay-sn");

pub(super) fn encode(account: &Account, operation: &Operation) -> Result<Request<Bytes>, Error> {
    let mut content = content(account, operation)?;
    if let Operation::Pay(pay) = operation {
        content.notify_url = Some(url("the notification URL", &pay.notify_url)?);
    }
    let mut request = request(Verb::POST, &path(service(operation)?), serialize_content(account, &content)?.into())?;
    let headers = request.headers_mut();
    let kind = if account.sealer.is_some() { "text/plain" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if account.sealer.is_some() {
        headers.insert(ENCRYPT_TYPE, HeaderValue::from_static("AES"));
    }
    Ok(request)
}

/// Builds a request whose parameters are all in the query.
pub(super) fn get(service: &str, query: &Fields) -> Result<Request<Bytes>, Error> {
    request(Verb::GET, &format!("{}?{}", path(service), form::write(query)), Bytes::new())
}

fn path(service: &str) -> String {
    format!("/v3/{}", service.replace('.', "/"))
}

fn request(verb: Verb, target: &str, body: Bytes) -> Result<Request<Bytes>, Error> {
    let target = PathAndQuery::try_from(target);
    let target = target.map_err(|_| Error::NotSent("the request's path could not be written".to_owned()))?;
    let mut request = Request::new(body);
    *request.method_mut() = verb;
    *request.uri_mut() = Uri::from(target);
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
    Ok(request)
}

/// Signs app, nonce, time, request and, in partner mode, the authorization token.
pub(super) fn sign(account: &Account, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
    let (app_id, nonce, milliseconds) = (&account.app_id, &with.stamp.nonce, with.stamp.unix_time.saturating_mul(1000));
    let certificate = account.certificates.as_ref();
    let certificate = certificate.map(|numbers| format!(",app_cert_sn={}", numbers.app)).unwrap_or_default();
    let auth_text = format!("app_id={app_id}{certificate},nonce={nonce},timestamp={milliseconds}");
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let head = format!("{auth_text}\n{}\n{path}\n", request.method());
    let token = account.app_auth_token.as_ref().map(|token| format!("{token}\n")).unwrap_or_default();
    let text = [head.as_bytes(), request.body(), b"\n", token.as_bytes()].concat();
    let signature = STANDARD.encode(with.signer.sign(&text)?);
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, header(&format!("{SCHEME} {auth_text},sign={signature}"))?);
    headers.insert(REQUEST_ID, header(nonce)?);
    if let Some(numbers) = &account.certificates {
        headers.insert(ROOT_CERT_SN, header(&numbers.root)?);
    }
    if let Some(token) = &account.app_auth_token {
        headers.insert(APP_AUTH_TOKEN, header(token)?);
    }
    Ok(())
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| Error::NotSent("a header could not be written".to_owned()))
}

/// Checks the signature over the unchanged body, encrypted or not.
pub(super) fn verify(headers: &HeaderMap, body: Bytes, keys: &Keyring, now: u64) -> Result<Verified, BadSignature> {
    if [TIMESTAMP, NONCE, SIGNATURE].iter().all(|name| !headers.contains_key(name)) {
        return Err(BadSignature::Missing);
    }
    let missing = BadSignature::Wrong("a signature header is missing");
    let timestamp = single_header(headers, TIMESTAMP)?.ok_or(missing.clone())?;
    let nonce = single_header(headers, NONCE)?.ok_or(missing.clone())?;
    let signature = single_header(headers, SIGNATURE)?.ok_or(missing)?;
    let milliseconds: u64 = timestamp.parse().map_err(|_| BadSignature::Wrong("the timestamp is not a number"))?;
    if now.saturating_mul(1000).abs_diff(milliseconds) >= MAX_CLOCK_DIFFERENCE {
        return Err(BadSignature::Stale);
    }
    let text = [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", &body, b"\n"].concat();
    let key = signing_key(single_header(headers, SN)?, &[&text], signature, keys, now)?;
    Ok(Verified::assertion(body, &key.id))
}

/// Returns an optional header. A duplicated header is rejected, because it would be unknown which value was checked.
fn single_header(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, BadSignature> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| BadSignature::Wrong("a signature header is not ASCII"))
        }
        (Some(_), Some(_)) => Err(BadSignature::Wrong("a signature header is duplicated")),
    }
}

pub(super) fn decode(
    account: &Account,
    operation: &Operation,
    status: StatusCode,
    body: &[u8],
) -> Result<Outcome, Error> {
    let content = &*plain(account, body)?;
    if !status.is_success() {
        return Err(errors::v3(Interface::of(operation), status, content.as_bytes(), true));
    }
    // A scanned payment without a payment time waits for the payer's password.
    let is_scanned = matches!(operation, Operation::Pay(pay) if pay.order.method.is_scanned());
    let reply = Reply::read(content)?;
    let awaits_password = is_scanned && (status == StatusCode::ACCEPTED || !reply.has_payment_time());
    let absent_refund =
        || ProviderError { code: status.as_u16().to_string(), message: "the answer contains no refund".to_owned() };
    outcome(operation, &reply, awaits_password, absent_refund)
}
