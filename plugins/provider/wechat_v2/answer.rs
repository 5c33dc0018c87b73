//! Verified answers and notifications in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::{Signing, beijing};
use super::xml::Fields;
use super::{Account, Product, errors};
use crate::error::{Error, Word};
use crate::payment::{Action, Currency, Event, Kind, Money, Operation, Order, Outcome, Pay, Refund, Refunded, Status};

/// How `return_msg` begins when the API key is another; there is no code for it.
const WRONG_SIGNATURE: &str = "签名错误";

/// The fields of one message.
pub(super) struct Message<'a> {
    pub(super) account: &'a Account,
    pub(super) fields: Fields,
}

impl Message<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn needed(&self, name: &str) -> Result<&str, Error> {
        self.field(name).ok_or_else(|| Error::unclear(format!("it is signed but has no `{name}`")))
    }

    fn same(&self, name: &str, ours: &str) -> Result<(), Error> {
        match self.field(name) {
            Some(theirs) if theirs == ours => Ok(()),
            _ => Err(Error::Mismatch(format!("it names another `{name}`"))),
        }
    }

    fn is_ours(&self) -> Result<(), Error> {
        self.same("appid", &self.account.appid)?;
        self.same("mch_id", &self.account.mchid)?;
        match &self.account.sub_mchid {
            Some(sub_mchid) => self.same("sub_mch_id", sub_mchid),
            None => Ok(()),
        }
    }

    fn fen(&self, name: &str) -> Result<Option<Money>, Error> {
        let Some(text) = self.field(name) else { return Ok(None) };
        let value = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value = value.ok_or_else(|| Error::Mismatch(format!("its `{name}` is no amount of fen")))?;
        if self.field("fee_type").is_some_and(|currency| currency != "CNY") {
            return Err(Error::Mismatch("it names another currency".to_owned()));
        }
        Ok(Some(Money { value, currency: Currency::CNY }))
    }

    /// What the two outer layers say: a protocol's failure, or the operation's.
    fn refused(&self, kind: Kind) -> Option<Error> {
        if self.field("return_code") != Some("SUCCESS") {
            return Some(protocol_failure(&self.fields));
        }
        if self.field("result_code") == Some("SUCCESS") {
            return None;
        }
        let text = |name: &str| self.field(name).unwrap_or_default().to_owned();
        Some(errors::refusal(kind, Word { code: text("err_code"), message: text("err_code_des") }))
    }

    pub(super) fn outcome(&self, operation: &Operation, with: Signing<'_>) -> Result<Outcome, Error> {
        if self.field("return_code") == Some("SUCCESS") {
            self.is_ours()?;
        }
        match (self.refused(operation.kind()), operation) {
            (Some(Error::Unclear { word: Some(word), .. }), Operation::Pay(pay))
                if word.code == "USERPAYING" && pay.order.method.is_scanned() =>
            {
                Ok(Outcome::of(Status::Pending))
            }
            (Some(error), _) => Err(error),
            (None, Operation::Pay(pay)) => self.created(pay, with),
            (None, Operation::Query(order)) => self.found(order),
            (None, Operation::Close(order)) if order.method.is_scanned() => match self.field("recall") {
                Some("N") => Ok(Outcome::of(Status::Closed)),
                Some("Y") => Err(Error::Conflict(Word {
                    code: "RECALL".to_owned(),
                    message: "the reversal is not done yet and wants to be sent again".to_owned(),
                })),
                _ => Err(Error::unclear("it does not say what its reversal did")),
            },
            (None, Operation::Close(_)) => Ok(Outcome::of(Status::Closed)),
            (None, Operation::Refund(refund)) => self.refund_taken(refund),
            (None, Operation::QueryRefund(refund)) => self.refund_found(refund),
        }
    }

    fn created(&self, pay: &Pay, with: Signing<'_>) -> Result<Outcome, Error> {
        let product = Product::of(pay.order.method)?;
        if product == Product::Codepay {
            self.same("out_trade_no", &pay.order.number)?;
            return self.paid();
        }
        self.same("trade_type", product.trade_type())?;
        let action = match product {
            Product::Native => Action::Qr { data: self.needed("code_url")?.to_owned() },
            Product::H5 => Action::Redirect { url: h5_url(self.needed("mweb_url")?, pay.return_url.as_deref()) },
            Product::Jsapi => Action::Jsapi { params: self.jsapi(self.needed("prepay_id")?, with) },
            _ => Action::App { params: self.app(self.needed("prepay_id")?, with) },
        };
        Ok(Outcome { action: Some(action), ..Outcome::of(Status::Pending) })
    }

    fn jsapi(&self, prepay_id: &str, with: Signing<'_>) -> BTreeMap<String, String> {
        let mut params = pairs([
            ("appId", self.account.payers_appid()),
            ("timeStamp", &with.stamp.unix_time.to_string()),
            ("nonceStr", &with.stamp.nonce),
            ("package", &format!("prepay_id={prepay_id}")),
            ("signType", self.account.key.sign_type.as_str()),
        ]);
        params.insert("paySign".to_owned(), self.account.key.sign(&params));
        params
    }

    fn app(&self, prepay_id: &str, with: Signing<'_>) -> BTreeMap<String, String> {
        let account = self.account;
        let mut params = pairs([
            ("appid", account.payers_appid()),
            ("partnerid", account.payee()),
            ("prepayid", prepay_id),
            ("package", "Sign=WXPay"),
            ("noncestr", &with.stamp.nonce),
            ("timestamp", &with.stamp.unix_time.to_string()),
        ]);
        params.insert("sign".to_owned(), account.key.sign(&params));
        params
    }

    fn paid(&self) -> Result<Outcome, Error> {
        let amount = self.fen("total_fee")?.ok_or_else(|| Error::unclear("it is signed but has no `total_fee`"))?;
        Ok(Outcome {
            amount: Some(amount),
            at: self.field("time_end").and_then(|time| beijing::read(time, beijing::COMPACT)),
            provider_id: Some(self.needed("transaction_id")?.to_owned()),
            ..Outcome::of(Status::Succeeded)
        })
    }

    fn found(&self, order: &Order) -> Result<Outcome, Error> {
        self.same("out_trade_no", &order.number)?;
        let status = match self.needed("trade_state")? {
            // Given back in part or whole: it was paid.
            "SUCCESS" | "REFUND" => return self.paid(),
            "NOTPAY" | "USERPAYING" | "ACCEPT" => Status::Pending,
            "CLOSED" | "REVOKED" => Status::Closed,
            "PAYERROR" => Status::Failed,
            _ => return Err(Error::unclear("it names an unknown `trade_state`")),
        };
        // What is not paid names its amount seldom.
        Ok(Outcome { amount: self.fen("total_fee")?, ..Outcome::of(status) })
    }

    /// Taken on, which says nothing yet of the money.
    fn refund_taken(&self, refund: &Refund) -> Result<Outcome, Error> {
        self.same("out_trade_no", &refund.order.number)?;
        self.same("out_refund_no", &refund.number)?;
        let provider_id = Some(self.needed("refund_id")?.to_owned());
        Ok(Outcome { amount: self.fen("refund_fee")?, provider_id, ..Outcome::of(Status::Pending) })
    }

    /// An answer lists refunds by a number at the end of each name.
    fn refund_found(&self, refund: &Refund) -> Result<Outcome, Error> {
        self.same("out_trade_no", &refund.order.number)?;
        let mut places = self.fields.iter().filter_map(|(name, value)| {
            let place = name.strip_prefix("out_refund_no_")?;
            (*value == refund.number && place.bytes().all(|byte| byte.is_ascii_digit())).then_some(place)
        });
        let place = places.next().ok_or_else(|| Error::Mismatch("it names another `out_refund_no`".to_owned()))?;
        let named = |name: &str| format!("{name}_{place}");
        let (status, needs_person) = match self.needed(&named("refund_status"))? {
            "SUCCESS" => (Status::Succeeded, None),
            "PROCESSING" => (Status::Pending, None),
            "REFUNDCLOSE" => (Status::Failed, None),
            "CHANGE" => {
                let why = "the payer's account cannot take the refund: finish it in the merchant console (退款异常)";
                (Status::Pending, Some(why.to_owned()))
            }
            _ => return Err(Error::unclear("it names an unknown `refund_status`")),
        };
        let amount = self.fen(&named("refund_fee"))?;
        let amount = amount.ok_or_else(|| Error::unclear("it is signed but has no `refund_fee`"))?;
        let time = self.field(&named("refund_success_time"));
        Ok(Outcome {
            amount: Some(amount),
            at: time.and_then(|time| beijing::read(time, beijing::SPACED)),
            provider_id: self.field(&named("refund_id")).map(str::to_owned),
            needs_person,
            ..Outcome::of(status)
        })
    }

    /// Of payments only a success is told. Of refunds nothing is believed before it was asked about.
    pub(super) fn event(&self) -> Result<Event, Error> {
        if let Some(sealed) = self.field("req_info") {
            self.is_ours()?;
            let unread = || Error::unclear("its `req_info` cannot be opened");
            let inner = Message { account: self.account, fields: self.account.key.open(sealed).ok_or_else(unread)? };
            let number = inner.needed("out_refund_no")?.to_owned();
            let status = inner.needed("refund_status")?;
            let amount = inner.fen("refund_fee")?;
            return Ok(Event {
                id: format!("refund:{number}:{status}"),
                order_number: inner.needed("out_trade_no")?.to_owned(),
                refund_number: Some(number),
                outcome: None,
                amount,
                refunded: amount.filter(|_| status == "SUCCESS").map(Refunded::Part),
            });
        }
        self.is_ours()?;
        if let Some(error) = self.refused(Kind::Pay) {
            return Err(error);
        }
        let order_number = self.needed("out_trade_no")?.to_owned();
        let outcome = self.paid()?;
        let id = format!("payment:{order_number}:{}", self.needed("transaction_id")?);
        Ok(Event { id, order_number, refund_number: None, outcome: Some(outcome), amount: None, refunded: None })
    }
}

/// `return_code` FAIL: the request was not understood. It is seldom signed, and proves nothing; but whose signature is wrong
/// is nobody for WeChat Pay, and nothing is done for him.
pub(super) fn protocol_failure(fields: &Fields) -> Error {
    let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let word = Word { code: text("return_code"), message: text("return_msg") };
    if word.code == "FAIL" && word.message.starts_with(WRONG_SIGNATURE) {
        return Error::Unauthorized(word);
    }
    Error::Unclear { why: "it did not understand the request".to_owned(), word: Some(word) }
}

fn h5_url(url: &str, return_url: Option<&str>) -> String {
    match return_url {
        Some(back) => format!("{url}&redirect_url={}", utf8_percent_encode(back, NON_ALPHANUMERIC)),
        None => url.to_owned(),
    }
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
