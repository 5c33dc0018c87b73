//! Bills: a signed response with the file's URL and SHA-1, then the unsigned file, which requires a signed request.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use http::request::Parts;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::orders::{Done, OrderHandler, done};
use super::reply::Reply;
use super::reply::parameter;
use crate::bills::{Line, day, lines, yuan};
use crate::china_time::china;
use crate::keys::random_text;

/// Type of bill.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bill {
    Trade,
    FundFlow,
}

impl Bill {
    /// Returns the parameter that selects the bill, and its values; the first is the default.
    fn choice(self) -> (&'static str, [&'static str; 3]) {
        match self {
            Self::Trade => ("bill_type", ["ALL", "SUCCESS", "REFUND"]),
            Self::FundFlow => ("account_type", ["BASIC", "OPERATION", "FEES"]),
        }
    }
}

type Result<T = Done> = std::result::Result<T, Reply>;

impl OrderHandler<'_> {
    /// Creates the bill and returns its URL.
    pub(super) fn bill(&mut self, bill: Bill, parts: &Parts) -> Result {
        let (day, choice) = wanted(bill, parts.uri.query())?;
        let lines = lines(self.state, &self.account.mchid, day);
        let lines: Vec<Line<'_>> = match (bill, choice) {
            (_, "ALL" | "BASIC") => lines,
            (Bill::Trade, "SUCCESS") => lines.into_iter().filter(|line| line.refund.is_none()).collect(),
            (Bill::Trade, "REFUND") => lines.into_iter().filter(|line| line.refund.is_some()).collect(),
            // The other account types never have transactions in the sandbox.
            _ => Vec::new(),
        };
        if lines.is_empty() {
            return Err(Reply::error(400, "NO_STATEMENT_EXIST", "账单文件不存在"));
        }
        let text = if bill == Bill::Trade { self.trades(&lines) } else { fund_flow(&lines) };
        let (content, token) = (Bytes::from(text), random_text(64));
        let hash = hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &content));
        self.state.bills.insert((self.account.mchid.clone(), token.clone()), content);
        let host = parts.headers.get("host").and_then(|value| value.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default();
        done(Reply::ok(&json!({
            "hash_type": "SHA1",
            "hash_value": hash,
            "download_url": format!("https://{host}{}?token={token}", self.account.scheme.paths.bill_file),
        })))
    }

    /// Returns the file of a token.
    pub(super) fn bill_file(&self, query: Option<&str>) -> Result {
        let token = query.and_then(|query| query.strip_prefix("token=")).unwrap_or_default();
        let content = self.state.bills.get(&(self.account.mchid.clone(), token.to_owned()));
        let content = content.ok_or_else(|| parameter("query", "token", "unknown, or another merchant's"))?;
        done(Reply::file(content.clone()))
    }

    fn trades(&self, lines: &[Line<'_>]) -> String {
        let mut text = format!("\u{feff}{TRADES}\r\n");
        for line in lines {
            text += &row(&self.trade(line));
        }
        let paid: u64 = lines.iter().filter(|line| line.refund.is_none()).map(|line| line.order.total).sum();
        let back: u64 = lines.iter().filter_map(|line| line.refund).map(|(_, refund)| refund.amount).sum();
        let (count, zero) = (lines.len().to_string(), yuan(0));
        let totals = [count, yuan(paid), yuan(back), zero.clone(), zero, yuan(paid), yuan(back)];
        text + TRADE_TOTALS + "\r\n" + &row(&totals)
    }

    fn trade(&self, line: &Line<'_>) -> Vec<String> {
        let Line { at, number, order, refund } = line;
        let payer = order.payment.as_ref().map(|payment| payment.payer.clone()).unwrap_or_default();
        let (total, back) = match refund {
            None => (order.total, 0),
            Some((_, refund)) => (0, refund.amount),
        };
        let given = |text: fn(&(&str, &crate::state::Refund)) -> String, otherwise: &str| {
            refund.as_ref().map_or_else(|| otherwise.to_owned(), text)
        };
        let (zero, nothing) = (yuan(0), String::new());
        vec![
            china(*at, "%Y-%m-%d %H:%M:%S"),
            self.account.appid.clone(),
            self.account.mchid.clone(),
            "0".to_owned(),
            nothing.clone(),
            order.transaction_id.clone(),
            (*number).to_owned(),
            payer,
            order.product.to_uppercase(),
            if refund.is_none() { "SUCCESS" } else { "REFUND" }.to_owned(),
            "OTHERS".to_owned(),
            "CNY".to_owned(),
            yuan(total),
            zero.clone(),
            given(|(_, refund)| refund.refund_id.clone(), "0"),
            given(|(number, _)| (*number).to_owned(), "0"),
            yuan(back),
            zero,
            given(|_| "ORIGINAL".to_owned(), ""),
            given(|_| "SUCCESS".to_owned(), ""),
            order.parameters["description"].as_str().unwrap_or_default().to_owned(),
            nothing.clone(),
            "0.00000".to_owned(),
            "0.60%".to_owned(),
            yuan(total),
            yuan(back),
            nothing,
        ]
    }
}

/// Returns the fund-flow bill, which is the same in both of WeChat Pay's APIs.
pub(crate) fn fund_flow(lines: &[Line<'_>]) -> String {
    let mut text = format!("\u{feff}{FUND_FLOW}\r\n");
    let (mut balance, mut incomes, mut income, mut expense) = (0, 0, 0, 0);
    for line in lines {
        let amount = line.refund.map_or(line.order.total, |(_, refund)| refund.amount);
        let (business, direction, number) = match line.refund {
            None => ("交易", "收入", line.number),
            Some((number, _)) => ("退款", "支出", number),
        };
        if line.refund.is_none() {
            (balance, incomes, income) = (balance + amount, incomes + 1, income + amount);
        } else {
            (balance, expense) = (balance.saturating_sub(amount), expense + amount);
        }
        let at = china(line.at, "%Y-%m-%d %H:%M:%S");
        let transaction = line.order.transaction_id.as_str();
        let (amount, left) = (yuan(amount), yuan(balance));
        let fields =
            [&at, transaction, transaction, business, business, direction, &amount, &left, "system", "", number];
        text += &row(&fields.map(str::to_owned));
    }
    let (count, expenses) = (lines.len(), lines.len() - incomes);
    let totals = [count.to_string(), incomes.to_string(), yuan(income), expenses.to_string(), yuan(expense)];
    text + FUND_TOTALS + "\r\n" + &row(&totals)
}

/// Returns a line. A backtick before each value prevents number conversion in spreadsheets. Commas in a value would
/// separate columns.
fn row(fields: &[String]) -> String {
    let fields: Vec<_> = fields.iter().map(|field| format!("`{}", field.replace([',', '\r', '\n'], " "))).collect();
    fields.join(",") + "\r\n"
}

/// Returns the requested day and the value of the selecting parameter.
fn wanted(bill: Bill, query: Option<&str>) -> Result<(Date, &'static str)> {
    let (name, choices) = bill.choice();
    let mut given = BTreeMap::new();
    for (key, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
        if key == "tar_type" {
            return Err(parameter("query", key, "the sandbox compresses nothing: leave it out"));
        }
        if !["bill_date", name].contains(&key) || given.insert(key, value).is_some() {
            return Err(parameter("query", key, "not documented, or there twice"));
        }
    }
    let day = given.get("bill_date").and_then(|text| day(text));
    let day = day.ok_or_else(|| parameter("query", "bill_date", "must be given as yyyy-MM-dd"))?;
    let choice = match given.get(name) {
        None => Some(choices[0]),
        Some(value) => choices.into_iter().find(|choice| choice == value),
    };
    Ok((day, choice.ok_or_else(|| parameter("query", name, "none of the documented values"))?))
}

/// Replaces the hash by a wrong one.
pub(super) fn tamper_hash(bill: &mut Value) {
    bill["hash_value"] = json!(hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, b"another file")));
}

const TRADES: &str = "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,\
                      货币种类,应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,\
                      商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注";
const TRADE_TOTALS: &str =
    "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额";
const FUND_FLOW: &str = "记账时间,微信支付业务单号,资金流水单号,业务名称,业务类型,收支类型,收支金额(元),账户结余(元),\
                         资金变更提交申请人,备注,业务凭证号";
const FUND_TOTALS: &str = "资金流水总笔数,收入笔数,收入金额,支出笔数,支出金额";
