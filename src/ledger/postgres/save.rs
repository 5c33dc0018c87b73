//! Writes of a transaction, saved in one statement.

use super::failure::Failure;
use super::session::Session;
use super::tables::{self, QUEUED};
use crate::due_index::subscription_of_outbox;
use crate::transaction::{Space, Writes};

/// Upserts rows. Rows that are written only once are inserted without an upsert, so that a duplicate fails.
const SAVE: &str = "\
    WITH once AS (
        INSERT INTO tollgate_records (space, key, value) SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bytea[])),
    upserted AS (
        INSERT INTO tollgate_records (space, key, value) SELECT * FROM unnest($4::smallint[], $5::bytea[], $6::bytea[])
        ON CONFLICT (space, key) DO UPDATE SET value = excluded.value),
    deleted AS (
        DELETE FROM tollgate_records AS it USING unnest($7::smallint[], $8::bytea[]) AS old (space, key)
        WHERE it.space = old.space AND it.key = old.key),
    due AS (
        INSERT INTO tollgate_due (space, key, value, subscription, owner)
        SELECT * FROM unnest($9::smallint[], $10::bytea[], $11::bytea[], $12::text[], $13::bigint[])
        ON CONFLICT (space, key) DO UPDATE SET value = excluded.value, subscription = excluded.subscription),
    done AS (
        DELETE FROM tollgate_due AS it USING unnest($14::smallint[], $15::bytea[]) AS old (space, key)
        WHERE it.space = old.space AND it.key = old.key),
    published AS (
        INSERT INTO tollgate_merchant_events (merchant, event, xact)
        SELECT merchant, event, pg_current_xact_id()::text::bigint
        FROM unnest($16::bytea[], $17::bytea[]) AS it (merchant, event)
        ON CONFLICT (merchant, event) DO NOTHING),
    purged AS (
        DELETE FROM tollgate_merchant_events AS it USING unnest($18::bytea[], $19::bytea[]) AS old (merchant, event)
        WHERE it.merchant = old.merchant AND it.event = old.event)
    SELECT 1";

#[derive(Default)]
struct Rows<'a> {
    spaces: Vec<i16>,
    keys: Vec<&'a [u8]>,
    values: Vec<&'a [u8]>,
    subscriptions: Vec<Option<&'a str>>,
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

    fn add_due(
        &mut self,
        space: i16,
        key: &'a [u8],
        value: &'a [u8],
        subscription: Option<&'a str>,
        owner: Option<i64>,
    ) {
        self.add(space, key, value);
        self.subscriptions.push(subscription);
        self.owners.push(owner);
    }
}

/// Keys of [`Space::MerchantEvents`] in their parts.
#[derive(Default)]
struct MerchantEvents<'a> {
    merchants: Vec<&'a [u8]>,
    events: Vec<&'a [u8]>,
}

impl<'a> MerchantEvents<'a> {
    fn add(&mut self, key: &'a [u8]) {
        if let Some((merchant, event)) = key.split_at_checked(16) {
            self.merchants.push(merchant);
            self.events.push(event);
        }
    }
}

/// Saves all writes. A claim that starts to run gets the owner `owner`.
pub(super) fn save(session: &Session, writes: &Writes, owner: u32) -> Result<(), Failure> {
    let [mut once, mut upserts, mut deleted, mut due, mut done]: [Rows<'_>; 5] = Default::default();
    let [mut published, mut purged]: [MerchantEvents<'_>; 2] = Default::default();
    // The same order in every transaction avoids deadlocks.
    let mut rows: Vec<_> = writes.rows.iter().collect();
    rows.sort_unstable_by_key(|(space, key, _)| (*space, *key));
    for (space, key, value) in rows {
        let number = tables::number(space);
        match value {
            Some(_) if tables::is_merchant_events(space) => published.add(key),
            None if tables::is_merchant_events(space) => purged.add(key),
            Some(value) if tables::is_due(space) => {
                let subscription = (space == Space::Outbox).then(|| subscription_of_outbox(value));
                let owner = (space == Space::Running).then_some(i64::from(owner));
                due.add_due(number, key, value, subscription, owner);
            }
            Some(value) if tables::is_unique(space) => once.add(number, key, value),
            Some(value) => upserts.add(number, key, value),
            None if tables::is_due(space) => done.name(number, key),
            None => deleted.name(number, key),
        }
    }
    for (event, joined) in &writes.queued {
        if *joined {
            due.add_due(QUEUED, event, &[], None, None);
        } else {
            done.name(QUEUED, event);
        }
    }
    session.query(
        SAVE,
        &[
            &once.spaces,
            &once.keys,
            &once.values,
            &upserts.spaces,
            &upserts.keys,
            &upserts.values,
            &deleted.spaces,
            &deleted.keys,
            &due.spaces,
            &due.keys,
            &due.values,
            &due.subscriptions,
            &due.owners,
            &done.spaces,
            &done.keys,
            &published.merchants,
            &published.events,
            &purged.merchants,
            &purged.events,
        ],
    )?;
    Ok(())
}
