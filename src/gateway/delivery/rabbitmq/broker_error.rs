//! Errors of a broker or the network as the reason of a failed attempt.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

use crate::delivery::failure::DeliveryError;

/// Maximum length of a broker's sentence in a message, in characters.
const MAX_SENTENCE: usize = 160;

/// Returns what the broker or the network reported, without secrets.
pub(crate) fn broker_error(error: &lapin::Error) -> DeliveryError {
    let sentence = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.kind().to_string(),
        ErrorKind::MissingHeartbeatError => "no heartbeat was received".to_owned(),
        _ => "the connection is closed".to_owned(),
    };
    DeliveryError::Broker(sentence.chars().filter(|it| !it.is_control()).take(MAX_SENTENCE).collect())
}

/// Returns like [`broker_error`] what was reported about a sink's channel, with advice if the broker closed only the channel.
pub(super) fn channel_error(error: &lapin::Error) -> DeliveryError {
    let code = match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(code) => Some(code),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    };
    match (broker_error(error), code) {
        (DeliveryError::Broker(sentence), Some(code)) => DeliveryError::Channel { sentence, advice: advice(code) },
        (error, _) => error,
    }
}

fn advice(code: &AMQPSoftError) -> &'static str {
    match code {
        AMQPSoftError::NOTFOUND => "create the exchange, or set `declare = true`",
        AMQPSoftError::ACCESSREFUSED => {
            "permit the user to write to the exchange, and to configure it with `declare = true`"
        }
        AMQPSoftError::PRECONDITIONFAILED => {
            "if an exchange of this name exists with other properties, remove `declare` or name another exchange"
        }
        _ => "see the broker's log",
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError};

    use super::*;

    fn text(kind: AMQPErrorKind) -> String {
        let reported = AMQPError::new(kind, "NO - such \n thing".into());
        channel_error(&ErrorKind::ProtocolError(reported).into()).to_string()
    }

    #[test]
    fn closed_channel_is_no_closed_connection_and_comes_with_advice() {
        let closed = text(AMQPSoftError::NOTFOUND.into());
        assert_eq!(
            closed,
            "the broker closed the channel: NO - such  thing; create the exchange, or set `declare = true`"
        );
        assert!(text(AMQPSoftError::ACCESSREFUSED.into()).contains("permit the user"));
        assert!(text(AMQPSoftError::PRECONDITIONFAILED.into()).contains("other properties"));
        let closed = text(AMQPHardError::CONNECTIONFORCED.into());
        assert_eq!(closed, "the broker closed the connection: NO - such  thing");
    }
}
