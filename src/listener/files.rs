//! Descriptors of open files: the soft limit is raised, and some are kept for the ledger, providers and the admin port.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Minimum number of descriptors that connections leave to everything else, where the limit allows it.
const MIN_KEPT: u64 = 256;

/// How many descriptors this process may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors(Option<u64>);

impl Descriptors {
    /// The number of connections that callers may have open: a quarter of the descriptors, and at least [`MIN_KEPT`] or half of
    /// them, stay for everything else.
    pub(crate) fn connections(self, wanted: usize) -> usize {
        let Some(limit) = self.0 else { return wanted };
        let kept = (limit / 4).max(MIN_KEPT).min(limit / 2);
        wanted.min(usize::try_from(limit - kept).unwrap_or(usize::MAX))
    }

    /// For log lines; the largest number when there is no limit.
    pub(crate) fn limit(self) -> u64 {
        self.0.unwrap_or(u64::MAX)
    }
}

/// Raises the soft limit of open files to the hard limit, as every connection needs one.
pub(crate) fn raise_limit() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Descriptors(current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => Descriptors(maximum),
        Err(error) => {
            tracing::warn!(%error, limit = current, "the soft limit of open files cannot be raised to the hard limit");
            Descriptors(current)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_everything_else() {
        for (limit, connections) in [(64, 32), (256, 128), (512, 256), (1_024, 768), (20_000, 10_000), (8_192, 6_144)] {
            assert_eq!(Descriptors(Some(limit)).connections(10_000), connections, "{limit}");
        }
        assert_eq!(Descriptors(None).connections(10_000), 10_000);
    }
}
