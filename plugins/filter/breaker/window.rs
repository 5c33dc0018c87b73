//! Rolling window of call counts in ten buckets. Old calls expire one bucket at a time.

use std::borrow::Cow;
use std::time::Duration;

const BUCKETS: u64 = 10;

/// Maximum number of distinct failure reasons per bucket; further ones are counted as `other`.
const MAX_REASONS: usize = 8;

/// Rolling window of call counts.
pub(super) struct Window {
    width: Duration,
    buckets: Box<[Bucket; BUCKETS as usize]>,
}

/// Counts of one tenth of the window.
#[derive(Default)]
struct Bucket {
    /// Number of the bucket since the clock's zero.
    number: u64,
    sums: Counts,
    /// Number of failed calls by reason.
    reasons: Vec<(Cow<'static, str>, u32)>,
}

/// Number of calls by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

impl Window {
    pub(super) fn new(width: Duration) -> Self {
        Self { width, buckets: Box::default() }
    }

    /// Changes the width. Counts of another width are dropped, because their buckets do not match.
    pub(super) fn resize(&mut self, width: Duration) {
        if self.width != width {
            *self = Self::new(width);
        }
    }

    /// Counts a call. `failed` is the reason of a failed call.
    pub(super) fn add(&mut self, now: Duration, failed: Option<Cow<'static, str>>, slow: bool) {
        let number = self.bucket_number(now);
        let bucket = &mut self.buckets[(number % BUCKETS) as usize];
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket.sums.total += 1;
        bucket.sums.failed += u32::from(failed.is_some());
        bucket.sums.slow += u32::from(slow);
        if let Some(reason) = failed {
            count(&mut bucket.reasons, reason, 1);
        }
    }

    pub(super) fn sums(&self, now: Duration) -> Counts {
        self.fresh(now).fold(Counts::default(), |sums, Bucket { sums: bucket, .. }| Counts {
            total: sums.total + bucket.total,
            failed: sums.failed + bucket.failed,
            slow: sums.slow + bucket.slow,
        })
    }

    /// Lists the failure reasons, most frequent first: `9 timeout, 4 HTTP 500`.
    pub(super) fn reasons(&self, now: Duration) -> String {
        let mut all = Vec::new();
        for (reason, times) in self.fresh(now).flat_map(|bucket| &bucket.reasons) {
            count(&mut all, reason.clone(), *times);
        }
        all.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        all.iter().map(|(reason, times)| format!("{times} {reason}")).collect::<Vec<_>>().join(", ")
    }

    fn fresh(&self, now: Duration) -> impl Iterator<Item = &Bucket> {
        let newest = self.bucket_number(now);
        self.buckets.iter().filter(move |bucket| bucket.number + BUCKETS > newest && bucket.number <= newest)
    }

    fn bucket_number(&self, now: Duration) -> u64 {
        let width = (self.width.as_nanos() / u128::from(BUCKETS)).max(1);
        u64::try_from(now.as_nanos() / width).unwrap_or(u64::MAX)
    }
}

fn count(reasons: &mut Vec<(Cow<'static, str>, u32)>, reason: Cow<'static, str>, times: u32) {
    if let Some((_, counted)) = reasons.iter_mut().find(|(known, _)| *known == reason) {
        *counted += times;
    } else if reasons.len() < MAX_REASONS || reason == "other" {
        reasons.push((reason, times));
    } else {
        count(reasons, "other".into(), times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(window: &Window, now: Duration) -> (u32, u32, u32) {
        let Counts { total, failed, slow } = window.sums(now);
        (total, failed, slow)
    }

    #[test]
    fn calls_expire_one_bucket_at_a_time() {
        let mut window = Window::new(Duration::from_secs(10));
        let start = Duration::from_secs(1000);
        window.add(start, Some("timeout".into()), true);
        window.add(start + Duration::from_secs(5), None, false);
        assert_eq!(sums(&window, start + Duration::from_millis(9999)), (2, 1, 1));
        assert_eq!(sums(&window, start + Duration::from_secs(10)), (1, 0, 0));
        assert_eq!(sums(&window, start + Duration::from_secs(15)), (0, 0, 0));
    }

    #[test]
    fn failure_reasons_are_sorted_by_count_and_excess_ones_become_other() {
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
        let text = window.reasons(now + Duration::from_secs(12));
        assert!(text.starts_with("92 other, 1 CODE0") && text.split(", ").count() == 9, "{text}");
    }
}
