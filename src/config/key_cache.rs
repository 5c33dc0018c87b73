//! What was made of files before, by their contents: a key that a thousand channels share is read once, and not again at the
//! next reload.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tollgate_plugins::signer::key_file::KeyFile;
use tollgate_plugins::signer::{Signer, Verifier};

use super::identity::{Authority, Pair};

/// Goes from generation to generation. What no generation uses any more is forgotten.
#[derive(Default)]
pub(crate) struct Known {
    pub(super) files: InternCache<KeyFile>,
    pub(super) signers: InternCache<dyn Signer>,
    pub(super) verifiers: InternCache<dyn Verifier>,
    pub(super) pairs: InternCache<Pair>,
    pub(super) authorities: InternCache<[Authority]>,
}

impl Known {
    /// Forgets what only stands here.
    pub(super) fn tidy(&self) {
        self.files.tidy();
        self.signers.tidy();
        self.verifiers.tidy();
        self.pairs.tidy();
        self.authorities.tidy();
    }
}

/// One kind of them. The names of what stands there are digests, so no key is kept a second time.
pub(super) struct InternCache<T: ?Sized>(Mutex<HashMap<[u8; 32], Arc<T>>>);

impl<T: ?Sized> Default for InternCache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: ?Sized> InternCache<T> {
    /// What was made of these contents before, or is made now. What is wrong is not kept.
    pub(super) fn take<E>(&self, contents: &[&[u8]], make: impl FnOnce() -> Result<Arc<T>, E>) -> Result<Arc<T>, E> {
        let name = name(contents);
        let known = self.0.lock().get(&name).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        // Not under the lock: others may read other files meanwhile.
        let made = make()?;
        Ok(Arc::clone(self.0.lock().entry(name).or_insert(made)))
    }

    fn tidy(&self) {
        self.0.lock().retain(|_, known| Arc::strong_count(known) > 1);
    }
}

/// Lengths keep `ab` + `c` apart from `a` + `bc`.
fn name(contents: &[&[u8]]) -> [u8; 32] {
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
    fn the_same_contents_are_read_once_until_nobody_uses_them() {
        let shelf = InternCache::<str>::default();
        let made = |contents: &[&[u8]], text: &str| shelf.take(contents, || Ok::<_, ()>(Arc::from(text))).unwrap();
        let first = made(&[b"ab", b"c"], "first");
        assert!(Arc::ptr_eq(&first, &made(&[b"ab", b"c"], "again")));
        assert_eq!(&*made(&[b"a", b"bc"], "other"), "other");
        assert_eq!(shelf.take(&[b"wrong"], || Err(())), Err(()));
        shelf.tidy();
        assert_eq!(shelf.0.lock().len(), 1, "only the first is still used");
        drop(first);
        shelf.tidy();
        assert_eq!(&*made(&[b"ab", b"c"], "anew"), "anew");
    }
}
