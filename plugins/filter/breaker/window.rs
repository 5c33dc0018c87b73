//! Counts of the last while, in ten parts, so that old calls are forgotten a tenth at a time.

use std::time::Duration;

const PARTS: u64 = 10;

/// Calls and failures within a rolling window.
pub(super) struct Window {
    width: Duration,
    /// Which part of time each slot holds, and its counts.
    slots: [(u64, u32, u32); PARTS as usize],
}

impl Window {
    pub(super) fn new(width: Duration) -> Self {
        Self { width, slots: [(0, 0, 0); PARTS as usize] }
    }

    /// Takes another width; what was counted under the old one is forgotten, because its parts do not fit.
    pub(super) fn resize(&mut self, width: Duration) {
        if self.width != width {
            *self = Self::new(width);
        }
    }

    pub(super) fn add(&mut self, now: Duration, failed: bool) {
        let part = self.part(now);
        let slot = &mut self.slots[(part % PARTS) as usize];
        if slot.0 != part {
            *slot = (part, 0, 0);
        }
        slot.1 += 1;
        slot.2 += u32::from(failed);
    }

    /// Calls and failures.
    pub(super) fn sums(&self, now: Duration) -> (u32, u32) {
        let newest = self.part(now);
        let fresh = self.slots.iter().filter(|slot| slot.0 + PARTS > newest && slot.0 <= newest);
        fresh.fold((0, 0), |(total, failed), slot| (total + slot.1, failed + slot.2))
    }

    fn part(&self, now: Duration) -> u64 {
        let width = (self.width.as_nanos() / u128::from(PARTS)).max(1);
        u64::try_from(now.as_nanos() / width).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_a_tenth_at_a_time() {
        let mut window = Window::new(Duration::from_secs(10));
        let start = Duration::from_secs(1000);
        window.add(start, true);
        window.add(start + Duration::from_secs(5), false);
        assert_eq!(window.sums(start + Duration::from_millis(9999)), (2, 1));
        assert_eq!(window.sums(start + Duration::from_secs(10)), (1, 0));
        assert_eq!(window.sums(start + Duration::from_secs(15)), (0, 0));
    }
}
