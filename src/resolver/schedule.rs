//! When to ask again, and when to stop.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Outcome, Status};
use tollgate_plugins::provider::{PollInterval, ProviderSpec};

use crate::clock::Reading;
use crate::config::Channel;
use crate::ledger::{Inquiry, MAX_REPEATED_CREATES, MoneyState, Record};

/// "Not known" is believed when it was said this often after the settle window.
pub(super) const ABSENT_ENOUGH: u32 = 2;
/// The first pause between two questions; doubles each time.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between the first and the second "not known" that count.
const SECOND_WORD_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause while something is unknown; in its first minutes no longer than the other, since whoever waits for it
/// has not gone away yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const LONGEST_EARLY_PAUSE: Duration = Duration::from_secs(60);
/// The pauses between questions about what is pending grow with its age, within these bounds.
const POLL_INTERVAL: [SignedDuration; 2] = [SignedDuration::from_mins(5), SignedDuration::from_hours(24)];
/// The longest pause while questions about what is pending fail, as on a channel that was removed.
const LONGEST_SILENCE: Duration = Duration::from_hours(24);
/// A person is asked to look at what the provider has kept pending for so long; the questions go on. A doubt about what has
/// ended is given up then.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// After this time a person is asked to look at what is unknown; the questions go on at the longest pause.
pub(super) const ESCALATE_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Questions that were asked before a search may end by its age alone. A clock that jumps ages a search in a moment, but
/// brings forward only one question. In 24 hours an unknown outcome is asked about some 290 times, in 30 days a pending one
/// some 38 times.
const ENOUGH_QUESTIONS: u32 = 20;
const ATTEMPT_QUESTIONS: u32 = 100;
/// Questions, and time without a step of the clock, before a person is asked: a clock that is wrong for some seconds asks
/// nobody.
pub(super) const PERSON_QUESTIONS: u32 = 5;
const PERSON_STEADY: SignedDuration = SignedDuration::from_secs(10);
/// For so long somebody waits: a till, or whoever wants it closed.
const WAITED_FOR: SignedDuration = SignedDuration::from_mins(10);
/// Time after an order's end before the end is believed to be over: a provider takes clocks that are so far off.
const EXPIRY_MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// The same where the provider's own answers are judged by the order's end; those come first.
const JUDGED_EXPIRY_MARGIN: SignedDuration = SignedDuration::from_mins(15);
/// Time without a step of the clock that makes a longer lifetime's end certain: no process runs for a fortnight.
const EXPIRY_STEADY: SignedDuration = SignedDuration::from_hours(1);
/// A till's payment that the provider does not know and refuses to reverse is believed to be absent after this time: the
/// payer's code is good for a minute.
const REVERSAL_REFUSED: SignedDuration = SignedDuration::from_hours(1);

/// How a channel's provider is to be asked.
#[derive(Clone, Copy)]
pub(super) struct PollPolicy {
    not_found_grace: Duration,
    pace: PollInterval,
    /// How long it keeps an order open for which no end was asked.
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

    /// Those of a channel that is configured no more are as patient as any provider's.
    pub(super) fn of(channel: Option<&Arc<Channel>>) -> Self {
        let patient = Self {
            not_found_grace: Duration::from_secs(300),
            pace: PollInterval::Doubling,
            unpaid_lifetime: None,
            expiry_margin: JUDGED_EXPIRY_MARGIN,
        };
        channel.map_or(patient, |channel| Self {
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

/// What the provider said to a question, and to the close that followed it, if one did.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) asked: Result<Outcome, Error>,
    pub(super) closed: Option<Result<Outcome, Error>>,
}

impl Said {
    pub(super) fn to_question(asked: Result<Outcome, Error>) -> Self {
        Self { asked, closed: None }
    }

    fn last(&self) -> &Result<Outcome, Error> {
        self.closed.as_ref().unwrap_or(&self.asked)
    }
}

/// How the search goes on.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// The provider's word decides, or has brought it to another status with a search of its own.
    Known,
    /// It never had it.
    NeverHappened,
    /// The order's time is over and nobody has opened it.
    Expired,
    /// Nothing more is expected.
    Enough,
    Again(Inquiry),
}

/// How a search goes on after what the provider said; `chance` is from 0 to 1.
///
/// A wrong clock may have written that the search began in the future: then it begins now. The settle window is over when it
/// is over for certain, whatever the clock did meanwhile.
pub(super) fn after(
    search: Inquiry,
    record: &Record,
    said: &Said,
    manners: PollPolicy,
    time: Reading,
    chance: f64,
) -> Decision {
    let not_found_grace = SignedDuration::try_from(manners.not_found_grace).unwrap_or(SignedDuration::from_hours(24));
    let now = time.now;
    let search = Inquiry { since: search.since.min(now), ..search };
    let age = now.duration_since(search.since);
    let certain_age = time.certain_age(search.since);
    let was_pending = status_of(record) == Status::Pending;
    let is_unsure = record.ends_by_absence();
    let is_waited_for = (search.closing || is_scanned(record)) && age < WAITED_FOR;
    let still_open = said.last().as_ref().is_ok_and(|outcome| outcome.status == Status::Pending);
    if said.last().is_ok() && !(still_open && (was_pending || is_scanned(record))) {
        return Decision::Known;
    }
    let is_absent = is_absent(&said.asked);
    let absent = absences(&search, record, &said.asked, manners, time);
    // A reversal that was taken may have to be carried out first: "not known" is counted anew.
    let is_taken = is_absent && matches!(said.closed, Some(Err(Error::Conflict(_))));
    let (reversed, absent) = if is_taken { (true, 0) } else { (search.reversed, absent) };
    if absent >= ABSENT_ENOUGH {
        if was_pending && !is_unsure {
            return Decision::Expired;
        }
        let may_end = match &said.closed {
            Some(Err(Error::NotFound(_))) => true,
            Some(Err(Error::Declined(_) | Error::Unsupported(_))) => certain_age >= REVERSAL_REFUSED,
            _ => reversed || !must_be_reversed(record),
        };
        if may_end {
            return Decision::NeverHappened;
        }
    }
    if status_of(record).is_final() && age >= MAX_AGE && search.asked >= ENOUGH_QUESTIONS {
        return Decision::Enough;
    }
    // Nothing was sent there, as far as anybody knows: no person need look.
    if is_attempt(record) && (is_unsure || !was_pending) && age >= ESCALATE_AFTER && search.asked >= ATTEMPT_QUESTIONS {
        return Decision::NeverHappened;
    }
    let by_age = Duration::try_from(age / 4).unwrap_or_default();
    let doubled = doubled(search.asked).min(by_age.max(LONGEST_EARLY_PAUSE));
    let until_settled = Duration::try_from(not_found_grace - certain_age).unwrap_or_default();
    let is_steady = time.steady_for >= PERSON_STEADY;
    let is_late = age >= ESCALATE_AFTER && search.asked >= PERSON_QUESTIONS && is_steady;
    let is_overdue = age >= MAX_AGE && search.asked >= ENOUGH_QUESTIONS && is_steady;
    // A question that failed is asked again soon, and ever more seldom as the order ages.
    let is_unanswered = matches!(&said.asked, Err(error) if !matches!(error, Error::NotFound(_)));
    let wanted = if is_waited_for && (still_open || was_pending || said.closed.is_some()) {
        match manners.pace {
            PollInterval::Steady(pause) => pause,
            PollInterval::Doubling => doubled,
        }
    } else if absent > 0 && is_absent && said.closed.is_none() {
        // The provider works: only the second word is waited for, or the window.
        SECOND_WORD_PAUSE
    } else if was_pending && awaits_action(record, &search) {
        self::doubled(search.repeated_creates).max(by_age)
    } else if was_pending && is_unanswered {
        self::doubled(search.asked).max(by_age).min(LONGEST_SILENCE)
    } else if was_pending && (still_open || !is_unsure) {
        let silence = Duration::try_from(age.clamp(POLL_INTERVAL[0], POLL_INTERVAL[1])).unwrap_or(LONGEST_PAUSE);
        let until_expired = until_expired(record, manners, time).and_then(|left| Duration::try_from(left).ok());
        silence.min(until_expired.map_or(silence, |left| left.max(FIRST_PAUSE)))
    } else if is_absent && said.closed.is_none() {
        doubled.min(until_settled.max(FIRST_PAUSE))
    } else {
        doubled
    };
    // A till's payment can take money until it is reversed, however often the gateway restarted meanwhile.
    let is_open_till = is_scanned(record) && !status_of(record).is_final();
    let wanted = if is_open_till { wanted.min(LONGEST_EARLY_PAUSE) } else { wanted };
    // From three quarters to five quarters, so that what became open together is not asked about together.
    let pause = SignedDuration::try_from(wanted.mul_f64(0.75 + chance / 2.0)).unwrap_or(SignedDuration::from_secs(30));
    let needs_person = is_late && (is_unsure || is_scanned(record)) || is_overdue;
    Decision::Again(Inquiry {
        due: now.checked_add(pause).unwrap_or(now),
        asked: search.asked.saturating_add(1),
        absent,
        reversed,
        needs_person: search.needs_person
            || (needs_person && (was_pending || !is_attempt(record)) && !status_of(record).is_final()),
        ..search
    })
}

/// How often the provider has said by now that it does not know it, as far as that counts.
pub(super) fn absences(
    search: &Inquiry,
    record: &Record,
    asked: &Result<Outcome, Error>,
    manners: PollPolicy,
    time: Reading,
) -> u32 {
    if !is_absent(asked) {
        return search.absent;
    }
    let not_found_grace = SignedDuration::try_from(manners.not_found_grace).unwrap_or(SignedDuration::from_hours(24));
    let counts = if record.ends_by_absence() || status_of(record).is_final() {
        time.certain_age(search.since.min(time.now)) >= not_found_grace
    } else {
        is_expired(record, manners, time)
    };
    if counts { search.absent.saturating_add(1) } else { 0 }
}

/// Whether an order that nobody has paid is surely past its end.
pub(super) fn is_expired(record: &Record, manners: PollPolicy, time: Reading) -> bool {
    until_expired(record, manners, time).is_some_and(|left| left <= SignedDuration::ZERO)
}

/// How long until an unpaid order's end is over for certain; nothing for what has no such end. What a till scans is reversed
/// instead.
fn until_expired(record: &Record, manners: PollPolicy, time: Reading) -> Option<SignedDuration> {
    let Record::Payment(payment) = record else { return None };
    let is_open = payment.status == Status::Pending && payment.money_state != MoneyState::NotSent;
    if !is_open || payment.method.is_scanned() {
        return None;
    }
    // The provider's order begins when it is sent, which for a queued one is later than its acceptance.
    let begun_at = payment.sent_at.unwrap_or(payment.created_at);
    let lifetime = match payment.expires_at {
        Some(expires_at) => expires_at.duration_since(begun_at),
        None => SignedDuration::try_from(manners.unpaid_lifetime?).ok()?,
    };
    let lifetime = lifetime.checked_add(manners.expiry_margin)?;
    let by_clock = lifetime.checked_sub(time.now.duration_since(begun_at))?;
    let until_certain = lifetime.min(EXPIRY_STEADY).checked_sub(time.certain_age(begun_at))?;
    Some(by_clock.max(until_certain))
}

/// Whether it must be reversed before it is told as failed: a till's payment that is on its way takes money when it arrives.
pub(super) fn must_be_reversed(record: &Record) -> bool {
    is_scanned(record) && !status_of(record).is_final()
}

fn is_absent(asked: &Result<Outcome, Error>) -> bool {
    matches!(asked, Err(Error::NotFound(_)))
}

fn awaits_action(record: &Record, search: &Inquiry) -> bool {
    let may_repeat = search.repeated_creates < MAX_REPEATED_CREATES && !search.closing;
    matches!(record, Record::Payment(payment) if payment.create_request.is_some() && payment.lacks_action() && may_repeat)
}

/// The pause after so many questions.
pub(super) fn doubled(asked: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1u32.checked_shl(asked.min(20)).unwrap_or(u32::MAX)).min(LONGEST_PAUSE)
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
