//! Builds the ledger key and fingerprint of an idempotent request.

use sha2::{Digest, Sha256};
use tollgate_ledger::ClaimKey;

use super::RequestContext;

/// Returns the claim's key (merchant, method, path, idempotency key) and fingerprint (method, path, query, body).
pub(crate) fn claim_key(request: &RequestContext, key: String) -> ClaimKey {
    let method = request.incoming.method.as_str();
    let mut hash = Sha256::new();
    // The path is canonical; the query is as received.
    let query = request.incoming.target.split_once('?').map_or("", |(_, query)| query);
    let target = if query.is_empty() { request.path.clone() } else { format!("{}?{query}", request.path) };
    for part in [method.as_bytes(), target.as_bytes(), &request.incoming.body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    ClaimKey {
        merchant: request.merchant.name.clone(),
        method: method.to_owned(),
        path: request.path.clone(),
        key,
        fingerprint: hash.finalize().into(),
    }
}
