//! Watches the expiry of certificates.

use std::collections::HashMap;

use jiff::Timestamp;
use tollgate_config::{CertificateEnd, OperatorEventType};

use super::event::{Details, OperatorEvent};

/// Days left at which an expiry is reported. Ordering a new certificate takes time.
const THRESHOLDS: [i64; 6] = [1, 3, 7, 14, 30, 60];
/// Threshold of a certificate that has expired.
const EXPIRED: i64 = -1;
const DAY: i64 = 24 * 3600;

/// Certificates that were reported, by channel and name, with expiry and the last threshold.
#[derive(Default)]
pub(crate) struct CertificateWatch(HashMap<(String, String), (i64, i64)>);

impl CertificateWatch {
    /// Returns an event for each certificate that has reached a further threshold.
    pub(crate) fn due(&mut self, ends: &[CertificateEnd], now: Timestamp) -> Vec<OperatorEvent> {
        let mut known = std::mem::take(&mut self.0);
        let mut events = Vec::new();
        for end in ends {
            let days_left = (end.not_after - now.as_second()).div_euclid(DAY);
            let threshold = match days_left {
                ..0 => Some(EXPIRED),
                _ => THRESHOLDS.into_iter().find(|threshold| days_left <= *threshold),
            };
            let Some(threshold) = threshold else { continue };
            let name = (end.channel.clone(), end.certificate.clone());
            let before = known.remove(&name);
            let is_new = before.is_none_or(|(not_after, last)| not_after != end.not_after || threshold < last);
            self.0.insert(name, (end.not_after, threshold));
            if is_new {
                events.push(event(end, days_left, threshold));
            }
        }
        events
    }
}

fn event(end: &CertificateEnd, days_left: i64, threshold: i64) -> OperatorEvent {
    let name = &end.certificate;
    let cause = match days_left {
        ..0 => format!("The certificate `{name}` has expired."),
        0 => format!("The certificate `{name}` expires within a day."),
        1 => format!("The certificate `{name}` expires in 1 day."),
        _ => format!("The certificate `{name}` expires in {days_left} days."),
    };
    let advice = match end.channel.is_empty() {
        true => "Order its successor in time, and write it to the files that `tls` in tollgate.toml names.",
        false => "",
    };
    let not_after = Timestamp::from_second(end.not_after).map_or_else(|_| String::new(), |end| end.to_string());
    let details = Details {
        cause,
        advice: advice.to_owned(),
        channel: end.channel.clone(),
        certificate: name.clone(),
        not_after,
        days_left: Some(days_left),
        threshold,
        ..Details::default()
    };
    OperatorEvent::new(OperatorEventType::CertificateExpiring, details)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn end(channel: &str, day: i64) -> CertificateEnd {
        CertificateEnd { channel: channel.to_owned(), certificate: "mtls".to_owned(), not_after: day * DAY }
    }

    fn days(events: &[OperatorEvent]) -> Vec<i64> {
        events.iter().map(|event| event.details.days_left.unwrap()).collect()
    }

    #[test]
    fn each_threshold_is_reported_once_per_certificate() {
        let (mut watch, ends) = (CertificateWatch::default(), [end("a", 100)]);
        let mut emitted = Vec::new();
        // Four looks a day.
        for quarter in 0..4 * 105 {
            let now = Timestamp::from_second(quarter * DAY / 4).unwrap();
            emitted.extend(days(&watch.due(&ends, now)));
        }
        assert_eq!(emitted, [60, 30, 14, 7, 3, 1, -1]);
    }

    #[test]
    fn certificate_that_is_found_late_is_reported_once_and_its_successor_again() {
        let (mut watch, now) = (CertificateWatch::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(days(&watch.due(&[end("a", 5), end("b", 400), end("", 20)], now)), [5, 20]);
        assert_eq!(days(&watch.due(&[end("a", 5), end("", 20)], now)), <[i64; 0]>::default());
        let events = watch.due(&[end("a", 50), end("", 20)], now);
        assert_eq!(days(&events), [50], "the successor also expires soon");
        assert_eq!(watch.due(&[], now), []);
        assert!(watch.0.is_empty(), "removed certificates are forgotten");
    }

    #[test]
    fn gateways_of_one_url_give_the_event_one_id_and_others_another() {
        let [one, other] = [3, 2].map(|day| CertificateWatch::default().due(&[end("a", day)], Timestamp::UNIX_EPOCH));
        let again = CertificateWatch::default().due(&[end("a", 3)], Timestamp::from_second(60).unwrap());
        assert_eq!(one[0].id("https://a.example"), again[0].id("https://a.example"));
        assert_ne!(one[0].id("https://a.example"), one[0].id("https://b.example"));
        assert_ne!(one[0].id("https://a.example"), other[0].id("https://a.example"));
    }
}
