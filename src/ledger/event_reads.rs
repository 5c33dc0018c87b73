//! Reads of a merchant's events in an order that never changes.
//!
//! A reader remembers the last event that it has read, its cursor. An event that becomes visible later must therefore
//! follow every event that was returned before:
//! - Embedded engine: one thread assigns the ids and commits in the same order, so events are read by id.
//! - PostgreSQL: several machines assign ids by their own clocks, and commit in any order. Events are therefore read by
//!   the number of their transaction, and only those older than every transaction in progress are returned.
//!
//! The cursor is the event's id. Where its event was purged, the embedded engine continues behind the id. PostgreSQL
//! continues at the oldest retained event, because the order is no longer known: an event may be read twice, none is
//! skipped.

use super::embedded;
use super::error::LedgerError;
use super::ids::Id;
use super::outbox;
use super::record_key::MerchantKey;
use super::records::EventPage;
use super::transaction::{Read, Space, report_unreadable};

/// Size in bytes of the rows of a page, above which the page ends early.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// Position of a reader: the last event that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCursor(pub(super) Id);

impl EventCursor {
    /// Parses the id of an event; `None` if the text is none.
    pub fn parse(event_id: &str) -> Option<Self> {
        outbox::named(event_id).map(Self)
    }
}

/// Returns a page in the order of the ids.
pub(super) fn page_by_id(
    engine: &embedded::Engine,
    merchant: MerchantKey,
    after: Option<Id>,
    limit: usize,
) -> Result<EventPage, LedgerError> {
    let key = |event: &[u8]| [&merchant.0, event].concat();
    let from = after.map_or_else(|| key(&[]), |Id(last)| key(&[&last[..], &[0]].concat()));
    let keys = engine.keys(Space::MerchantEvents, &from, &key(&[0xff; 17]), limit + 1)?;
    let ids = keys.iter().map(|key| Id::from_bytes(key.get(16..).unwrap_or_default()));
    let mut page = page_of(engine, ids.collect::<Result<Vec<_>, _>>()?, limit)?;
    page.is_expired = match after {
        Some(Id(last)) => engine.bytes(Space::MerchantEvents, &key(&last))?.is_none(),
        None => false,
    };
    Ok(page)
}

/// Returns the page of these events, of which one more than `limit` was read if there are more. A row that cannot be
/// read does not block the others.
pub(super) fn page_of(from: &impl Read, ids: Vec<Id>, limit: usize) -> Result<EventPage, LedgerError> {
    let mut page = EventPage { is_last: ids.len() <= limit, ..EventPage::default() };
    let mut bytes = 0;
    for Id(id) in ids.into_iter().take(limit) {
        // Purged in the meantime.
        let Some(row) = from.bytes(Space::Events, &id)? else { continue };
        bytes += row.len();
        if bytes > MAX_PAGE_BYTES && !page.events.is_empty() {
            page.is_last = false;
            break;
        }
        page.next = Some(outbox::event_id(Id(id)));
        match outbox::event_of(&row) {
            Ok(event) => page.events.push(event),
            Err(error) => report_unreadable(&error, "an event"),
        }
    }
    Ok(page)
}
