//! Once only: who may run a request, what became of it, and what is left of it after a crash.

mod row;

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use self::row::{ClaimRow, KeyRow, State};
pub(super) use self::row::{is_key_open, old};
use super::attempts;
use super::changes::{add_evidence, hear, hear_payment, tell_mismatch};
use super::held::Held;
use super::records::{
    Answer, ClaimKey, Claimed, Destination, Intent, LedgerError, MoneyState, News, Payment, Record, Refund, Subject,
    Ticket,
};
use super::retention::{self, Kind};
use super::rows::{self, Id, Kept, PaymentRow, RefundRow, Target, index};
use super::searches;
use super::timeline::{self, Action, Exchanged, Heard, Source, What};
use super::transaction::{Read, Space, Transaction, View};

/// As [`Ledger::claim`](super::Ledger::claim).
pub(super) fn claim(
    tx: &mut Transaction<'_>,
    key: &ClaimKey,
    intent: Intent,
    now: Timestamp,
) -> Result<Claimed, LedgerError> {
    let name = key_name(key);
    if let Some(row) = tx.row::<KeyRow>(Space::Keys, &name.0)?
        && let Some(claim) = ClaimRow::load(tx, row.claim)?
    {
        return if row.fingerprint == key.fingerprint { claim.repeat(tx) } else { Ok(Claimed::OtherRequest) };
    }
    let asked = Asked { name, fingerprint: key.fingerprint, now };
    match intent {
        Intent::Pay(payment) if payment.merchant == key.merchant => asked.pay(tx, payment),
        Intent::Refund(refund) if refund.merchant == key.merchant => asked.refund(tx, refund),
        Intent::Close(subject) if subject.merchant == key.merchant => asked.close(tx, subject),
        _ => Err(LedgerError("the key is of one merchant and the order of another".into())),
    }
}

/// As [`Ledger::moved_to`](super::Ledger::moved_to).
pub(super) fn moved_to(
    tx: &mut Transaction<'_>,
    claim: Id,
    to: Destination,
    evidence: Vec<Exchanged>,
    now: Timestamp,
) -> Result<Payment, LedgerError> {
    let claim = ClaimRow::must(tx, claim)?;
    let mut kept = Kept::<PaymentRow>::must(tx, claim.payment)?;
    let payment = &kept.row.payment;
    if claim.state != State::Running || claim.what != Action::Pay || !is_unsent(payment.status, payment.money_state) {
        return Err(LedgerError("the payment stands otherwise by now: it must not go to another channel".into()));
    }
    if evidence.iter().any(|exchanged| exchanged.was_tried()) {
        attempts::leave(tx, &mut kept, now)?;
    }
    let Destination { channel, account, expires_at } = to;
    let payment = &mut kept.row.payment;
    (payment.channel, payment.account, payment.expires_at) = (channel.clone(), account, expires_at);
    payment.version += 1;
    payment.updated_at = now;
    let said = evidence.into_iter().map(What::Exchanged).chain([What::Moved { channel }]);
    said.into_iter().try_for_each(|what| timeline::add(tx, kept.id, None, what, now))?;
    kept.save(tx)?;
    Ok(kept.row.payment)
}

/// As [`Ledger::release`](super::Ledger::release). What was heard of meanwhile is not forgotten: then it ends as
/// [`lost`].
pub(super) fn release(
    tx: &mut Transaction<'_>,
    id: Id,
    evidence: Vec<Exchanged>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some(claim) = ClaimRow::load(tx, id)?.filter(|claim| claim.state == State::Running) else { return Ok(()) };
    let target = claim.target(tx)?;
    add_evidence(tx, &target, evidence, now)?;
    let released = What::Released { action: claim.what };
    match target {
        Target::Payment(mut kept) if claim.what == Action::Close => {
            kept.row.close = None;
            kept.save(tx)?;
            timeline::add(tx, kept.id, None, released, now)?;
        }
        Target::Payment(kept) => {
            let PaymentRow { payment, queue, mismatch, .. } = &kept.row;
            if !is_unsent(payment.status, payment.money_state) || !queue.is_empty() || mismatch.is_some() {
                return lost(tx, id, now);
            }
            attempts::forget(tx, &kept.row)?;
            rows::remove_indexes(tx, rows::payment_indexes(payment));
            timeline::remove(tx, kept.id);
            kept.remove(tx);
        }
        Target::Refund(kept) => {
            let RefundRow { refund, mismatch, .. } = &kept.row;
            if !is_unsent(refund.status, refund.money_state) || mismatch.is_some() {
                return lost(tx, id, now);
            }
            let mut payment = Kept::<PaymentRow>::must(tx, claim.payment)?;
            payment.row.refunds.retain(|refund| *refund != kept.id);
            payment.save(tx)?;
            timeline::add(tx, payment.id, Some(&refund.refund_id), released, now)?;
            rows::remove_indexes(tx, rows::refund_indexes(refund));
            kept.remove(tx);
        }
    }
    for name in &claim.names {
        tx.remove(Space::Keys, &name.0);
    }
    tx.remove(Space::Running, &id.0);
    tx.remove(Space::Claims, &id.0);
    Ok(())
}

/// As [`Ledger::settle`](super::Ledger::settle).
pub(super) fn settle(
    tx: &mut Transaction<'_>,
    id: Id,
    heard: Heard,
    now: Timestamp,
    answer: impl FnOnce(&Record) -> Answer,
) -> Result<(Record, Answer), LedgerError> {
    let claim = ClaimRow::must(tx, id)?;
    let mut target = claim.target(tx)?;
    let Heard { news, evidence } = heard;
    add_evidence(tx, &target, evidence, now)?;
    let (is_mismatch, is_unclear) = match &mut target {
        target if claim.state != State::Running => (hear_late(tx, target, &news, now)?, true),
        Target::Payment(payment) if claim.what == Action::Close => settle_close(tx, payment, &news, now)?,
        _ => (hear(tx, &mut target, &news, Source::Own, now)?.mismatch, false),
    };
    if is_mismatch {
        tell_mismatch(tx, &mut target, now)?;
    }
    let record = target.record();
    let answer = answer(&record);
    let is_unclear = is_unclear || target.status() == Status::Unknown;
    let state = if is_unclear { State::Unknown } else { State::Done(answer.clone()) };
    claim.end(tx, id, state)?;
    Ok((record, answer))
}

/// Whoever ran the claim was held for dead meanwhile and the truth was searched without it: what it brings now overwrites
/// nothing. The provider's word counts as any that comes late; what is no word of the provider's counts no more. Tells
/// whether it names another amount.
fn hear_late(tx: &mut Transaction<'_>, target: &mut Target, news: &News, now: Timestamp) -> Result<bool, LedgerError> {
    match news {
        News::Outcome(_) => Ok(hear(tx, target, news, Source::Told, now)?.mismatch),
        News::Declined(_) | News::Unknown | News::NeverHappened => Ok(false),
    }
}

/// The answer to a close says what became of the payment, or nothing about it: a refused close fails no payment. Tells
/// whether it names another amount, and whether the close's end is unclear.
fn settle_close(
    tx: &mut Transaction<'_>,
    payment: &mut Kept<PaymentRow>,
    news: &News,
    now: Timestamp,
) -> Result<(bool, bool), LedgerError> {
    let is_mismatch = match news {
        News::Outcome(_) => hear_payment(tx, payment, news, Source::Asked, now)?.mismatch,
        News::Unknown => false,
        News::Declined(_) | News::NeverHappened => return Ok((false, false)),
    };
    let is_unclear = is_mismatch || *news == News::Unknown;
    if is_unclear {
        searches::after_close(tx, payment, now)?;
    }
    Ok((is_mismatch, is_unclear))
}

/// Ends a running claim of which nobody can tell any more whether it was sent: from now on the provider is asked.
pub(super) fn lost(tx: &mut Transaction<'_>, id: Id, now: Timestamp) -> Result<(), LedgerError> {
    let Some(claim) = ClaimRow::load(tx, id)?.filter(|claim| claim.state == State::Running) else { return Ok(()) };
    let target = claim.target(tx)?;
    target.add(tx, What::Lost { action: claim.what }, now)?;
    match target {
        Target::Payment(mut payment) if claim.what == Action::Close => searches::after_close(tx, &mut payment, now)?,
        mut target => drop(hear(tx, &mut target, &News::Unknown, Source::Own, now)?),
    }
    claim.end(tx, id, State::Unknown)
}

/// After a start: whatever was running, nobody runs any more.
pub(super) fn recover(tx: &mut Transaction<'_>, view: &View, now: Timestamp) -> Result<(), LedgerError> {
    for (id, _) in view.all(Space::Running)? {
        let id = Id::from_bytes(&id)?;
        // One that cannot be read must not keep all others from being served.
        if let Err(error) = lost(tx, id, now) {
            let claim = String::from(id);
            tracing::error!(%error, claim, "a claim of the last run cannot be ended; a person must look at it");
        }
    }
    Ok(())
}

/// The payment that a claim is about.
pub(super) fn payment_of(from: &impl Read, id: Id) -> Result<Option<Id>, LedgerError> {
    Ok(ClaimRow::load(from, id)?.map(|claim| claim.payment))
}

/// Where a key lies.
pub(super) fn key_name(key: &ClaimKey) -> Id {
    index("key", &[&key.merchant, &key.method, &key.path, &key.key])
}

/// A request that no claim is known of by its key.
struct Asked {
    name: Id,
    fingerprint: [u8; 32],
    now: Timestamp,
}

impl Asked {
    fn pay(self, tx: &mut Transaction<'_>, payment: Payment) -> Result<Claimed, LedgerError> {
        let now = self.now;
        if let Some(mut known) = rows::find_payment(tx, &payment.merchant, &payment.order_id)? {
            if known.row.payment.content != payment.content {
                return Ok(Claimed::OtherContent);
            }
            if let Some(claim) = ClaimRow::load(tx, known.row.claim)? {
                return self.again(tx, known.row.claim, claim);
            }
            known.row.claim = self.told(tx, Action::Pay, known.id, None)?;
            known.save(tx)?;
            return Ok(Claimed::Present(Record::Payment(known.row.payment)));
        }
        let payment = Payment {
            status: Status::Pending,
            money_state: MoneyState::NotSent,
            refunded: 0,
            version: 1,
            created_at: now,
            updated_at: now,
            search: None,
            ..payment
        };
        let id = tx.new_id(now);
        let claim = self.run(tx, Action::Pay, id, None)?;
        rows::add_indexes(tx, rows::payment_indexes(&payment), id)?;
        Kept::new(id, PaymentRow::new(payment.clone(), claim)).save(tx)?;
        let (channel, amount) = (payment.channel.clone(), payment.amount);
        timeline::add(tx, id, None, What::Claimed { action: Action::Pay, channel, amount }, now)?;
        Ok(ticket(claim, rows::payment_subject(&payment), payment, None))
    }

    fn refund(self, tx: &mut Transaction<'_>, refund: Refund) -> Result<Claimed, LedgerError> {
        let now = self.now;
        if let Some(mut known) = rows::find_refund(tx, &refund.merchant, &refund.order_id, &refund.refund_id)? {
            if known.row.refund.content != refund.content {
                return Ok(Claimed::OtherContent);
            }
            if let Some(claim) = ClaimRow::load(tx, known.row.claim)? {
                return self.again(tx, known.row.claim, claim);
            }
            known.row.claim = self.told(tx, Action::Refund, known.row.payment, Some(known.id))?;
            known.save(tx)?;
            return Ok(Claimed::Present(Record::Refund(known.row.refund)));
        }
        let Some(mut kept) = rows::find_payment(tx, &refund.merchant, &refund.order_id)? else {
            return Ok(Claimed::NotFound);
        };
        let paid = &kept.row.payment;
        if paid.status != Status::Succeeded || paid.amount.currency != refund.amount.currency {
            return Ok(Claimed::Refused(kept.row.payment));
        }
        let left = left(tx, &kept.row)?;
        if refund.amount.value > left {
            return Ok(Claimed::TooMuch { left });
        }
        let refund = Refund {
            status: Status::Pending,
            money_state: MoneyState::NotSent,
            channel: paid.channel.clone(),
            version: 1,
            created_at: now,
            updated_at: now,
            search: None,
            ..refund
        };
        let id = tx.new_id(now);
        let claim = self.run(tx, Action::Refund, kept.id, Some(id))?;
        rows::add_indexes(tx, rows::refund_indexes(&refund), id)?;
        let row = RefundRow { refund: refund.clone(), payment: kept.id, claim, mismatch: None };
        Kept::new(id, row).save(tx)?;
        kept.row.refunds.push(id);
        kept.save(tx)?;
        let (channel, amount) = (refund.channel.clone(), refund.amount);
        let what = What::Claimed { action: Action::Refund, channel, amount };
        timeline::add(tx, kept.id, Some(&refund.refund_id), what, now)?;
        Ok(ticket(claim, rows::refund_subject(&refund), kept.row.payment, Some(refund)))
    }

    fn close(self, tx: &mut Transaction<'_>, subject: Subject) -> Result<Claimed, LedgerError> {
        let Some(mut kept) = rows::find_payment(tx, &subject.merchant, &subject.order_id)? else {
            return Ok(Claimed::NotFound);
        };
        match kept.row.payment.status {
            Status::Succeeded => return Ok(Claimed::Refused(kept.row.payment)),
            Status::Failed | Status::Closed => return Ok(Claimed::Present(Record::Payment(kept.row.payment))),
            // It is closed as soon as it is known to be open.
            Status::Unknown => {
                searches::after_close(tx, &mut kept, self.now)?;
                return Ok(Claimed::Present(Record::Payment(kept.row.payment)));
            }
            Status::Pending => {}
        }
        // A close that overtakes the payment it closes would find nothing to close, and the payment would live on.
        for claim in [Some(kept.row.claim), kept.row.close].into_iter().flatten() {
            if ClaimRow::load(tx, claim)?.is_some_and(|claim| claim.state == State::Running) {
                return Ok(Claimed::Running);
            }
        }
        let (now, channel, amount) = (self.now, kept.row.payment.channel.clone(), kept.row.payment.amount);
        let claim = self.run(tx, Action::Close, kept.id, None)?;
        timeline::add(tx, kept.id, None, What::Claimed { action: Action::Close, channel, amount }, now)?;
        kept.row.close = Some(claim);
        kept.save(tx)?;
        Ok(ticket(claim, rows::payment_subject(&kept.row.payment), kept.row.payment, None))
    }

    /// The same content under another key: that key is bound to it from now on.
    fn again(self, tx: &mut Transaction<'_>, id: Id, mut claim: ClaimRow) -> Result<Claimed, LedgerError> {
        tx.put_row(Space::Keys, &self.name.0, &KeyRow { claim: id, fingerprint: self.fingerprint })?;
        // Only a running claim can be released, and then its keys go with it. Later ones grow old by themselves, so that
        // the claim stays small.
        if claim.state == State::Running {
            claim.names.push(self.name);
        } else {
            retention::age(tx, Kind::LateKeys, self.name, self.now);
        }
        claim.bound_at = Some(self.now);
        claim.save(tx, id)?;
        claim.repeat(tx)
    }

    /// A repetition of what was done so long ago that its claim is gone: it is told how it stands, and its key is kept as
    /// any.
    fn told(self, tx: &mut Transaction<'_>, what: Action, payment: Id, refund: Option<Id>) -> Result<Id, LedgerError> {
        self.begin(tx, what, payment, refund, State::Unknown)
    }

    fn run(self, tx: &mut Transaction<'_>, what: Action, payment: Id, refund: Option<Id>) -> Result<Id, LedgerError> {
        let id = self.begin(tx, what, payment, refund, State::Running)?;
        tx.put(Space::Running, &id.0, []);
        Ok(id)
    }

    fn begin(
        self,
        tx: &mut Transaction<'_>,
        what: Action,
        payment: Id,
        refund: Option<Id>,
        state: State,
    ) -> Result<Id, LedgerError> {
        let id = tx.new_id(self.now);
        let names = vec![self.name];
        ClaimRow { what, payment, refund, names, state, created_at: self.now, bound_at: None }.save(tx, id)?;
        tx.put_row(Space::Keys, &self.name.0, &KeyRow { claim: id, fingerprint: self.fingerprint })?;
        Ok(id)
    }
}

/// What no refund has taken yet; one whose end is open has taken its part.
fn left(tx: &Transaction<'_>, row: &PaymentRow) -> Result<u64, LedgerError> {
    let mut left = row.payment.amount.value;
    for id in &row.refunds {
        let refund = Kept::<RefundRow>::must(tx, *id)?.row.refund;
        if refund.status != Status::Failed {
            left = left.saturating_sub(refund.amount.value);
        }
    }
    Ok(left)
}

fn ticket(claim: Id, subject: Subject, payment: Payment, refund: Option<Refund>) -> Claimed {
    Claimed::Run(Ticket { claim, held: Held::default(), subject, payment, refund, evidence: Vec::new() })
}

fn is_unsent(status: Status, money_state: MoneyState) -> bool {
    status == Status::Pending && money_state == MoneyState::NotSent
}
