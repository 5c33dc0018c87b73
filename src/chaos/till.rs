//! A till that scans payers' codes: what becomes of a code, and what the payer and the till do meanwhile.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::client::ClientSession;
use super::environment::number;
use super::ways::PayMethod;

/// What becomes of a scanned code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The money moves at once.
    PaidAtOnce,
    /// USERPAYING: the payer types a password, and pays.
    Paid,
    /// USERPAYING: the payer pays while the till gives up.
    PaidWhileGivenUp,
    /// USERPAYING: nobody types, and the till gives up.
    GivenUp,
    /// USERPAYING: nobody types, and nobody gives up.
    Abandoned,
    /// The provider declines it.
    Declined,
    /// USERPAYING, then PAYERROR: the payer was not charged.
    PayError,
    /// WeChat Pay: USERPAYING, then PAYERROR: the payer was charged.
    ChargedPayError,
}

use Scan::{Abandoned, ChargedPayError, Declined, GivenUp, Paid, PaidAtOnce, PaidWhileGivenUp, PayError};

/// Each with its name in the report and its weight beside the others.
const SCANS: [(Scan, &str, u32); 8] = [
    (PaidAtOnce, "paid at once", 58),
    (Paid, "USERPAYING then paid", 15),
    (PaidWhileGivenUp, "paid while given up", 5),
    (GivenUp, "given up", 5),
    (Abandoned, "USERPAYING for ever", 4),
    (Declined, "declined", 5),
    (PayError, "PAYERROR", 4),
    (ChargedPayError, "PAYERROR but charged", 4),
];

/// Queries that a charged payment is called PAYERROR in, at most.
const MAX_PAY_ERRORS: u32 = 4;

impl Scan {
    pub(super) fn draw(random: &mut StdRng, way: &PayMethod) -> Option<Self> {
        if !way.is_scanned() {
            return None;
        }
        let all: u32 = SCANS.iter().map(|(.., weight)| weight).sum();
        let mut left = random.random_range(0..all);
        let drawn = SCANS.iter().find(|(.., weight)| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        match drawn {
            // No other provider calls a payment failed that was charged.
            Some((ChargedPayError, ..)) if !way.is_wechat() => Some(PayError),
            drawn => drawn.map(|(scan, ..)| *scan),
        }
    }

    pub(super) fn name(self) -> &'static str {
        SCANS.iter().find(|(scan, ..)| *scan == self).map_or("", |(_, name, _)| name)
    }

    /// Last digits of the payer's code, by which the sandbox goes.
    pub(super) fn code_end(self) -> &'static str {
        match self {
            PaidAtOnce | ChargedPayError => "1000",
            Declined => "0002",
            _ => "0001",
        }
    }
}

impl ClientSession<'_> {
    /// Scripts what the provider is to say of a charged payment, before the code is scanned.
    pub(super) async fn script_pay_error(&mut self) {
        let number = number(&self.story.order);
        // APIv2 says everything with status 200.
        let status = if self.story.way.channel == "wechat" { 202 } else { 200 };
        let typing = json!({"operation": "create", "fault": "status_after", "status": status, "code": "USERPAYING",
                            "number": number});
        let times = if self.random.random_bool(0.8) { 1000 } else { self.random.random_range(1..=MAX_PAY_ERRORS) };
        let failed = json!({"operation": "query", "fault": "pay_error", "number": number, "times": times});
        for fault in [typing, failed] {
            if let Err(why) = self.world.fault(fault).await {
                self.story.wrong.push(why);
            }
        }
    }

    /// What the payer and the till do after the code was scanned.
    pub(super) async fn after_scan(&mut self, scan: Scan) {
        let path = format!("/orders/{}", number(&self.story.order));
        let (pay, fail) = (format!("{path}/pay"), format!("{path}/fail"));
        // The order may be over already, or may never have come to the provider: then the payer can do nothing.
        match scan {
            Paid => {
                self.pause(2000).await;
                let _ = self.world.control("POST", &pay, json!({})).await;
            }
            PaidWhileGivenUp => {
                let (world, wait) = (self.world, self.random.random_range(0..300));
                let payer = async {
                    tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
                    let _ = world.control("POST", &pay, json!({})).await;
                };
                tokio::join!(self.takes_back(), payer);
            }
            GivenUp => {
                self.pause(1000).await;
                self.takes_back().await;
            }
            PayError => {
                self.pause(1000).await;
                let _ = self.world.control("POST", &fail, Value::Null).await;
            }
            PaidAtOnce | Abandoned | Declined | ChargedPayError => {}
        }
        // What never came to the provider ends only when nothing disturbs any more.
        if matches!(scan, PaidAtOnce | Paid) && self.is_charged().await {
            self.maybe_gives_back().await;
        }
    }

    async fn is_charged(&self) -> bool {
        let seen = self.world.seen(&self.story.order).await;
        matches!(seen, Ok(Some(seen)) if seen["paid"].is_u64())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::super::ways::WAYS;
    use super::*;

    #[test]
    fn every_scanned_way_meets_every_outcome_of_its_provider() {
        let mut random = StdRng::seed_from_u64(1);
        for way in WAYS {
            let drawn = (0..2000).filter_map(|_| Scan::draw(&mut random, way));
            let drawn: BTreeSet<&str> = drawn.map(Scan::name).collect();
            let expected =
                SCANS.iter().filter(|(scan, ..)| way.is_scanned() && (way.is_wechat() || *scan != ChargedPayError));
            let expected: BTreeSet<&str> = expected.map(|(_, name, _)| *name).collect();
            assert_eq!(drawn, expected, "{} over {}", way.method, way.channel);
        }
    }
}
