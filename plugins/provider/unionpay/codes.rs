//! UnionPay's answer codes (应答码) of interface 5.1.0, with the meaning of each code for the money.
//!
//! `respCode` describes the request that it answers; `origRespCode`, in the answer to a query, describes the trade.

use crate::error::{Error, ProviderError};
use crate::payment::Operation;

/// Meaning of `respCode` for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request was accepted.
    Accepted,
    /// The request may have been executed: query.
    Unclear,
    /// The request was not executed: send the same request later.
    Busy,
    /// The order is in another state: query, and adopt that state.
    Conflict,
    /// The order does not exist.
    Absent,
    /// Our signature or certificate was rejected, so nothing was executed.
    Unauthorized,
    /// The request was not executed and will not be.
    Declined,
    /// The list contains no such code for this request.
    Unlisted,
}

/// Meaning of `origRespCode` for the queried trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trade {
    /// The money moved.
    Succeeded,
    /// The money moved, and an operator must handle the rest of the message.
    Review(&'static str),
    /// The payer has not continued.
    Waiting,
    /// UnionPay or the bank does not know the result yet.
    Open,
    /// The trade failed.
    Failed,
    /// The trade does not exist.
    Absent,
}

/// Kinds of request that a code may have different meanings for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Creates an order that the payer pays later (app, QR code).
    Create,
    /// Charges the payer's scanned code.
    Scan,
    /// Refund or undo.
    Refund,
    /// Reversal.
    Reversal,
    /// Query.
    Query,
    /// Statement.
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

/// Meaning of a code for each kind of request, in the order of [`Request`].
type Answers = [Answer; 6];

use Answer::{Absent, Accepted, Busy, Conflict, Declined, Unauthorized, Unclear, Unlisted};
use Trade::{Failed, Open, Review, Succeeded, Waiting};

/// The request was accepted, whatever its kind.
const ACCEPTED: Answers = [Accepted; 6];
/// Accepted and still processed. For an order that the payer has yet to see, the answer contains nothing to show.
const IN_PROGRESS: Answers = [Conflict, Accepted, Accepted, Conflict, Conflict, Unclear];
/// UnionPay failed. The request may have been executed.
const SYSTEM_ERROR: Answers = [Unclear; 6];
/// Rejected before anything was executed.
const LATER: Answers = [Busy; 6];
/// The key or the certificate is wrong.
const BAD_KEY: Answers = [Unauthorized; 6];
/// Refused finally. In the answer to a query it does not describe the trade.
const REFUSED: Answers = [Declined, Declined, Declined, Declined, Unlisted, Declined];
/// The order is in another state: query it.
const OTHER_STATE: Answers = [Conflict, Conflict, Conflict, Conflict, Unlisted, Declined];

const WITH_DEFECT: &str = "UnionPay reports success with a defect (A6): compare its statement with the order";
const DEBITED_LATE: &str = "the payer was debited after the payment had expired (42): deliver or refund";
const DEBITED_BOOKING_UNKNOWN: &str = "the payer was debited and the booking state is unknown (74): ask UnionPay";
const DEBITED_NOT_BOOKED: &str = "the payer was debited and the booking failed (75): deliver or refund";

/// "交易已被冲正": in the answer to a reversal, the reversal was done before.
pub(super) const REVERSED: &str = "46";

/// Every code of the list, with its official text.
#[rustfmt::skip]
pub(super) const CODES: &[(&str, Answers, Trade)] = &[
    // Success.
    ("00", ACCEPTED, Succeeded),              // 成功
    ("A6", ACCEPTED, Review(WITH_DEFECT)),         // 有缺陷的成功
    // The payer was debited.
    ("42", OTHER_STATE, Review(DEBITED_LATE)),            // 扣款成功但交易超过规定支付时间
    ("74", OTHER_STATE, Review(DEBITED_BOOKING_UNKNOWN)),     // 扣款成功，销账未知
    ("75", OTHER_STATE, Review(DEBITED_NOT_BOOKED)), // 扣款成功，销账失败
    // The result is open.
    ("05", IN_PROGRESS, Waiting), // 交易已受理
    ("70", IN_PROGRESS, Waiting), // 交易已跳转，等待持卡人输入
    ("83", IN_PROGRESS, Open),    // 发卡行（渠道）处理中
    // UnionPay failed: query.
    ("03", SYSTEM_ERROR, Open), // 交易通讯超时，请发起查询交易
    ("04", SYSTEM_ERROR, Open), // 交易状态未明，请查询对账结果
    ("06", SYSTEM_ERROR, Open), // 系统繁忙，请稍后再试
    ("99", SYSTEM_ERROR, Open), // 通用错误
    // Rejected: send the same request later.
    ("02", LATER, Failed), // 系统未开放或暂时关闭
    ("37", LATER, Open),   // 已超过最大查询次数或操作过于频繁
    ("39", LATER, Failed), // 交易不在受理时间范围内
    // Our credentials are invalid.
    ("11", BAD_KEY, Failed), // 验证签名失败: the key, or a certificate that is not the merchant's
    // The order is in another state.
    ("12", OTHER_STATE, Open),           // 重复交易: the number is used, and the order there says what became of it
    ("34", [Absent; 6], Trade::Absent), // 查无此交易
    ("35", OTHER_STATE, Failed),         // 原交易不存在或状态不正确
    ("45", OTHER_STATE, Failed),         // 原交易已被成功退货或已被成功撤销
    (REVERSED, OTHER_STATE, Failed),     // 交易已被冲正
    // Final, because of the request.
    ("10", REFUSED, Failed), // 报文格式错误
    ("13", REFUSED, Failed), // 报文交易要素缺失
    ("14", REFUSED, Failed), // 批量文件格式错误
    ("36", REFUSED, Failed), // 与原交易信息不符
    ("41", REFUSED, Failed), // 批量状态不正确，无法下载
    ("98", [Declined, Declined, Declined, Declined, Unlisted, Absent], Failed), // 文件不存在
    // Final, because of the merchant's account.
    ("31", REFUSED, Failed), // 商户状态不正确
    ("32", REFUSED, Failed), // 无此交易权限
    ("33", REFUSED, Failed), // 交易金额超限
    ("43", REFUSED, Failed), // 无此业务权限
    ("44", REFUSED, Failed), // 输入号码错误或暂未开通此项业务
    ("92", REFUSED, Failed), // 营业执照过期
    ("93", REFUSED, Failed), // 营业执照吊销
    ("94", REFUSED, Failed), // 营业执照注销
    ("95", REFUSED, Failed), // 营业执照迁出
    ("96", REFUSED, Failed), // 营业执照撤销
    // Final, because of the payer, the card or the bank.
    ("01", REFUSED, Failed), // 交易失败
    ("30", REFUSED, Failed), // 交易未通过，请使用其他银联卡
    ("38", REFUSED, Failed), // 银联风险受限
    ("40", REFUSED, Failed), // 绑定关系检查失败
    ("60", REFUSED, Failed), // 交易失败，请咨询发卡行
    ("61", REFUSED, Failed), // 输入的卡号无效
    ("62", REFUSED, Failed), // 发卡银行不支持该商户
    ("63", REFUSED, Failed), // 卡状态不正确
    ("64", REFUSED, Failed), // 卡上的余额不足
    ("65", REFUSED, Failed), // 输入的密码、有效期或CVN2有误
    ("66", REFUSED, Failed), // 持卡人身份信息或手机号输入不正确
    ("67", REFUSED, Failed), // 密码输入次数超限
    ("68", REFUSED, Failed), // 银行卡暂不支持该业务
    ("69", REFUSED, Failed), // 输入超时
    ("71", REFUSED, Failed), // 动态口令或短信验证码校验失败
    ("72", REFUSED, Failed), // 未在银行签约无卡支付业务
    ("73", REFUSED, Failed), // 支付卡已超过有效期
    ("76", REFUSED, Failed), // 需要验密开通
    ("77", REFUSED, Failed), // 银行卡未开通认证支付
    ("78", REFUSED, Failed), // 发卡行交易权限受限
    ("79", REFUSED, Failed), // 发卡行暂不支持短信验证
    ("80", REFUSED, Failed), // Token已过期
    ("81", REFUSED, Failed), // 月累计交易笔数（金额）超限
    ("82", REFUSED, Failed), // 需要校验密码
    ("84", REFUSED, Failed), // 需要密码但未上送
    ("85", REFUSED, Failed), // 营销规则不满足
    ("86", REFUSED, Failed), // 二维码状态错误
    ("87", REFUSED, Failed), // 支付次数超限
    ("88", REFUSED, Failed), // 无此二维码
    ("89", REFUSED, Failed), // 无此Token，TR状态无效或者Token状态无效
    // The merchant's balance is too low: a refund can be repeated once the balance suffices.
    ("90", [Declined, Declined, Busy, Declined, Unlisted, Declined], Failed), // 账户余额不足
    ("91", REFUSED, Failed), // 认证失败
];

fn row(code: &str) -> Option<&'static (&'static str, Answers, Trade)> {
    CODES.iter().find(|(listed, ..)| *listed == code)
}

/// Returns the meaning of the code for the request.
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

/// Returns the meaning of the code for the queried trade; `None` for an unlisted code.
pub(super) fn trade(code: &str) -> Option<Trade> {
    row(code).map(|(.., trade)| *trade)
}

/// Returns the error for a request that was not accepted; `None` if it was accepted.
pub(super) fn refusal(code: &str, request: Request, provider_error: impl FnOnce() -> ProviderError) -> Option<Error> {
    match answer(code, request) {
        Accepted => None,
        Unclear => Some(unclear(provider_error())),
        Busy => Some(Error::ProviderBusy(provider_error())),
        Conflict => Some(Error::Conflict(provider_error())),
        Absent => Some(Error::NotFound(provider_error())),
        Unauthorized => Some(Error::Unauthorized(provider_error())),
        Declined => Some(Error::Declined(provider_error())),
        Unlisted => Some(Error::UnlistedRefusal(provider_error())),
    }
}

/// Returns the error of an unsigned answer. UnionPay may leave the answer unsigned when it rejects our signature. Only
/// this refusal is trusted without a signature.
pub(super) fn unsigned(code: &str, request: Request, message: &str) -> Option<Error> {
    (answer(code, request) == Unauthorized).then(|| Error::Unauthorized(provider_error(code, message)))
}

fn unclear(provider_error: ProviderError) -> Error {
    Error::Unclear { why: format!("answer code {}", provider_error.code), provider_error: Some(provider_error) }
}

pub(super) fn provider_error(code: &str, message: &str) -> ProviderError {
    ProviderError { code: code.to_owned(), message: message.to_owned() }
}
