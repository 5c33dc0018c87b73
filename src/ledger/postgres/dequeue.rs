//! What is waiting, shared between processes: whoever takes a row has it for a while, and nobody waits for anybody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::schema::{self, QUEUED};
use super::session::{Failure, Session};
use crate::ledger::ids::{millis_at, time};
use crate::ledger::inquiries::{self, after};
use crate::ledger::limits::{DueLimit, QueueFull, QueueLimit};
use crate::ledger::outbox;
use crate::ledger::records::{Backlog, LedgerError};
use crate::ledger::transaction::{Pair, Space};

/// How long a row is its taker's. Longer than a delivery or a question takes; when the taker is gone, the next takes it
/// after this time.
const TAKEN: Duration = Duration::from_secs(45);

/// How many of one merchant's events are looked at; no merchant has more places.
const LANE: i64 = 64;

/// How often it is looked for what a wrong clock has written.
const LOST_LOOK: Duration = Duration::from_secs(10);

/// A range of due times that are looked for.
pub(super) struct When {
    from: Vec<u8>,
    until: Vec<u8>,
}

/// When each space was last searched for what a wrong clock has written.
#[derive(Default)]
pub(super) struct Looks(Mutex<BTreeMap<i16, Instant>>);

impl Looks {
    /// Returns what is to be looked for in a space: what is due and, now and then, what a wrong clock has written, because
    /// nothing else is due later than `latest` from now.
    pub(super) fn when(&self, space: Space, now: Timestamp, latest: SignedDuration) -> Vec<When> {
        let mut when = vec![When { from: Vec::new(), until: after(now, SignedDuration::ZERO) }];
        let (mut looks, space) = (self.0.lock(), schema::number(space));
        if looks.get(&space).is_none_or(|last| last.elapsed() >= LOST_LOOK) {
            looks.insert(space, Instant::now());
            when.push(When { from: after(now, latest), until: vec![0xff; 9] });
        }
        when
    }
}

/// Whether process `$1` may take the row `it`: nobody has it, or not any more, or who has it is dead.
macro_rules! free {
    () => {
        "(owner IS NULL OR owner = $1 OR taken_until < clock_timestamp() OR NOT EXISTS (
            SELECT FROM tollgate_owners AS alive WHERE alive.owner = it.owner AND alive.expires > clock_timestamp()))"
    };
}

/// Takes searches that are due and returns their keys: urgent ones first, and none of the channels that are `busy`.
pub(super) fn take_searches(
    session: &Session,
    owner: u32,
    when: &[When],
    limit: usize,
    busy: &[String],
) -> Result<Vec<Vec<u8>>, Failure> {
    const TAKE: &str = concat!(
        "UPDATE tollgate_due SET owner = $1, taken_until = clock_timestamp() + make_interval(secs => $5)
        WHERE space = $2 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $2 AND key >= $6 AND key < $3
                AND (substr(value, 1, 1) = $7) = $8 AND substr(value, 2) <> ALL ($9) AND ",
        free!(),
        "
            ORDER BY key LIMIT $4 FOR UPDATE SKIP LOCKED))
        RETURNING key"
    );
    let (owner, space, patient) = (i64::from(owner), schema::number(Space::Inquiries), [inquiries::PATIENT]);
    let busy: Vec<&[u8]> = busy.iter().map(String::as_bytes).collect();
    let take = |is_patient: bool, limit: usize| -> Result<Vec<Vec<u8>>, Failure> {
        let mut taken = Vec::new();
        for When { from, until } in when {
            let (left, time, patient) = (many(limit.saturating_sub(taken.len())), TAKEN.as_secs_f64(), &patient[..]);
            let rows =
                session.query(TAKE, &[&owner, &space, until, &left, &time, from, &patient, &is_patient, &busy])?;
            let mut keys: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
            keys.sort();
            taken.extend(keys);
        }
        Ok(taken)
    };
    let share = inquiries::patient_share(limit);
    let mut patient = take(true, share)?;
    let mut taken = take(false, limit - patient.len())?;
    if patient.len() == share && taken.len() + share < limit {
        // The same rows again, and more.
        patient = take(true, limit - taken.len())?;
    }
    taken.append(&mut patient);
    Ok(taken)
}

/// Rows of the outbox that are due and that nobody else has, by merchant.
pub(super) fn lanes(session: &Session, owner: u32, when: &[When]) -> Result<BTreeMap<String, Vec<Pair>>, Failure> {
    // From lane to lane by the index, so that a merchant with many events costs no more than one with few.
    const LOOK: &str = concat!(
        "WITH RECURSIVE lanes AS (
            (SELECT lane FROM tollgate_due WHERE lane IS NOT NULL ORDER BY lane LIMIT 1)
            UNION ALL
            SELECT (SELECT it.lane FROM tollgate_due AS it WHERE it.lane > lanes.lane ORDER BY it.lane LIMIT 1)
            FROM lanes WHERE lanes.lane IS NOT NULL)
        SELECT lanes.lane, due.key, due.value FROM lanes CROSS JOIN LATERAL (
            SELECT key, value FROM tollgate_due AS it WHERE it.lane = lanes.lane AND key >= $4 AND key < $2 AND ",
        free!(),
        " ORDER BY key LIMIT $3) AS due
        WHERE lanes.lane IS NOT NULL"
    );
    let mut lanes = BTreeMap::<String, Vec<Pair>>::new();
    for When { from, until } in when {
        for row in session.query(LOOK, &[&i64::from(owner), until, &LANE, from])? {
            lanes.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
        }
    }
    Ok(lanes)
}

/// Takes those rows of the outbox that nobody else has taken meanwhile.
pub(super) fn take_deliveries(session: &Session, owner: u32, chosen: &[Pair]) -> Result<Vec<Pair>, Failure> {
    const TAKE: &str = concat!(
        "UPDATE tollgate_due SET owner = $1, taken_until = clock_timestamp() + make_interval(secs => $4)
        WHERE space = $2 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $2 AND key = ANY ($3) AND ",
        free!(),
        "
            FOR UPDATE SKIP LOCKED))
        RETURNING key, value"
    );
    let keys: Vec<&[u8]> = chosen.iter().map(|(key, _)| key.as_slice()).collect();
    let number = schema::number(Space::Outbox);
    let rows = session.query(TAKE, &[&i64::from(owner), &number, &keys, &TAKEN.as_secs_f64()])?;
    let mut taken: Vec<Pair> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    taken.sort();
    Ok(taken)
}

/// Of what is due in the lanes, what there are places for, the longest due first.
pub(super) fn choose(
    lanes: BTreeMap<String, Vec<Pair>>,
    limit: usize,
    free: impl Fn(&str) -> usize,
    under_way: impl Fn(&str, &str) -> bool,
) -> Vec<Pair> {
    let of_merchant = |(merchant, due): (String, Vec<Pair>)| {
        let waiting = due.into_iter().filter(|(key, _)| outbox::waits(&merchant, key, &under_way));
        waiting.take(free(&merchant)).collect::<Vec<_>>()
    };
    let mut chosen: Vec<Pair> = lanes.into_iter().flat_map(of_merchant).collect();
    chosen.sort();
    chosen.truncate(limit);
    chosen
}

/// Jobs that are due, taken; none of merchants that have all their places.
pub(super) fn take_jobs(session: &Session, owner: u32, when: &[When], limit: &DueLimit) -> Result<Vec<Pair>, Failure> {
    const TAKE: &str = concat!(
        "UPDATE tollgate_due SET owner = $1, taken_until = clock_timestamp() + make_interval(secs => $5)
        WHERE space = $2 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $2 AND key >= $7 AND key < $3 AND value <> ALL ($6) AND ",
        free!(),
        "
            ORDER BY key LIMIT $4 FOR UPDATE SKIP LOCKED))
        RETURNING key, value"
    );
    let is_busy = |(_, count): &(&String, &usize)| **count >= limit.each;
    let busy: Vec<&[u8]> = limit.under_way.iter().filter(is_busy).map(|(merchant, _)| merchant.as_bytes()).collect();
    let (owner, space) = (i64::from(owner), schema::number(Space::Jobs));
    let mut taken = Vec::new();
    for When { from, until } in when {
        let left = many(limit.total.saturating_sub(taken.len()));
        let rows = session.query(TAKE, &[&owner, &space, until, &left, &TAKEN.as_secs_f64(), &busy, from])?;
        let mut rows: Vec<Pair> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        rows.sort();
        taken.extend(rows);
    }
    Ok(taken)
}

/// Fewer transactions than this accept jobs at the same time, on all machines together.
const AT_ONCE: u64 = 512;

/// Which limit of the queue is reached for a merchant, inside a transaction that may accept a job. Near a limit one such
/// transaction waits for another, so that together they do not pass it.
pub(super) fn queue_is(session: &Session, merchant: &str, limit: QueueLimit) -> Result<Option<QueueFull>, Failure> {
    // Any number that is no order's; the same in every version.
    const LOCK: &str = "SELECT pg_advisory_xact_lock(7309453002178192741)";
    let (total, own) = jobs(session, merchant)?;
    let is_near = total + AT_ONCE >= limit.total || own + AT_ONCE >= limit.each;
    if limit.reached(total, own).is_some() || !is_near {
        return Ok(limit.reached(total, own));
    }
    session.query(LOCK, &[])?;
    let (total, own) = jobs(session, merchant)?;
    Ok(limit.reached(total, own))
}

/// Jobs that wait or are executed: of all, and of a merchant.
fn jobs(session: &Session, merchant: &str) -> Result<(u64, u64), Failure> {
    // Behind the number of an execution stands its merchant; where no job runs, nothing does.
    const COUNT: &str = "SELECT count(*), count(*) FILTER (WHERE merchant = $3) FROM (
        SELECT value AS merchant FROM tollgate_due WHERE space = $1
        UNION ALL SELECT substr(value, 17) FROM tollgate_due WHERE space = $2 AND length(value) > 16) AS it";
    let numbers = [Space::Jobs, Space::Running].map(schema::number);
    let rows = session.query(COUNT, &[&numbers[0], &numbers[1], &merchant.as_bytes()])?;
    let count = |column: usize| rows.first().map_or(0, |row| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0));
    Ok((count(0), count(1)))
}

pub(super) fn waiting(session: &Session) -> Result<Backlog, LedgerError> {
    let count = |space: i16| -> Result<u64, Failure> {
        let rows = session.query("SELECT count(*) FROM tollgate_due WHERE space = $1", &[&space])?;
        Ok(rows.first().map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)))
    };
    let unknown = schema::number(Space::Unknown);
    let oldest = session.query("SELECT key FROM tollgate_due WHERE space = $1 ORDER BY key LIMIT 1", &[&unknown])?;
    let oldest_unknown = oldest.first().map(|row| time(millis_at(row.get::<_, &[u8]>(0))));
    // Behind the time when it is due, a key has the claim, which begins with the time when it was made.
    const OLDEST: &str = "SELECT substr(key, 9, 8) AS since FROM tollgate_due WHERE space = $1 ORDER BY since LIMIT 1";
    let jobs = schema::number(Space::Jobs);
    let oldest = session.query(OLDEST, &[&jobs])?;
    let oldest_job = oldest.first().map(|row| time(millis_at(row.get::<_, &[u8]>(0))));
    let (deliveries, unknown) = (count(QUEUED)?, count(unknown)?);
    Ok(Backlog { deliveries, unknown, oldest_unknown, jobs: count(jobs)?, oldest_job })
}

fn many(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
