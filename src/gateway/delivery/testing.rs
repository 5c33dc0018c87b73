//! A merchant's delivery for tests.

use jiff::Timestamp;
use tollgate_ledger::testing::a_payment;
use tollgate_ledger::{Delivery, Event, Record, RecordId, SinkName};

/// Returns the first attempt to deliver an event of merchant `shop` to its webhook.
pub(super) fn delivery(created_at: Timestamp) -> Delivery {
    let subject = RecordId { merchant: "shop".to_owned(), order_id: "o-1".to_owned(), refund_id: None };
    let data = Record::Payment(a_payment("o-1"));
    let event = Event { id: "evt_1".to_owned(), kind: "payment.succeeded".to_owned(), created_at, subject, data };
    Delivery { event, sink: SinkName::WEBHOOK, method: None, due: created_at, tries: 0 }
}
