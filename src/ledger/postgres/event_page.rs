//! Pages of a merchant's events, in the order of the numbers of their transactions.

mod restored;
mod withheld;

use std::sync::Arc;
use std::time::Instant;

pub(super) use self::restored::NumberedFor;
pub(super) use self::withheld::Withheld;
use super::Engine;
use super::session::Session;
use crate::error::LedgerError;
use crate::event_reads::page_of;
use crate::ids::Id;
use crate::record_key::MerchantKey;
use crate::records::EventPage;

impl Engine {
    /// Implements [`Engine::events`](crate::engine::Engine::events).
    pub(crate) async fn events(
        &self,
        merchant: MerchantKey,
        after: Option<Id>,
        limit: usize,
    ) -> Result<EventPage, LedgerError> {
        let withheld = Arc::clone(&self.shared.withheld);
        self.ask(move |session| page(session, &withheld, merchant, after, limit)).await
    }
}

fn page(
    session: &Session,
    withheld: &Withheld,
    MerchantKey(merchant): MerchantKey,
    after: Option<Id>,
    limit: usize,
) -> Result<EventPage, LedgerError> {
    const POSITION: &str = "SELECT xact FROM tollgate_merchant_events WHERE merchant = $1 AND event = $2";
    // A transaction that begins to write later gets a greater number. One below `xmin` has ended.
    const PAGE: &str = "\
        SELECT event, xact, pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM tollgate_merchant_events
        WHERE merchant = $1 AND (xact, event) > ($2, $3) ORDER BY xact, event LIMIT $4";
    let merchant = &merchant[..];
    let position = match after {
        Some(Id(event)) => session.query(POSITION, &[&merchant, &&event[..]])?.first().map(|row| row.get::<_, i64>(0)),
        None => None,
    };
    let (xact, event) = match (position, after) {
        (Some(xact), Some(Id(event))) => (xact, event.to_vec()),
        // Before every number, also before those of `renumber_restored`.
        _ => (i64::MIN, Vec::new()),
    };
    let rows = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let rows = session.query(PAGE, &[&merchant, &xact, &event, &rows])?;
    let is_settled = |row: &&tokio_postgres::Row| row.get::<_, i64>(1) < row.get::<_, i64>(2);
    let settled = rows.iter().take_while(is_settled);
    let ids = settled.map(|row| Id::from_bytes(row.get(0))).collect::<Result<Vec<_>, _>>()?;
    let is_withheld = ids.len() < rows.len() && ids.len() <= limit;
    if let Some(row) = rows.get(ids.len()).filter(|_| is_withheld) {
        withheld.report(row.get(1), row.get(2), row.get(3), Instant::now());
    }
    let page = page_of(session, ids, limit)?;
    let is_expired = after.is_some() && position.is_none();
    Ok(EventPage { is_last: page.is_last && !is_withheld, is_withheld, is_expired, ..page })
}
