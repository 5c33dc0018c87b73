//! Decoding of verified answers and notifications. A message that does not match the order is rejected.

use std::collections::BTreeMap;

use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::answer_codes::Interface;
use super::super::{Signing, china_time};
use super::account::Account;
use super::errors;
use super::product::Product;
use super::xml::Fields;
use crate::error::Error;
use crate::payment::{Currency, Event, Money, NextAction, Operation, Order, Outcome, Pay, Refund, Refunded, Status};

/// Fields of one message.
pub(super) struct Message<'a> {
    pub(super) account: &'a Account,
    pub(super) fields: Fields,
}

impl Message<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Error> {
        self.field(name).ok_or_else(|| Error::unclear(format!("the signed message has no `{name}`")))
    }

    /// Rejects a message about another order or account. A missing field is [`Error::Unclear`].
    fn same(&self, name: &str, ours: &str) -> Result<(), Error> {
        if self.required(name)? == ours { Ok(()) } else { Err(mismatch(name)) }
    }

    /// Rejects a message of another account, or without the account's ids.
    fn check_account(&self) -> Result<(), Error> {
        self.reject_other_account()?;
        self.account_fields().into_iter().try_for_each(|(name, _)| self.required(name).map(drop))
    }

    /// Rejects a message that names another account. A refusal may name none: its signature with the shared key
    /// identifies the account.
    fn reject_other_account(&self) -> Result<(), Error> {
        let is_another = |(name, ours): &(&str, &str)| self.field(name).is_some_and(|theirs| theirs != *ours);
        self.account_fields().into_iter().find(is_another).map_or(Ok(()), |(name, _)| Err(mismatch(name)))
    }

    fn account_fields(&self) -> Vec<(&'static str, &str)> {
        let Account { ids, .. } = self.account;
        let sub_mchid = ids.sub_mchid.as_deref().map(|sub_mchid| ("sub_mch_id", sub_mchid));
        [("appid", ids.appid.as_str()), ("mch_id", &ids.mchid)].into_iter().chain(sub_mchid).collect()
    }

    fn fen(&self, name: &str) -> Result<Option<Money>, Error> {
        let Some(text) = self.field(name) else { return Ok(None) };
        let value = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value = value.ok_or_else(|| Error::Mismatch(format!("`{name}` is not an amount in fen")))?;
        if self.field("fee_type").is_some_and(|currency| currency != "CNY") {
            return Err(Error::Mismatch("the currency does not match".to_owned()));
        }
        Ok(Some(Money { value, currency: Currency::CNY }))
    }

    /// Returns the failure in one of the two outer layers: of the protocol (`return_code`), or of the operation
    /// (`result_code`).
    fn failure(&self, interface: Interface, status: StatusCode) -> Option<Error> {
        if self.field("return_code") != Some("SUCCESS") {
            return Some(errors::protocol_error(interface, status, &self.fields, true));
        }
        match self.required("result_code") {
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
        self.reject_other_account()?;
        let interface = Interface::of(operation);
        match self.failure(interface, status) {
            Some(error)
                if interface == Interface::Scan && error.provider_error().is_some_and(errors::awaits_password) =>
            {
                return Ok(Outcome::of(Status::Pending));
            }
            Some(error) => return Err(error),
            None => self.check_account()?,
        }
        match operation {
            Operation::Pay(pay) => self.created(pay, with),
            Operation::Query(order) => self.queried(order),
            Operation::Close(order) if order.method.is_scanned() => match self.field("recall") {
                Some("N") => Ok(Outcome::of(Status::Closed)),
                // The reversal is not done yet and must be sent again.
                Some("Y") => Ok(Outcome { needs_reversal: true, ..Outcome::of(Status::Pending) }),
                _ => Err(Error::unclear("the answer does not contain the result of the reversal")),
            },
            Operation::Close(_) => Ok(Outcome::of(Status::Closed)),
            Operation::Refund(refund) => self.refund_accepted(refund),
            Operation::QueryRefund(refund) => self.refund_queried(refund),
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
            Product::Native => NextAction::Qr { data: self.required("code_url")?.to_owned() },
            Product::H5 => NextAction::Redirect { url: h5_url(self.required("mweb_url")?, pay.return_url.as_deref()) },
            Product::Jsapi => NextAction::Jsapi { params: self.jsapi(self.required("prepay_id")?, with) },
            _ => NextAction::App { params: self.app(self.required("prepay_id")?, with) },
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
        let amount = self.fen("total_fee")?.ok_or_else(|| Error::unclear("the signed message has no `total_fee`"))?;
        Ok(Outcome {
            amount: Some(amount),
            at: self.field("time_end").and_then(|time| china_time::read(time, china_time::COMPACT)),
            provider_id: Some(self.required("transaction_id")?.to_owned()),
            ..Outcome::of(Status::Succeeded)
        })
    }

    fn queried(&self, order: &Order) -> Result<Outcome, Error> {
        self.same("out_trade_no", &order.number)?;
        let status = match self.required("trade_state")? {
            // Partly or fully refunded, so the order was paid.
            "SUCCESS" | "REFUND" => return self.paid(),
            "NOTPAY" | "USERPAYING" | "ACCEPT" => Status::Pending,
            "CLOSED" | "REVOKED" => Status::Closed,
            // The payer of a scanned code may have been charged nevertheless, until the order is reversed.
            "PAYERROR" if order.method.is_scanned() => Status::Pending,
            "PAYERROR" => Status::Failed,
            _ => return Err(Error::unclear("unknown `trade_state`")),
        };
        let needs_reversal = order.method.is_scanned() && self.field("trade_state") == Some("PAYERROR");
        // The answer seldom contains the amount of an unpaid order.
        Ok(Outcome { amount: self.fen("total_fee")?, needs_reversal, ..Outcome::of(status) })
    }

    /// Decodes the acceptance of a refund. Its result is not known yet.
    fn refund_accepted(&self, refund: &Refund) -> Result<Outcome, Error> {
        self.same("out_trade_no", &refund.order.number)?;
        self.same("out_refund_no", &refund.number)?;
        let provider_id = Some(self.required("refund_id")?.to_owned());
        Ok(Outcome { amount: self.fen("refund_fee")?, provider_id, ..Outcome::of(Status::Pending) })
    }

    /// Decodes a refund query. The answer numbers the refunds by a suffix of each field name.
    fn refund_queried(&self, refund: &Refund) -> Result<Outcome, Error> {
        self.same("out_trade_no", &refund.order.number)?;
        let mut suffixes = self.fields.iter().filter_map(|(name, value)| {
            let suffix = name.strip_prefix("out_refund_no_")?;
            (*value == refund.number && suffix.bytes().all(|byte| byte.is_ascii_digit())).then_some(suffix)
        });
        let suffix = suffixes.next().ok_or_else(|| Error::Mismatch("`out_refund_no` does not match".to_owned()))?;
        let numbered = |name: &str| format!("{name}_{suffix}");
        let (status, needs_review) = match self.required(&numbered("refund_status"))? {
            "SUCCESS" => (Status::Succeeded, None),
            "PROCESSING" => (Status::Pending, None),
            "REFUNDCLOSE" => (Status::Failed, None),
            "CHANGE" => {
                let why =
                    "the payer's account cannot receive the refund: complete it in the merchant console (退款异常)";
                (Status::Pending, Some(why.to_owned()))
            }
            _ => return Err(Error::unclear("unknown `refund_status`")),
        };
        let amount = self.fen(&numbered("refund_fee"))?;
        let amount = amount.ok_or_else(|| Error::unclear("the signed message has no `refund_fee`"))?;
        let time = self.field(&numbered("refund_success_time"));
        Ok(Outcome {
            amount: Some(amount),
            at: time.and_then(|time| china_time::read(time, china_time::SPACED)),
            provider_id: self.field(&numbered("refund_id")).map(str::to_owned),
            needs_review,
            ..Outcome::of(status)
        })
    }

    /// Decodes a notification. A notification of a refund made through the gateway only triggers a query.
    pub(super) fn event(&self) -> Result<Event, Error> {
        if let Some(sealed) = self.field("req_info") {
            self.check_account()?;
            let undecryptable = || Error::unclear("`req_info` cannot be decrypted");
            let inner =
                Message { account: self.account, fields: self.account.key.open(sealed).ok_or_else(undecryptable)? };
            let number = inner.required("out_refund_no")?.to_owned();
            let status = inner.required("refund_status")?;
            let amount = inner.fen("refund_fee")?;
            return Ok(Event {
                id: format!("refund:{number}:{status}"),
                order_number: inner.required("out_trade_no")?.to_owned(),
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
        self.check_account()?;
        let order_number = self.required("out_trade_no")?.to_owned();
        let outcome = match self.failure(Interface::Prepay, StatusCode::OK) {
            None => self.paid(),
            Some(_) => Err(Error::unclear("the notification reports no success")),
        };
        // WeChat Pay notifies successes only. Any other content is settled by a query.
        let outcome = match outcome {
            Ok(outcome) => Some(outcome),
            Err(Error::Unclear { .. }) => None,
            Err(error) => return Err(error),
        };
        let id_part = self.field("transaction_id").or(self.field("err_code")).unwrap_or_default();
        let id = format!("payment:{order_number}:{id_part}");
        Ok(Event { id, order_number, refund_number: None, outcome, amount: None, refunded: None })
    }
}

fn mismatch(name: &str) -> Error {
    Error::Mismatch(format!("`{name}` does not match"))
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
