//! Alipay's v3 protocol: JSON at a path of its own for each method, signatures in headers.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::authenticate::{Admitted, PATIENCE_SECONDS, invalid, is_url};
use super::reply::{Content, Reply};
use super::{Method, Platform};
use crate::sandbox::Shared;
use crate::sandbox::account;
use crate::sandbox::account::alipay::Account;
use crate::sandbox::fault::Kind;
use crate::sandbox::form::Form;
use crate::sandbox::keys::random_text;
use crate::sandbox::server::{LONGEST_BODY, Verdict, cut, unread};

/// How every path of it begins.
pub(in crate::sandbox) const PATHS: &str = "/v3/alipay/";
const SCHEME: &str = "ALIPAY-SHA256withRSA ";

/// Serves one request.
pub(in crate::sandbox) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Verdict {
    let (parts, body) = request.into_parts();
    shared.books.lock().stats.requests += 1;
    let method = method(&parts);
    let operation = method.map_or("", Method::operation);
    if let Some(verdict) = unread(&shared, operation, None) {
        return verdict;
    }
    let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else { return Verdict::Cut };
    let body = body.to_bytes();
    // What to cut is often known from the body alone; nobody outside can tell that it was read.
    let content: Value = serde_json::from_slice(&body).unwrap_or_default();
    let number = content["out_request_no"].as_str().or_else(|| content["out_trade_no"].as_str());
    if let Some(verdict) = unread(&shared, operation, number) {
        return verdict;
    }
    // A task of its own: what was read is executed, whether or not the other side still waits.
    let work = tokio::spawn(async move { run(shared, method, &parts, &body).await });
    work.await.unwrap_or(Verdict::Cut)
}

async fn run(shared: Arc<Shared>, method: Option<Method>, parts: &Parts, body: &[u8]) -> Verdict {
    let admitted = match admit(&shared, method, parts, body) {
        Ok(admitted) => admitted,
        Err(reply) => {
            shared.books.lock().stats.bad_signatures += 1;
            return Verdict::Answer(reply.in_v3(None, Some(Kind::Unsigned)));
        }
    };
    let host = header(&parts.headers, "host").or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let platform = Platform { shared, host: host.unwrap_or_default().to_owned() };
    let account = Arc::clone(&admitted.account);
    match platform.answer(admitted).await {
        Some((reply, fault)) => Verdict::Answer(reply.in_v3(Some(&account), fault)),
        None => cut(&platform.shared),
    }
}

/// `/v3/alipay/trade/query` is `alipay.trade.query`. What only a browser or an app calls has no path.
fn method(parts: &Parts) -> Option<Method> {
    let name = parts.uri.path().strip_prefix("/v3/")?.replace('/', ".");
    let served = |method: &Method| !matches!(method, Method::Page | Method::Wap | Method::App);
    let verb = |method: &Method| if is_read(*method) { http::Method::GET } else { http::Method::POST };
    Method::named(&name).filter(served).filter(|method| parts.method == verb(method))
}

/// Whether it only reads, and has what it asks in its query.
fn is_read(method: Method) -> bool {
    matches!(method, Method::BillLink | Method::CertificateDownload)
}

/// Who asks, by the parts of its authorization.
struct Authorization<'a> {
    /// As it is signed.
    text: &'a str,
    signature: Vec<u8>,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Authorization<'a> {
    fn read(header: &'a str) -> Option<Self> {
        let (text, signature) = header.strip_prefix(SCHEME)?.split_once(",sign=")?;
        let fields = text.split(',').map(|field| field.split_once('=')).collect::<Option<_>>()?;
        Some(Self { text, signature: STANDARD.decode(signature).ok()?, fields })
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn is_known(&self) -> bool {
        let known = ["app_id", "app_cert_sn", "nonce", "timestamp", "expired_seconds"];
        let mut names: Vec<_> = self.fields.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.iter().all(|name| known.contains(name)) && names.windows(2).all(|two| two[0] != two[1])
    }
}

/// Checks everything but the business. Refusals are never signed: their sender is not known.
fn admit(shared: &Shared, method: Option<Method>, parts: &Parts, body: &[u8]) -> Result<Admitted, Reply> {
    let headers = &parts.headers;
    let authorization = header(headers, "authorization").and_then(Authorization::read);
    let authorization = authorization.filter(Authorization::is_known).ok_or_else(|| {
        Reply::gateway("40001", "isv.missing-signature", "缺少或无法识别authorization：ALIPAY-SHA256withRSA …,sign=…")
    })?;
    let app_id = authorization.get("app_id").unwrap_or_default();
    let Some(account::Account::Alipay(account)) = shared.accounts.get(app_id) else {
        return Err(invalid("isv.invalid-app-id", "无效的AppID参数"));
    };
    check_time(&authorization)?;
    let certificates = account.certificates.as_ref();
    if authorization.get("app_cert_sn") != certificates.map(|numbers| numbers.app_cert_sn.as_str()) {
        return Err(invalid("isv.invalid-app-cert-sn", "app_cert_sn与应用的接口加签方式不一致"));
    }
    let root = header(headers, "alipay-root-cert-sn");
    if root != certificates.map(|numbers| numbers.alipay_root_cert_sn.as_str()) {
        return Err(invalid("isv.invalid-alipay-root-cert-sn", "alipay-root-cert-sn与应用的接口加签方式不一致"));
    }
    if header(headers, "alipay-request-id").is_none_or(str::is_empty) {
        return Err(Reply::gateway("40001", "isv.missing-request-id", "缺少alipay-request-id"));
    }
    let token = header(headers, "alipay-app-auth-token");
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let head = format!("{}\n{}\n{target}\n", authorization.text, parts.method);
    let foot = token.map_or_else(|| "\n".to_owned(), |token| format!("\n{token}\n"));
    let text = [head.as_bytes(), body, foot.as_bytes()].concat();
    if !account.application.verifies(&text, &authorization.signature) {
        let shown: String = String::from_utf8_lossy(&text).chars().take(300).collect();
        return Err(invalid("isv.invalid-signature", &format!("验签出错，待验签字符串：{shown}")));
    }
    if token != account.app_auth_token.as_deref() {
        return Err(Reply::gateway("20001", "aop.invalid-app-auth-token", "无效的应用授权令牌"));
    }
    let method = method.ok_or_else(|| invalid("isv.invalid-method", "不存在的方法名，或HTTP方法不对"))?;
    let mut content = content(method, parts, body)?;
    let notify_url = content.as_mut().and_then(Value::as_object_mut).and_then(|fields| fields.remove("notify_url"));
    let notify_url = notify_url.map(|url| url.as_str().filter(|url| is_url(url)).map(str::to_owned));
    if notify_url == Some(None) {
        return Err(invalid("isv.invalid-parameter", "notify_url必须是不超过256个字符的http(s)地址"));
    }
    Ok(Admitted { account: account.clone(), method, content, notify_url: notify_url.flatten() })
}

/// Milliseconds, and a nonce beside them.
fn check_time(authorization: &Authorization<'_>) -> Result<(), Reply> {
    let now = Timestamp::now().as_millisecond();
    let sent = authorization.get("timestamp").and_then(|text| text.parse::<i64>().ok());
    if sent.is_none_or(|sent| sent.abs_diff(now) > PATIENCE_SECONDS * 1000) {
        return Err(invalid("isv.invalid-timestamp", "非法的时间戳参数：不是毫秒数，或与服务器时间相差超过15分钟"));
    }
    match authorization.get("nonce").is_some_and(|nonce| (8..=64).contains(&nonce.len())) {
        true => Ok(()),
        false => Err(invalid("isv.invalid-nonce", "nonce必须有8到64个字符")),
    }
}

/// What is asked: in the query of a GET, else JSON in the body.
fn content(method: Method, parts: &Parts, body: &[u8]) -> Result<Option<Value>, Reply> {
    if is_read(method) {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let form = Form::default().with(query);
        let form = form.map_err(|_| invalid("isv.invalid-parameter", "参数无法读取"))?;
        let fields = form.names().map(|name| (name.to_owned(), json!(form.get(name))));
        return Ok(Some(Value::Object(fields.collect())));
    }
    let kind = header(&parts.headers, "content-type").unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(invalid("isv.invalid-content-type", "content-type必须是application/json"));
    }
    Ok(serde_json::from_slice(body).ok())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Reply {
    /// As the v3 protocol has it: the HTTP status tells how it went. Refusals of the gateway are never signed.
    fn in_v3(self, account: Option<&Account>, fault: Option<Kind>) -> Response<Full<Bytes>> {
        let (status, body, is_signed) = match self.content {
            Content::Page(page) => (self.status, page, self.status == 200),
            Content::Method(object) => {
                let (status, object) = plain(object, self.status);
                (status, object.to_string(), true)
            }
            Content::Gateway(object) => {
                let (status, object) = plain(object, self.status);
                (status, object.to_string(), false)
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body.clone())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/json;charset=utf-8"));
        put(headers, "alipay-trace-id", &random_text(24));
        if let Some(account) = account.filter(|_| is_signed && fault != Some(Kind::Unsigned)) {
            sign(headers, account, &body, fault);
        }
        response
    }
}

fn sign(headers: &mut HeaderMap, account: &Account, body: &str, fault: Option<Kind>) {
    let age = if fault == Some(Kind::Stale) { 600_000 } else { 0 };
    let time = (Timestamp::now().as_millisecond() - age).to_string();
    let nonce = random_text(32);
    let salt = if fault == Some(Kind::WrongSignature) { " " } else { "" };
    let (key, number) = account.signer(fault);
    let Some(signature) = key.sign(format!("{time}\n{nonce}\n{body}{salt}\n").as_bytes()) else { return };
    put(headers, "alipay-timestamp", &time);
    put(headers, "alipay-nonce", &nonce);
    put(headers, "alipay-signature", &signature);
    if let Some(number) = number {
        put(headers, "alipay-sn", number);
    }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Without the classic protocol's numbers, which are HTTP statuses here; a scripted status stays.
fn plain(mut object: Value, status: u16) -> (u16, Value) {
    let field = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let (number, code, message) = (field(&object, "code"), field(&object, "sub_code"), field(&object, "sub_msg"));
    // The gateway's names stand bare here; those of interfaces keep their prefix.
    let bare = ["isv.", "isp.", "aop."].iter().find_map(|prefix| code.strip_prefix(prefix).map(str::to_owned));
    let code = bare.filter(|_| number != "40004").unwrap_or(code);
    let refused = || json!({"code": code, "message": message, "links": []});
    let by_number = match number.as_str() {
        "10000" | "10003" => {
            if let Some(fields) = object.as_object_mut() {
                fields.retain(|name, _| !matches!(name.as_str(), "code" | "msg"));
            }
            return (if number == "10003" { 202 } else { status }, object);
        }
        "20000" => 500,
        "20001" | "40006" => 403,
        "40005" => 429,
        _ if code == "invalid-signature" => 401,
        _ => 400,
    };
    (if status == 200 { by_number } else { status }, refused())
}
