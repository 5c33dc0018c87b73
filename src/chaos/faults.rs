//! What can go wrong between the gateway and a provider, with one request.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Each with how often it is drawn; the sandbox's control API knows them by these names.
const FAULTS: [(&str, u32); 11] = [
    ("cut_unread", 3),
    ("cut_before", 3),
    ("cut_after", 4),
    ("status", 2),
    ("status_after", 3),
    ("unsigned", 2),
    ("wrong_signature", 2),
    ("stale", 2),
    ("garbage", 2),
    ("other_amount", 1),
    ("delay", 1),
];

/// A fault that waits for the operation on this number of the provider's.
pub(super) fn draw(random: &mut StdRng, operation: &str, number: &str) -> (&'static str, Value) {
    let all: u32 = FAULTS.iter().map(|(_, weight)| weight).sum();
    let mut left = random.random_range(0..all);
    let fault = FAULTS.iter().find(|(_, weight)| match left.checked_sub(*weight) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    });
    let name = fault.map_or("cut_after", |(name, _)| name);
    // Longer than the channel's limit for a read.
    let delay = if name == "delay" { 2500 } else { random.random_range(0..20) };
    let mut fault = json!({"operation": operation, "fault": name, "delay_ms": delay});
    // Before the body is read nobody knows the number: then it meets whoever comes next.
    if name != "cut_unread" {
        fault["number"] = number.into();
    }
    (name, fault)
}
