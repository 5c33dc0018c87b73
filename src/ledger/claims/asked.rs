//! A request on its way to become a claim, and what it may begin where none is known by its key.

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use super::errands::{self, Later};
use super::key_name;
use super::row::{ClaimRow, KeyRow, State};
use crate::ledger::held::Turn;
use crate::ledger::ids::Id;
use crate::ledger::limits::QueueFull;
use crate::ledger::records::{
    ClaimKey, Claimed, Errand, Intent, LedgerError, MoneyState, Payment, Record, Refund, Subject, Ticket,
};
use crate::ledger::retention::{self, Kind};
use crate::ledger::rows::{self, Kept, PaymentRow, RefundRow};
use crate::ledger::searches;
use crate::ledger::timeline::{self, Action, What};
use crate::ledger::transaction::{Space, Transaction};

/// A request, with what can be told of it before it is its turn.
#[derive(Clone)]
pub(in crate::ledger) struct Request {
    pub(super) asked: Asked,
    pub(super) intent: Intent,
}

impl Request {
    /// In a box: each step on its way to where it is its turn would copy it.
    pub(in crate::ledger) fn new(
        key: &ClaimKey,
        intent: Intent,
        later: Option<Later>,
        now: Timestamp,
    ) -> Result<Box<Self>, LedgerError> {
        let (merchant, entry) = match &intent {
            Intent::Pay(payment) => {
                let Payment { merchant, order_id, number, .. } = payment;
                let entry = rows::order_entry(merchant, order_id);
                must_follow(number, !payment.is_attempt() && rows::entry_of_payment(payment) == entry)?;
                (merchant, entry)
            }
            Intent::Refund(refund) => {
                let Refund { merchant, order_id, refund_id, number, .. } = refund;
                let entry = rows::refund_entry(merchant, order_id, refund_id);
                must_follow(number, rows::entry_of_refund(refund) == entry)?;
                (merchant, entry)
            }
            Intent::Close(Subject { merchant, order_id, .. }) => (merchant, rows::order_entry(merchant, order_id)),
        };
        if *merchant != key.merchant {
            return Err(LedgerError("the key is of one merchant and the order of another".into()));
        }
        let asked = Asked { name: key_name(key), fingerprint: key.fingerprint, entry, later, now };
        Ok(Box::new(Self { asked, intent }))
    }
}

/// Under another number than its own it would not be found, and could take the notifications of another one.
fn must_follow(number: &str, follows: bool) -> Result<(), LedgerError> {
    match follows {
        true => Ok(()),
        false => Err(LedgerError(format!("`{number}` is not the provider's number that follows from its name"))),
    }
}

impl Request {
    /// Says which limit of the queue is reached, for what is to be made later.
    pub(in crate::ledger) fn queue_is(&mut self, full: Option<QueueFull>) {
        if let Some(later) = &mut self.asked.later {
            later.full = full;
        }
    }
}

/// All of it but what it intends.
#[derive(Clone)]
pub(super) struct Asked {
    /// Where its key lies.
    pub(super) name: Id,
    pub(super) fingerprint: [u8; 32],
    /// The index entry of what it is to make or to close.
    entry: Id,
    /// What is to be made later.
    later: Option<Later>,
    now: Timestamp,
}

impl Asked {
    pub(super) fn pay(self, tx: &mut Transaction<'_>, payment: Payment) -> Result<Claimed, LedgerError> {
        let (now, entry) = (self.now, self.entry);
        if let Some(mut known) = Kept::<PaymentRow>::find(tx, entry)? {
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
        if let Some(full) = self.full() {
            return Ok(Claimed::Full(full));
        }
        let payment = Payment {
            status: Status::Pending,
            money_state: MoneyState::NotSent,
            refunded: 0,
            version: 1,
            created_at: now,
            sent_at: None,
            updated_at: now,
            search: None,
            ..payment
        };
        let id = tx.new_id(now);
        let begun = self.run(tx, &payment.merchant, Action::Pay, id, None)?;
        tx.put(Space::Index, &entry.0, id.0);
        let (channel, amount) = (payment.channel.clone(), payment.amount);
        let mut kept = Kept::new(id, PaymentRow::new(payment, begun.claim));
        kept.save(tx)?;
        timeline::begin(tx, id, What::Claimed { action: Action::Pay, channel, amount }, now)?;
        begun.told(tx, id, kept.row.payment, None, now)
    }

    pub(super) fn refund(self, tx: &mut Transaction<'_>, refund: Refund) -> Result<Claimed, LedgerError> {
        let (now, entry) = (self.now, self.entry);
        if let Some(mut known) = Kept::<RefundRow>::find(tx, entry)? {
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
        let left = paid.amount.value.saturating_sub(kept.row.refunding);
        if refund.amount.value > left {
            return Ok(Claimed::TooMuch { left });
        }
        if let Some(full) = self.full() {
            return Ok(Claimed::Full(full));
        }
        let refund = Refund {
            status: Status::Pending,
            money_state: MoneyState::NotSent,
            channel: paid.channel.clone(),
            version: 1,
            created_at: now,
            sent_at: None,
            updated_at: now,
            search: None,
            ..refund
        };
        let id = tx.new_id(now);
        let begun = self.run(tx, &refund.merchant, Action::Refund, kept.id, Some(id))?;
        tx.put(Space::Index, &entry.0, id.0);
        let (previous, released) = (kept.row.last_refund, false);
        let row = RefundRow {
            refund: refund.clone(),
            payment: kept.id,
            claim: begun.claim,
            previous,
            released,
            mismatch: None,
        };
        Kept::new(id, row).save(tx)?;
        kept.row.last_refund = Some(id);
        kept.row.refunding = kept.row.refunding.saturating_add(refund.amount.value);
        kept.save(tx)?;
        let (channel, amount) = (refund.channel.clone(), refund.amount);
        let what = What::Claimed { action: Action::Refund, channel, amount };
        timeline::add(tx, kept.id, Some(&refund.refund_id), what, now)?;
        begun.told(tx, kept.id, kept.row.payment, Some(refund), now)
    }

    pub(super) fn close(self, tx: &mut Transaction<'_>) -> Result<Claimed, LedgerError> {
        let Some(mut kept) = Kept::<PaymentRow>::find(tx, self.entry)? else {
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
        for id in [Some(kept.row.claim), kept.row.close].into_iter().flatten() {
            let Some(claim) = ClaimRow::load(tx, id)? else { continue };
            match claim.state {
                State::Running => return Ok(Claimed::Running),
                State::Queued if claim.what == Action::Pay => return errands::take_back(tx, id, claim, kept, self.now),
                State::Queued => return claim.repeat(tx),
                State::Done(_) | State::Unknown => {}
            }
        }
        if let Some(full) = self.full() {
            return Ok(Claimed::Full(full));
        }
        let (now, channel, amount) = (self.now, kept.row.payment.channel.clone(), kept.row.payment.amount);
        let begun = self.run(tx, &kept.row.payment.merchant, Action::Close, kept.id, None)?;
        timeline::add(tx, kept.id, None, What::Claimed { action: Action::Close, channel, amount }, now)?;
        kept.row.close = Some(begun.claim);
        kept.save(tx)?;
        begun.told(tx, kept.id, kept.row.payment, None, now)
    }

    /// The same content under another key: that key is bound to it from now on.
    fn again(self, tx: &mut Transaction<'_>, id: Id, mut claim: ClaimRow) -> Result<Claimed, LedgerError> {
        KeyRow { claim: id, fingerprint: self.fingerprint }.save(tx, self.name);
        // Only a running claim can be released, and then its keys go with it. Later ones grow old by themselves, so that
        // the claim stays small.
        if claim.state == State::Running && claim.errand.is_none() {
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
        self.begin(tx, what, payment, refund, State::Unknown, None)
    }

    fn full(&self) -> Option<QueueFull> {
        self.later.as_ref().and_then(|later| later.full)
    }

    /// Begins a claim that runs now, or waits until somebody takes it.
    fn run(
        mut self,
        tx: &mut Transaction<'_>,
        merchant: &str,
        what: Action,
        payment: Id,
        refund: Option<Id>,
    ) -> Result<Begun, LedgerError> {
        let now = self.now;
        let errand = self.later.take().map(|later| later.errand(what, now));
        let state = if errand.is_some() { State::Queued } else { State::Running };
        let claim = self.begin(tx, what, payment, refund, state, errand.clone())?;
        match &errand {
            Some(errand) => errands::list(tx, claim, errand, merchant),
            None => tx.put(Space::Running, &claim.0, []),
        }
        Ok(Begun { claim, what, waits: errand.is_some() })
    }

    fn begin(
        self,
        tx: &mut Transaction<'_>,
        what: Action,
        payment: Id,
        refund: Option<Id>,
        state: State,
        errand: Option<Errand>,
    ) -> Result<Id, LedgerError> {
        let id = tx.new_id(self.now);
        let names = vec![self.name];
        let (created_at, bound_at) = (self.now, None);
        ClaimRow { what, payment, refund, names, state, created_at, bound_at, errand, turn: None }.save(tx, id)?;
        KeyRow { claim: id, fingerprint: self.fingerprint }.save(tx, self.name);
        Ok(id)
    }
}

/// A claim that was begun.
struct Begun {
    claim: Id,
    what: Action,
    /// For somebody to take it.
    waits: bool,
}

impl Begun {
    /// What whoever asked is told.
    fn told(
        self,
        tx: &mut Transaction<'_>,
        kept: Id,
        payment: Payment,
        refund: Option<Refund>,
        now: Timestamp,
    ) -> Result<Claimed, LedgerError> {
        if !self.waits {
            let turn = Turn { claim: self.claim, number: None };
            return Ok(Claimed::Run(Ticket::new(turn, payment, refund)));
        }
        let refund_id = refund.as_ref().map(|refund| refund.refund_id.as_str());
        timeline::add(tx, kept, refund_id, What::Queued { action: self.what }, now)?;
        Ok(Claimed::Accepted(refund.map_or(Record::Payment(payment), Record::Refund)))
    }
}
