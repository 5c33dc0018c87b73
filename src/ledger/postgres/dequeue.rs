//! Dequeue with SKIP LOCKED: a process reserves due rows for a while, and no process waits for another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio_postgres::Row;

use super::failure::Failure;
use super::session::Session;
use super::tables::{self, QUEUED};
use crate::due_index::{PATIENT, after, patient_share, sink_of_queued};
use crate::error::LedgerError;
use crate::ids::{millis_at, time};
use crate::limits::{DueLimit, QueueFull, QueueLimit};
use crate::outbox;
use crate::records::Backlog;
use crate::transaction::{Pair, Space};

/// Time for which a row is reserved. Longer than a delivery or a query lasts. If the process dies, another process gets
/// the row after this time.
const RESERVATION: Duration = Duration::from_secs(45);

/// Maximum number of events read for one subscription. No sink has more concurrent deliveries.
const MAX_EVENTS_PER_SUBSCRIPTION: i64 = 64;

/// Interval of the scans for due times that a wrong clock wrote.
const MISDATED_SCAN_INTERVAL: Duration = Duration::from_secs(10);

/// Range of due times.
pub(super) struct DueRange {
    from: Vec<u8>,
    until: Vec<u8>,
}

/// Time of the last scan of each space for misdated rows.
#[derive(Default)]
pub(super) struct DueScans(Mutex<BTreeMap<i16, Instant>>);

impl DueScans {
    /// Returns the ranges to read in a space: due rows and, every 10 s, rows due later than `latest` from now, which
    /// a wrong clock wrote.
    pub(super) fn ranges(&self, space: Space, now: Timestamp, latest: SignedDuration) -> Vec<DueRange> {
        let mut ranges = vec![DueRange { from: Vec::new(), until: after(now, SignedDuration::ZERO) }];
        let (mut scans, space) = (self.0.lock(), tables::number(space));
        if scans.get(&space).is_none_or(|last| last.elapsed() >= MISDATED_SCAN_INTERVAL) {
            scans.insert(space, Instant::now());
            ranges.push(DueRange { from: after(now, latest), until: vec![0xff; 9] });
        }
        ranges
    }
}

/// Condition that process `$1` may reserve the row `it`: it is not reserved, the reservation has expired, or its
/// process is dead.
macro_rules! free {
    () => {
        "(owner IS NULL OR owner = $1 OR leased_until < clock_timestamp() OR NOT EXISTS (
            SELECT FROM tollgate_owners AS alive WHERE alive.owner = it.owner AND alive.expires > clock_timestamp()))"
    };
}

/// Reserves due inquiries and returns their keys: urgent ones first, and none of `busy` channels.
pub(super) fn reserve_inquiries(
    session: &Session,
    owner: u32,
    ranges: &[DueRange],
    limit: usize,
    busy: &[String],
) -> Result<Vec<Vec<u8>>, Failure> {
    const RESERVE_INQUIRIES: &str = concat!(
        "UPDATE tollgate_due SET owner = $1, leased_until = clock_timestamp() + make_interval(secs => $5)
        WHERE space = $2 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $2 AND key >= $6 AND key < $3
                AND (substr(value, 1, 1) = $7) = $8 AND substr(value, 2) <> ALL ($9) AND ",
        free!(),
        "
            ORDER BY key LIMIT $4 FOR UPDATE SKIP LOCKED))
        RETURNING key"
    );
    let (owner, space, patient) = (i64::from(owner), tables::number(Space::Inquiries), [PATIENT]);
    let busy: Vec<&[u8]> = busy.iter().map(String::as_bytes).collect();
    let take = |is_patient: bool, limit: usize| -> Result<Vec<Vec<u8>>, Failure> {
        let mut reserved = Vec::new();
        for DueRange { from, until } in ranges {
            let (left, time, patient) =
                (many(limit.saturating_sub(reserved.len())), RESERVATION.as_secs_f64(), &patient[..]);
            let rows = session
                .query(RESERVE_INQUIRIES, &[&owner, &space, until, &left, &time, from, &patient, &is_patient, &busy])?;
            let mut keys: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
            keys.sort();
            reserved.extend(keys);
        }
        Ok(reserved)
    };
    let share = patient_share(limit);
    let mut patient = take(true, share)?;
    let mut reserved = take(false, limit - patient.len())?;
    if patient.len() == share && reserved.len() + share < limit {
        // The same rows again, and more.
        patient = take(true, limit - reserved.len())?;
    }
    reserved.append(&mut patient);
    Ok(reserved)
}

/// Returns due outbox rows that no other process has reserved, by subscription.
pub(super) fn due_by_subscription(
    session: &Session,
    owner: u32,
    ranges: &[DueRange],
) -> Result<BTreeMap<String, Vec<Pair>>, Failure> {
    // A loose index scan from subscription to subscription, so that a long queue costs no more than a short one.
    const DUE_BY_SUBSCRIPTION: &str = concat!(
        "WITH RECURSIVE subscriptions AS (
            (SELECT subscription FROM tollgate_due WHERE subscription IS NOT NULL ORDER BY subscription LIMIT 1)
            UNION ALL
            SELECT (SELECT it.subscription FROM tollgate_due AS it
                WHERE it.subscription > subscriptions.subscription ORDER BY it.subscription LIMIT 1)
            FROM subscriptions WHERE subscriptions.subscription IS NOT NULL)
        SELECT subscriptions.subscription, due.key, due.value FROM subscriptions CROSS JOIN LATERAL (
            SELECT key, value FROM tollgate_due AS it
            WHERE it.subscription = subscriptions.subscription AND key >= $4 AND key < $2 AND ",
        free!(),
        " ORDER BY key LIMIT $3) AS due
        WHERE subscriptions.subscription IS NOT NULL"
    );
    let mut due_by_subscription = BTreeMap::<String, Vec<Pair>>::new();
    for DueRange { from, until } in ranges {
        for row in
            session.query(DUE_BY_SUBSCRIPTION, &[&i64::from(owner), until, &MAX_EVENTS_PER_SUBSCRIPTION, from])?
        {
            due_by_subscription.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
        }
    }
    Ok(due_by_subscription)
}

/// Reserves the chosen outbox rows, except those reserved meanwhile.
pub(super) fn reserve_deliveries(session: &Session, owner: u32, chosen: &[Pair]) -> Result<Vec<Pair>, Failure> {
    const RESERVE_DELIVERIES: &str = concat!(
        "UPDATE tollgate_due SET owner = $1, leased_until = clock_timestamp() + make_interval(secs => $4)
        WHERE space = $2 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $2 AND key = ANY ($3) AND ",
        free!(),
        "
            FOR UPDATE SKIP LOCKED))
        RETURNING key, value"
    );
    let keys: Vec<&[u8]> = chosen.iter().map(|(key, _)| key.as_slice()).collect();
    let number = tables::number(Space::Outbox);
    let rows = session.query(RESERVE_DELIVERIES, &[&i64::from(owner), &number, &keys, &RESERVATION.as_secs_f64()])?;
    let mut reserved: Vec<Pair> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    reserved.sort();
    Ok(reserved)
}

/// Chooses due rows, the longest due first, within each subscription's free slots.
pub(super) fn choose(
    due_by_subscription: BTreeMap<String, Vec<Pair>>,
    limit: usize,
    free: impl Fn(&str) -> usize,
    under_way: impl Fn(&str, &str) -> bool,
) -> Vec<Pair> {
    let of_subscription = |(subscription, due): (String, Vec<Pair>)| {
        let backlog = due.into_iter().filter(|(key, _)| outbox::waits(&subscription, key, &under_way));
        backlog.take(free(&subscription)).collect::<Vec<_>>()
    };
    let mut chosen: Vec<Pair> = due_by_subscription.into_iter().flat_map(of_subscription).collect();
    chosen.sort();
    chosen.truncate(limit);
    chosen
}

/// Reserves due jobs, except those of merchants that already use their share.
pub(super) fn reserve_jobs(
    session: &Session,
    owner: u32,
    ranges: &[DueRange],
    limit: &DueLimit,
) -> Result<Vec<Pair>, Failure> {
    const RESERVE_JOBS: &str = concat!(
        "UPDATE tollgate_due SET owner = $1, leased_until = clock_timestamp() + make_interval(secs => $5)
        WHERE space = $2 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $2 AND key >= $7 AND key < $3 AND value <> ALL ($6) AND ",
        free!(),
        "
            ORDER BY key LIMIT $4 FOR UPDATE SKIP LOCKED))
        RETURNING key, value"
    );
    let is_busy = |(_, count): &(&String, &usize)| **count >= limit.each;
    let busy: Vec<&[u8]> = limit.under_way.iter().filter(is_busy).map(|(merchant, _)| merchant.as_bytes()).collect();
    let (owner, space) = (i64::from(owner), tables::number(Space::Jobs));
    let mut reserved = Vec::new();
    for DueRange { from, until } in ranges {
        let left = many(limit.total.saturating_sub(reserved.len()));
        let rows =
            session.query(RESERVE_JOBS, &[&owner, &space, until, &left, &RESERVATION.as_secs_f64(), &busy, from])?;
        let mut rows: Vec<Pair> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        rows.sort();
        reserved.extend(rows);
    }
    Ok(reserved)
}

/// Upper bound of transactions that enqueue jobs at the same time, on all machines together.
const MAX_CONCURRENT_ENQUEUES: u64 = 512;

/// Returns the limit of the queue that is reached for a merchant, inside a transaction that enqueues a job. Near a
/// limit such transactions run one after another, so that they cannot exceed it together.
pub(super) fn reached_limit(
    session: &Session,
    merchant: &str,
    limit: QueueLimit,
) -> Result<Option<QueueFull>, Failure> {
    // Arbitrary lock number that belongs to no order; the same in every version.
    const QUEUE_LOCK: &str = "SELECT pg_advisory_xact_lock(7309453002178192741)";
    let (total, own) = count_jobs(session, merchant)?;
    let is_near = total + MAX_CONCURRENT_ENQUEUES >= limit.total || own + MAX_CONCURRENT_ENQUEUES >= limit.each;
    if limit.reached(total, own).is_some() || !is_near {
        return Ok(limit.reached(total, own));
    }
    session.query(QUEUE_LOCK, &[])?;
    let (total, own) = count_jobs(session, merchant)?;
    Ok(limit.reached(total, own))
}

/// Counts queued and executing jobs: of all merchants, and of one.
fn count_jobs(session: &Session, merchant: &str) -> Result<(u64, u64), Failure> {
    // In a row of a running job the merchant follows the 16 bytes of the execution number.
    const COUNT_JOBS: &str = "SELECT count(*), count(*) FILTER (WHERE merchant = $3) FROM (
        SELECT value AS merchant FROM tollgate_due WHERE space = $1
        UNION ALL SELECT substr(value, 17) FROM tollgate_due WHERE space = $2 AND length(value) > 16) AS it";
    let numbers = [Space::Jobs, Space::Running].map(tables::number);
    let rows = session.query(COUNT_JOBS, &[&numbers[0], &numbers[1], &merchant.as_bytes()])?;
    let count = |column: usize| rows.first().map_or(0, |row| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0));
    Ok((count(0), count(1)))
}

pub(super) fn backlog(session: &Session) -> Result<Backlog, LedgerError> {
    let count = |space: i16| -> Result<u64, Failure> {
        let rows = session.query("SELECT count(*) FROM tollgate_due WHERE space = $1", &[&space])?;
        Ok(rows.first().map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)))
    };
    let unknown = tables::number(Space::Unknown);
    let oldest = session.query("SELECT key FROM tollgate_due WHERE space = $1 ORDER BY key LIMIT 1", &[&unknown])?;
    let oldest_unknown = oldest.first().map(|row| time(millis_at(row.get::<_, &[u8]>(0))));
    // A key is the due time followed by the claim's id, which begins with its creation time.
    const OLDEST: &str = "SELECT substr(key, 9, 8) AS since FROM tollgate_due WHERE space = $1 ORDER BY since LIMIT 1";
    let count_jobs = tables::number(Space::Jobs);
    let oldest = session.query(OLDEST, &[&count_jobs])?;
    let oldest_job = oldest.first().map(|row| time(millis_at(row.get::<_, &[u8]>(0))));
    // The name of the sink follows the id of the event, which begins with its creation time.
    const BY_SINK: &str = "SELECT substr(key, 17), count(*), min(encode(substr(key, 1, 8), 'hex') COLLATE \"C\")
        FROM tollgate_due WHERE space = $1 GROUP BY 1";
    let by_sink = session.query(BY_SINK, &[&QUEUED])?;
    let sink = |row: &Row| sink_of_queued(&[&[0; 16], row.get::<_, &[u8]>(0)].concat());
    let count_of = |row: &Row| (sink(row), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0));
    let oldest_of = |row: &Row| Some((sink(row), time(u64::from_str_radix(row.get(2), 16).ok()?)));
    let deliveries_by_sink: BTreeMap<_, _> = by_sink.iter().map(count_of).collect();
    let oldest_by_sink = by_sink.iter().filter_map(oldest_of).collect();
    let (deliveries, unknown, jobs) = (deliveries_by_sink.values().sum(), count(unknown)?, count(count_jobs)?);
    Ok(Backlog { deliveries, deliveries_by_sink, oldest_by_sink, unknown, oldest_unknown, jobs, oldest_job })
}

/// Returns the outbox rows of a subscription.
pub(super) fn outbox_of(session: &Session, subscription: &str) -> Result<Vec<Pair>, Failure> {
    const OF_SUBSCRIPTION: &str = "SELECT key, value FROM tollgate_due WHERE subscription = $1 ORDER BY key";
    let rows = session.query(OF_SUBSCRIPTION, &[&subscription])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn many(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
