//! An explanation in words that need no knowledge of the gateway.

use jiff::Timestamp;
use tollgate_plugins::payment::{Currency, Money, Status};

use super::{Explanation, Given};
use crate::ledger::{
    BodyDigest, BytesSent, Entry, Inquiry, IntentKind, MoneyState, NotificationVerdict, Origin, ProviderCall,
    TimelineEvent,
};

/// First where the money is, then what happened, line by line.
pub(super) fn of(it: &Explanation) -> String {
    let Explanation { merchant, order_id, method, channel, account, .. } = it;
    let mut lines = vec![
        format!("{order_id} of {merchant}: {} by {method} over {channel} ({account})", money(it.amount)),
        format!("  {}", standing(it)),
    ];
    lines.extend(because(it.refused.as_deref(), it.status_reason.as_deref()).map(|line| format!("  {line}")));
    lines.extend(searching(it.search.as_ref(), it.status).map(|line| format!("  {line}")));
    for refund in &it.refunds {
        lines.push(format!("  {}", given_back(refund)));
        lines.extend(
            because(refund.refused.as_deref(), refund.status_reason.as_deref()).map(|line| format!("    {line}")),
        );
        lines.extend(searching(refund.search.as_ref(), refund.status).map(|line| format!("    {line}")));
    }
    let known_as = it.provider_payment_id.as_ref().map_or(String::new(), |id| format!(", its own number {id}"));
    lines.push(format!("  at the provider: order number {}{known_as}", it.provider_order_number));
    lines.push("  Times are UTC.".to_owned());
    lines.push(String::new());
    if it.timeline.entries.is_empty() {
        let since = time(it.created_at);
        lines
            .push(format!("  Made {since}, before timelines were kept: nothing more is known of how it came to this."));
    }
    for (place, entry) in it.timeline.entries.iter().enumerate() {
        if place == it.timeline.entries.len() / 2 && it.timeline.left_out > 0 {
            lines.push(format!("  … {} more that are not kept …", it.timeline.left_out));
        }
        lines.push(line(entry));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Where the money is.
fn standing(it: &Explanation) -> String {
    let when = it.paid_at.map_or(String::new(), |at| format!(" at {}", time(at)));
    match (it.status, it.money_state) {
        (Status::Succeeded, _) if it.refunded >= it.amount.value => {
            format!("PAID{when} AND GIVEN BACK whole, in the provider's verified word.")
        }
        (Status::Succeeded, _) if it.refunded > 0 => {
            let back = money(Money { value: it.refunded, ..it.amount });
            format!("PAID{when}, in the provider's verified word; {back} of it went back.")
        }
        (Status::Succeeded, _) => format!("PAID{when}, in the provider's verified word. The merchant has the money."),
        (Status::Failed, MoneyState::NotSent) => {
            "FAILED: it was given up before anything was sent anywhere.".to_owned()
        }
        (Status::Failed, _) => "FAILED: no money moved.".to_owned(),
        (Status::Closed, MoneyState::NotSent) => "CLOSED before anything was sent.".to_owned(),
        (Status::Closed, _) => "CLOSED: it ended unpaid, no money moved.".to_owned(),
        (Status::Pending, MoneyState::NotSent) => {
            "BEGUN: it is being sent, or waits in the queue. Nothing is at the provider as far as is known.".to_owned()
        }
        (Status::Pending, MoneyState::Unknown) => {
            "NOT SETTLED: the provider says that it went wrong and must be reversed. The payer may have been charged until then."
                .to_owned()
        }
        (Status::Pending, _) => "NOT PAID YET: the provider waits for the payer; no money moved so far.".to_owned(),
        (Status::Unknown, _) => {
            "UNKNOWN: it was sent, and no answer came that can be trusted. Do not pay again; it is being found out."
                .to_owned()
        }
    }
}

/// Why it stands so.
fn because(code: Option<&str>, sentence: Option<&str>) -> Option<String> {
    let said = code.map(|code| format!("the provider said {code}"));
    let all: Vec<_> = said.into_iter().chain(sentence.map(str::to_owned)).collect();
    (!all.is_empty()).then(|| format!("Why: {}.", all.join("; ")))
}

/// What is being done about it.
fn searching(search: Option<&Inquiry>, status: Status) -> Option<String> {
    let search = search.filter(|_| !status.is_final())?;
    let wish = if search.closing { "; it is closed if it is still open then" } else { "" };
    let person = if search.needs_person { " A PERSON MUST LOOK AT IT: ask the provider." } else { "" };
    let due = time(search.due);
    Some(match (search.asked, status) {
        (0, Status::Pending) => format!("If no notification comes, the provider is asked at {due}{wish}.{person}"),
        (asked, _) => format!("The provider is asked until it is known ({asked} so far), next at {due}{wish}.{person}"),
    })
}

fn given_back(refund: &Given) -> String {
    let Given { refund_id, amount, .. } = refund;
    let when = refund.refunded_at.map_or(String::new(), |at| format!(" at {}", time(at)));
    let state = match refund.status {
        Status::Succeeded => format!("GIVEN BACK{when}, in the provider's verified word"),
        Status::Failed | Status::Closed => "FAILED: nothing went back".to_owned(),
        Status::Pending if refund.money_state == MoneyState::NotSent => {
            "BEGUN: it is being sent, or waits in the queue".to_owned()
        }
        Status::Pending => "ON ITS WAY: the provider has it and is not done".to_owned(),
        Status::Unknown => {
            "UNKNOWN: it was sent and no answer came that can be trusted; it is being found out".to_owned()
        }
    };
    format!("refund {refund_id} of {}: {state} (there: number {})", money(*amount), refund.provider_refund_number)
}

/// What happened, and under it the bytes that prove it.
fn line(entry: &Entry) -> String {
    let about = entry.refund_id.as_ref().map_or(String::new(), |refund| format!("refund {refund}: "));
    let repeated = match entry.until {
        Some(until) => format!(" ({}, last at {})", count(entry.times), time(until)),
        None => String::new(),
    };
    let evidence = evidence(&entry.what).map_or(String::new(), |evidence| format!("\n{:27}{evidence}", ""));
    format!("  {}  {about}{}{repeated}{evidence}", time(entry.at), sentence(&entry.what))
}

fn sentence(what: &TimelineEvent) -> String {
    match what {
        TimelineEvent::Claimed { action: IntentKind::Pay, channel, amount } => {
            format!("the merchant asked for {}; written down, to go over {channel}", money(*amount))
        }
        TimelineEvent::Claimed { action: IntentKind::Close, channel, .. } => {
            format!("the merchant asked to close it on {channel}")
        }
        TimelineEvent::Claimed { action: IntentKind::Refund, channel, amount } => {
            format!("the merchant asked to give {} back; written down, to go over {channel}", money(*amount))
        }
        TimelineEvent::DuplicatePayment { channel } => {
            format!("money was found on {channel}, which it had gone away from")
        }
        TimelineEvent::Queued { action } => format!("the {} was accepted to be made by the queue", name(*action)),
        TimelineEvent::Dequeued { by } => format!("taken from the queue by {by}"),
        TimelineEvent::Requeued { due } => format!("nothing was sent, so it waits in the queue until {}", time(*due)),
        TimelineEvent::Rerouted { channel } => format!("nothing had been sent, so it goes over {channel} instead"),
        TimelineEvent::ProviderCall(exchanged) => exchange(exchanged),
        TimelineEvent::Released { action } => format!("the {} was given up: provably nothing was done", name(*action)),
        TimelineEvent::Interrupted { action, cause } => {
            format!("how the {} ended is unknown: {}; the provider is asked", name(*action), cause.sentence())
        }
        TimelineEvent::RefundElsewhere { number, status: Status::Failed } => {
            format!("refund {number}, which was not made here, has failed: no money went back by it")
        }
        TimelineEvent::RefundElsewhere { number, .. } => {
            format!("refund {number}, which was not made here, is not finished: no money has gone back by it so far")
        }
        TimelineEvent::CloseScheduled => "it is to be closed as soon as it is known to be open".to_owned(),
        TimelineEvent::StatusChanged { status, version, by, .. } => {
            let by = match by {
                Origin::Request => "from the request itself",
                Origin::Query => "because the provider said so when asked",
                Origin::Notification => "because the provider notified it",
            };
            format!("now {} (version {version}), {by}", status.as_str())
        }
        TimelineEvent::NotificationReceived { channel, id, verdict, .. } => {
            let verdict = match verdict {
                NotificationVerdict::Applied => "verified and believed",
                NotificationVerdict::NoChange => "verified, nothing new",
                NotificationVerdict::Verify => "verified; it proves nothing alone, so the provider is asked",
                NotificationVerdict::Mismatch => "NOT BELIEVED: it names another amount or came over another channel",
            };
            format!("notification {id} over {channel}: {verdict}")
        }
        TimelineEvent::ManualReview { why } => format!("A PERSON MUST LOOK AT IT: {why}"),
        TimelineEvent::Event { id, kind } => format!("event {kind} for the merchant ({id})"),
        TimelineEvent::Delivered { id } => format!("the merchant took the event {id}"),
        TimelineEvent::Undelivered { id, why } => {
            format!("the merchant did not take the event {id}: {why}; it is sent again")
        }
        TimelineEvent::DeliveryAbandoned { id, why } if why == "no_webhook" => {
            format!("event {id} is not sent: the merchant wants none")
        }
        TimelineEvent::DeliveryAbandoned { id, why } => {
            format!("event {id} is sent no more ({why}): THE MERCHANT DOES NOT HAVE IT")
        }
    }
}

fn exchange(it: &ProviderCall) -> String {
    let ProviderCall { operation, channel, result, .. } = it;
    let why = it.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    let sent = it.sent_at.strftime("%H:%M:%S%.3f");
    match it.written {
        BytesSent::No if it.why.is_none() && result == "pending" => {
            format!("{operation} on {channel}: made here for the payer's device, nothing had to be sent")
        }
        BytesSent::No => format!("{operation} on {channel}: nothing was sent: {result}{why}"),
        BytesSent::Maybe => {
            format!("{operation} sent over {channel} at {sent}; no whole answer in {} ms: {result}{why}", it.took_ms)
        }
        BytesSent::Yes => {
            format!("{operation} sent over {channel} at {sent}, answered after {} ms: {result}{why}", it.took_ms)
        }
    }
}

fn evidence(what: &TimelineEvent) -> Option<String> {
    let (seen, status) = match what {
        TimelineEvent::ProviderCall(ProviderCall { answer: Some(seen), http_status, .. }) => (seen, *http_status),
        TimelineEvent::NotificationReceived { seen: Some(seen), .. } => (seen, None),
        _ => return None,
    };
    let BodyDigest { sha256, bytes, key_id } = seen;
    let status = status.map_or(String::new(), |status| format!("HTTP {status}, "));
    let digest = sha256.get(..16).unwrap_or(sha256);
    let key = key_id.as_ref().map_or("no verified signature".to_owned(), |key| format!("signed with {key}"));
    Some(format!("{status}{bytes} bytes, sha256 {digest}…, {key}"))
}

fn name(action: IntentKind) -> &'static str {
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
