//! Decides which messages are delivered, from the confirmations that the AMQP library reports.
//!
//! The broker returns an unroutable message before it confirms it. The library keeps returned messages in a queue, and each
//! confirmation that it processes carries the first one, which may be another message's. Hence:
//! - A message whose id any confirmation carried was returned.
//! - A message whose own confirmation carried nothing is delivered, unless its id was carried before: the queue was empty.
//! - A message whose confirmation carried another's return is decided later: once a confirmation that was processed after it
//!   carries nothing, or once every message is confirmed. The queue is empty then. It is never longer than the number of
//!   returned messages that are not confirmed yet.

use std::collections::HashSet;

/// Decisions about the messages of one channel. `T` is what the caller knows of a message.
pub(super) struct Verdicts<T> {
    /// Confirmed messages whose own return may be in the queue.
    undecided: Vec<(String, T)>,
    /// Ids of returned messages that are not decided.
    returned: HashSet<String>,
}

/// Confirmation of a message, with the id of the returned message that it carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) is_ack: bool,
    pub(super) carried: Option<String>,
}

/// Decision about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A queue has it.
    Delivered,
    /// No queue is bound for it.
    Returned,
    /// The broker could not store it.
    Nack,
}

impl<T> Verdicts<T> {
    pub(super) fn new() -> Self {
        Self { undecided: Vec::new(), returned: HashSet::new() }
    }

    /// Takes the next confirmations with the ids of their messages, and returns decisions. The batch must contain every
    /// confirmation that was processed before one of its own. `is_all` says that no other message is unconfirmed.
    pub(super) fn decide(&mut self, batch: Vec<(String, T, Confirmed)>, is_all: bool) -> Vec<(T, Verdict)> {
        self.returned.extend(batch.iter().filter_map(|(.., confirmed)| confirmed.carried.clone()));
        let mut decided = Vec::new();
        if batch.iter().any(|(.., confirmed)| confirmed.carried.is_none()) {
            self.decide_waiting(&mut decided);
        }
        for (id, message, Confirmed { is_ack, carried }) in batch {
            if self.returned.remove(&id) {
                decided.push((message, Verdict::Returned));
            } else if !is_ack {
                decided.push((message, Verdict::Nack));
            } else if carried.is_none() {
                decided.push((message, Verdict::Delivered));
            } else {
                self.undecided.push((id, message));
            }
        }
        if is_all {
            self.decide_waiting(&mut decided);
            self.returned.clear();
        }
        decided
    }

    fn decide_waiting(&mut self, decided: &mut Vec<(T, Verdict)>) {
        for (id, message) in self.undecided.drain(..) {
            let is_returned = self.returned.remove(&id);
            decided.push((message, if is_returned { Verdict::Returned } else { Verdict::Delivered }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn ack(carried: Option<&str>) -> Confirmed {
        Confirmed { is_ack: true, carried: carried.map(str::to_owned) }
    }

    fn decide(verdicts: &mut Verdicts<&'static str>, batch: &[(&'static str, Confirmed)], is_all: bool) -> Vec<String> {
        let batch = batch.iter().map(|(id, confirmed)| ((*id).to_owned(), *id, confirmed.clone())).collect();
        let decided = verdicts.decide(batch, is_all);
        decided.iter().map(|(id, verdict)| format!("{id} {verdict:?}")).collect()
    }

    #[test]
    fn return_that_another_confirmation_carried_earlier_counts() {
        let mut verdicts = Verdicts::new();
        assert_eq!(decide(&mut verdicts, &[("routed", ack(Some("lost")))], false), <[&str; 0]>::default());
        let decided = decide(&mut verdicts, &[("lost", ack(None))], true);
        assert_eq!(decided, ["routed Delivered", "lost Returned"]);
    }

    /// The routed message is settled in a batch of its own; the return that its confirmation carried must outlive it.
    #[test]
    fn return_that_an_earlier_batch_carried_counts_while_other_messages_are_unconfirmed() {
        let mut verdicts = Verdicts::new();
        assert!(decide(&mut verdicts, &[("routed", ack(Some("lost")))], false).is_empty());
        let decided = decide(&mut verdicts, &[("lost", ack(None))], false);
        assert_eq!(decided, ["routed Delivered", "lost Returned"]);
        assert_eq!(
            decide(&mut verdicts, &[("lost", ack(None))], false),
            ["lost Delivered"],
            "a later attempt is routed"
        );
    }

    #[test]
    fn message_is_decided_once_a_later_confirmation_carries_nothing() {
        let mut verdicts = Verdicts::new();
        assert!(decide(&mut verdicts, &[("a", ack(Some("b")))], false).is_empty());
        assert_eq!(decide(&mut verdicts, &[("b", ack(Some("a")))], false), ["b Returned"]);
        assert_eq!(decide(&mut verdicts, &[("c", ack(None))], false), ["a Returned", "c Delivered"]);
        let nack = Confirmed { is_ack: false, carried: None };
        assert_eq!(decide(&mut verdicts, &[("d", nack)], true), ["d Nack"]);
    }

    proptest! {
        /// A broker returns before it confirms, in any order otherwise; the library hands returns out first in, first out.
        #[test]
        fn exactly_the_unroutable_messages_are_returned(
            messages in proptest::collection::vec((any::<bool>(), any::<u32>(), any::<u32>(), any::<bool>()), 1..24),
        ) {
            // (time, is a confirmation, message), each return before its confirmation.
            let mut frames = Vec::new();
            for (number, (is_routable, one, other, _)) in messages.iter().enumerate() {
                if !is_routable {
                    frames.push((*one.min(other), false, number));
                }
                frames.push((*one.max(other), true, number));
            }
            frames.sort_unstable();
            let (mut queue, mut batch, mut confirmed) = (VecDeque::new(), Vec::new(), 0);
            let (mut verdicts, mut decided) = (Verdicts::new(), Vec::new());
            for (_, is_confirmation, number) in frames {
                if !is_confirmation {
                    queue.push_back(number.to_string());
                    continue;
                }
                confirmed += 1;
                let one = Confirmed { is_ack: true, carried: queue.pop_front() };
                batch.push((number.to_string(), number, one));
                let is_all = confirmed == messages.len();
                if is_all || messages[number].3 {
                    // The order within a batch is unknown to the caller.
                    batch.sort_by_key(|(_, number, _)| messages[*number].1 ^ messages[*number].2);
                    decided.extend(verdicts.decide(std::mem::take(&mut batch), is_all));
                }
            }
            decided.sort_by_key(|(number, _)| *number);
            let expected = messages.iter().enumerate().map(|(number, (is_routable, ..))| {
                (number, if *is_routable { Verdict::Delivered } else { Verdict::Returned })
            });
            prop_assert_eq!(decided, expected.collect::<Vec<_>>());
        }
    }
}
