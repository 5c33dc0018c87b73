//! Verified answers and notifications in our words. What does not agree with the order is never accepted.

use std::collections::BTreeMap;

use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::wechat_errors::Interface;
use super::super::{Signing, china_time};
use super::xml::Fields;
use super::{Account, Product, errors};
use crate::error::Error;
use crate::payment::{Currency, Event, Money, NextAction, Operation, Order, Outcome, Pay, Refund, Refunded, Status};

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

    /// Refuses what is about another order or account. Of what names none it is unclear.
    fn same(&self, name: &str, ours: &str) -> Result<(), Error> {
        if self.needed(name)? == ours { Ok(()) } else { Err(another(name)) }
    }

    /// Refuses another account's message.
    fn is_ours(&self) -> Result<(), Error> {
        self.contradicts_account()?;
        self.account_fields().into_iter().try_for_each(|(name, _)| self.needed(name).map(drop))
    }

    /// Refuses a message that names another account. A refusal may name none: the signature vouches for it.
    fn contradicts_account(&self) -> Result<(), Error> {
        let is_another = |(name, ours): &(&str, &str)| self.field(name).is_some_and(|theirs| theirs != *ours);
        self.account_fields().into_iter().find(is_another).map_or(Ok(()), |(name, _)| Err(another(name)))
    }

    fn account_fields(&self) -> Vec<(&'static str, &str)> {
        let Account { whose, .. } = self.account;
        let sub_mchid = whose.sub_mchid.as_deref().map(|sub_mchid| ("sub_mch_id", sub_mchid));
        [("appid", whose.appid.as_str()), ("mch_id", &whose.mchid)].into_iter().chain(sub_mchid).collect()
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

    /// Returns the failure that one of the two outer layers says: of the protocol, or of the operation.
    fn refused(&self, interface: Interface, status: StatusCode) -> Option<Error> {
        if self.field("return_code") != Some("SUCCESS") {
            return Some(errors::not_understood(interface, status, &self.fields, true));
        }
        match self.needed("result_code") {
            Ok("SUCCESS") => None,
            Ok(_) => Some(errors::refusal(interface, &self.fields, true)),
            Err(unclear) => Some(unclear),
        }
    }

    pub(super) fn outcome(
        &self,
        operation: &Operation,
        status: StatusCode,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        self.contradicts_account()?;
        let interface = Interface::of(operation);
        match self.refused(interface, status) {
            Some(error) if interface == Interface::Scan && error.word().is_some_and(errors::is_typing) => {
                return Ok(Outcome::of(Status::Pending));
            }
            Some(error) => return Err(error),
            None => self.is_ours()?,
        }
        match operation {
            Operation::Pay(pay) => self.created(pay, with),
            Operation::Query(order) => self.found(order),
            Operation::Close(order) if order.method.is_scanned() => match self.field("recall") {
                Some("N") => Ok(Outcome::of(Status::Closed)),
                // Not done yet: it wants to be sent again.
                Some("Y") => Ok(Outcome { needs_reversal: true, ..Outcome::of(Status::Pending) }),
                _ => Err(Error::unclear("it does not say what its reversal did")),
            },
            Operation::Close(_) => Ok(Outcome::of(Status::Closed)),
            Operation::Refund(refund) => self.refund_taken(refund),
            Operation::QueryRefund(refund) => self.refund_found(refund),
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
            Product::Native => NextAction::Qr { data: self.needed("code_url")?.to_owned() },
            Product::H5 => NextAction::Redirect { url: h5_url(self.needed("mweb_url")?, pay.return_url.as_deref()) },
            Product::Jsapi => NextAction::Jsapi { params: self.jsapi(self.needed("prepay_id")?, with) },
            _ => NextAction::App { params: self.app(self.needed("prepay_id")?, with) },
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
            at: self.field("time_end").and_then(|time| china_time::read(time, china_time::COMPACT)),
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
            // The payer of a scanned code may have been charged all the same, until the order is reversed.
            "PAYERROR" if order.method.is_scanned() => Status::Pending,
            "PAYERROR" => Status::Failed,
            _ => return Err(Error::unclear("it names an unknown `trade_state`")),
        };
        let needs_reversal = order.method.is_scanned() && self.field("trade_state") == Some("PAYERROR");
        // An unpaid order seldom names its amount.
        Ok(Outcome { amount: self.fen("total_fee")?, needs_reversal, ..Outcome::of(status) })
    }

    /// Reads the acceptance of a refund; its result is not known yet.
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
            at: time.and_then(|time| china_time::read(time, china_time::SPACED)),
            provider_id: self.field(&named("refund_id")).map(str::to_owned),
            needs_person,
            ..Outcome::of(status)
        })
    }

    /// Reads a notification. A notification of a refund that was made here only triggers a query.
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
                refunded: match status {
                    "SUCCESS" => amount.map(Refunded::Part),
                    "REFUNDCLOSE" => Some(Refunded::Failed),
                    "CHANGE" => Some(Refunded::Abnormal),
                    _ => Some(Refunded::Open),
                },
            });
        }
        self.is_ours()?;
        let order_number = self.needed("out_trade_no")?.to_owned();
        let outcome = match self.refused(Interface::Prepay, StatusCode::OK) {
            None => self.paid(),
            Some(_) => Err(Error::unclear("it tells of no success")),
        };
        // Only successes are notified of. What else is told of an order, a query decides.
        let outcome = match outcome {
            Ok(outcome) => Some(outcome),
            Err(Error::Unclear { .. }) => None,
            Err(error) => return Err(error),
        };
        let said = self.field("transaction_id").or(self.field("err_code")).unwrap_or_default();
        let id = format!("payment:{order_number}:{said}");
        Ok(Event { id, order_number, refund_number: None, outcome, amount: None, refunded: None })
    }
}

fn another(name: &str) -> Error {
    Error::Mismatch(format!("it names another `{name}`"))
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
