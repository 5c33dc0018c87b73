//! A configuration directory for tests.

use std::sync::LazyLock;

use tollgate_config::testing::{Dir, complete};
use tollgate_sandbox::keygen;

/// Returns a valid configuration with one merchant and one channel to a sandbox, and the directory of its ledger.
#[allow(clippy::unwrap_used)]
pub(crate) fn sandbox() -> Dir {
    // Generating RSA keys takes long, so it is done once.
    static MADE: LazyLock<Dir> = LazyLock::new(|| {
        let dir = Dir::default();
        keygen::sandbox_channel(&dir.path().join("channels"), "wechat", "127.0.0.1:8443").unwrap();
        complete(&dir, "wechat");
        dir
    });
    MADE.copied()
}
