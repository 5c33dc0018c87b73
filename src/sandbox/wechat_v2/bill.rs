//! Daily bills: a text file, or an XML error for a day without transactions.

use jiff::Timestamp;
use serde_json::Value;

use super::codes::{refund_state, refund_time};
use super::orders::{OrderHandler, Result, done};
use super::reply::Reply;
use crate::bills::{lines_of, yuan};
use crate::china_time::china;
use crate::state::{Id, Order, Payment, Refund};
use crate::v3_scheme::bills::fund_flow;

const HEAD: &str = "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,\
                    货币种类,应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,\
                    商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注";
const FOOT: &str = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额";

impl OrderHandler<'_> {
    pub(super) fn bill(&mut self, content: &Value) -> Result {
        let date = content["bill_date"].as_str().unwrap_or_default();
        let kind = content["bill_type"].as_str().unwrap_or("ALL");
        let is_of_day = |at: Timestamp| china(at, "%Y%m%d") == date;
        let mut rows = Vec::new();
        let (mut paid, mut returned) = (0, 0);
        let own = self.state.orders.iter().filter(|((mchid, _), _)| *mchid == self.account.mchid);
        for (id, order) in own.filter_map(|(id, entry)| Some((id, entry.order.as_ref()?))) {
            let Some(payment) = &order.payment else { continue };
            if matches!(kind, "ALL" | "SUCCESS") && is_of_day(payment.at) {
                paid += payment.amount;
                rows.push(self.row(id, order, payment, None));
            }
            let refunds = self.state.refunds_of(id).filter(|(_, refund)| is_of_day(refund.created));
            for (number, refund) in refunds.filter(|_| matches!(kind, "ALL" | "REFUND")) {
                returned += refund.amount;
                rows.push(self.row(id, order, payment, Some((number, refund))));
            }
        }
        if rows.is_empty() {
            return Err(Reply::refused("No Bill Exist").with("error_code", "20002"));
        }
        let (count, paid, returned) = (rows.len().to_string(), yuan(paid), yuan(returned));
        let foot = marked(&[&count, &paid, &returned, "0.00", "0.00000", &paid, &returned]);
        done(Reply::file(format!("\u{feff}{HEAD}\r\n{}\r\n{FOOT}\r\n{foot}\r\n", rows.join("\r\n"))))
    }

    /// Returns the fund-flow bill. The other account types never have transactions in the sandbox.
    pub(super) fn fund_flow(&mut self, content: &Value) -> Result {
        let date = content["bill_date"].as_str().unwrap_or_default();
        let lines = lines_of(self.state, &self.account.mchid, |at| china(at, "%Y%m%d") == date);
        if lines.is_empty() || content["account_type"] != "Basic" {
            let reply = Reply::refused("No Bill Exist").with("result_code", "FAIL");
            return Err(reply.with("err_code", "NO_BILL_EXIST").with("err_code_des", "账单不存在"));
        }
        done(Reply::file(fund_flow(&lines)))
    }

    fn row(&self, id: &Id, order: &Order, payment: &Payment, refund: Option<(&String, &Refund)>) -> String {
        let text = |field: &str| order.parameters[field].as_str().unwrap_or_default();
        let amount = yuan(payment.amount);
        let settled = if refund.is_some() { "0.00" } else { &amount };
        let at = refund_time(refund.map_or(payment.at, |(_, refund)| refund.created));
        let trade_type = if text("trade_type").is_empty() { "MICROPAY" } else { text("trade_type") };
        let returned = yuan(refund.map_or(0, |(_, refund)| refund.amount));
        let (refund_id, number, state, channel, status) = match refund {
            Some((number, refund)) => {
                (refund.refund_id.as_str(), number.as_str(), "REFUND", "ORIGINAL", refund_state(refund.status))
            }
            None => ("0", "0", "SUCCESS", "", ""),
        };
        let sub_mchid = self.account.sub_mchid.as_deref().unwrap_or("0");
        marked(&[
            &at,
            &self.account.appid,
            &id.0,
            sub_mchid,
            text("device_info"),
            &order.transaction_id,
            &id.1,
            &payment.payer,
            trade_type,
            state,
            "OTHERS",
            "CNY",
            settled,
            "0.00",
            refund_id,
            number,
            &returned,
            "0.00",
            channel,
            status,
            text("body"),
            text("attach"),
            "0.00000",
            "0.60%",
            settled,
            &returned,
            "",
        ])
    }
}

/// Prefixes each value with a backtick, so that spreadsheets do not convert long numbers.
fn marked(values: &[&str]) -> String {
    values.iter().map(|value| format!("`{value}")).collect::<Vec<_>>().join(",")
}
