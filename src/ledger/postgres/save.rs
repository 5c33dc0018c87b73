//! What a transaction wants to write, in one statement.

use super::schema::{self, QUEUED};
use super::session::{Failure, Session};
use crate::ledger::outbox;
use crate::ledger::transaction::{Space, Writes};

/// Rows that may exist already are replaced; what is written once only is refused when it is there.
const SAVE: &str = "\
    WITH once AS (
        INSERT INTO tollgate_records (space, key, value) SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bytea[])),
    kept AS (
        INSERT INTO tollgate_records (space, key, value) SELECT * FROM unnest($4::smallint[], $5::bytea[], $6::bytea[])
        ON CONFLICT (space, key) DO UPDATE SET value = excluded.value),
    gone AS (
        DELETE FROM tollgate_records AS it USING unnest($7::smallint[], $8::bytea[]) AS old (space, key)
        WHERE it.space = old.space AND it.key = old.key),
    due AS (
        INSERT INTO tollgate_due (space, key, value, lane, owner)
        SELECT * FROM unnest($9::smallint[], $10::bytea[], $11::bytea[], $12::text[], $13::bigint[])
        ON CONFLICT (space, key) DO UPDATE SET value = excluded.value, lane = excluded.lane),
    done AS (
        DELETE FROM tollgate_due AS it USING unnest($14::smallint[], $15::bytea[]) AS old (space, key)
        WHERE it.space = old.space AND it.key = old.key)
    SELECT 1";

#[derive(Default)]
struct Rows<'a> {
    spaces: Vec<i16>,
    keys: Vec<&'a [u8]>,
    values: Vec<&'a [u8]>,
    lanes: Vec<Option<&'a str>>,
    owners: Vec<Option<i64>>,
}

impl<'a> Rows<'a> {
    fn name(&mut self, space: i16, key: &'a [u8]) {
        self.spaces.push(space);
        self.keys.push(key);
    }

    fn add(&mut self, space: i16, key: &'a [u8], value: &'a [u8]) {
        self.name(space, key);
        self.values.push(value);
    }

    fn add_due(&mut self, space: i16, key: &'a [u8], value: &'a [u8], lane: Option<&'a str>, owner: Option<i64>) {
        self.add(space, key, value);
        self.lanes.push(lane);
        self.owners.push(owner);
    }
}

/// Writes everything. A claim that begins to run is `owner`'s.
pub(super) fn save(session: &Session, writes: &Writes, owner: u32) -> Result<(), Failure> {
    let [mut once, mut tracked, mut gone, mut due, mut done]: [Rows<'_>; 5] = Default::default();
    // In one order everywhere, so that two transactions wait for each other and not each for the other.
    let mut rows: Vec<_> = writes.rows.iter().collect();
    rows.sort_unstable_by_key(|(space, key, _)| (*space, *key));
    for (space, key, value) in rows {
        let number = schema::number(space);
        match value {
            Some(value) if schema::is_due(space) => {
                let lane = (space == Space::Outbox).then(|| outbox::merchant(value));
                let owner = (space == Space::Running).then_some(i64::from(owner));
                due.add_due(number, key, value, lane, owner);
            }
            Some(value) if schema::is_unique(space) => once.add(number, key, value),
            Some(value) => tracked.add(number, key, value),
            None if schema::is_due(space) => done.name(number, key),
            None => gone.name(number, key),
        }
    }
    for (event, joined) in &writes.queued {
        if *joined {
            due.add_due(QUEUED, &event.0, &[], None, None);
        } else {
            done.name(QUEUED, &event.0);
        }
    }
    session.query(
        SAVE,
        &[
            &once.spaces,
            &once.keys,
            &once.values,
            &tracked.spaces,
            &tracked.keys,
            &tracked.values,
            &gone.spaces,
            &gone.keys,
            &due.spaces,
            &due.keys,
            &due.values,
            &due.lanes,
            &due.owners,
            &done.spaces,
            &done.keys,
        ],
    )?;
    Ok(())
}
