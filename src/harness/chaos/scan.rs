//! Outcomes of a payer's code that a till scans, and their weights.

use rand::RngExt;
use rand::rngs::StdRng;

use super::pay_methods::PayMethod;

/// Outcome of a scanned code, with the behaviour of payer and till.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanOutcome {
    /// The code is charged immediately.
    PaidAtOnce,
    /// USERPAYING: the payer enters the password and pays.
    PaidLater,
    /// USERPAYING: the payer pays while the till closes the payment.
    PaidDuringClose,
    /// USERPAYING: the payer does nothing and the till closes the payment.
    Closed,
    /// USERPAYING: neither payer nor till does anything.
    Abandoned,
    /// The provider declines the code.
    Declined,
    /// USERPAYING, then PAYERROR: the payer is not charged.
    PayError,
    /// WeChat Pay: USERPAYING, then PAYERROR, although the payer is charged.
    ChargedPayError,
}

use ScanOutcome::{Abandoned, ChargedPayError, Closed, Declined, PaidAtOnce, PaidDuringClose, PaidLater, PayError};

/// Every outcome with its name in the report and its relative weight.
const OUTCOMES: [(ScanOutcome, &str, u32); 8] = [
    (PaidAtOnce, "paid at once", 58),
    (PaidLater, "USERPAYING, then paid", 15),
    (PaidDuringClose, "paid during close", 5),
    (Closed, "closed by the till", 5),
    (Abandoned, "USERPAYING until timeout", 4),
    (Declined, "declined", 5),
    (PayError, "PAYERROR", 4),
    (ChargedPayError, "PAYERROR, but charged", 4),
];

impl ScanOutcome {
    /// Draws an outcome by weight. Returns `None` for methods without a scanned code.
    pub(super) fn draw(random: &mut StdRng, method: &PayMethod) -> Option<Self> {
        if !method.is_scanned() {
            return None;
        }
        let total: u32 = OUTCOMES.iter().map(|(.., weight)| weight).sum();
        let mut rest = random.random_range(0..total);
        let drawn = OUTCOMES.iter().find(|(.., weight)| match rest.checked_sub(*weight) {
            Some(remaining) => {
                rest = remaining;
                false
            }
            None => true,
        });
        match drawn {
            // Only WeChat Pay reports a charged payment as failed.
            Some((ChargedPayError, ..)) if !method.is_wechat() => Some(PayError),
            drawn => drawn.map(|(outcome, ..)| *outcome),
        }
    }

    /// Name in the report.
    pub(super) fn name(self) -> &'static str {
        OUTCOMES.iter().find(|(outcome, ..)| *outcome == self).map_or("", |(_, name, _)| name)
    }

    /// Last digits of the payer's code. The sandbox decides by them how it responds.
    pub(super) fn code_suffix(self) -> &'static str {
        match self {
            PaidAtOnce | ChargedPayError => "1000",
            Declined => "0002",
            _ => "0001",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::super::pay_methods::PAY_METHODS;
    use super::*;

    #[test]
    fn scan_outcomes_of_each_method_are_all_drawn_and_charged_pay_error_only_for_wechat() {
        let mut random = StdRng::seed_from_u64(1);
        for method in PAY_METHODS {
            let drawn = (0..2000).filter_map(|_| ScanOutcome::draw(&mut random, method));
            let drawn: BTreeSet<&str> = drawn.map(ScanOutcome::name).collect();
            let expected = OUTCOMES
                .iter()
                .filter(|(outcome, ..)| method.is_scanned() && (method.is_wechat() || *outcome != ChargedPayError));
            let expected: BTreeSet<&str> = expected.map(|(_, name, _)| *name).collect();
            assert_eq!(drawn, expected, "{} over {}", method.method, method.channel);
        }
    }
}
