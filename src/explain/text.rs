//! Formats an explanation for readers who do not know the gateway.

use jiff::Timestamp;
use tollgate_ledger::{
    BodyDigest, BytesSent, Entry, Inquiry, IntentKind, MoneyState, NotificationVerdict, Origin, ProviderCall, SinkName,
    TimelineEvent,
};
use tollgate_plugins::payment::{Currency, Money, Status};

use super::{Explanation, RefundExplanation};

/// Returns the text: first where the money is, then the events, one per line.
pub(super) fn explanation_text(explanation: &Explanation) -> String {
    let Explanation { merchant, order_id, method, channel, account, .. } = explanation;
    let mut lines = vec![
        format!("{order_id} of {merchant}: {} by {method} over {channel} ({account})", money(explanation.amount)),
        format!("  {}", money_sentence(explanation)),
    ];
    lines.extend(
        reason_sentence(explanation.refused.as_deref(), explanation.status_reason.as_deref())
            .map(|entry_lines| format!("  {entry_lines}")),
    );
    lines.extend(
        inquiry_sentence(explanation.search.as_ref(), explanation.status).map(|entry_lines| format!("  {entry_lines}")),
    );
    for refund in &explanation.refunds {
        lines.push(format!("  {}", refund_sentence(refund)));
        lines.extend(
            reason_sentence(refund.refused.as_deref(), refund.status_reason.as_deref())
                .map(|entry_lines| format!("    {entry_lines}")),
        );
        lines.extend(
            inquiry_sentence(refund.search.as_ref(), refund.status).map(|entry_lines| format!("    {entry_lines}")),
        );
    }
    let provider_id = explanation.provider_payment_id.as_ref().map_or(String::new(), |id| format!(", payment id {id}"));
    lines.push(format!("  at the provider: order number {}{provider_id}", explanation.provider_order_number));
    lines.push("  Times are UTC.".to_owned());
    lines.push(String::new());
    if explanation.timeline.entries.is_empty() {
        let since = time(explanation.created_at);
        lines.push(format!("  Created {since}, before timelines were kept: nothing more is known of its history."));
    }
    for (index, entry) in explanation.timeline.entries.iter().enumerate() {
        if index == explanation.timeline.entries.len() / 2 && explanation.timeline.left_out > 0 {
            lines.push(format!("  … {} more that were not kept …", explanation.timeline.left_out));
        }
        lines.push(entry_lines(entry));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Returns the sentence about where the money is.
fn money_sentence(explanation: &Explanation) -> String {
    let when = explanation.paid_at.map_or(String::new(), |at| format!(" at {}", time(at)));
    match (explanation.status, explanation.money_state) {
        (Status::Succeeded, _) if explanation.refunded >= explanation.amount.value => {
            format!("PAID{when} AND FULLY REFUNDED, as the provider confirmed.")
        }
        (Status::Succeeded, _) if explanation.refunded > 0 => {
            let refunded = money(Money { value: explanation.refunded, ..explanation.amount });
            format!("PAID{when}, as the provider confirmed; {refunded} of it was refunded.")
        }
        (Status::Succeeded, _) => format!("PAID{when}, as the provider confirmed. The merchant has the money."),
        (Status::Failed, MoneyState::NotSent) => {
            "FAILED: it was given up before anything was sent to a provider.".to_owned()
        }
        (Status::Failed, _) => "FAILED: no money moved.".to_owned(),
        (Status::Closed, MoneyState::NotSent) => "CLOSED before anything was sent.".to_owned(),
        (Status::Closed, _) => "CLOSED unpaid: no money moved.".to_owned(),
        (Status::Pending, MoneyState::NotSent) => {
            "STARTED: it is being sent, or waits in the queue. As far as known, the provider has not received it.".to_owned()
        }
        (Status::Pending, MoneyState::Unknown) => {
            "NOT SETTLED: the provider reports an error and that the payment must be reversed. Until then the payer may be charged."
                .to_owned()
        }
        (Status::Pending, _) => "NOT PAID YET: the provider waits for the payer; no money has moved.".to_owned(),
        (Status::Unknown, _) => {
            "UNKNOWN: it was sent, and no trustworthy response arrived. Do not pay again; the provider is being queried."
                .to_owned()
        }
    }
}

/// Returns the reason for the status.
fn reason_sentence(code: Option<&str>, sentence: Option<&str>) -> Option<String> {
    let provider_reason = code.map(|code| format!("the provider said {code}"));
    let all: Vec<_> = provider_reason.into_iter().chain(sentence.map(str::to_owned)).collect();
    (!all.is_empty()).then(|| format!("Why: {}.", all.join("; ")))
}

/// Returns what the gateway is doing about an open status.
fn inquiry_sentence(inquiry: Option<&Inquiry>, status: Status) -> Option<String> {
    let inquiry = inquiry.filter(|_| !status.is_final())?;
    let close_note = if inquiry.closing { "; the order is closed if it is still open then" } else { "" };
    let review_note = if inquiry.needs_review { " MANUAL REVIEW NEEDED: ask the provider." } else { "" };
    let due = time(inquiry.due);
    Some(match (inquiry.asked, status) {
        (0, Status::Pending) => {
            format!("If no notification arrives, the provider is queried at {due}{close_note}.{review_note}")
        }
        (asked, _) => format!(
            "The provider is queried until the outcome is known ({asked} so far), next at {due}{close_note}.{review_note}"
        ),
    })
}

fn refund_sentence(refund: &RefundExplanation) -> String {
    let RefundExplanation { refund_id, amount, .. } = refund;
    let when = refund.refunded_at.map_or(String::new(), |at| format!(" at {}", time(at)));
    let state = match refund.status {
        Status::Succeeded => format!("REFUNDED{when}, as the provider confirmed"),
        Status::Closed if refund.is_elsewhere() => "ENDED: other refunds account for it".to_owned(),
        Status::Failed | Status::Closed => "FAILED: no money was refunded".to_owned(),
        Status::Pending if refund.money_state == MoneyState::NotSent => {
            "STARTED: it is being sent, or waits in the queue".to_owned()
        }
        Status::Pending => "IN PROGRESS: the provider is processing it".to_owned(),
        Status::Unknown if refund.is_elsewhere() => {
            "UNKNOWN: the provider notified of it and is being queried".to_owned()
        }
        Status::Unknown => {
            "UNKNOWN: it was sent, and no trustworthy response arrived; the provider is being queried".to_owned()
        }
    };
    let amount = match amount.value {
        0 => "an unknown amount".to_owned(),
        _ => money(*amount),
    };
    let number = &refund.provider_refund_number;
    match refund.is_elsewhere() {
        true if number.is_empty() => format!("refunds made elsewhere, known by their sum only, of {amount}: {state}"),
        true => format!("refund {number} of {amount}, made elsewhere: {state}"),
        false => format!("refund {refund_id} of {amount}: {state} (number at the provider: {number})"),
    }
}

/// Returns an event's line, and below it the digest of the bytes that prove it.
fn entry_lines(entry: &Entry) -> String {
    let subject = entry.refund_id.as_ref().map_or(String::new(), |refund| format!("refund {refund}: "));
    let repeated = match entry.until {
        Some(until) => format!(" ({}, last at {})", count(entry.times), time(until)),
        None => String::new(),
    };
    let evidence = evidence(&entry.what).map_or(String::new(), |evidence| format!("\n{:27}{evidence}", ""));
    format!("  {}  {subject}{}{repeated}{evidence}", time(entry.at), sentence(&entry.what))
}

fn sentence(what: &TimelineEvent) -> String {
    match what {
        TimelineEvent::Claimed { action: IntentKind::Pay, channel, amount } => {
            format!("the merchant requested a payment of {}; recorded, channel {channel}", money(*amount))
        }
        TimelineEvent::Claimed { action: IntentKind::Close, channel, .. } => {
            format!("the merchant requested to close it on {channel}")
        }
        TimelineEvent::Claimed { action: IntentKind::Refund, channel, amount } => {
            format!("the merchant requested a refund of {}; recorded, channel {channel}", money(*amount))
        }
        TimelineEvent::DuplicatePayment { channel } => {
            format!("duplicate payment: money arrived on {channel}, which the payment had left")
        }
        TimelineEvent::Queued { action } => format!("the {} was accepted and queued", action_name(*action)),
        TimelineEvent::Dequeued { by } => format!("dequeued by {by}"),
        TimelineEvent::Requeued { due } => format!("nothing was sent; requeued until {}", time(*due)),
        TimelineEvent::Rerouted { channel } => format!("nothing had been sent; rerouted to {channel}"),
        TimelineEvent::ProviderCall(call) => call_sentence(call),
        TimelineEvent::Released { action } => {
            format!("the {} was released: provably nothing was executed", action_name(*action))
        }
        TimelineEvent::Interrupted { action, cause } => {
            format!(
                "the outcome of the {} is unknown: {}; the provider is queried",
                action_name(*action),
                cause.sentence()
            )
        }
        TimelineEvent::RefundElsewhere { number, status: Status::Failed } => {
            format!("refund {number}, not made through this gateway, has failed: it moved no money")
        }
        TimelineEvent::RefundElsewhere { number, status: Status::Pending } => {
            format!("refund {number}, not made through this gateway, is not finished: it has moved no money yet")
        }
        TimelineEvent::RefundElsewhere { number, status: Status::Unknown } => {
            format!("refund {number}, not made through this gateway: its result is queried")
        }
        TimelineEvent::RefundElsewhere { number, status: Status::Succeeded } => {
            format!("refund {number}, not made through this gateway, has returned its amount to the payer")
        }
        TimelineEvent::RefundElsewhere { number, status: Status::Closed } => {
            format!("refund {number} belongs to the cancellation of the payment: the payer has the money back")
        }
        TimelineEvent::CloseScheduled => "it will be closed as soon as it is known to be open".to_owned(),
        TimelineEvent::StatusChanged { status, version, by, .. } => {
            let by = match by {
                Origin::Request => "from the request itself",
                Origin::Query => "as the provider answered a query",
                Origin::Notification => "as the provider notified",
            };
            format!("now {} (version {version}), {by}", status.as_str())
        }
        TimelineEvent::NotificationReceived { channel, id, verdict, .. } => {
            let verdict = match verdict {
                NotificationVerdict::Applied => "verified and applied",
                NotificationVerdict::NoChange => "verified, no change",
                NotificationVerdict::Verify => "verified; not conclusive alone, so the provider is queried",
                NotificationVerdict::Mismatch => "REJECTED: it names another amount or came over another channel",
            };
            format!("notification {id} over {channel}: {verdict}")
        }
        TimelineEvent::ManualReview { why } => format!("MANUAL REVIEW NEEDED: {why}"),
        TimelineEvent::Event { id, kind } => format!("event {kind} for the merchant ({id})"),
        TimelineEvent::Delivered { id, sink } => format!("the event {id} was delivered{}", to(sink)),
        TimelineEvent::Undelivered { id, why, sink } => {
            format!("the event {id} was not delivered{}: {why}; it is retried", to(sink))
        }
        TimelineEvent::RedeliveryRequested { id } => format!("the merchant requested the event {id} again"),
        TimelineEvent::DeliveryAbandoned { id, why, .. } if why == "no_webhook" => {
            format!("the event {id} is not sent: the merchant has no webhook")
        }
        TimelineEvent::DeliveryAbandoned { id, why, sink } if why == "discarded" => {
            format!("the event {id} was dropped: the operator discards the events of the sink {sink}")
        }
        TimelineEvent::DeliveryAbandoned { id, why, sink } => {
            format!("the event {id} was given up{} ({why}): THE MERCHANT HAS NOT RECEIVED IT", to(sink))
        }
    }
}

/// Names the sink of a delivery, unless it is the webhook.
fn to(sink: &SinkName) -> String {
    if sink.is_webhook() { String::new() } else { format!(" to the sink {sink}") }
}

fn call_sentence(explanation: &ProviderCall) -> String {
    let ProviderCall { operation, channel, result, .. } = explanation;
    let why = explanation.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    let sent = explanation.sent_at.strftime("%H:%M:%S%.3f");
    match explanation.written {
        BytesSent::No if explanation.why.is_none() && result == "pending" => {
            format!("{operation} on {channel}: created for the payer's device; nothing had to be sent")
        }
        BytesSent::No => format!("{operation} on {channel}: nothing was sent: {result}{why}"),
        BytesSent::Maybe => {
            format!(
                "{operation} sent over {channel} at {sent}; no complete response in {} ms: {result}{why}",
                explanation.took_ms
            )
        }
        BytesSent::Yes => {
            format!(
                "{operation} sent over {channel} at {sent}, answered after {} ms: {result}{why}",
                explanation.took_ms
            )
        }
    }
}

fn evidence(what: &TimelineEvent) -> Option<String> {
    let (digest, status) = match what {
        TimelineEvent::ProviderCall(ProviderCall { answer: Some(digest), http_status, .. }) => (digest, *http_status),
        TimelineEvent::NotificationReceived { seen: Some(digest), .. } => (digest, None),
        _ => return None,
    };
    let BodyDigest { sha256, bytes, key_id } = digest;
    let status = status.map_or(String::new(), |status| format!("HTTP {status}, "));
    let digest = sha256.get(..16).unwrap_or(sha256);
    let key = key_id.as_ref().map_or("no verified signature".to_owned(), |key| format!("signed with {key}"));
    Some(format!("{status}{bytes} bytes, sha256 {digest}…, {key}"))
}

fn action_name(action: IntentKind) -> &'static str {
    match action {
        IntentKind::Pay => "payment",
        IntentKind::Close => "close",
        IntentKind::Refund => "refund",
    }
}

fn count(times: u32) -> String {
    match times {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        times => format!("{times} times"),
    }
}

fn money(amount: Money) -> String {
    if amount.currency == Currency::CNY { format!("{} CNY", amount.yuan()) } else { amount.to_string() }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}
