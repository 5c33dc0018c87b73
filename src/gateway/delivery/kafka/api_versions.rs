//! `ApiVersions`: which requests, in which versions, pass the relay. Newer versions are left out where a response would name
//! brokers in a form that the relay does not read.

use bytes::Bytes;

use super::wire::{
    API_VERSIONS, FETCH, INIT_PRODUCER_ID, METADATA, NO_ERROR, PRODUCE, Reader, RequestHead, SASL_AUTHENTICATE,
    SASL_HANDSHAKE, Writer,
};
use crate::delivery::failure::DeliveryError;

/// Error code of a response to a version that is not supported.
const UNSUPPORTED_VERSION: i16 = 35;
/// Versions from which responses are written in the compact form.
const FIRST_COMPACT: i16 = 3;
/// Newest version of this request itself.
const NEWEST: i16 = 3;

/// Requests that go to the broker, with the newest version. `Fetch` is only named, because the library derives the format of
/// messages from it; the relay refuses it. From version 10 on, responses to `Produce` name brokers.
const FORWARDED: [(i16, i16); 4] = [(PRODUCE, 9), (FETCH, i16::MAX), (METADATA, 8), (INIT_PRODUCER_ID, i16::MAX)];
/// Requests that the relay answers itself.
const ANSWERED: [VersionRange; 3] = [
    VersionRange { key: SASL_HANDSHAKE, oldest: 0, newest: 1 },
    VersionRange { key: API_VERSIONS, oldest: 0, newest: NEWEST },
    VersionRange { key: SASL_AUTHENTICATE, oldest: 0, newest: 1 },
];

/// Versions of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VersionRange {
    key: i16,
    oldest: i16,
    newest: i16,
}

/// Returns the request that asks a broker for its versions.
pub(super) fn question(correlation_id: i32) -> Bytes {
    Writer::request(RequestHead { key: API_VERSIONS, version: 0, correlation_id }).finish()
}

/// Reads a broker's response. Returns what the relay offers to the library.
pub(super) fn offered(mut response: Reader) -> Result<Vec<VersionRange>, DeliveryError> {
    if response.i16()? != NO_ERROR {
        return Err(DeliveryError::Protocol("the broker does not tell its versions"));
    }
    let mut offered = ANSWERED.to_vec();
    for _ in 0..response.count(6)? {
        let (key, oldest, newest) = (response.i16()?, response.i16()?, response.i16()?);
        let Some((_, limit)) = FORWARDED.iter().find(|(known, _)| *known == key) else { continue };
        if oldest <= *limit {
            offered.push(VersionRange { key, oldest, newest: newest.min(*limit) });
        }
    }
    Ok(offered)
}

/// Returns the response to the library's question.
pub(super) fn answer(head: RequestHead, offered: &[VersionRange]) -> Bytes {
    let mut response = Writer::response(head.correlation_id);
    let is_known = (0..=NEWEST).contains(&head.version);
    response.i16(if is_known { NO_ERROR } else { UNSUPPORTED_VERSION });
    let is_compact = is_known && head.version >= FIRST_COMPACT;
    let count = offered.len();
    match is_compact {
        // At most seven, so that the length has one byte.
        true => response.byte(u8::try_from(count + 1).unwrap_or(1)),
        false => response.i32(i32::try_from(count).unwrap_or(0)),
    }
    for range in offered {
        response.i16(range.key);
        response.i16(range.oldest);
        response.i16(range.newest);
        if is_compact {
            response.byte(0);
        }
    }
    if is_known && head.version > 0 {
        response.i32(0);
    }
    if is_compact {
        response.byte(0);
    }
    response.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn response_of(error: i16, ranges: &[(i16, i16, i16)]) -> Reader {
        let mut writer = Writer::response(1);
        writer.i16(error);
        writer.i32(ranges.len() as i32);
        for (key, oldest, newest) in ranges {
            [key, oldest, newest].into_iter().for_each(|value| writer.i16(*value));
        }
        let mut reader = Reader::of_frame(&writer.finish()).unwrap();
        reader.i32().unwrap();
        reader
    }

    #[test]
    fn versions_that_name_brokers_otherwise_and_other_requests_are_not_offered() {
        let offered =
            offered(response_of(0, &[(0, 0, 11), (3, 0, 13), (22, 0, 5), (10, 0, 6), (71, 0, 0), (36, 0, 2)]));
        let offered: Vec<_> = offered.unwrap().iter().map(|it| (it.key, it.oldest, it.newest)).collect();
        assert_eq!(offered, [(17, 0, 1), (18, 0, 3), (36, 0, 1), (0, 0, 9), (3, 0, 8), (22, 0, 5)]);
    }

    #[test]
    fn broker_without_a_readable_version_and_an_error_are_refused() {
        let metadata = offered(response_of(0, &[(3, 9, 13)])).unwrap();
        assert!(metadata.iter().all(|range| range.key != METADATA));
        assert!(offered(response_of(35, &[])).is_err());
        assert!(offered(response_of(0, &[]).truncated()).is_err());
    }

    impl Reader {
        fn truncated(self) -> Self {
            let bytes = self.rest();
            Self::of_frame(&[&[0; 4], &bytes[..bytes.len() - 1]].concat().into()).unwrap()
        }
    }

    #[test]
    fn answer_has_the_form_of_the_version_that_was_asked() {
        let ranges = [VersionRange { key: 3, oldest: 1, newest: 8 }];
        let body = |version| {
            let frame = answer(RequestHead { key: API_VERSIONS, version, correlation_id: 9 }, &ranges);
            frame[8..].to_vec()
        };
        assert_eq!(body(0), [0, 0, 0, 0, 0, 1, 0, 3, 0, 1, 0, 8]);
        assert_eq!(body(2), [0, 0, 0, 0, 0, 1, 0, 3, 0, 1, 0, 8, 0, 0, 0, 0]);
        assert_eq!(body(3), [0, 0, 2, 0, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body(4), [0, 35, 0, 0, 0, 1, 0, 3, 0, 1, 0, 8], "the form of version 0, with the error");
    }
}
