//! Stored form of a nonce, in memory and in the nonce log.

/// Stored form of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NonceMark {
    /// Hash of key id and nonce.
    pub(super) hash: [u8; 16],
    /// Last second, by the wall clock, in which its signature can be valid.
    pub(super) end: u64,
}
