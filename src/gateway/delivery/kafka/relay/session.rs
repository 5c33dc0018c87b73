//! One connection of the library, and the connection to the broker behind it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tollgate_config::BrokerAddress;

use super::Shared;
use crate::delivery::connections::not_permitted;
use crate::delivery::failure::DeliveryError;
use crate::delivery::kafka::api_versions::{self, VersionRange};
use crate::delivery::kafka::upstream::{self, Upstream};
use crate::delivery::kafka::wire::{
    API_VERSIONS, INIT_PRODUCER_ID, METADATA, NO_ERROR, PRODUCE, Reader, RequestHead, SASL_AUTHENTICATE,
    SASL_HANDSHAKE, Writer, frames,
};
use crate::delivery::kafka::{metadata, sasl};

/// Time limit for the connection to the broker with TLS and login; shorter than the library's for the first response.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Time limit for the login of the library.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

type Requests<'a> = FramedRead<ReadHalf<'a>, LengthDelimitedCodec>;
/// Versions of the `Metadata` requests without a response, by correlation id.
type Questions = Mutex<HashMap<i32, i16>>;

/// Relays until one side closes the connection. A close by the library is no error.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    broker: &BrokerAddress,
    mut client: TcpStream,
) -> Result<(), DeliveryError> {
    let mut allowed = shared.allowed.subscribe();
    let networks = allowed.borrow_and_update().clone();
    let opening = tokio::time::timeout(CONNECT_TIMEOUT, upstream::open(&shared.config, broker, &networks));
    let Upstream { stream, peer, offered } = opening.await.unwrap_or(Err(DeliveryError::Timeout(CONNECT_TIMEOUT)))?;
    client.set_nodelay(true).map_err(DeliveryError::BrokerConnection)?;
    let (requests, mut responses) = client.split();
    let mut requests = frames(requests);
    let greeting = tokio::time::timeout(GREETING_TIMEOUT, greet(shared, &offered, &mut requests, &mut responses));
    if !greeting.await.unwrap_or(Ok(false))? {
        return Ok(());
    }
    let (from_broker, mut to_broker) = tokio::io::split(stream);
    let questions = Questions::default();
    tokio::select! {
        // Nothing passes once the configuration forbids the address.
        biased;
        refused = until_refused(peer, &mut allowed) => Err(refused),
        ended = forward_responses(shared, from_broker, &mut responses, &questions) => ended,
        ended = forward_requests(&mut requests, &mut to_broker, &questions) => ended,
    }
}

/// Answers the library until it has logged in. Returns false if it did not.
async fn greet(
    shared: &Shared,
    offered: &[VersionRange],
    requests: &mut Requests<'_>,
    responses: &mut WriteHalf<'_>,
) -> Result<bool, DeliveryError> {
    while let Some(Ok(frame)) = requests.next().await {
        let (head, mut body) = RequestHead::read(&frame.freeze())?;
        let (answer, is_done) = match (head.key, head.version) {
            (API_VERSIONS, _) => (api_versions::answer(head, offered), false),
            (SASL_HANDSHAKE, 0 | 1) => (handshake_answer(head), false),
            (SASL_AUTHENTICATE, 0 | 1) => {
                // The client id.
                body.string()?;
                let message = body.bytes()?.unwrap_or_default();
                if !shared.is_login(&message) {
                    return Ok(false);
                }
                (login_answer(head), true)
            }
            _ => return Ok(false),
        };
        responses.write_all(&answer).await.map_err(DeliveryError::BrokerConnection)?;
        if is_done {
            return Ok(true);
        }
    }
    Ok(false)
}

fn handshake_answer(head: RequestHead) -> Bytes {
    let mut answer = Writer::response(head.correlation_id);
    answer.i16(NO_ERROR);
    answer.i32(1);
    answer.string(Some(sasl::name(tollgate_config::SaslMechanism::Plain).as_bytes()));
    answer.finish()
}

fn login_answer(head: RequestHead) -> Bytes {
    let mut answer = Writer::response(head.correlation_id);
    answer.i16(NO_ERROR);
    answer.string(None);
    answer.bytes(b"");
    if head.version > 0 {
        // The session does not expire.
        answer.i64(0);
    }
    answer.finish()
}

async fn forward_requests<W: AsyncWrite + Unpin>(
    requests: &mut Requests<'_>,
    to_broker: &mut W,
    questions: &Questions,
) -> Result<(), DeliveryError> {
    while let Some(Ok(frame)) = requests.next().await {
        let frame = frame.freeze();
        let (head, _) = RequestHead::read(&frame)?;
        match head.key {
            PRODUCE | INIT_PRODUCER_ID => {}
            METADATA => drop(questions.lock().insert(head.correlation_id, head.version)),
            _ => return Err(DeliveryError::Protocol("the library sent a request that a producer does not need")),
        }
        to_broker.write_all(&frame).await.map_err(DeliveryError::BrokerConnection)?;
        to_broker.flush().await.map_err(DeliveryError::BrokerConnection)?;
    }
    Ok(())
}

async fn forward_responses<R: AsyncRead + Unpin>(
    shared: &Arc<Shared>,
    from_broker: R,
    responses: &mut WriteHalf<'_>,
    questions: &Questions,
) -> Result<(), DeliveryError> {
    let mut from_broker = frames(from_broker);
    // A broker that closes every connection is none.
    let mut connected = None;
    while let Some(frame) = from_broker.next().await {
        let mut frame = frame.map_err(DeliveryError::BrokerConnection)?.freeze();
        connected.get_or_insert_with(|| shared.connected());
        let question = questions.lock().remove(&Reader::of_frame(&frame)?.i32()?);
        if let Some(version) = question {
            frame = metadata::rewrite(&frame, version, |brokers| shared.ports(brokers))?;
        }
        if responses.write_all(&frame).await.is_err() {
            return Ok(());
        }
    }
    Err(DeliveryError::BrokerClosed)
}

/// Waits until the configuration does not permit the address any more.
async fn until_refused(peer: IpAddr, allowed: &mut watch::Receiver<Vec<IpNet>>) -> DeliveryError {
    loop {
        if let Some(refused) = not_permitted(peer, &allowed.borrow_and_update()) {
            return refused;
        }
        if allowed.changed().await.is_err() {
            // The relay is closed, and this task with it.
            std::future::pending::<()>().await;
        }
    }
}
