//! What a broker or the network reported, as the reason of a failed attempt.

use lapin::ErrorKind;

use crate::delivery::failure::DeliveryError;

/// Maximum length of a broker's sentence in a message, in characters.
const MAX_SENTENCE: usize = 160;

/// Returns what the broker or the network reported, without secrets.
pub(crate) fn broker_error(error: &lapin::Error) -> DeliveryError {
    let sentence = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.kind().to_string(),
        ErrorKind::MissingHeartbeatError => "it gave no sign of life".to_owned(),
        _ => "the connection is closed".to_owned(),
    };
    DeliveryError::Broker(sentence.chars().filter(|it| !it.is_control()).take(MAX_SENTENCE).collect())
}
