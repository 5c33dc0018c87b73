//! The resolver's schedule: intervals between queries, and the conditions under which queries end.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tollgate_ledger::{Inquiry, MAX_REPEATED_CREATES, MoneyState, Record};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Outcome, Status};
use tollgate_plugins::provider::{PollInterval, ProviderSpec};

use crate::clock::Reading;
use crate::snapshot::Channel;

/// Number of not-found answers after `not_found_grace` that prove absence.
pub(super) const MIN_NOT_FOUND_ANSWERS: u32 = 2;
/// Interval before the second query; doubles with each query.
pub(super) const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between the first and the second not-found answer that count.
const NOT_FOUND_RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum interval while an outcome is unknown. In the first minutes the second limit applies, because a caller may
/// still wait for the result.
const MAX_INTERVAL: Duration = Duration::from_secs(300);
const MAX_EARLY_INTERVAL: Duration = Duration::from_secs(60);
/// Bounds of the poll interval for pending outcomes. Within them the interval equals the record's age.
const PENDING_POLL_INTERVAL: [SignedDuration; 2] = [SignedDuration::from_mins(5), SignedDuration::from_hours(24)];
/// Maximum interval while queries about a pending record fail, for example because its channel was removed.
const MAX_FAILED_POLL_INTERVAL: Duration = Duration::from_hours(24);
/// A record that is pending for this long is escalated to manual review, and polling continues. An inquiry about a
/// final record ends, and so does one about a refund made elsewhere that the provider still does not find.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// An outcome that is unknown for this long is escalated to manual review. Queries continue at the maximum interval.
pub(super) const ESCALATE_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Minimum number of queries before an inquiry may end by its age alone. A clock step ages an inquiry in a moment,
/// but triggers only one query. An unknown outcome is queried about 290 times in 24 hours, a pending one about 38
/// times in 30 days.
const MIN_QUERIES_BEFORE_END: u32 = 20;
const MIN_QUERIES_BEFORE_ATTEMPT_END: u32 = 100;
/// Minimum number of queries, and minimum time without a clock step, before an escalation. A clock that is wrong for
/// a few seconds escalates nothing.
pub(super) const MIN_QUERIES_BEFORE_REVIEW: u32 = 5;
const MIN_STEADY_BEFORE_REVIEW: SignedDuration = SignedDuration::from_secs(10);
/// Time for which a caller (a till or a close request) is assumed to wait for the result.
const CALLER_WAIT_TIME: SignedDuration = SignedDuration::from_mins(10);
/// Time after an order's expiry before it counts as expired: providers tolerate such clock differences.
const EXPIRY_MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// [`EXPIRY_MARGIN`] for providers whose own answers depend on the expiry; those answers should come first.
const JUDGED_EXPIRY_MARGIN: SignedDuration = SignedDuration::from_mins(15);
/// Upper bound of the time without a clock step that an expiry requires, because processes may restart often.
const MAX_STEADY_BEFORE_EXPIRY: SignedDuration = SignedDuration::from_hours(1);
/// Time after which a till payment counts as absent if the provider does not know it and refuses its reversal. The
/// payer's code is valid for about a minute.
const REFUSED_REVERSAL_TIMEOUT: SignedDuration = SignedDuration::from_hours(1);

/// Polling policy of a channel.
#[derive(Clone, Copy)]
pub(super) struct PollPolicy {
    not_found_grace: Duration,
    pace: PollInterval,
    /// Lifetime of an unpaid order without `expires_at`, set by the provider.
    unpaid_lifetime: Option<Duration>,
    expiry_margin: SignedDuration,
}

impl PollPolicy {
    #[cfg(test)]
    pub(super) const TEST: Self = Self {
        not_found_grace: Duration::from_secs(30),
        pace: PollInterval::Steady(Duration::from_secs(3)),
        unpaid_lifetime: Some(Duration::from_secs(3600)),
        expiry_margin: EXPIRY_MARGIN,
    };

    /// Returns the policy of a channel. A channel that was removed gets the most cautious values of all providers.
    pub(super) fn of(channel: Option<&Arc<Channel>>) -> Self {
        let default = Self {
            not_found_grace: Duration::from_secs(300),
            pace: PollInterval::Doubling,
            unpaid_lifetime: None,
            expiry_margin: JUDGED_EXPIRY_MARGIN,
        };
        channel.map_or(default, |channel| Self {
            not_found_grace: channel.not_found_grace,
            pace: channel.pace,
            unpaid_lifetime: ProviderSpec::named(channel.provider_name).and_then(|row| row.unpaid_lifetime),
            expiry_margin: match channel.provider.default_expiry() {
                Some(_) => JUDGED_EXPIRY_MARGIN,
                None => EXPIRY_MARGIN,
            },
        })
    }
}

/// Results of a query and of the close that followed it, if any.
#[derive(Debug)]
pub(super) struct ProviderResponses {
    pub(super) query: Result<Outcome, Error>,
    pub(super) close: Option<Result<Outcome, Error>>,
}

impl ProviderResponses {
    pub(super) fn of_query(query_result: Result<Outcome, Error>) -> Self {
        Self { query: query_result, close: None }
    }

    fn last(&self) -> &Result<Outcome, Error> {
        self.close.as_ref().unwrap_or(&self.query)
    }
}

/// Decision after a query.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// The provider's answer is conclusive, or moved the record to a status with an inquiry of its own.
    Known,
    /// The provider never received the request.
    NeverHappened,
    /// The order expired before anyone opened it.
    Expired,
    /// No further answer is expected.
    Enough,
    /// A success that a close may have reversed was not confirmed: manual review decides.
    Unconfirmed,
    Again(Inquiry),
}

/// Decides how an inquiry continues after the provider's answers; `random` is from 0 to 1.
///
/// A start time in the future, written by a wrong clock, counts as now. The grace period ends only in certain time,
/// whatever the clock did meanwhile.
pub(super) fn decide(
    inquiry: Inquiry,
    record: &Record,
    responses: &ProviderResponses,
    policy: PollPolicy,
    time: Reading,
    random: f64,
) -> Decision {
    let not_found_grace = SignedDuration::try_from(policy.not_found_grace).unwrap_or(SignedDuration::from_hours(24));
    let now = time.now;
    let inquiry = Inquiry { since: inquiry.since.min(now), ..inquiry };
    let age = now.duration_since(inquiry.since);
    let certain_age = time.certain_age(inquiry.since);
    let was_pending = status_of(record) == Status::Pending;
    let ends_by_absence = record.ends_by_absence();
    let caller_waits = (inquiry.closing || is_scanned(record)) && age < CALLER_WAIT_TIME;
    let still_open = responses.last().as_ref().is_ok_and(|outcome| outcome.status == Status::Pending);
    if responses.last().is_ok() && !(still_open && (was_pending || is_scanned(record) || inquiry.closing)) {
        return Decision::Known;
    }
    let is_not_found = is_not_found(&responses.query);
    let not_found = not_found_count(&inquiry, record, &responses.query, policy, time);
    // An accepted reversal may take time at the provider, so not-found answers are counted anew.
    let reversal_accepted = is_not_found && matches!(responses.close, Some(Err(Error::Conflict(_))));
    let (reversed, not_found) = if reversal_accepted { (true, 0) } else { (inquiry.reversed, not_found) };
    // A success that is being confirmed does not end by absence.
    let is_confirming = inquiry.confirmations > 0 && status_of(record).is_final();
    if not_found >= MIN_NOT_FOUND_ANSWERS && !is_confirming {
        if was_pending && !ends_by_absence {
            return Decision::Expired;
        }
        let may_end = match &responses.close {
            Some(Err(Error::NotFound(_))) => true,
            Some(Err(Error::Declined(_) | Error::Unsupported(_))) => certain_age >= REFUSED_REVERSAL_TIMEOUT,
            _ => reversed || !must_be_reversed(record),
        };
        if may_end {
            return Decision::NeverHappened;
        }
    }
    let is_steady = time.steady_for >= MIN_STEADY_BEFORE_REVIEW;
    let is_over = age >= MAX_AGE && inquiry.asked >= MIN_QUERIES_BEFORE_END;
    if status_of(record).is_final() && is_over && !is_confirming {
        return Decision::Enough;
    }
    if is_confirming && is_over && is_steady {
        return Decision::Unconfirmed;
    }
    // A person was told twice: when the provider did not find the refund, and when it stayed open. Without an end the
    // payment could never be purged.
    let is_absent_elsewhere = is_not_found && matches!(record, Record::Refund(refund) if refund.is_elsewhere());
    if is_absent_elsewhere && is_over && inquiry.needs_review {
        return Decision::Enough;
    }
    // As far as known nothing was sent on this abandoned channel, so no review is needed.
    if is_attempt(record)
        && (ends_by_absence || !was_pending)
        && age >= ESCALATE_AFTER
        && inquiry.asked >= MIN_QUERIES_BEFORE_ATTEMPT_END
    {
        return Decision::NeverHappened;
    }
    let age_interval = Duration::try_from(age / 4).unwrap_or_default();
    let backoff = backoff(inquiry.asked).min(age_interval.max(MAX_EARLY_INTERVAL));
    let until_settled = Duration::try_from(not_found_grace - certain_age).unwrap_or_default();
    let escalates_unknown = age >= ESCALATE_AFTER && inquiry.asked >= MIN_QUERIES_BEFORE_REVIEW && is_steady;
    let escalates_pending = is_over && is_steady;
    // A failed query is repeated soon, then at intervals that grow with the order's age.
    let is_unanswered = matches!(&responses.query, Err(error) if !matches!(error, Error::NotFound(_)));
    let interval = if caller_waits && (still_open || was_pending || responses.close.is_some()) {
        match policy.pace {
            PollInterval::Steady(pause) => pause,
            PollInterval::Doubling => backoff,
        }
    } else if is_confirming {
        self::backoff(inquiry.asked).max(age_interval).min(MAX_FAILED_POLL_INTERVAL)
    } else if not_found > 0 && is_not_found && responses.close.is_none() {
        // The provider answers. Only the second not-found answer or the end of the grace period is missing.
        NOT_FOUND_RECHECK_INTERVAL
    } else if was_pending && awaits_action(record, &inquiry) {
        self::backoff(inquiry.repeated_creates).max(age_interval)
    } else if was_pending && is_unanswered {
        self::backoff(inquiry.asked).max(age_interval).min(MAX_FAILED_POLL_INTERVAL)
    } else if was_pending && (still_open || !ends_by_absence) {
        let poll_interval =
            Duration::try_from(age.clamp(PENDING_POLL_INTERVAL[0], PENDING_POLL_INTERVAL[1])).unwrap_or(MAX_INTERVAL);
        let until_expired = until_expired(record, policy, time).and_then(|left| Duration::try_from(left).ok());
        poll_interval.min(until_expired.map_or(poll_interval, |left| left.max(MIN_INTERVAL)))
    } else if is_not_found && responses.close.is_none() {
        backoff.min(until_settled.max(MIN_INTERVAL))
    } else {
        backoff
    };
    // A scanned payment can take money until it is reversed, however often the gateway restarted meanwhile.
    let is_open_till = is_scanned(record) && !status_of(record).is_final();
    let interval = if is_open_till { interval.min(MAX_EARLY_INTERVAL) } else { interval };
    // An order that is being closed can still be paid.
    let is_being_closed = inquiry.closing && !status_of(record).is_final();
    let interval = if is_being_closed { interval.min(MAX_INTERVAL) } else { interval };
    // Jitter from 75 % to 125 % spreads the queries of records that were opened together.
    let pause =
        SignedDuration::try_from(interval.mul_f64(0.75 + random / 2.0)).unwrap_or(SignedDuration::from_secs(30));
    let needs_review =
        escalates_unknown && (ends_by_absence || is_scanned(record) || is_confirming) || escalates_pending;
    Decision::Again(Inquiry {
        due: now.checked_add(pause).unwrap_or(now),
        asked: inquiry.asked.saturating_add(1),
        absent: not_found,
        reversed,
        needs_review: inquiry.needs_review
            || (needs_review
                && (was_pending || !is_attempt(record))
                && (is_confirming || !status_of(record).is_final())),
        ..inquiry
    })
}

/// Returns the number of not-found answers that count, including this one.
pub(super) fn not_found_count(
    inquiry: &Inquiry,
    record: &Record,
    query_result: &Result<Outcome, Error>,
    policy: PollPolicy,
    time: Reading,
) -> u32 {
    if !is_not_found(query_result) {
        return inquiry.absent;
    }
    let not_found_grace = SignedDuration::try_from(policy.not_found_grace).unwrap_or(SignedDuration::from_hours(24));
    let counts = if record.ends_by_absence() || status_of(record).is_final() {
        time.certain_age(inquiry.since.min(time.now)) >= not_found_grace
    } else {
        is_expired(record, policy, time)
    };
    if counts { inquiry.absent.saturating_add(1) } else { 0 }
}

/// Returns whether an unpaid order has certainly expired.
pub(super) fn is_expired(record: &Record, policy: PollPolicy, time: Reading) -> bool {
    until_expired(record, policy, time).is_some_and(|left| left <= SignedDuration::ZERO)
}

/// Returns the time until an unpaid order has certainly expired; `None` if it cannot expire. Till payments are
/// reversed instead.
fn until_expired(record: &Record, policy: PollPolicy, time: Reading) -> Option<SignedDuration> {
    let Record::Payment(payment) = record else { return None };
    let is_open = payment.status == Status::Pending && payment.money_state != MoneyState::NotSent;
    if !is_open || payment.method.is_scanned() {
        return None;
    }
    // The provider's order starts when it is sent, which for a queued payment is after its acceptance.
    let started_at = payment.sent_at.unwrap_or(payment.created_at);
    let lifetime = match payment.expires_at {
        Some(expires_at) => expires_at.duration_since(started_at),
        None => SignedDuration::try_from(policy.unpaid_lifetime?).ok()?,
    };
    let lifetime = lifetime.checked_add(policy.expiry_margin)?;
    let remaining_by_clock = lifetime.checked_sub(time.now.duration_since(started_at))?;
    let remaining_certain = lifetime.min(MAX_STEADY_BEFORE_EXPIRY).checked_sub(time.certain_age(started_at))?;
    Some(remaining_by_clock.max(remaining_certain))
}

/// Returns whether the payment must be reversed before it is reported as failed: a till payment in transit takes
/// money on arrival.
pub(super) fn must_be_reversed(record: &Record) -> bool {
    is_scanned(record) && !status_of(record).is_final()
}

fn is_not_found(query_result: &Result<Outcome, Error>) -> bool {
    matches!(query_result, Err(Error::NotFound(_)))
}

fn awaits_action(record: &Record, inquiry: &Inquiry) -> bool {
    let may_repeat = inquiry.repeated_creates < MAX_REPEATED_CREATES && !inquiry.closing;
    matches!(record, Record::Payment(payment) if payment.create_request.is_some() && payment.lacks_action() && may_repeat)
}

/// Returns the exponential back-off interval after `asked` queries.
pub(super) fn backoff(asked: u32) -> Duration {
    MIN_INTERVAL.saturating_mul(1u32.checked_shl(asked.min(20)).unwrap_or(u32::MAX)).min(MAX_INTERVAL)
}

pub(super) fn status_of(record: &Record) -> Status {
    match record {
        Record::Payment(payment) => payment.status,
        Record::Refund(refund) => refund.status,
    }
}

fn is_scanned(record: &Record) -> bool {
    matches!(record, Record::Payment(payment) if payment.method.is_scanned())
}

fn is_attempt(record: &Record) -> bool {
    matches!(record, Record::Payment(payment) if payment.is_attempt())
}

#[cfg(test)]
mod tests;
