//! Report of a transaction that withholds events from their readers for long.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time after which a transaction that withholds events is reported. Tollgate's own transactions take milliseconds.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// Stands for the transactions of another server. The events of each merchant have other numbers.
const FOREIGN: i64 = i64::MAX;

/// The oldest transaction that withheld events last, and since when.
#[derive(Default)]
pub(crate) struct Withheld(Mutex<Option<Oldest>>);

struct Oldest {
    transaction: i64,
    since: Instant,
    is_reported: bool,
}

impl Withheld {
    /// Records that an event of the transaction `event` is withheld, while `oldest` is the oldest one in progress and
    /// `next` the next one to begin. Logs the cause once for each transaction that is the cause. Returns whether it was logged.
    pub(super) fn report(&self, event: i64, oldest: i64, next: i64, now: Instant) -> bool {
        let is_foreign = event >= next;
        if !self.is_long(if is_foreign { FOREIGN } else { oldest }, now) {
            return false;
        }
        if is_foreign {
            tracing::error!(
                transaction = event,
                "events are withheld from readers, because the ledger's tables come from another PostgreSQL server: restart every \
                 gateway, which renumbers the events; webhooks and other sinks are not affected"
            );
        } else {
            tracing::warn!(
                transaction = oldest,
                "events are withheld from readers, because a transaction of this PostgreSQL server, in any database, has been open \
                 for more than {} s: end it (see `backend_xid` in pg_stat_activity, and pg_prepared_xacts); webhooks and other \
                 sinks are not affected",
                REPORT_AFTER.as_secs()
            );
        }
        true
    }

    /// Returns true once for each transaction, when it has withheld events for [`REPORT_AFTER`].
    fn is_long(&self, transaction: i64, now: Instant) -> bool {
        let mut oldest = self.0.lock();
        match &mut *oldest {
            Some(oldest) if oldest.transaction == transaction => {
                let is_long = now.saturating_duration_since(oldest.since) >= REPORT_AFTER;
                is_long && !std::mem::replace(&mut oldest.is_reported, true)
            }
            _ => {
                *oldest = Some(Oldest { transaction, since: now, is_reported: false });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_that_withholds_events_for_ten_seconds_is_reported_once() {
        let (withheld, start) = (Withheld::default(), Instant::now());
        let is_long = |transaction, seconds| withheld.is_long(transaction, start + Duration::from_secs(seconds));
        assert_eq!([(7, 0), (7, 9), (7, 10), (7, 11)].map(|(it, at)| is_long(it, at)), [false, false, true, false]);
        assert_eq!([(8, 12), (8, 21), (8, 22), (7, 40)].map(|(it, at)| is_long(it, at)), [false, false, true, false]);
    }

    #[test]
    fn events_of_another_server_are_reported_once_although_merchants_take_turns() {
        let (withheld, start) = (Withheld::default(), Instant::now());
        let report = |event, seconds| withheld.report(event, 5, 9, start + Duration::from_secs(seconds));
        let reported = [(100, 0), (200, 5), (100, 10), (200, 11), (300, 30)].map(|(event, at)| report(event, at));
        assert_eq!(reported, [false, false, true, false, false]);
    }
}
