//! Bills: a signed response with a link that is valid for 30 s, and the archive for anyone who has the link.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::codes::{add, china};
use super::reply::Reply;
use super::trade::{OrderHandler, Result, done};
use super::{scripted, success};
use crate::bills::{Line, day, lines, yuan};
use crate::context::SandboxContext;
use crate::fault::execute_with_fault;
use crate::keys::random_text;
use crate::response_action::{ResponseAction, cut};
use crate::zip;

/// Path of bill files.
pub(crate) const PATH: &str = "/downloadBillFile.resource";
/// Lifetime of a link in seconds.
const LINK_LIFETIME_SECONDS: i64 = 30;

/// Templates of bills, in GBK. Words in braces are replaced by values.
const TRADE: &[u8] = include_bytes!("bills/trade.gbk.csv");
const SIGNCUSTOMER: &[u8] = include_bytes!("bills/signcustomer.gbk.csv");
/// The words 交易 (payment) and 退款 (refund) in GBK.
const PAYMENT: &[u8] = b"\xbd\xbb\xd2\xd7";
const REFUND: &[u8] = b"\xcd\xcb\xbf\xee";

impl OrderHandler<'_> {
    /// Creates the bill and returns its link.
    pub(super) fn bill(&mut self, content: &Value, host: &str) -> Result {
        let text = |field: &str| content[field].as_str().unwrap_or_default();
        let wanted = day(text("bill_date")).ok_or_else(|| {
            Reply::business("isv.invalid-arguments", "bill_date格式错误，沙箱只有日账单，请使用yyyy-MM-dd")
        })?;
        let bill = {
            let lines = lines(self.state, &self.account.app_id, wanted);
            if lines.is_empty() {
                return Err(Reply::business("isp.bill_not_exist", "账单不存在"));
            }
            self.archive(text("bill_type"), wanted, &lines)
        };
        let bill = bill.ok_or_else(|| Reply::business("isp.unknow-error", "系统繁忙"))?;
        let (kind, seller) = (text("bill_type"), &self.account.seller_id);
        let token = format!("{}-{}", self.now.as_second(), random_text(32));
        let name = format!("{seller}_{}.csv.zip", wanted.strftime("%Y%m%d"));
        // Alipay also returns an http:// link.
        let url = format!("http://{host}{PATH}?bizType={kind}&userId={seller}&downloadFileName={name}&token={token}");
        self.state.bills.insert((self.account.app_id.clone(), token), bill);
        let mut object = success();
        add(&mut object, json!({"bill_download_url": url}));
        done(Reply::method(object))
    }

    /// Returns the platform's next certificate by its serial number.
    pub(super) fn certificate(&mut self, content: &Value) -> Result {
        let next = self.account.next.as_ref().filter(|next| content["alipay_cert_sn"] == *next.alipay_cert_sn);
        let next = next.ok_or_else(|| Reply::business("INVALID_CERT_SN", "支付宝公钥证书序列号不存在"))?;
        let mut object = success();
        add(&mut object, json!({"alipay_cert_content": STANDARD.encode(&next.certificate)}));
        done(Reply::method(object))
    }

    fn archive(&self, kind: &str, day: Date, lines: &[Line<'_>]) -> Option<Bytes> {
        let is_trade = kind == "trade";
        let (mut rows, mut counts, mut sums) = (Vec::new(), [0, 0], [0, 0]);
        for line in lines {
            let amount = line.refund.map_or(line.order.total, |(_, refund)| refund.amount);
            let which = usize::from(line.refund.is_some());
            (counts[which], sums[which]) = (counts[which] + 1, sums[which] + amount);
            rows.extend(if is_trade {
                trade(line, amount)
            } else {
                funds(line, amount, sums[0].saturating_sub(sums[1]))
            });
        }
        let mut text = if is_trade { TRADE } else { SIGNCUSTOMER }.to_vec();
        for (word, value) in [
            ("{seller}", self.account.seller_id.as_bytes()),
            ("{day}", day.to_string().as_bytes()),
            ("{day}", day.to_string().as_bytes()),
            ("{rows}", &rows),
            ("{payments}", counts[0].to_string().as_bytes()),
            ("{paid}", yuan(sums[0]).as_bytes()),
            ("{refunds}", counts[1].to_string().as_bytes()),
            ("{back}", yuan(sums[1]).as_bytes()),
        ] {
            text = replaced(&text, word.as_bytes(), value);
        }
        zip::archive(&format!("{}_{}.csv", self.account.seller_id, day.strftime("%Y%m%d")), &text)
    }
}

fn trade(line: &Line<'_>, amount: u64) -> Vec<u8> {
    let Line { at, number, order, refund } = line;
    let sign = if refund.is_some() { "-" } else { "" };
    let (kind, request) = match refund {
        None => (PAYMENT, ""),
        Some((number, _)) => (REFUND, *number),
    };
    let payer = order.payment.as_ref().map(|payment| payment.payer.as_str()).unwrap_or_default();
    let (created, finished) = (china(order.created), china(*at));
    let amount = format!("{sign}{}", yuan(amount));
    let nothing = "0.00";
    let before = format!("{}\t,{number}\t,", order.transaction_id);
    let after = format!(
        ",{},{created},{finished},,,,,{payer},{amount},{amount},{nothing},{nothing},{nothing},{nothing},{nothing},,{nothing},\
         {nothing},{request},{nothing},{nothing},\r\n",
        subject(line)
    );
    [before.as_bytes(), kind, after.as_bytes()].concat()
}

fn funds(line: &Line<'_>, amount: u64, balance: u64) -> Vec<u8> {
    let Line { at, number, order, refund } = line;
    let (kind, income, expense) = match refund {
        None => (PAYMENT, yuan(amount), String::new()),
        Some(_) => (REFUND, String::new(), format!("-{}", yuan(amount))),
    };
    let payer = order.payment.as_ref().map(|payment| payment.payer.as_str()).unwrap_or_default();
    let transaction = &order.transaction_id;
    let before = format!(
        "{transaction}\t,{transaction}\t,{number}\t,{},{},{payer},{income},{expense},{},,",
        subject(line),
        china(*at),
        yuan(balance)
    );
    [before.as_bytes(), kind, b",\r\n"].concat()
}

/// Returns the ASCII part of the subject, because the sandbox has no GBK table.
fn subject(line: &Line<'_>) -> String {
    let subject = line.order.parameters["subject"].as_str().unwrap_or_default();
    subject
        .chars()
        .map(|character| if matches!(character, ' '..='~') && character != ',' { character } else { '?' })
        .collect()
}

/// Replaces the first occurrence of the word.
fn replaced(text: &[u8], word: &[u8], value: &[u8]) -> Vec<u8> {
    match text.windows(word.len()).position(|part| part == word) {
        Some(at) => [&text[..at], value, &text[at + word.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// Serves a bill file. The link is the only authorization.
pub(crate) async fn serve(context: std::sync::Arc<SandboxContext>, request: Request<Incoming>) -> ResponseAction {
    context.state.lock().stats.requests += 1;
    let query = request.uri().query().unwrap_or_default();
    let token = query.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default().to_owned();
    let known =
        context.state.lock().bills.iter().find(|(id, _)| id.1 == token).map(|(id, file)| (id.0.clone(), file.clone()));
    let made = token.split('-').next().and_then(|time| time.parse::<i64>().ok()).unwrap_or_default();
    let Some((app_id, file)) = known.filter(|_| Timestamp::now().as_second() - made <= LINK_LIFETIME_SECONDS) else {
        return ResponseAction::Answer(answer(
            StatusCode::FORBIDDEN,
            "text/html",
            Bytes::from_static(b"<html>expired</html>"),
        ));
    };
    context.state.lock().count_arrival("bill_file", None, None);
    let fault = context.script.lock().for_request("bill_file", &app_id, &[]);
    let file = || answer(StatusCode::OK, "application/zip", file);
    let Some(fault) = fault else { return ResponseAction::Answer(file()) };
    match execute_with_fault(&fault, file, |fault| scripted(fault).sent()).await {
        Some(response) => ResponseAction::Answer(response),
        None => cut(&context),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}
