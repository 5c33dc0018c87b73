//! Counts of the last while, in ten parts, so that old calls are forgotten a tenth at a time.

use std::time::Duration;

const PARTS: u64 = 10;

/// Calls within a rolling window.
pub(super) struct Window {
    width: Duration,
    /// Which part of time each slot holds, and its counts.
    slots: Box<[(u64, Sums); PARTS as usize]>,
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
        Self { width, slots: Box::new([(0, Sums::default()); PARTS as usize]) }
    }

    /// Takes another width; what was counted under the old one is forgotten, because its parts do not fit.
    pub(super) fn resize(&mut self, width: Duration) {
        if self.width != width {
            *self = Self::new(width);
        }
    }

    pub(super) fn add(&mut self, now: Duration, failed: bool, slow: bool) {
        let part = self.part(now);
        let slot = &mut self.slots[(part % PARTS) as usize];
        if slot.0 != part {
            *slot = (part, Sums::default());
        }
        slot.1.total += 1;
        slot.1.failed += u32::from(failed);
        slot.1.slow += u32::from(slow);
    }

    pub(super) fn sums(&self, now: Duration) -> Sums {
        let newest = self.part(now);
        let fresh = self.slots.iter().filter(|slot| slot.0 + PARTS > newest && slot.0 <= newest);
        fresh.fold(Sums::default(), |sums, (_, slot)| Sums {
            total: sums.total + slot.total,
            failed: sums.failed + slot.failed,
            slow: sums.slow + slot.slow,
        })
    }

    fn part(&self, now: Duration) -> u64 {
        let width = (self.width.as_nanos() / u128::from(PARTS)).max(1);
        u64::try_from(now.as_nanos() / width).unwrap_or(u64::MAX)
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
        window.add(start, true, true);
        window.add(start + Duration::from_secs(5), false, false);
        assert_eq!(sums(&window, start + Duration::from_millis(9999)), (2, 1, 1));
        assert_eq!(sums(&window, start + Duration::from_secs(10)), (1, 0, 0));
        assert_eq!(sums(&window, start + Duration::from_secs(15)), (0, 0, 0));
    }
}
