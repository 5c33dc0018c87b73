//! Events that a merchant pulls, and redelivery at its request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::{Instant, sleep_until, timeout_at};
use tollgate_ledger::{EventCursor, EventPage, MerchantKey, Redelivered};
use tollgate_plugins::settings::duration;

use super::request_body::{idempotency_key, require_empty_body};
use super::responses::replayed;
use super::{Gateway, RequestContext};
use crate::change_hub::Subscription;
use crate::clock;
use crate::problem::{Problem, Retryable};
use crate::view;

/// Default and maximum number of events in a response.
const MAX_EVENTS: usize = 100;
/// Maximum time that a request waits for an event.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Maximum number of waiting requests of one merchant. A further one is answered at once.
const MAX_WAITING_PER_MERCHANT: usize = 16;
/// Time after which a waiting request reads again, in case the notice of a change was lost.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// First pause while an older transaction withholds events. Doubles up to [`RECHECK_INTERVAL`], because a forgotten
/// transaction may withhold them for hours.
const WITHHELD_PAUSE: Duration = Duration::from_millis(20);
/// Time for which a request without `wait` is held while events are withheld, so that its caller does not ask at once
/// again and again.
const WITHHELD_WAIT: Duration = Duration::from_secs(1);

/// Query of `GET /v1/events`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    /// The cursor: its text and the event it names.
    after: Option<(String, EventCursor)>,
    limit: Option<usize>,
    wait: Duration,
}

impl Query {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "after" => {
                    let cursor = EventCursor::parse(&value).ok_or_else(|| {
                        Problem::malformed("`after` must be the id of an event: the `next` of an earlier response.")
                    })?;
                    query.after = Some((value.into_owned(), cursor));
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_EVENTS).contains(limit));
                    query.limit = Some(limit.ok_or_else(|| {
                        Problem::malformed(format!("`limit` must be a number from 1 to {MAX_EVENTS}."))
                    })?);
                }
                "wait" => {
                    let wait = duration(&value).filter(|wait| *wait <= MAX_WAIT);
                    query.wait = wait.ok_or_else(|| {
                        Problem::malformed("`wait` must be a duration of at most 60s, such as 30s or 500ms.")
                    })?;
                }
                _ => return Err(Problem::malformed("The query may have only `after`, `limit` and `wait`.")),
            }
        }
        Ok(query)
    }
}

/// `GET /v1/events?after=CURSOR&limit=100&wait=30s`.
pub(super) async fn list(gateway: &Arc<Gateway>, request: &RequestContext) -> Result<Response<Bytes>, Problem> {
    let Query { after, limit, wait } = Query::parse(request.incoming.target.split_once('?').map_or("", |it| it.1))?;
    let merchant = &request.merchant.name;
    let (start, deadline) = (Instant::now(), Instant::from_std(request.deadline));
    let mut pauses = withheld_pauses();
    // Subscribed before the first read, so that no event after it is missed.
    let mut subscription = (!wait.is_zero()).then(|| subscribe(gateway, request)).flatten();
    let cursor = after.as_ref().map(|(_, cursor)| *cursor);
    let page = loop {
        let page = gateway.ledger.events(merchant, cursor, limit.unwrap_or(MAX_EVENTS)).await;
        let page = page.map_err(|error| Problem::ledger(&error))?;
        let wait = if page.is_withheld { wait.max(WITHHELD_WAIT) } else { wait };
        let ends_at = deadline.min(start + wait);
        if page.next.is_some() || Instant::now() >= ends_at {
            break page;
        }
        subscription = subscription.or_else(|| subscribe(gateway, request));
        let Some(subscription) = &mut subscription else { break page };
        let pause = if page.is_withheld { pauses.next() } else { None };
        let next_read = ends_at.min(Instant::now() + pause.unwrap_or(RECHECK_INTERVAL));
        tokio::select! {
            () = gateway.change_hub.draining() => break page,
            // What withholds the events ends without a notice.
            () = sleep_until(next_read), if page.is_withheld => {}
            _ = timeout_at(next_read, subscription.changed()), if !page.is_withheld => {}
        }
    };
    Ok(json(StatusCode::OK, page_body(&page, after.map(|(text, _)| text))))
}

/// Returns the pauses between reads while events are withheld.
fn withheld_pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(WITHHELD_PAUSE), |pause| Some((*pause * 2).min(RECHECK_INTERVAL)))
}

/// Returns a waiter for the merchant's events; `None` if too many requests wait.
fn subscribe(gateway: &Gateway, request: &RequestContext) -> Option<Subscription<MerchantKey>> {
    let total = (request.snapshot.process.in_flight / 4) as usize;
    let key = MerchantKey::of(&request.merchant.name);
    gateway.change_hub.merchants.subscribe(key, MAX_WAITING_PER_MERCHANT, total).ok()
}

fn page_body(page: &EventPage, after: Option<String>) -> Vec<u8> {
    let next = page.next.clone().or(after);
    serde_json::to_vec(&view::event_page_view(page, next.as_deref())).unwrap_or_default()
}

/// `POST /v1/events/{id}/redeliver`. A repeated idempotency key changes nothing.
pub(super) async fn redeliver(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    event_id: &str,
) -> Result<Response<Bytes>, Problem> {
    let key = idempotency_key(&request.incoming.headers)?;
    // A repeated key can then belong to no other request.
    require_empty_body(&request.incoming.body)?;
    let redelivered = gateway.ledger.redeliver(&request.merchant.name, event_id, &key, clock::now()).await;
    let accepted = || json(StatusCode::ACCEPTED, serde_json::json!({ "id": event_id }).to_string().into_bytes());
    match redelivered.map_err(|error| Problem::ledger(&error))? {
        Redelivered::Accepted => Ok(accepted()),
        Redelivered::Repeated => Ok(replayed(accepted())),
        Redelivered::NoSink => {
            let detail = "No webhook or sink gets events of this type. Let the gateway's operators add one, or read the event with GET /v1/events.";
            Err(Problem::new(StatusCode::CONFLICT, "invalid_state", Retryable::SameKey, detail))
        }
        Redelivered::TooOften { retry_after } => {
            let detail =
                "This event was requested too often within a day. Read it with GET /v1/events, or query the payment.";
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail);
            Err(problem.retry_after(retry_after))
        }
        Redelivered::NotFound => {
            let detail = "There is no such event, or it is no longer retained. Query the payment instead.";
            Err(Problem::not_found(detail))
        }
    }
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pauses_while_events_are_withheld_double_up_to_the_regular_interval() {
        let pauses: Vec<u128> = withheld_pauses().take(10).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000]);
    }

    #[test]
    fn query_of_events_is_checked_strictly() {
        let id = "evt_0000019a0000000000000001deadbeef";
        let query = Query::parse(&format!("after={id}&limit=7&wait=1.5s")).unwrap();
        assert_eq!(query.after.unwrap(), (id.to_owned(), EventCursor::parse(id).unwrap()));
        assert_eq!((query.limit, query.wait), (Some(7), Duration::from_millis(1500)));
        assert_eq!(Query::parse("").unwrap(), Query::default());
        for wrong in [
            "after=",
            "after=x",
            "after=evt_1",
            "limit=0",
            "limit=101",
            "limit=-1",
            "limit=x",
            "wait=61s",
            "wait=5",
            "wait=",
            "befor=1",
            "=",
            "a",
        ] {
            assert_eq!(Query::parse(wrong).unwrap_err().code(), "invalid_request", "{wrong}");
        }
    }
}
