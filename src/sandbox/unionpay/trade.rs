//! Trade transactions of UnionPay.

use serde_json::Value;

use super::Transaction;
use super::codes::{Fields, Outcome, fen, is_digits, message, outcome, query_id, refund_outcome, settled, text};
use super::reply::{Refusal, refused, refused_because};
use crate::account::unionpay::Account;
use crate::china_time::parse_digits;
use crate::keys::random_digits;
use crate::notification::Subject;
use crate::order_machine::{self, NewOrder, Scan};
use crate::state::{Id, OrderState};

/// Executes one request on the sandbox state.
pub(super) type OrderHandler<'a> = order_machine::OrderHandler<'a, Account>;
/// Fields of the response.
pub(super) type Done = order_machine::Done<Fields>;
pub(super) type Result<T = Done> = std::result::Result<T, Refusal>;

/// Owner of every payer code.
const PAYER: &str = "621626*********0018";

impl OrderHandler<'_> {
    /// Creates an unpaid trade.
    pub(super) fn create(&mut self, transaction: Transaction, parameters: Value) -> Result {
        let id = self.id(&parameters, "orderId");
        let is_again = transaction == Transaction::Page && self.is_shown_again(&id, &parameters);
        if !is_again {
            self.open(transaction, &id, parameters)?;
        }
        done(match transaction {
            Transaction::App => vec![("tn", random_digits(21))],
            Transaction::Qr => vec![("qrCode", format!("https://qr.95516.com/00010000/62{}", random_digits(30)))],
            _ => Vec::new(),
        })
    }

    /// Returns whether this form is already shown, because the browser reloaded the page.
    fn is_shown_again(&mut self, id: &Id, parameters: &Value) -> bool {
        let order = self.state.order(id, self.now);
        order.is_some_and(|order| order.state == OrderState::NotPay && order.parameters == *parameters)
    }

    /// Creates a trade from a payer's code. The response only confirms acceptance; the result is notified later.
    pub(super) fn take(&mut self, parameters: Value) -> Result {
        let id = self.id(&parameters, "orderId");
        let code = text(&parameters, "qrNo").to_owned();
        let is_code = code.len() == 19 && code.starts_with("62") && is_digits(&code);
        self.is_new(&id)?;
        if !is_code || self.state.used_codes.contains(&code) {
            return Err(refused_because("86", "二维码状态不正确"));
        }
        self.open(Transaction::Barcode, &id, parameters)?;
        let effect = self.state.scan(&id, &code, PAYER, self.now);
        let Some(order) = self.state.order(&id, self.now) else { return Err(refused("34")) };
        order.opened = true;
        let reply = vec![("queryId", order.transaction_id.clone())];
        match effect {
            Scan::NoBalance => Err(refused("64")),
            Scan::Password => done(reply),
            Scan::Paid => Ok(Done { reply, notify: Some(Subject::Payment(id)) }),
        }
    }

    /// Checks that the number is new. Orders, refunds and cancellations share one number space.
    pub(super) fn is_new(&mut self, id: &Id) -> Result<()> {
        match self.state.order(id, self.now).is_some() || self.state.refunds.contains_key(id) {
            true => Err(refused("12")),
            false => Ok(()),
        }
    }

    fn open(&mut self, transaction: Transaction, id: &Id, parameters: Value) -> Result<()> {
        self.is_new(id)?;
        let order = NewOrder {
            product: transaction.product(),
            transaction_id: query_id(self.now),
            total: fen(text(&parameters, "txnAmt")).unwrap_or_default(),
            expires: parse_digits(text(&parameters, "payTimeout")),
            notify_url: Some(text(&parameters, "backUrl").to_owned()),
            // The transaction does not exist before the payer begins it.
            opened: false,
            parameters,
        };
        self.state.create(id, order, self.now);
        Ok(())
    }

    /// Queries a trade. `respCode` is the result of the query, `origRespCode` the result of the trade.
    pub(super) fn query(&mut self, parameters: &Value) -> Result {
        let id = self.id(parameters, "orderId");
        let is_meant = |original: &Value| ["txnTime", "bizType"].iter().all(|name| original[name] == parameters[name]);
        if let Some(refund) = self.state.refunds.get(&id).filter(|refund| is_meant(&refund.parameters)) {
            let outcome = refund_outcome(refund);
            let at = refund.finished.unwrap_or(refund.created);
            return done(trade_fields(
                outcome,
                settled(refund.amount, &refund.refund_id, at, None),
                &refund.parameters,
            ));
        }
        let Some(order) = self.state.order(&id, self.now).filter(|order| is_meant(&order.parameters)) else {
            return Err(refused("34"));
        };
        let outcome = outcome(order).ok_or_else(|| refused("34"))?;
        let fields = match &order.payment {
            Some(payment) => settled(payment.amount, &order.transaction_id, payment.at, Some(&payment.payer)),
            None => vec![
                ("queryId", order.transaction_id.clone()),
                ("txnAmt", order.total.to_string()),
                ("currencyCode", "156".to_owned()),
            ],
        };
        done(trade_fields(outcome, fields, &order.parameters))
    }

    /// Returns the id with the number in this parameter.
    pub(super) fn id(&self, parameters: &Value, name: &str) -> Id {
        (self.account.mer_id.clone(), text(parameters, name).to_owned())
    }
}

fn trade_fields(outcome: Outcome, mut fields: Fields, original: &Value) -> Fields {
    fields.push(("origRespCode", outcome.to_owned()));
    fields.push(("origRespMsg", message(outcome)));
    fields.push(("issuerIdentifyMode", "0".to_owned()));
    if !text(original, "reqReserved").is_empty() {
        fields.push(("reqReserved", text(original, "reqReserved").to_owned()));
    }
    fields
}

pub(super) fn done(fields: Fields) -> Result {
    Ok(Done::silent(fields))
}
