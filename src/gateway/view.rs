//! JSON forms of payments, refunds and timelines, shared by responses and events.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tollgate_ledger::{Entry, Event, EventPage, MoneyState, Payment, Record, Refund, Timeline, merchants_order_id};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Method, Money, NextAction, Status};

#[derive(Serialize)]
struct PaymentView<'a> {
    order_id: &'a str,
    status: Status,
    money_state: MoneyState,
    amount: Money,
    refunded: u64,
    #[serde(skip_serializing_if = "is_zero")]
    refunded_elsewhere: u64,
    method: Method,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_payment_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a NextAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a ProviderError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<&'a str>,
    version: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Map<String, Value>>,
    /// Token for the payer's browser, in the response to the creation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    watch: Option<&'a str>,
}

/// State of a payment for the payer's browser.
#[derive(Serialize)]
struct StatusView {
    status: Status,
    version: u64,
}

#[derive(Serialize)]
struct EventView<'a> {
    id: &'a str,
    r#type: &'a str,
    created_at: Timestamp,
    merchant: &'a str,
    data: EventData<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum EventData<'a> {
    Payment(PaymentView<'a>),
    Refund(RefundView<'a>),
}

#[derive(Serialize)]
struct EventPageView<'a> {
    data: Vec<EventView<'a>>,
    next: Option<&'a str>,
    done: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
}

#[derive(Serialize)]
struct RefundView<'a> {
    order_id: &'a str,
    refund_id: &'a str,
    status: Status,
    money_state: MoneyState,
    amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_refund_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a ProviderError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<&'a str>,
    version: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    refunded_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct TimelineView<'a> {
    order_id: &'a str,
    status: Status,
    money_state: MoneyState,
    /// The order number at the provider.
    provider_order_number: &'a str,
    entries: &'a [Entry],
    left_out: u64,
}

/// Returns the JSON form of a payment's timeline.
pub fn timeline_view<'a>(payment: &'a Payment, timeline: &'a Timeline) -> impl Serialize + 'a {
    TimelineView {
        order_id: &payment.order_id,
        status: payment.status,
        money_state: payment.money_state,
        provider_order_number: &payment.provider_order_no,
        entries: &timeline.entries,
        left_out: timeline.left_out,
    }
}

/// Returns advice for a payment that nobody can pay, because the response that contained its `action` was lost.
pub fn lost_action(payment: &Payment) -> Option<&'static str> {
    let advice = match payment.awaits_action() {
        true => {
            "the provider's response with the `action` was lost and is requested again: query this payment in a moment"
        }
        false => {
            "the provider's response with the `action` was lost, so nobody can pay this order: close it and create another payment with a new \
             `order_id`"
        }
    };
    payment.lacks_action().then_some(advice)
}

/// Returns the JSON form of a payment.
pub fn payment_view(payment: &Payment) -> impl Serialize + '_ {
    view_of_payment(payment)
}

/// Returns the JSON form of a payment in the response to its creation, with the token for the payer's browser.
pub fn created_payment_view<'a>(payment: &'a Payment, watch: &'a str) -> impl Serialize + 'a {
    PaymentView { watch: Some(watch), ..view_of_payment(payment) }
}

/// Returns what a payer's browser sees of a payment.
pub fn status_view(payment: &Payment) -> impl Serialize + use<> {
    StatusView { status: payment.status, version: payment.version }
}

/// Returns the JSON form of an event, as every sink gets it.
pub fn event_view(event: &Event) -> impl Serialize + '_ {
    view_of_event(event)
}

/// Returns the JSON form of a page of events.
pub fn event_page_view<'a>(page: &'a EventPage, next: Option<&'a str>) -> impl Serialize + 'a {
    let data = page.events.iter().map(view_of_event).collect();
    EventPageView { data, next, done: page.is_last, expired: page.is_expired }
}

fn view_of_event(event: &Event) -> EventView<'_> {
    let data = match &event.data {
        Record::Payment(payment) => EventData::Payment(view_of_payment(payment)),
        Record::Refund(refund) => EventData::Refund(view_of_refund(refund)),
    };
    let merchant = &event.subject.merchant;
    EventView { id: &event.id, r#type: &event.kind, created_at: event.created_at, merchant, data }
}

fn view_of_payment(payment: &Payment) -> PaymentView<'_> {
    PaymentView {
        order_id: merchants_order_id(&payment.order_id),
        status: payment.status,
        money_state: payment.money_state,
        amount: payment.amount,
        refunded: payment.refunded,
        refunded_elsewhere: payment.refunded_elsewhere,
        method: payment.method,
        channel: &payment.channel,
        provider_payment_id: payment.provider_payment_id.as_deref(),
        action: payment.action.as_ref(),
        provider: payment.provider_error.as_ref(),
        status_reason: lost_action(payment).or(payment.status_reason.as_deref()),
        version: payment.version,
        created_at: payment.created_at,
        updated_at: payment.updated_at,
        paid_at: payment.paid_at,
        metadata: payment.metadata.as_ref(),
        watch: None,
    }
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// Returns the JSON form of a refund.
pub fn refund_view(refund: &Refund) -> impl Serialize + '_ {
    view_of_refund(refund)
}

fn view_of_refund(refund: &Refund) -> RefundView<'_> {
    RefundView {
        order_id: merchants_order_id(&refund.order_id),
        refund_id: &refund.refund_id,
        status: refund.status,
        money_state: refund.money_state,
        amount: refund.amount,
        reason: refund.reason.as_deref(),
        channel: &refund.channel,
        provider_refund_id: refund.provider_refund_id.as_deref(),
        provider: refund.provider_error.as_ref(),
        status_reason: refund.status_reason.as_deref(),
        version: refund.version,
        created_at: refund.created_at,
        updated_at: refund.updated_at,
        refunded_at: refund.refunded_at,
    }
}
