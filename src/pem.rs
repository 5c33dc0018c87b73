//! Writes PEM (RFC 7468).

use tollgate_plugins::signer::key_file::write_pem;

/// Encodes one block with lines of 64 characters.
pub(crate) fn write(label: &str, der: &[u8]) -> String {
    write_pem(label, der).to_string()
}
