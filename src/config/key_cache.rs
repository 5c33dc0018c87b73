//! Content-addressed cache of parsed keys and certificates. A key that many channels share is parsed once, and not again at
//! the next reload.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tollgate_plugins::signer::key_file::KeyFile;
use tollgate_plugins::signer::{Signer, Verifier};

use super::pair::{Authority, Pair};

/// Caches that are passed from generation to generation. Entries that no generation uses are evicted.
#[derive(Default)]
pub(crate) struct KeyCache {
    pub(super) files: InternCache<KeyFile>,
    pub(super) signers: InternCache<dyn Signer>,
    pub(super) verifiers: InternCache<dyn Verifier>,
    pub(super) pairs: InternCache<Pair>,
    pub(super) authorities: InternCache<[Authority]>,
}

impl KeyCache {
    /// Evicts entries that only the cache references.
    pub(super) fn evict_unused(&self) {
        self.files.evict_unused();
        self.signers.evict_unused();
        self.verifiers.evict_unused();
        self.pairs.evict_unused();
        self.authorities.evict_unused();
    }
}

/// Cache of one type. Its keys are digests of the file contents, so no secret is stored twice.
pub(super) struct InternCache<T: ?Sized>(Mutex<HashMap<[u8; 32], Arc<T>>>);

impl<T: ?Sized> Default for InternCache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: ?Sized> InternCache<T> {
    /// Returns the cached value for these contents, or builds it. Errors are not cached.
    pub(super) fn get_or_build<E>(
        &self,
        contents: &[&[u8]],
        build: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let digest = digest(contents);
        let cached = self.0.lock().get(&digest).cloned();
        if let Some(cached) = cached {
            return Ok(cached);
        }
        // The lock is not held while building, so other threads can build other values.
        let built = build()?;
        Ok(Arc::clone(self.0.lock().entry(digest).or_insert(built)))
    }

    fn evict_unused(&self) {
        self.0.lock().retain(|_, cached| Arc::strong_count(cached) > 1);
    }
}

/// Returns the digest of the contents. The lengths keep `ab` + `c` apart from `a` + `bc`.
fn digest(contents: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in contents {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn same_contents_are_parsed_once_while_in_use() {
        let cache = InternCache::<str>::default();
        let built =
            |contents: &[&[u8]], text: &str| cache.get_or_build(contents, || Ok::<_, ()>(Arc::from(text))).unwrap();
        let first = built(&[b"ab", b"c"], "first");
        assert!(Arc::ptr_eq(&first, &built(&[b"ab", b"c"], "again")));
        assert_eq!(&*built(&[b"a", b"bc"], "other"), "other");
        assert_eq!(cache.get_or_build(&[b"wrong"], || Err(())), Err(()));
        cache.evict_unused();
        assert_eq!(cache.0.lock().len(), 1, "only the first is still referenced");
        drop(first);
        cache.evict_unused();
        assert_eq!(&*built(&[b"ab", b"c"], "anew"), "anew");
    }
}
