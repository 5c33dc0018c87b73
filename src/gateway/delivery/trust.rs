//! TLS settings towards a broker.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use super::connections::PUBLIC_ROOTS;

/// Returns the TLS settings that trust these authorities (DER), or the public ones.
pub(super) fn trust(authorities: Option<&[Vec<u8>]>) -> Result<Arc<ClientConfig>, io::Error> {
    let Some(authorities) = authorities else { return Ok(Arc::clone(&PUBLIC_ROOTS)) };
    let mut roots = RootCertStore::empty();
    for der in authorities {
        roots.add(CertificateDer::from(der.clone())).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
