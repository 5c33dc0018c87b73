//! Verified answers and notifications in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use super::super::form::Fields;
use super::errors::{Class, class};
use super::{Account, Product};
use crate::error::{Error, Word};
use crate::payment::{Action, Currency, Event, Money, Operation, Order, Outcome, Pay, Status};

/// Seconds after which an order that failed is tried no more.
const ATTEMPTS: i64 = 24 * 3600;

/// The fields of one message.
pub(super) struct Message<'a> {
    pub(super) account: &'a Account,
    pub(super) fields: Fields,
}

impl Message<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
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

    fn word(&self, code: &str, message: &str) -> Word {
        let text = |name: &str| self.field(name).unwrap_or_default().to_owned();
        Word { code: text(code), message: text(message) }
    }

    /// `now` is unix seconds.
    pub(super) fn outcome(&self, operation: &Operation, now: u64) -> Result<Outcome, Error> {
        self.same("merId", &self.account.mer_id)?;
        let number = match operation {
            Operation::Refund(refund) | Operation::QueryRefund(refund) => &refund.number,
            _ => &operation.order().number,
        };
        let word = self.word("respCode", "respMsg");
        let is_query = operation.kind().is_query();
        match class(&word.code) {
            Class::Success => {}
            Class::Open | Class::Odd if is_query => return Err(unclear(word)),
            Class::Open if matches!(word.code.as_str(), "05" | "70" | "83") => return Ok(Outcome::of(Status::Pending)),
            Class::Open | Class::Odd => return Err(unclear(word)),
            Class::Busy => return Err(Error::Busy(word)),
            Class::Conflict => return Err(Error::Conflict(word)),
            Class::Absent => return Err(Error::Absent(word)),
            Class::Declined => return Err(Error::Declined(word)),
        }
        self.same("orderId", number)?;
        match operation {
            Operation::Pay(pay) => self.created(pay),
            // Taken on, which says nothing yet of the money.
            Operation::Refund(_) => Ok(Outcome { provider_id: self.query_id(), ..Outcome::of(Status::Pending) }),
            Operation::Query(order) => self.found(may_be_tried_again(order, now)),
            Operation::QueryRefund(_) => self.found(false),
            Operation::Close(_) => Err(Error::unclear("nothing was asked of it")),
        }
    }

    fn created(&self, pay: &Pay) -> Result<Outcome, Error> {
        let action = match Product::of(pay.order.method)? {
            Product::Qr => Some(Action::Qr { data: self.needed("qrCode")?.to_owned() }),
            Product::App => {
                Some(Action::App { params: BTreeMap::from([("tn".to_owned(), self.needed("tn")?.to_owned())]) })
            }
            Product::Barcode => None,
            Product::Page => return Err(Error::unclear("nothing was asked of it")),
        };
        Ok(Outcome { action, ..Outcome::of(Status::Pending) })
    }

    /// How the order stands that was asked about; `respCode` told only how the question went.
    fn found(&self, may_be_tried_again: bool) -> Result<Outcome, Error> {
        let word = self.word("origRespCode", "origRespMsg");
        let (status, needs_person) = match class(&word.code) {
            Class::Success => (Status::Succeeded, None),
            Class::Odd => (Status::Succeeded, Some(format!("UnionPay debited the payer with a defect ({word})"))),
            Class::Open | Class::Busy | Class::Absent | Class::Conflict => (Status::Pending, None),
            Class::Declined if may_be_tried_again => (Status::Pending, None),
            Class::Declined => (Status::Failed, None),
        };
        let amount = self.fen("txnAmt")?;
        if status == Status::Succeeded && amount.is_none() {
            return Err(Error::unclear("it is signed but has no `txnAmt`"));
        }
        Ok(Outcome { amount, provider_id: self.query_id(), needs_person, ..Outcome::of(status) })
    }

    fn query_id(&self) -> Option<String> {
        self.field("queryId").map(str::to_owned)
    }

    fn fen(&self, name: &str) -> Result<Option<Money>, Error> {
        let Some(text) = self.field(name) else { return Ok(None) };
        let value = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value = value.ok_or_else(|| Error::Mismatch(format!("its `{name}` is no amount of fen")))?;
        if self.field("currencyCode").is_some_and(|currency| currency != "156") {
            return Err(Error::Mismatch("it names another currency".to_owned()));
        }
        Ok(Some(Money { value, currency: Currency::CNY }))
    }

    /// UnionPay itself advises to ask before anything of a notification is booked.
    pub(super) fn event(&self) -> Result<Event, Error> {
        self.same("merId", &self.account.mer_id)?;
        let number = self.needed("orderId")?.to_owned();
        let id =
            format!("{}:{number}:{}:{}", self.needed("txnType")?, self.needed("txnTime")?, self.needed("respCode")?);
        let amount = self.fen("txnAmt")?;
        match self.needed("txnType")? {
            "01" => Ok(Event { id, order_number: number, refund_number: None, outcome: None, amount }),
            "04" => {
                let order_number = self.needed("reqReserved")?.to_owned();
                Ok(Event { id, order_number, refund_number: Some(number), outcome: None, amount })
            }
            _ => Err(Error::unclear("it is a notification of an unknown kind")),
        }
    }
}

/// Whether a failure is that of one attempt: in a browser, an app or after a scan the cardholder may try again until the
/// time to pay is over. That time is not known here; it is never longer than this.
fn may_be_tried_again(order: &Order, now: u64) -> bool {
    let age = now.cast_signed().saturating_sub(order.created_at.as_second());
    !order.method.is_scanned() && age < ATTEMPTS
}

fn unclear(word: Word) -> Error {
    Error::Unclear { why: "it does not know yet".to_owned(), word: Some(word) }
}
