//! Random secret that all gateways of one ledger share, for tokens that any of them can check.

use super::engine::Engine;
use super::error::{Corruption, LedgerError};
use super::ids::index;
use super::lock_scope::LockScope;
use super::retention::SECRET_KEY;
use super::transaction::Durability::Durable;
use super::transaction::{Read, Space, Transaction, Value};

/// Length of the secret in bytes.
const LENGTH: usize = 32;

/// Implements [`Ledger::find_shared_secret`](super::Ledger::find_shared_secret).
pub(super) async fn find(engine: &Engine) -> Result<Option<[u8; LENGTH]>, LedgerError> {
    let found = engine.read(|from| from.bytes(Space::Expiry, SECRET_KEY)).await?;
    found.map(|value| secret_of(&value)).transpose()
}

/// Implements [`Ledger::shared_secret`](super::Ledger::shared_secret).
pub(super) async fn find_or_create(engine: &Engine) -> Result<[u8; LENGTH], LedgerError> {
    let new: [u8; LENGTH] = rand::random();
    let work = move |tx: &mut Transaction<'_>| {
        if let Some(value) = tx.bytes(Space::Expiry, SECRET_KEY)? {
            return secret_of(&value);
        }
        tx.put(Space::Expiry, SECRET_KEY, new);
        Ok(new)
    };
    engine.write(Durable, LockScope::Names(vec![index("shared secret", &[])]), work).await
}

fn secret_of(value: &Value) -> Result<[u8; LENGTH], LedgerError> {
    let secret = <[u8; LENGTH]>::try_from(&**value);
    secret.map_err(|_| Corruption::Form("the shared secret has the wrong length".to_owned()).into())
}
