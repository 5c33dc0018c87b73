//! A channel's files and ids, held against each other before a payment meets them.
//!
//! Each provider knows which of its files belong together and which form its ids have. A finding is a mistake only where no
//! payment can succeed, or where what is wrong is certain; whatever is merely odd is a note.

use crate::signer::certificate::Certificate;
use crate::signer::key_file::PublicKey;

/// Rules of one provider.
pub struct Inspection {
    /// The secrets of its row that are files with a certificate, and perhaps those above it.
    pub certificates: &'static [&'static str],
    /// The secrets of its row that are files with certificates of authorities, whose order is kept.
    pub authorities: &'static [&'static str],
    /// Where the provider's own key or certificate is found. The advice when a wrong one is named, or all have ended.
    pub verify_from: &'static str,
    /// Puts the id of a key into the provider's form, or says why it cannot be one.
    pub id: fn(IdOf, &str) -> Result<String, Finding>,
    /// Holds everything against each other.
    pub run: fn(&Facts<'_>) -> Vec<Finding>,
}

impl Inspection {
    /// For providers without files.
    pub const NONE: Self = Self {
        certificates: &[],
        authorities: &[],
        verify_from: "",
        id: |_, id| Ok(id.to_owned()),
        run: |_| Vec::new(),
    };
}

/// Whose id it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOf {
    /// The account's own key's.
    Sign,
    /// A certificate of the provider's.
    Certificate,
    /// A bare public key of the provider's.
    BareKey,
}

/// Everything about one channel.
pub struct Facts<'a> {
    /// Unix seconds.
    pub now: i64,
    /// The texts of `[account]` by their keys.
    pub account: &'a [(String, String)],
    /// Names of the hosts.
    pub hosts: &'a [String],
    /// The account's own key, if it could be read.
    pub sign: Option<Sign<'a>>,
    /// The provider's keys that could be read.
    pub verify: &'a [Verify],
    /// Certificates of `[mtls]`, leaf first; none without it.
    pub mtls: &'a [Certificate],
    /// Certificate files among the secrets.
    pub secrets: &'a [(&'static str, Vec<Certificate>)],
}

/// The account's own key.
pub struct Sign<'a> {
    /// Its algorithm in `[keys]`.
    pub algorithm: &'a str,
    /// Its id as the provider knows it.
    pub id: &'a str,
    /// Its other half, where it could be worked out.
    pub public_key: Option<&'a PublicKey>,
    /// Certificates in the same file, leaf first.
    pub certificates: &'a [Certificate],
}

/// One of the provider's keys.
pub struct Verify {
    /// Its id as the provider names it.
    pub id: String,
    /// Whether the file says by which id the provider knows it.
    pub has_id: bool,
    /// The key.
    pub public_key: PublicKey,
    /// Certificates in its file, leaf first; none for a bare key.
    pub certificates: Vec<Certificate>,
}

impl Facts<'_> {
    /// Value of a text in `[account]`.
    pub(crate) fn account(&self, key: &str) -> Option<&str> {
        self.account.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Certificates of a secret.
    pub(crate) fn secret(&self, name: &str) -> &[Certificate] {
        self.secrets.iter().find(|(known, _)| *known == name).map_or(&[], |(_, certificates)| certificates)
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which value of the file it is about.
    pub place: Place,
    /// Whether it stops the configuration, or is only noted.
    pub severity: Severity,
    /// What is wrong; never a secret's value.
    pub message: String,
    /// What to do.
    pub suggestion: Option<String>,
}

/// Weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Mistake,
    /// `tollgate check` says it, and nothing is refused.
    Note,
}

/// Value of a channel's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `keys.sign.id`.
    SignId,
    /// `keys.sign.file`.
    SignFile,
    /// `file` of an entry of `keys.verify`, from 0.
    VerifyFile(usize),
    /// `keys.verify`'s id, while it is read.
    VerifyId,
    /// `mtls.cert`.
    Mtls,
    /// A secret in `[keys]`.
    Secret(&'static str),
    /// A text in `[account]`.
    Account(&'static str),
    /// `hosts`.
    Hosts,
}

impl Finding {
    /// One that stops the configuration.
    pub(crate) fn mistake(place: Place, message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { place, severity: Severity::Mistake, message: message.into(), suggestion: Some(suggestion.into()) }
    }

    /// One that is only noted.
    pub(crate) fn note(place: Place, message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::mistake(place, message, suggestion) }
    }
}
