//! Alipay's v3 protocol: JSON with one path per method, and signatures in headers.

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

use super::authenticate::{AuthenticatedRequest, MAX_CLOCK_SKEW_SECONDS, invalid, is_url};
use super::reply::{Content, Reply};
use super::{Method, Platform};
use crate::account;
use crate::account::alipay::Account;
use crate::context::SandboxContext;
use crate::fault::FaultKind;
use crate::form::Form;
use crate::keys::random_text;
use crate::response_action::{MAX_BODY_BYTES, ResponseAction, action_before_body, cut};

/// Prefix of every path.
pub(crate) const PATHS: &str = "/v3/alipay/";
const SCHEME: &str = "ALIPAY-SHA256withRSA ";

/// Serves one request of the v3 protocol.
pub(crate) async fn serve(context: Arc<SandboxContext>, request: Request<Incoming>) -> ResponseAction {
    let (parts, body) = request.into_parts();
    context.state.lock().stats.requests += 1;
    let method = method(&parts);
    let operation = method.map_or("", Method::operation);
    if let Some(verdict) = action_before_body(&context, operation, None) {
        return verdict;
    }
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else { return ResponseAction::Cut };
    let body = body.to_bytes();
    // Whether to cut often depends on the body. The client cannot observe that the body was read.
    let content: Value = serde_json::from_slice(&body).unwrap_or_default();
    let number = content["out_request_no"].as_str().or_else(|| content["out_trade_no"].as_str());
    if let Some(verdict) = action_before_body(&context, operation, number) {
        return verdict;
    }
    // A separate task, so that a request that was read is executed even if the client disconnects.
    let work = tokio::spawn(async move { run(context, method, &parts, &body).await });
    work.await.unwrap_or(ResponseAction::Cut)
}

async fn run(context: Arc<SandboxContext>, method: Option<Method>, parts: &Parts, body: &[u8]) -> ResponseAction {
    let request = match authenticate(&context, method, parts, body) {
        Ok(request) => request,
        Err(reply) => {
            context.state.lock().stats.bad_signatures += 1;
            return ResponseAction::Answer(reply.in_v3(None, Some(FaultKind::Unsigned)));
        }
    };
    let host = header(&parts.headers, "host").or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let platform = Platform { context, host: host.unwrap_or_default().to_owned() };
    let account = Arc::clone(&request.account);
    match platform.answer(request).await {
        Some((reply, fault)) => ResponseAction::Answer(reply.in_v3(Some(&account), fault)),
        None => cut(&platform.context),
    }
}

/// Returns the method of a path: `/v3/alipay/trade/query` is `alipay.trade.query`. Methods that only a browser or an
/// app calls have no path.
fn method(parts: &Parts) -> Option<Method> {
    let name = parts.uri.path().strip_prefix("/v3/")?.replace('/', ".");
    let served = |method: &Method| !matches!(method, Method::Page | Method::Wap | Method::App);
    let verb = |method: &Method| if is_read(*method) { http::Method::GET } else { http::Method::POST };
    Method::named(&name).filter(served).filter(|method| parts.method == verb(method))
}

/// Returns whether the method only reads, with its parameters in the query string.
fn is_read(method: Method) -> bool {
    matches!(method, Method::BillLink | Method::CertificateDownload)
}

/// Parsed `Authorization` header.
struct Authorization<'a> {
    /// Signed part of the header.
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

/// Checks everything except the business rules. Rejections are unsigned, because the sender is unknown.
fn authenticate(
    context: &SandboxContext,
    method: Option<Method>,
    parts: &Parts,
    body: &[u8],
) -> Result<AuthenticatedRequest, Reply> {
    let headers = &parts.headers;
    let authorization = header(headers, "authorization").and_then(Authorization::read);
    let authorization = authorization.filter(Authorization::is_known).ok_or_else(|| {
        Reply::gateway("40001", "isv.missing-signature", "缺少或无法识别authorization：ALIPAY-SHA256withRSA …,sign=…")
    })?;
    let app_id = authorization.get("app_id").unwrap_or_default();
    let Some(account) = account::typed::<Account>(&context.accounts, app_id) else {
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
    Ok(AuthenticatedRequest { account: account.clone(), method, content, notify_url: notify_url.flatten() })
}

/// Checks the timestamp in milliseconds and the nonce.
fn check_time(authorization: &Authorization<'_>) -> Result<(), Reply> {
    let now = Timestamp::now().as_millisecond();
    let sent = authorization.get("timestamp").and_then(|text| text.parse::<i64>().ok());
    if sent.is_none_or(|sent| sent.abs_diff(now) > MAX_CLOCK_SKEW_SECONDS * 1000) {
        return Err(invalid("isv.invalid-timestamp", "非法的时间戳参数：不是毫秒数，或与服务器时间相差超过15分钟"));
    }
    match authorization.get("nonce").is_some_and(|nonce| (8..=64).contains(&nonce.len())) {
        true => Ok(()),
        false => Err(invalid("isv.invalid-nonce", "nonce必须有8到64个字符")),
    }
}

/// Returns the parameters: from the query string of a GET, otherwise from the JSON body.
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
    /// Returns the response of the v3 protocol, whose HTTP status is the result. Errors of the gateway are unsigned.
    fn in_v3(self, account: Option<&Account>, fault: Option<FaultKind>) -> Response<Full<Bytes>> {
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
        if let Some(account) = account.filter(|_| is_signed && fault != Some(FaultKind::Unsigned)) {
            sign(headers, account, &body, fault);
        }
        response
    }
}

fn sign(headers: &mut HeaderMap, account: &Account, body: &str, fault: Option<FaultKind>) {
    let age = if fault == Some(FaultKind::Stale) { 600_000 } else { 0 };
    let time = (Timestamp::now().as_millisecond() - age).to_string();
    let nonce = random_text(32);
    let salt = if fault == Some(FaultKind::WrongSignature) { " " } else { "" };
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

/// Removes the form protocol's codes, which are HTTP statuses here. A scripted status is retained.
fn plain(mut object: Value, status: u16) -> (u16, Value) {
    let field = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let (number, code, message) = (field(&object, "code"), field(&object, "sub_code"), field(&object, "sub_msg"));
    // Gateway codes have no prefix here; business codes retain theirs.
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
