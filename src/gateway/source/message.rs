//! Reads an AMQP message as the request that it stands for.
//!
//! The body is the HTTP body. The message header `method` is the HTTP method, `path` the path with its query. All other headers
//! with a text or a whole number are the HTTP headers: `idempotency-key`, and those of either signature scheme.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::operations::Incoming;
use crate::problem::Problem;
use crate::proxy::valid_request_id;

/// Header of the HTTP method.
const METHOD: &str = "method";
/// Header of the path and query.
const PATH: &str = "path";

/// A message that is not acknowledged yet.
pub(super) struct Message {
    pub(super) acker: Acker,
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    pub(super) is_redelivered: bool,
    pub(super) request_id: String,
    /// The request, or why the message stands for none.
    pub(super) request: Result<Incoming, Problem>,
}

impl Message {
    pub(super) fn read(delivery: Delivery) -> Self {
        let Delivery { routing_key, redelivered, properties, data, acker, .. } = delivery;
        let body = Bytes::from(data);
        let empty = FieldTable::default();
        let headers = properties.headers().as_ref().unwrap_or(&empty);
        let wanted_id = text(headers, "x-request-id");
        let message_id = || properties.message_id().as_ref().map(ToString::to_string);
        let request_id = valid_request_id(wanted_id.or_else(message_id).as_deref());
        let request = request(headers, body.clone(), &request_id);
        Self {
            acker,
            routing_key: routing_key.to_string(),
            is_redelivered: redelivered,
            request_id,
            request,
            properties,
            body,
        }
    }

    /// Returns the order that the message is about, if it names one.
    pub(super) fn order(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            order_id: String,
        }
        let path = self.request.as_ref().ok()?.target.split('?').next()?;
        match path.split('/').nth(3) {
            Some(order) => Some(percent_decode_str(order).decode_utf8_lossy().into_owned()),
            None => serde_json::from_slice::<Named>(&self.body).ok().map(|named| named.order_id),
        }
    }
}

fn request(table: &FieldTable, body: Bytes, request_id: &str) -> Result<Incoming, Problem> {
    let method = text(table, METHOD).and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let method = method.ok_or_else(|| Problem::malformed("The header `method` must be an HTTP method, as in POST."))?;
    let target = text(table, PATH).filter(|path| path.starts_with('/') && path.parse::<PathAndQuery>().is_ok());
    let target = target.ok_or_else(|| {
        Problem::malformed("The header `path` must be the path of the HTTP request, as in /v1/payments.")
    })?;
    Ok(Incoming {
        method,
        version: Version::HTTP_11,
        scheme: "http",
        authority: String::new(),
        target,
        headers: headers(table),
        body,
        request_id: request_id.to_owned(),
    })
}

/// Returns the HTTP headers. Headers that HTTP does not allow, as brokers and tracers add them, are left out.
fn headers(table: &FieldTable) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in table.inner() {
        if [METHOD, PATH].contains(&name.as_str()) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = as_text(value).and_then(|value| HeaderValue::from_str(&value).ok());
        if let (Ok(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    table.inner().get(name).and_then(as_text)
}

/// Returns a text, or a whole number in decimal notation: a producer may write a timestamp as a number.
fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::ShortShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortShortUInt(number) => Some(number.to_string()),
        AMQPValue::ShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortUInt(number) => Some(number.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongUInt(number) => Some(number.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(headers: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn message(path: &str, body: &str) -> Message {
        let headers = table(&[("method", long("POST")), ("path", long(path))]);
        let mut delivery = Delivery::mock(1, "".into(), "q".into(), false, body.as_bytes().to_vec());
        delivery.properties = BasicProperties::default().with_headers(headers).with_message_id("m-1".into());
        Message::read(delivery)
    }

    #[test]
    fn texts_and_whole_numbers_become_http_headers_and_others_are_left_out() {
        let table = table(&[
            ("method", long("POST")),
            ("path", long("/v1/payments?x=1")),
            ("Idempotency-Key", long("k-1")),
            ("x-tollgate-timestamp", AMQPValue::LongLongInt(1_700_000_000)),
            ("x-death", AMQPValue::FieldArray(Default::default())),
            ("not a header", long("x")),
            ("x-line", long("a\nb")),
        ]);
        let incoming = request(&table, Bytes::new(), "r").unwrap();
        assert_eq!((incoming.method, incoming.target.as_str()), (Method::POST, "/v1/payments?x=1"));
        let mut names: Vec<_> =
            incoming.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        names.sort();
        assert_eq!(names, [("idempotency-key", &b"k-1"[..]), ("x-tollgate-timestamp", &b"1700000000"[..])]);
    }

    #[test]
    fn message_without_method_or_path_is_refused_with_advice() {
        for (missing, headers) in [
            ("`method`", vec![("path", long("/v1/payments"))]),
            ("`path`", vec![("method", long("POST"))]),
            ("`path`", vec![("method", long("POST")), ("path", long("https://pay.example.com/v1/payments"))]),
            ("`path`", vec![("method", long("POST")), ("path", long("/v1/pay ments"))]),
        ] {
            let problem = request(&table(&headers), Bytes::new(), "r").unwrap_err();
            assert!(problem.detail().contains(missing), "{}", problem.detail());
        }
    }

    #[test]
    fn order_is_named_by_the_path_or_by_the_body() {
        let created = message("/v1/payments", r#"{"order_id": "o:1", "amount": 1}"#);
        assert_eq!(created.order().as_deref(), Some("o:1"));
        assert_eq!(created.request_id, "m-1");
        assert_eq!(message("/v1/payments/o%3A1/close", "").order().as_deref(), Some("o:1"));
        assert_eq!(message("/v1/payments", "no JSON").order(), None);
    }
}
