//! Once per key: what names a claim and what tells two requests apart.

use sha2::{Digest, Sha256};

use crate::gateway::RequestContext;
use crate::ledger::ClaimKey;

/// Names the claim: merchant, method, path, key; with the fingerprint over method, path and body as received.
pub(crate) fn claim_key(asked: &RequestContext, key: String) -> ClaimKey {
    let method = asked.incoming.method.as_str();
    let mut hash = Sha256::new();
    // The path as the routing sees it, however it was written; the query as it came.
    let query = asked.incoming.target.split_once('?').map_or("", |(_, query)| query);
    let target = if query.is_empty() { asked.path.clone() } else { format!("{}?{query}", asked.path) };
    for part in [method.as_bytes(), target.as_bytes(), &asked.incoming.body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    ClaimKey {
        merchant: asked.merchant.name.clone(),
        method: method.to_owned(),
        path: asked.path.clone(),
        key,
        fingerprint: hash.finalize().into(),
    }
}
