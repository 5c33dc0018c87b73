//! Cross-checks of a channel's key files and ids, run when the configuration is loaded.
//!
//! Each provider knows which of its files belong together and which format its ids have. A finding is an error only if
//! no payment can succeed or the fault is certain. Anything merely unusual is a note.

use crate::signer::certificate::Certificate;
use crate::signer::key_file::PublicKey;

/// Cross-check rules of one provider.
pub struct Inspection {
    /// Names of secrets in the provider's spec that are certificate files: a leaf, optionally with its issuers.
    pub certificates: &'static [&'static str],
    /// Names of secrets in the provider's spec that are files of CA certificates. Their order in the file is preserved.
    pub authorities: &'static [&'static str],
    /// Location of the provider's own key or certificate. Shown as advice if a wrong one is configured or all have
    /// expired.
    pub verify_from: &'static str,
    /// Normalizes the id of a key to the provider's format. Returns a finding if the id is invalid.
    pub id: fn(IdOf, &str) -> Result<String, Finding>,
    /// Cross-checks all facts of a channel.
    pub run: fn(&Facts<'_>) -> Vec<Finding>,
}

impl Inspection {
    /// Rules of a provider without key files: no checks.
    pub const NONE: Self = Self {
        certificates: &[],
        authorities: &[],
        verify_from: "",
        id: |_, id| Ok(id.to_owned()),
        run: |_| Vec::new(),
    };
}

/// Key that an id belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOf {
    /// The account's own signing key.
    Sign,
    /// A certificate of the provider.
    Certificate,
    /// A bare public key of the provider.
    BareKey,
}

/// Configuration of one channel, as input of the cross-checks.
pub struct Facts<'a> {
    /// Current time in unix seconds.
    pub now: i64,
    /// String values of `[account]` with their keys.
    pub account: &'a [(String, String)],
    /// Host names.
    pub hosts: &'a [String],
    /// The account's own signing key, if it was readable.
    pub sign: Option<Sign<'a>>,
    /// The provider's keys that were readable.
    pub verify: &'a [Verify],
    /// Certificates of `[mtls]`, leaf first; empty without `[mtls]`.
    pub mtls: &'a [Certificate],
    /// Certificate files among the secrets, by the secret's name.
    pub secrets: &'a [(&'static str, Vec<Certificate>)],
}

/// The account's own signing key.
pub struct Sign<'a> {
    /// Algorithm in `keys.sign`.
    pub algorithm: &'a str,
    /// Id under which the provider knows the key.
    pub id: &'a str,
    /// Public half of the key, if it could be derived.
    pub public_key: Option<&'a PublicKey>,
    /// Certificates in the key's file, leaf first.
    pub certificates: &'a [Certificate],
}

/// A public key or certificate of the provider.
pub struct Verify {
    /// Id under which the provider names the key.
    pub id: String,
    /// True if the file itself contains the id, as a certificate does.
    pub has_id: bool,
    /// Public key.
    pub public_key: PublicKey,
    /// Certificates in the key's file, leaf first; empty for a bare key.
    pub certificates: Vec<Certificate>,
}

impl Facts<'_> {
    /// Returns a string value of `[account]`.
    pub(crate) fn account(&self, key: &str) -> Option<&str> {
        self.account.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns the certificates in the file of a secret; empty if there is none.
    pub(crate) fn secret(&self, name: &str) -> &[Certificate] {
        self.secrets.iter().find(|(known, _)| *known == name).map_or(&[], |(_, certificates)| certificates)
    }
}

/// Result of a cross-check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Configuration value that the finding is about.
    pub location: Location,
    /// True if the finding rejects the configuration.
    pub severity: Severity,
    /// Fault; never contains the value of a secret.
    pub message: String,
    /// Advice for the operator.
    pub suggestion: Option<String>,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is rejected.
    Error,
    /// `tollgate check` prints a note; the configuration is accepted.
    Note,
}

/// Configuration value in a channel's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// `keys.sign.id`.
    SignId,
    /// `keys.sign.file`.
    SignFile,
    /// `file` of an entry of `keys.verify`; the index starts at 0.
    VerifyFile(usize),
    /// `id` of the entry of `keys.verify` that is being read.
    VerifyId,
    /// `mtls.cert`.
    Mtls,
    /// A secret in `[keys]`, by name.
    Secret(&'static str),
    /// A string in `[account]`, by key.
    Account(&'static str),
    /// `hosts`.
    Hosts,
}

impl Finding {
    /// Returns a finding that rejects the configuration.
    pub(crate) fn error(location: Location, message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { location, severity: Severity::Error, message: message.into(), suggestion: Some(suggestion.into()) }
    }

    /// Returns a finding that is printed as a note.
    pub(crate) fn note(location: Location, message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(location, message, suggestion) }
    }
}
