//! Error codes of APIv3, with the errors that they are converted to.

use super::super::answer_codes::{BILL, Class, CodeRow, END, EVERY, PAY};
use super::super::v3_scheme::AnswerCodes;

pub(super) const CODES: AnswerCodes = AnswerCodes {
    rows: ROWS,
    final_with_500: &["INVALIDTRANSACTIONID", "OPENIDMISMATCH"],
    credentials: &["Wechatpay-Serial", "证书序列号", "公钥ID", "Authorization"],
};

/// Codes of the official lists: the list shared by all interfaces, those of create, query, close and reverse (which are
/// the same), of refund and refund query, and of bills.
pub(super) const ROWS: &[CodeRow] = &[
    // Not executed, and final.
    ("ACCOUNTERROR", Class::Final, EVERY),       // create 403: the payer's account
    ("APPIDMCHIDNOTMATCH", Class::Final, EVERY), // create 400
    ("AUTHCODEERROR", Class::Final, PAY),        // micropay of APIv2
    ("AUTHCODEEXPIRE", Class::Final, PAY),       // shared: the scanned code is too old
    ("AUTHCODEINVALID", Class::Final, PAY),      // shared: the scanned code is none
    ("ERROR", Class::Final, EVERY),              // shared: the reason is in the message
    ("INVALIDREQUEST", Class::Final, EVERY),     // every list, 400
    ("INVALIDTRANSACTIONID", Class::Final, EVERY), // create 500
    ("MCHNOTEXISTS", Class::Final, EVERY),       // create 400, refund 404: says nothing about the order
    ("NOAUTH", Class::Final, EVERY),             // every list, 403
    ("NOTENOUGH", Class::Final, PAY),            // create 403: the payer's money
    ("NOTSUPORTCARD", Class::Final, PAY),        // micropay of APIv2, spelt so
    ("OPENIDMISMATCH", Class::Final, EVERY),     // create 500
    ("PARAMERROR", Class::Final, EVERY),         // every list, 400
    ("RULELIMIT", Class::Final, EVERY),          // create 403
    ("TRADEERROR", Class::Final, PAY),           // create 403: the payment failed for a business reason
    ("USERACCOUNTABNORMAL", Class::Final, EVERY), // refund 403: the payer's account was closed
    ("USERNOTEXIST", Class::Final, EVERY),       // shared: the payer's account was closed
    ("USERNOTEXISTS", Class::Final, EVERY),      // shared: the openid is wrong
    // Not executed: send the same request later.
    ("BIZERRNEEDRETRY", Class::Later, EVERY), // refund: refused for concurrency, "same parameters again"
    ("FREQUENCYLIMITED", Class::Later, EVERY), // every list, 429
    ("FREQUENCYLIMITEXCEED", Class::Later, EVERY), // shared, 429
    ("NOTENOUGH", Class::Later, EVERY),       // refund 403: the merchant's money, which is topped up
    ("RATELIMITEXCEEDED", Class::Later, EVERY), // shared, 429
    ("REQUESTBLOCKED", Class::Later, EVERY),  // refund 403
    ("STATEMENTCREATING", Class::Later, BILL), // bills 400
    // Another state: query and adopt it.
    ("ALREADYEXISTS", Class::State, EVERY),         // shared
    ("ORDERCLOSED", Class::State, EVERY),           // create 400
    ("ORDERPAID", Class::State, EVERY),             // shared, 400
    ("ORDERREVERSED", Class::State, EVERY),         // shared, 400
    ("OUTTRADENOUSED", Class::State, EVERY),        // create 403: the same number with other parameters
    ("RESOURCEALREADYEXISTS", Class::State, EVERY), // shared, 400
    ("TRADEERROR", Class::State, EVERY),            // close 403
    ("USERPAYING", Class::Later, END),              // close 202: the payer is typing the password
    ("USERPAYING", Class::State, EVERY),            // create 202
    // The order, refund or bill does not exist.
    ("NOSTATEMENTEXIST", Class::Absent, BILL),   // bills 400
    ("ORDERNOTEXIST", Class::Absent, EVERY),     // create 404
    ("REFUNDNOTEXISTS", Class::Absent, EVERY),   // shared, 404
    ("RESOURCENOTEXISTS", Class::Absent, EVERY), // refund 404
    // The request may have been executed: query.
    ("BANKERROR", Class::Query, EVERY),   // create 500
    ("NOTFOUND", Class::Query, EVERY),    // shared, 404: the address may be the one that does not exist
    ("SYSTEMERROR", Class::Query, EVERY), // every list, 500
    // Our key, certificate or clock is invalid.
    ("SIGNERROR", Class::Credentials, EVERY), // every list, 401
];
