//! Counts of the last while, in ten parts, so that old calls are forgotten a tenth at a time.

use std::borrow::Cow;
use std::time::Duration;

const PARTS: u64 = 10;

/// So many reasons are told apart in one part; the rest is counted together.
const SYMPTOMS: usize = 8;

/// Calls within a rolling window.
pub(super) struct Window {
    width: Duration,
    slots: Box<[Slot; PARTS as usize]>,
}

/// One part of time.
#[derive(Default)]
struct Slot {
    /// Which one.
    part: u64,
    sums: Sums,
    /// What calls failed of, and how many.
    reasons: Vec<(Cow<'static, str>, u32)>,
}

/// How many calls there were, and of which kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) total: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

impl Window {
    pub(super) fn new(width: Duration) -> Self {
        Self { width, slots: Box::default() }
    }

    /// Takes another width; what was counted under the old one is forgotten, because its parts do not fit.
    pub(super) fn resize(&mut self, width: Duration) {
        if self.width != width {
            *self = Self::new(width);
        }
    }

    /// Counts a call, with what it failed of if it did.
    pub(super) fn add(&mut self, now: Duration, failed: Option<Cow<'static, str>>, slow: bool) {
        let part = self.part(now);
        let slot = &mut self.slots[(part % PARTS) as usize];
        if slot.part != part {
            *slot = Slot { part, ..Slot::default() };
        }
        slot.sums.total += 1;
        slot.sums.failed += u32::from(failed.is_some());
        slot.sums.slow += u32::from(slow);
        if let Some(reason) = failed {
            count(&mut slot.reasons, reason, 1);
        }
    }

    pub(super) fn sums(&self, now: Duration) -> Sums {
        self.fresh(now).fold(Sums::default(), |sums, Slot { sums: slot, .. }| Sums {
            total: sums.total + slot.total,
            failed: sums.failed + slot.failed,
            slow: sums.slow + slot.slow,
        })
    }

    /// What the failed calls failed of, most first: `9 timeout, 4 HTTP 500`.
    pub(super) fn reasons(&self, now: Duration) -> String {
        let mut all = Vec::new();
        for (reason, times) in self.fresh(now).flat_map(|slot| &slot.reasons) {
            count(&mut all, reason.clone(), *times);
        }
        all.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        all.iter().map(|(reason, times)| format!("{times} {reason}")).collect::<Vec<_>>().join(", ")
    }

    fn fresh(&self, now: Duration) -> impl Iterator<Item = &Slot> {
        let newest = self.part(now);
        self.slots.iter().filter(move |slot| slot.part + PARTS > newest && slot.part <= newest)
    }

    fn part(&self, now: Duration) -> u64 {
        let width = (self.width.as_nanos() / u128::from(PARTS)).max(1);
        u64::try_from(now.as_nanos() / width).unwrap_or(u64::MAX)
    }
}

fn count(reasons: &mut Vec<(Cow<'static, str>, u32)>, reason: Cow<'static, str>, times: u32) {
    if let Some((_, counted)) = reasons.iter_mut().find(|(known, _)| *known == reason) {
        *counted += times;
    } else if reasons.len() < SYMPTOMS || reason == "other" {
        reasons.push((reason, times));
    } else {
        count(reasons, "other".into(), times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(window: &Window, now: Duration) -> (u32, u32, u32) {
        let Sums { total, failed, slow } = window.sums(now);
        (total, failed, slow)
    }

    #[test]
    fn forgets_a_tenth_at_a_time() {
        let mut window = Window::new(Duration::from_secs(10));
        let start = Duration::from_secs(1000);
        window.add(start, Some("timeout".into()), true);
        window.add(start + Duration::from_secs(5), None, false);
        assert_eq!(sums(&window, start + Duration::from_millis(9999)), (2, 1, 1));
        assert_eq!(sums(&window, start + Duration::from_secs(10)), (1, 0, 0));
        assert_eq!(sums(&window, start + Duration::from_secs(15)), (0, 0, 0));
    }

    #[test]
    fn symptoms_are_told_most_first_and_too_many_are_others() {
        let (mut window, now) = (Window::new(Duration::from_secs(10)), Duration::from_secs(1000));
        for (times, reason) in [(2, "HTTP 500"), (3, "timeout"), (1, "cut")] {
            for _ in 0..times {
                window.add(now, Some(reason.into()), false);
            }
        }
        window.add(now + Duration::from_secs(1), Some("cut".into()), false);
        window.add(now + Duration::from_secs(1), None, false);
        assert_eq!(window.reasons(now + Duration::from_secs(2)), "3 timeout, 2 HTTP 500, 2 cut");
        assert_eq!(window.reasons(now + Duration::from_secs(10)), "1 cut");
        for number in 0..100 {
            window.add(now + Duration::from_secs(5), Some(format!("CODE{number}").into()), false);
        }
        let told = window.reasons(now + Duration::from_secs(12));
        assert!(told.starts_with("92 other, 1 CODE0") && told.split(", ").count() == 9, "{told}");
    }
}
