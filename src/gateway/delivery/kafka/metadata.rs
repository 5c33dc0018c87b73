//! `Metadata` responses, versions 0 to 8: the brokers of the cluster. The relay replaces their addresses by its own.

use bytes::Bytes;
use tollgate_config::BrokerAddress;

use super::wire::{Reader, Writer, malformed};
use crate::delivery::failure::DeliveryError;

/// Maximum number of brokers of a cluster.
const MAX_BROKERS: usize = 256;
/// First versions with a throttle time in front, and with a rack for each broker.
const FIRST_WITH_THROTTLE: i16 = 3;
const FIRST_WITH_RACK: i16 = 1;

/// Broker as a response describes it.
struct Broker {
    id: i32,
    address: BrokerAddress,
    rack: Option<Bytes>,
}

/// Returns the response with other addresses: for each broker, 127.0.0.1 and the port that `local` returns for all of them.
pub(super) fn rewrite(
    frame: &Bytes,
    version: i16,
    local: impl FnOnce(&[BrokerAddress]) -> Result<Vec<u16>, DeliveryError>,
) -> Result<Bytes, DeliveryError> {
    let mut reader = Reader::of_frame(frame)?;
    let mut response = Writer::response(reader.i32()?);
    if version >= FIRST_WITH_THROTTLE {
        response.i32(reader.i32()?);
    }
    let count = reader.count(10)?;
    if count > MAX_BROKERS {
        return Err(DeliveryError::Protocol("the cluster has more than 256 brokers"));
    }
    let brokers = (0..count).map(|_| broker(&mut reader, version)).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = brokers.iter().map(|broker| broker.address.clone()).collect();
    let ports = local(&addresses)?;
    response.i32(i32::try_from(brokers.len()).unwrap_or(0));
    for (broker, port) in brokers.iter().zip(ports) {
        response.i32(broker.id);
        response.string(Some(b"127.0.0.1"));
        response.i32(i32::from(port));
        if version >= FIRST_WITH_RACK {
            response.string(broker.rack.as_deref());
        }
    }
    response.raw(&reader.rest());
    Ok(response.finish())
}

fn broker(reader: &mut Reader, version: i16) -> Result<Broker, DeliveryError> {
    let id = reader.i32()?;
    let host = reader.string()?.ok_or_else(malformed)?;
    let host = std::str::from_utf8(&host).map_err(|_| malformed())?.to_ascii_lowercase();
    let port = u16::try_from(reader.i32()?).map_err(|_| malformed())?;
    let rack = if version >= FIRST_WITH_RACK { reader.string()? } else { None };
    Ok(Broker { id, address: BrokerAddress { host, port }, rack })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(version: i16, brokers: &[(i32, &str, i32)]) -> Bytes {
        let mut writer = Writer::response(77);
        if version >= 3 {
            writer.i32(5);
        }
        writer.i32(brokers.len() as i32);
        for (id, host, port) in brokers {
            writer.i32(*id);
            writer.string(Some(host.as_bytes()));
            writer.i32(*port);
            if version >= 1 {
                writer.string(None);
            }
        }
        writer.raw(b"cluster, controller and topics");
        writer.finish()
    }

    #[test]
    fn only_the_addresses_of_brokers_are_replaced() {
        for version in 0..=8 {
            let frame = response(version, &[(1, "K1.example.com", 9093), (2, "10.0.0.7", 9094)]);
            let local = |brokers: &[BrokerAddress]| {
                let named: Vec<_> = brokers.iter().map(ToString::to_string).collect();
                assert_eq!(named, ["k1.example.com:9093", "10.0.0.7:9094"]);
                Ok(vec![4001, 4002])
            };
            let expected = response(version, &[(1, "127.0.0.1", 4001), (2, "127.0.0.1", 4002)]);
            assert_eq!(rewrite(&frame, version, local).unwrap(), expected, "version {version}");
        }
    }

    #[test]
    fn malformed_responses_are_refused() {
        let local = |brokers: &[BrokerAddress]| Ok(vec![1; brokers.len()]);
        let frame = response(8, &[(1, "k1", 9093)]);
        for length in 0..frame.len() - b"cluster, controller and topics".len() {
            assert!(rewrite(&frame.slice(..length), 8, local).is_err(), "{length} bytes");
        }
        assert!(rewrite(&response(8, &[(1, "k1", 65_536)]), 8, local).is_err());
        assert!(rewrite(&response(8, &[(1, "k1", -1)]), 8, local).is_err());
        assert!(rewrite(&response(8, &[(1, "k1", 1); 257]), 8, local).is_err());
        let refused = rewrite(&frame, 8, |_| Err(DeliveryError::NoAddress));
        assert!(matches!(refused, Err(DeliveryError::NoAddress)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0i16..9) {
            drop(rewrite(&bytes.into(), version, |brokers| Ok(vec![1; brokers.len()])));
        }
    }
}
