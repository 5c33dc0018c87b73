//! Alipay's official lists of business codes, without their prefix `ACQ.`, with the meaning of each code for the money.
//!
//! Source: the error models of Alipay's own Java SDK for the v3 protocol, API document of 2026-09-23. The third column
//! names the lists that contain a code. Letters of [`PAY`]: `p` alipay.trade.pay, `q` alipay.trade.precreate, `c`
//! alipay.trade.create, `w` alipay.trade.page.pay (document of 2022-12-23; wap and app have no list of their own), `o`
//! an older list.

use crate::payment::Operation;
use Class::{Absent, Busy, Conflict, Declined, Unclear};

/// Meaning of an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The request may have been executed: query.
    Unclear,
    /// The request was not executed: send the same request later.
    Busy,
    /// The order or refund is in another state: query, and adopt that state. The channel is healthy.
    Conflict,
    /// The order, refund or bill does not exist.
    Absent,
    /// Alipay rejected our signature, key, certificate, clock or token, and executed nothing.
    Unauthorized,
    /// The request was not executed and will not be.
    Declined,
}

/// Interface with its own list of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    Pay,
    Query,
    Close,
    Cancel,
    Refund,
    RefundQuery,
    Bill,
}

pub(super) type Row = (&'static str, Class, &'static str);

impl Interface {
    pub(super) const ALL: [Self; 7] =
        [Self::Pay, Self::Refund, Self::Cancel, Self::Close, Self::Query, Self::RefundQuery, Self::Bill];

    pub(super) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Pay(_) => Self::Pay,
            Operation::Query(_) => Self::Query,
            Operation::Close(order) if order.method.is_scanned() => Self::Cancel,
            Operation::Close(_) => Self::Close,
            Operation::Refund(_) => Self::Refund,
            Operation::QueryRefund(_) => Self::RefundQuery,
        }
    }

    /// Returns whether a request can move money. Only a signed answer may decide the outcome of such a request.
    pub(super) fn moves_money(self) -> bool {
        matches!(self, Self::Pay | Self::Refund)
    }

    pub(super) fn list(self) -> &'static [Row] {
        match self {
            Self::Pay => PAY,
            Self::Query | Self::RefundQuery => QUERY,
            Self::Close => CLOSE,
            Self::Cancel => CANCEL,
            Self::Refund => REFUND,
            Self::Bill => BILL,
        }
    }

    /// Returns the class of a code: from the interface's own list, else from another interface's list. Returns `None`
    /// if no list contains the code.
    ///
    /// The prefix is ignored: `ACQ.` is misspelled `AQC.` in some answers, missing in others, and is `isp.` for bills.
    pub(super) fn class(self, code: &str) -> Option<Class> {
        let without_prefix = code.rsplit('.').next().unwrap_or(code);
        let mut rows = self.list().iter().chain(Self::ALL.iter().flat_map(|other| other.list()));
        rows.find(|(known, ..)| known.eq_ignore_ascii_case(without_prefix)).map(|(_, class, _)| *class)
    }
}

/// All payment interfaces.
const PAY: &[Row] = &[
    // The outcome of the payment is unknown.
    ("SYSTEM_ERROR", Unclear, "pqcw"),
    // The order is in another state.
    ("CONTEXT_INCONSISTENT", Conflict, "pqcw"), // the same number with other parameters
    ("TRADE_HAS_SUCCESS", Conflict, "pqcw"),
    ("TRADE_HAS_CLOSE", Conflict, "pqcw"),
    ("TRADE_HAS_FINISHED", Conflict, "o"),
    ("REASON_TRADE_STATUS_INVALID", Conflict, "o"),
    ("TRADE_STATUS_ERROR", Conflict, "p"),
    // The payer's account, card or limit.
    ("AUTH_AMOUNT_NOT_ENOUGH", Declined, "p"),
    ("AUTH_NO_ERROR", Declined, "p"),
    ("AUTH_ORDER_HAS_CLOSED", Declined, "p"),
    ("AUTH_ORDER_HAS_FINISHED", Declined, "p"),
    ("AUTH_ORDER_NOT_PAID", Declined, "p"),
    ("AUTH_TOKEN_IS_NOT_EXIST", Declined, "p"), // of the payer's face or code
    ("BUYER_BALANCE_NOT_ENOUGH", Declined, "pw"),
    ("BUYER_BANKCARD_BALANCE_NOT_E", Declined, "w"),
    ("BUYER_BANKCARD_BALANCE_NOT_ENOUGH", Declined, "p"),
    ("BUYER_BANKCARD_DECLINED", Declined, "p"),
    ("BUYER_BANKCARD_INVALID", Declined, "p"),
    ("BUYER_ENABLE_STATUS_FORBID", Declined, "pqcw"),
    ("BUYER_LIMIT_EXCEEDED", Declined, "p"),
    ("BUYER_NOT_EXIST", Declined, "pqc"),
    ("BUYER_NOT_MAINLAND_CERT", Declined, "p"),
    ("BUYER_PAYMENT_AMOUNT_DAY_LIM", Declined, "w"),
    ("BUYER_PAYMENT_AMOUNT_DAY_LIMIT_ERROR", Declined, "pq"),
    ("BUYER_PAYMENT_AMOUNT_MONTH_L", Declined, "w"),
    ("BUYER_PAYMENT_AMOUNT_MONTH_LIMIT_ERROR", Declined, "pq"),
    ("BUYER_SELLER_EQUAL", Declined, "pqcw"),
    ("BUYER_UNSUPPORT_ADVANCE", Declined, "p"),
    ("CARD_TYPE_ERROR", Declined, "p"),
    ("CARD_USER_NOT_MATCH", Declined, "p"),
    ("CERT_EXPIRED", Declined, "p"), // the payer's proof, not our certificate
    ("ERROR_BALANCE_PAYMENT_DISABL", Declined, "w"),
    ("ERROR_BALANCE_PAYMENT_DISABLE", Declined, "p"),
    ("ERROR_BUYER_CERTIFY_LEVEL_LI", Declined, "w"),
    ("ERROR_BUYER_CERTIFY_LEVEL_LIMIT", Declined, "pqc"),
    ("MOBILE_PAYMENT_SWITCH_OFF", Declined, "p"),
    ("NO_PAYMENT_INSTRUMENTS_AVAIL", Declined, "w"),
    ("NO_PAYMENT_INSTRUMENTS_AVAILABLE", Declined, "p"),
    ("NOT_CERTIFIED_USER", Declined, "p"),
    ("NOT_SUPPORT_PAYMENT_INST", Declined, "pc"),
    ("OPEN_ID_NOT_TINY_APP", Declined, "c"),
    ("ORDER_UNSUPPORT_ADVANCE", Declined, "p"),
    ("PAYER_UNMATCHED", Declined, "pc"),
    ("PAYMENT_AUTH_CODE_INVALID", Declined, "p"),
    ("PAYMENT_FAIL", Declined, "pw"),
    ("PAYMENT_REQUEST_HAS_RISK", Declined, "pw"),
    ("PULL_MOBILE_CASHIER_FAIL", Declined, "p"),
    ("TRADE_BUYER_NOT_MATCH", Declined, "pqcw"),
    ("USER_FACE_PAYMENT_SWITCH_OFF", Declined, "p"),
    ("USER_LOGONID_DUP", Declined, "pc"),
    ("ZM_AUTH_AMOUNT_EXCEED", Declined, "p"),
    ("ZM_AUTH_RULE_LIMIT", Declined, "p"),
    ("ZM_CREDIT_AUTH_FAIL", Declined, "p"),
    // The order.
    ("AMOUNT_OR_CURRENCY_ERROR", Declined, "p"),
    ("CURRENCY_NOT_SUPPORT", Declined, "p"),
    ("EXIST_FORBIDDEN_WORD", Declined, "pqcw"),
    ("ILLEGAL_ARGUMENT", Declined, "c"),
    ("INVALID_PARAMETER", Declined, "pqcw"),
    ("NOW_TIME_AFTER_EXPIRE_TIME_ERROR", Declined, "pqc"),
    ("PRE_AUTH_PROD_CODE_INCONSISTENT", Declined, "p"),
    ("PRODUCT_AMOUNT_LIMIT_ERROR", Declined, "p"),
    ("REQUEST_AMOUNT_EXCEED", Declined, "p"),
    ("SUB_GOODS_SIZE_MAX_COUNT", Declined, "pqc"),
    ("TOTAL_FEE_EXCEED", Declined, "pqcw"),
    ("UN_SUPPORT_TRADE_SCENE", Declined, "p"),
    // Agreements about recurring payments.
    ("AGREEMENT_ERROR", Declined, "p"),
    ("AGREEMENT_INVALID", Declined, "p"),
    ("AGREEMENT_NOT_EXIST", Declined, "p"),
    ("AGREEMENT_STATUS_NOT_NORMAL", Declined, "p"),
    ("CYCLE_PAY_DATE_NOT_MATCH", Declined, "p"),
    ("CYCLE_PAY_SINGLE_FEE_EXCEED", Declined, "p"),
    ("CYCLE_PAY_TOTAL_FEE_EXCEED", Declined, "p"),
    ("CYCLE_PAY_TOTAL_TIMES_EXCEED", Declined, "p"),
    ("OVER_DEDUCT_PERIOD", Declined, "p"),
    ("OVER_MAX_DEDUCT_COUNT", Declined, "p"),
    ("OVER_MAX_UNDER_WAY_DEDUCT_COUNT", Declined, "p"),
    ("OVER_MERCHANT_DAILY_DEDUCT_AMOUNT", Declined, "p"),
    // The merchant's contract, account or limit.
    ("ACCESS_FORBIDDEN", Declined, "pqcw"),
    ("APPLY_PC_MERCHANT_CODE_ERROR", Declined, "q"),
    ("BEYOND_PAY_RESTRICTION", Declined, "pq"),
    ("BEYOND_PER_RECEIPT_DAY_RESTRICTION", Declined, "pq"),
    ("BEYOND_PER_RECEIPT_RESTRICTION", Declined, "pq"),
    ("BEYOND_PER_RECEIPT_SINGLE_RESTRICTION", Declined, "pqc"),
    ("BIZ_PRODUCT_NOT_ALLOWED", Declined, "c"),
    ("CUSTOMER_VALIDATE_ERROR", Declined, "c"),
    ("DEFAULT_SETTLE_RULE_NOT_EXIST", Declined, "qc"),
    ("ERROR_SELLER_CERTIFY_LEVEL_LIMIT", Declined, "c"),
    ("ILLEGAL_SIGN_VALIDTY_PERIOD", Declined, "w"),
    ("INVALID_RECEIVE_ACCOUNT", Declined, "pqc"),
    ("INVALID_STORE_ID", Declined, "pqc"),
    ("MERCHANT_AGREEMENT_INVALID", Declined, "p"),
    ("MERCHANT_AGREEMENT_NOT_EXIST", Declined, "pw"),
    ("MERCHANT_PERM_RECEIPT_DAY_LIMIT", Declined, "pqc"),
    ("MERCHANT_PERM_RECEIPT_SINGLE_LIMIT", Declined, "pqc"),
    ("MERCHANT_PERM_RECEIPT_SUSPEND_LIMIT", Declined, "pqc"),
    ("MERCHANT_STATUS_NOT_NORMAL", Declined, "pqc"),
    ("MERCHANT_UNSUPPORT_ADVANCE", Declined, "p"),
    ("PARTNER_ERROR", Declined, "pqcw"),
    ("PLATFORM_BUSINESS_ACQUIRE_MODE_MUST_MERCHANT_ID", Declined, "pc"),
    ("PRODUCT_NOT_SUPPORT_IN_TINY_APP", Declined, "c"),
    ("RESTRICTED_MERCHANT_INDUSTRY", Declined, "p"),
    ("RISK_MERCHANT_IP_NOT_EXIST", Declined, "pqc"),
    ("ROYALTY_ACCOUNT_NOT_EXIST", Declined, "p"),
    ("SECONDARY_MERCHANT_ALIPAY_ACCOUNT_INVALID", Declined, "pqc"),
    ("SECONDARY_MERCHANT_CARD_ALIAS_NO_INVALID", Declined, "c"),
    ("SECONDARY_MERCHANT_ID_BLANK", Declined, "pqc"),
    ("SECONDARY_MERCHANT_ID_INVALID", Declined, "pqc"),
    ("SECONDARY_MERCHANT_ISV_PUNISH_INDIRECT", Declined, "pqc"),
    ("SECONDARY_MERCHANT_NOT_MATCH", Declined, "pqc"),
    ("SECONDARY_MERCHANT_STATUS_ERROR", Declined, "pqc"),
    ("SELLER_BEEN_BLOCKED", Declined, "pqc"),
    ("SELLER_NOT_EXIST", Declined, "pqc"),
    ("SMILE_PAY_MERCHANT_NOT_MATCH", Declined, "p"),
    ("STORE_INFO_INVALID", Declined, "c"),
    ("SUB_MERCHANT_CREATE_FAIL", Declined, "pc"),
    ("SUB_MERCHANT_TYPE_INVALID", Declined, "pc"),
    ("TRADE_SETTLE_ERROR", Declined, "pqc"),
    ("UNBOUND_APPLICATION", Declined, "c"),
];

/// alipay.trade.refund. A refund is sent once per number, so a refund refused by a code of this list was not executed.
const REFUND: &[Row] = &[
    ("SYSTEM_ERROR", Unclear, "refund"),
    ("DISCORDANT_REPEAT_REQUEST", Conflict, "refund"), // a refund of this number with another amount
    ("ENTERPRISE_PAY_BIZ_ERROR", Conflict, "refund"),  // leaves open whether it was executed
    ("SELLER_BALANCE_NOT_ENOUGH", Busy, "refund"),     // the merchant's balance is too low; the number stays valid
    ("TRADE_NOT_EXIST", Absent, "refund"),
    ("ALLOC_AMOUNT_VALIDATE_ERROR", Declined, "refund"),
    ("BUYER_ENABLE_STATUS_FORBID", Declined, "refund"),
    ("BUYER_ERROR", Declined, "refund"),
    ("BUYER_NOT_EXIST", Declined, "refund"),
    ("CURRENCY_NOT_SUPPORT", Declined, "refund"),
    ("CUSTOMER_VALIDATE_ERROR", Declined, "refund"),
    ("INVALID_PARAMETER", Declined, "refund"),
    ("NOT_ALLOW_PARTIAL_REFUND", Declined, "refund"),
    ("ONLINE_TRADE_VOUCHER_NOT_ALLOW_REFUND", Declined, "refund"),
    ("OVERDRAFT_AGREEMENT_NOT_MATCH", Declined, "refund"),
    ("OVERDRAFT_ASSIGN_ACCOUNT_INVALID", Declined, "refund"),
    ("REASON_TRADE_BEEN_FREEZEN", Declined, "refund"),
    ("REASON_TRADE_REFUND_FEE_ERR", Declined, "refund"),
    ("REASON_TRADE_STATUS_INVALID", Declined, "refund"),
    ("REFUNDALLOC_UNAUTH_LIMIT", Declined, "refund"),
    ("REFUND_ACCOUNT_NOT_EXIST", Declined, "refund"),
    ("REFUND_AMT_NOT_EQUAL_TOTAL", Declined, "refund"),
    ("REFUND_CHARGE_ERROR", Declined, "refund"),
    ("REFUND_FEE_ERROR", Declined, "refund"),
    ("REFUND_ROYALTY_PAYEE_ACCOUNT_NOT_EXIST", Declined, "refund"),
    ("TRADE_HAS_CLOSE", Declined, "refund"),
    ("TRADE_HAS_FINISHED", Declined, "refund"),
    ("TRADE_NOT_ALLOW_REFUND", Declined, "refund"),
    ("TRADE_SETTLE_ERROR", Declined, "refund"),
    ("TRADE_STATUS_ERROR", Declined, "refund"),
    ("USER_NOT_MATCH_ERR", Declined, "refund"),
];

/// alipay.trade.cancel.
const CANCEL: &[Row] = &[
    ("SYSTEM_ERROR", Unclear, "cancel"),
    ("SELLER_BALANCE_NOT_ENOUGH", Busy, "cancel"), // refunded once the balance suffices
    ("TRADE_CANCEL_TIME_OUT", Conflict, "cancel"), // older than a day: only a refund is possible
    ("TRADE_HAS_FINISHED", Conflict, "cancel"),
    ("TRADE_NOT_EXIST", Absent, "older"),
    ("CANCEL_NOT_ALLOWED", Declined, "cancel"),
    ("INVALID_PARAMETER", Declined, "cancel"),
    ("REASON_TRADE_BEEN_FREEZEN", Declined, "cancel"),
    ("REASON_TRADE_REFUND_FEE_ERR", Declined, "cancel"),
];

/// alipay.trade.close.
const CLOSE: &[Row] = &[
    ("SYSTEM_ERROR", Unclear, "close"),
    ("REASON_ILLEGAL_STATUS", Conflict, "close"),
    ("REASON_TRADE_STATUS_INVALID", Conflict, "close"),
    ("TRADE_STATUS_ERROR", Conflict, "close"),
    ("TRADE_NOT_EXIST", Absent, "close"), // also a code that nobody has scanned yet
    ("INVALID_PARAMETER", Declined, "close"),
];

/// alipay.trade.query and alipay.trade.fastpay.refund.query.
const QUERY: &[Row] = &[
    ("SYSTEM_ERROR", Unclear, "query, refund query"),
    ("ENTERPRISE_PAY_BIZ_ERROR", Conflict, "query, refund query"),
    ("TRADE_NOT_EXIST", Absent, "query, refund query"), // also a code that nobody has scanned yet
    ("INVALID_PARAMETER", Declined, "query, refund query"),
];

/// alipay.data.dataservice.bill.downloadurl.query.
const BILL: &[Row] = &[
    ("UNKNOWN_ERROR", Unclear, "bill"),
    ("SYSTEM_RATE_LIMIT", Busy, "bill"),
    ("USER_RATE_LIMIT", Busy, "bill"),
    ("BILL_NOT_EXIST", Absent, "bill"),
    ("NO_BILL_DATA", Absent, "bill"),
    ("BILL_DATE_BEFORE_REGISTRATION", Declined, "bill"),
    ("INVAILID_ARGUMENTS", Declined, "bill"), // spelled so
    ("TYPE_NOT_SUPPORTED", Declined, "bill"),
];
