//! Returns the timeline of a payment to its merchant.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::request_body::is_identifier;
use super::responses::ResponseChannel;
use super::{Gateway, RequestContext};
use crate::problem::Problem;
use crate::view;

/// `GET /v1/payments/{order_id}/timeline`.
pub(super) async fn show(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    let missing = || Problem::not_found("There is no such payment.").order(order_id);
    if !is_identifier(order_id) {
        return Err(missing());
    }
    let found = gateway.ledger.timeline(&request.merchant.name, order_id).await;
    let (payment, timeline) = found.map_err(|error| Problem::ledger(&error))?.ok_or_else(missing)?;
    let body = serde_json::to_vec(&view::timeline_view(&payment, &timeline)).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response.extensions_mut().insert(ResponseChannel(payment.channel));
    Ok(response)
}
