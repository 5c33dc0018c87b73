//! UnionPay's answer codes (应答码), sorted by what each says of the money. The list is the one of its interface 5.1.0.
//!
//! `respCode` speaks of the request that it answers; `origRespCode`, in the answer to a query, speaks of the trade.

use crate::error::{Error, ProviderError};
use crate::payment::Operation;

/// What `respCode` says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was accepted.
    Taken,
    /// It may have been done: ask.
    Unclear,
    /// It was not done: the same again, later.
    Busy,
    /// The order is in another state: ask, and adopt it.
    Conflict,
    /// There is no such order.
    Absent,
    /// Our signature or certificate was not accepted, so nothing was done.
    Unauthorized,
    /// It was not done and will not be.
    Declined,
    /// The list has no such code for this request.
    Unlisted,
}

/// What `origRespCode` says of the trade that was queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trade {
    /// The money moved.
    Succeeded,
    /// The money moved, and a person must see to what else is said.
    Review(&'static str),
    /// The payer has not gone on with it.
    Waiting,
    /// UnionPay or the bank does not know yet.
    Open,
    /// It failed.
    Failed,
    /// It is not known.
    Absent,
}

/// The kinds of request between which the list's codes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// An order that the payer pays afterwards (app, QR code).
    Create,
    /// A payment by the payer's code.
    Scan,
    /// A refund or an undo.
    Refund,
    /// A reversal.
    Reversal,
    /// A query.
    Query,
    /// A statement.
    File,
}

impl Request {
    pub(super) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Pay(pay) if pay.order.method.is_scanned() => Self::Scan,
            Operation::Pay(_) => Self::Create,
            Operation::Refund(_) => Self::Refund,
            Operation::Close(_) => Self::Reversal,
            Operation::Query(_) | Operation::QueryRefund(_) => Self::Query,
        }
    }
}

/// What a code says of each kind of request, in the order of [`Request`].
type Answers = [Answer; 6];

use Answer::{Absent, Busy, Conflict, Declined, Taken, Unauthorized, Unclear, Unlisted};
use Trade::{Failed, Open, Review, Succeeded, Waiting};

/// The request was accepted, whatever its kind.
const DONE: Answers = [Taken; 6];
/// Accepted and going on by itself; for an order that the payer should be shown, nothing to show.
const ACCEPTED: Answers = [Conflict, Taken, Taken, Conflict, Conflict, Unclear];
/// UnionPay failed. The request may have been executed.
const TROUBLE: Answers = [Unclear; 6];
/// Turned away before anything was done.
const LATER: Answers = [Busy; 6];
/// The key or the certificate is wrong.
const KEY: Answers = [Unauthorized; 6];
/// Refused for good. Of a query it says nothing about the trade.
const NO: Answers = [Declined, Declined, Declined, Declined, Unlisted, Declined];
/// The order is in another state: query it.
const OTHERWISE: Answers = [Conflict, Conflict, Conflict, Conflict, Unlisted, Declined];

const PARTLY: &str = "UnionPay says that it succeeded with a defect (A6): compare its statement with what was sold";
const LATE: &str = "the payer was debited after the payment's time had passed (42): deliver or give the money back";
const WRITTEN_OFF: &str = "the payer was debited and the booking is unknown (74): ask UnionPay";
const NOT_WRITTEN_OFF: &str = "the payer was debited and the booking failed (75): deliver or give the money back";

/// "交易已被冲正": said to a reversal, it was done before.
pub(super) const REVERSED: &str = "46";

/// Every code of the list.
#[rustfmt::skip]
pub(super) const CODES: &[(&str, Answers, Trade)] = &[
    // Success.
    ("00", DONE, Succeeded),              // 成功
    ("A6", DONE, Review(PARTLY)),         // 有缺陷的成功
    // The payer was debited.
    ("42", OTHERWISE, Review(LATE)),            // 扣款成功但交易超过规定支付时间
    ("74", OTHERWISE, Review(WRITTEN_OFF)),     // 扣款成功，销账未知
    ("75", OTHERWISE, Review(NOT_WRITTEN_OFF)), // 扣款成功，销账失败
    // Open.
    ("05", ACCEPTED, Waiting), // 交易已受理
    ("70", ACCEPTED, Waiting), // 交易已跳转，等待持卡人输入
    ("83", ACCEPTED, Open),    // 发卡行（渠道）处理中
    // UnionPay's own trouble: ask.
    ("03", TROUBLE, Open), // 交易通讯超时，请发起查询交易
    ("04", TROUBLE, Open), // 交易状态未明，请查询对账结果
    ("06", TROUBLE, Open), // 系统繁忙，请稍后再试
    ("99", TROUBLE, Open), // 通用错误
    // Turned away: the same request later.
    ("02", LATER, Failed), // 系统未开放或暂时关闭
    ("37", LATER, Open),   // 已超过最大查询次数或操作过于频繁
    ("39", LATER, Failed), // 交易不在受理时间范围内
    // Our credentials.
    ("11", KEY, Failed), // 验证签名失败: the key, or a certificate that does not stand for the merchant
    // Another state.
    ("12", OTHERWISE, Open),           // 重复交易: the number is used, and the order there says what became of it
    ("34", [Absent; 6], Trade::Absent), // 查无此交易
    ("35", OTHERWISE, Failed),         // 原交易不存在或状态不正确
    ("45", OTHERWISE, Failed),         // 原交易已被成功退货或已被成功撤销
    (REVERSED, OTHERWISE, Failed),     // 交易已被冲正
    // Final: the request.
    ("10", NO, Failed), // 报文格式错误
    ("13", NO, Failed), // 报文交易要素缺失
    ("14", NO, Failed), // 批量文件格式错误
    ("36", NO, Failed), // 与原交易信息不符
    ("41", NO, Failed), // 批量状态不正确，无法下载
    ("98", [Declined, Declined, Declined, Declined, Unlisted, Absent], Failed), // 文件不存在
    // Final: the merchant's account.
    ("31", NO, Failed), // 商户状态不正确
    ("32", NO, Failed), // 无此交易权限
    ("33", NO, Failed), // 交易金额超限
    ("43", NO, Failed), // 无此业务权限
    ("44", NO, Failed), // 输入号码错误或暂未开通此项业务
    ("92", NO, Failed), // 营业执照过期
    ("93", NO, Failed), // 营业执照吊销
    ("94", NO, Failed), // 营业执照注销
    ("95", NO, Failed), // 营业执照迁出
    ("96", NO, Failed), // 营业执照撤销
    // Final: the payer, the card, the bank.
    ("01", NO, Failed), // 交易失败
    ("30", NO, Failed), // 交易未通过，请使用其他银联卡
    ("38", NO, Failed), // 银联风险受限
    ("40", NO, Failed), // 绑定关系检查失败
    ("60", NO, Failed), // 交易失败，请咨询发卡行
    ("61", NO, Failed), // 输入的卡号无效
    ("62", NO, Failed), // 发卡银行不支持该商户
    ("63", NO, Failed), // 卡状态不正确
    ("64", NO, Failed), // 卡上的余额不足
    ("65", NO, Failed), // 输入的密码、有效期或CVN2有误
    ("66", NO, Failed), // 持卡人身份信息或手机号输入不正确
    ("67", NO, Failed), // 密码输入次数超限
    ("68", NO, Failed), // 银行卡暂不支持该业务
    ("69", NO, Failed), // 输入超时
    ("71", NO, Failed), // 动态口令或短信验证码校验失败
    ("72", NO, Failed), // 未在银行签约无卡支付业务
    ("73", NO, Failed), // 支付卡已超过有效期
    ("76", NO, Failed), // 需要验密开通
    ("77", NO, Failed), // 银行卡未开通认证支付
    ("78", NO, Failed), // 发卡行交易权限受限
    ("79", NO, Failed), // 发卡行暂不支持短信验证
    ("80", NO, Failed), // Token已过期
    ("81", NO, Failed), // 月累计交易笔数（金额）超限
    ("82", NO, Failed), // 需要校验密码
    ("84", NO, Failed), // 需要密码但未上送
    ("85", NO, Failed), // 营销规则不满足
    ("86", NO, Failed), // 二维码状态错误
    ("87", NO, Failed), // 支付次数超限
    ("88", NO, Failed), // 无此二维码
    ("89", NO, Failed), // 无此Token，TR状态无效或者Token状态无效
    // The account's balance: a refund can be repeated once there is money.
    ("90", [Declined, Declined, Busy, Declined, Unlisted, Declined], Failed), // 账户余额不足
    ("91", NO, Failed), // 认证失败
];

fn row(code: &str) -> Option<&'static (&'static str, Answers, Trade)> {
    CODES.iter().find(|(listed, ..)| *listed == code)
}

/// What the code says of the request.
pub(super) fn answer(code: &str, request: Request) -> Answer {
    row(code).map_or(Unlisted, |(_, [create, scan, refund, reversal, query, file], _)| match request {
        Request::Create => *create,
        Request::Scan => *scan,
        Request::Refund => *refund,
        Request::Reversal => *reversal,
        Request::Query => *query,
        Request::File => *file,
    })
}

/// What the code says of the trade that was queried; `None` of a code that is in no list.
pub(super) fn trade(code: &str) -> Option<Trade> {
    row(code).map(|(.., trade)| *trade)
}

/// The error for a request that was not accepted; `None` when it was.
pub(super) fn refusal(code: &str, request: Request, word: impl FnOnce() -> ProviderError) -> Option<Error> {
    match answer(code, request) {
        Taken => None,
        Unclear => Some(unclear(word())),
        Busy => Some(Error::ProviderBusy(word())),
        Conflict => Some(Error::Conflict(word())),
        Absent => Some(Error::NotFound(word())),
        Unauthorized => Some(Error::Unauthorized(word())),
        Declined => Some(Error::Declined(word())),
        Unlisted => Some(Error::UnlistedRefusal(word())),
    }
}

/// Returns the error of an unsigned answer. UnionPay may leave the answer unsigned when it rejects our signature. Only this
/// refusal is believed unsigned.
pub(super) fn unsigned(code: &str, request: Request, message: &str) -> Option<Error> {
    (answer(code, request) == Unauthorized).then(|| Error::Unauthorized(word(code, message)))
}

fn unclear(word: ProviderError) -> Error {
    Error::Unclear { why: format!("it answered with the code {}", word.code), word: Some(word) }
}

pub(super) fn word(code: &str, message: &str) -> ProviderError {
    ProviderError { code: code.to_owned(), message: message.to_owned() }
}
