//! Bills: an archive with fixed-width lines, compressed again inside the signed response.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::Value;

use super::codes::{china, clearing_day, text};
use super::reply::refused_because;
use super::trade::{OrderHandler, Result, done};
use crate::bills::{Line, lines_of};
use crate::zip;

/// Compression level, the usual default.
const LEVEL: u8 = 6;

impl OrderHandler<'_> {
    /// Creates the archive of a clearing day. The request has no year: the most recent such day is meant.
    pub(super) fn bill(&mut self, parameters: &Value) -> Result {
        let wanted = text(parameters, "settleDate");
        let (mer_id, last) = (&self.account.mer_id, clearing_day(self.now));
        let mut days = (0..366).map(|back| last.saturating_sub(jiff::Span::new().days(back)));
        let day = days.find(|day| day.strftime("%m%d").to_string() == wanted);
        let day = day.ok_or_else(|| refused_because("10", "报文格式错误：settleDate"))?;
        let lines = lines_of(self.state, mer_id, |at| clearing_day(at) == day);
        if lines.is_empty() {
            return Err(refused_because("98", "文件不存在"));
        }
        let rows: String = lines.iter().map(row).collect();
        let name = format!("INN{}88ZM_{mer_id}", day.strftime("%y%m%d"));
        let archive =
            zip::archive(&name, rows.as_bytes()).ok_or_else(|| refused_because("06", "系统繁忙，请稍后再试"))?;
        done(vec![
            ("fileName", format!("{mer_id}_{}.zip", day.strftime("%Y%m%d"))),
            ("fileContent", STANDARD.encode(compress_to_vec_zlib(&archive, LEVEL))),
        ])
    }
}

/// Returns a line with the first columns of UnionPay's format: everything that the sandbox records. The text is
/// ASCII, which GBK does not change.
fn row(line: &Line<'_>) -> String {
    let Line { at, number, order, refund } = line;
    let (code, own, query_id, amount) = match refund {
        None => ("E74", *number, &order.transaction_id, order.total),
        Some((own, refund)) => ("E84", *own, &refund.refund_id, refund.amount),
    };
    let trace = query_id.get(query_id.len().saturating_sub(6)..).unwrap_or_default();
    let payer = order.payment.as_ref().map(|payment| payment.payer.as_str()).unwrap_or_default();
    let (time, bank) = (china(*at).split_off(4), "00049992");
    format!(
        "{code:3} {bank:11} {bank:11} {trace:6} {time:10} {payer:19} {amount:012} 5311 07 {query_id:21} 02 {own:40}\r\n"
    )
}
