//! File descriptors: raises the soft limit and reserves some for the ledger, providers and the admin port.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Minimum number of descriptors reserved for other uses, if the limit allows it.
const MIN_RESERVED: u64 = 256;

/// The process's limit of file descriptors; `None` means unlimited.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors(Option<u64>);

impl Descriptors {
    /// Returns the maximum number of connections. A quarter of the descriptors, at least `MIN_RESERVED` but at most
    /// half, stay reserved.
    pub fn connections(self, requested: usize) -> usize {
        let Some(limit) = self.0 else { return requested };
        let reserved = (limit / 4).max(MIN_RESERVED).min(limit / 2);
        requested.min(usize::try_from(limit - reserved).unwrap_or(usize::MAX))
    }

    /// Returns the limit for log lines; `u64::MAX` if unlimited.
    pub fn limit(self) -> u64 {
        self.0.unwrap_or(u64::MAX)
    }
}

/// Raises the soft limit of open files to the hard limit, because every connection needs a descriptor.
pub fn raise_limit() -> Descriptors {
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
    fn connections_leave_reserved_descriptors() {
        for (limit, connections) in [(64, 32), (256, 128), (512, 256), (1_024, 768), (20_000, 10_000), (8_192, 6_144)] {
            assert_eq!(Descriptors(Some(limit)).connections(10_000), connections, "{limit}");
        }
        assert_eq!(Descriptors(None).connections(10_000), 10_000);
    }
}
