//! What can go wrong with an operation, sorted by the question that counts: may money have moved?

use std::fmt;

use serde::{Deserialize, Serialize};

/// A provider's own code and message, passed on unharmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderError {
    /// As in `PARAM_ERROR`.
    pub code: String,
    /// In the provider's language.
    pub message: String,
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Why there is no outcome. Each variant says what is known of the money and what comes next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request cannot be put in this provider's words; nothing was sent and the caller must change it.
    #[error("{0}")]
    Unsupported(String),
    /// Nothing left this machine: the same request may be tried again, here or on another channel.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// A filter held the call back (breaker open, limit reached); nothing was sent. Seconds until it is worth a try.
    #[error("nothing was sent: {why}")]
    Rejected {
        /// Which filter and why, in words.
        why: String,
        /// Whole seconds, at least one.
        retry_after: u64,
    },
    /// No key is there that could verify the provider's answer, so nothing was sent: nobody could ever know what became of the
    /// money. The same request may be tried again once the channel has a key.
    #[error("nothing was sent, because no key could verify the provider's answer: {why}")]
    Unverifiable {
        /// Why there is no key, and what to do about it.
        why: String,
        /// The provider's own word on it, where it gave one.
        word: Option<ProviderError>,
    },
    /// The provider turned it away without doing it (its rate limit; a refund for which the merchant's money is missing): the
    /// same request again, later.
    #[error("the provider asks to come back later ({0})")]
    ProviderBusy(ProviderError),
    /// The provider does not accept the channel's signature, key or certificate. It looks at those before anything else, so
    /// it did nothing; whoever configured the channel must see to it, and then the same request may be tried again.
    #[error("the provider does not accept this channel's signature, and did nothing ({0})")]
    Unauthorized(ProviderError),
    /// The provider refused; final, no money moved.
    #[error("the provider refused ({0})")]
    Declined(ProviderError),
    /// The provider's books say something else (paid, closed, number used): ask, and adopt what it says.
    #[error("the provider has this in another state ({0})")]
    Conflict(ProviderError),
    /// The provider does not know the order or refund. Soon after an unclear create this proves nothing.
    #[error("the provider does not know it ({0})")]
    NotFound(ProviderError),
    /// Bytes were written and no trustworthy answer came: ask, never send again.
    #[error("unclear what the provider did: {why}{}", in_brackets(.word.as_ref()))]
    Unclear {
        /// What happened instead of an answer; holds nothing of an unverified body.
        why: String,
        /// The provider's own word, where it gave one (as in `SYSTEM_ERROR`).
        word: Option<ProviderError>,
    },
    /// The provider refused with a verified answer whose code is in none of its tables: ask, never send again. The channel works,
    /// so no breaker counts it.
    #[error("the provider refused with a code that is not in its table ({0})")]
    UnlistedRefusal(ProviderError),
    /// The provider signed its answer wrongly on purpose, to test that signatures are checked: ask, never send again. The channel
    /// works, so no breaker counts it.
    #[error("unclear what the provider did: the answer is the provider's probe, signed wrongly on purpose")]
    Probe,
    /// The verified answer is about another amount, currency or account; it is not accepted.
    #[error("the provider's answer does not agree with the order: {0}")]
    Mismatch(String),
}

fn in_brackets(word: Option<&ProviderError>) -> String {
    word.map_or_else(String::new, |word| format!(" ({word})"))
}

impl Error {
    /// An unclear end without a word of the provider.
    pub fn unclear(why: impl Into<String>) -> Self {
        Self::Unclear { why: why.into(), word: None }
    }

    /// The provider's own code and message, where the error carries them.
    pub fn word(&self) -> Option<&ProviderError> {
        match self {
            Self::ProviderBusy(word)
            | Self::Unauthorized(word)
            | Self::Declined(word)
            | Self::Conflict(word)
            | Self::NotFound(word)
            | Self::UnlistedRefusal(word) => Some(word),
            Self::Unclear { word, .. } | Self::Unverifiable { word, .. } => word.as_ref(),
            Self::Unsupported(_) | Self::NotSent(_) | Self::Rejected { .. } | Self::Probe | Self::Mismatch(_) => None,
        }
    }

    /// Whether the provider cannot have acted on the request.
    pub fn provably_not_executed(&self) -> bool {
        match self {
            Self::Unsupported(_)
            | Self::NotSent(_)
            | Self::Rejected { .. }
            | Self::Unverifiable { .. }
            | Self::ProviderBusy(_)
            | Self::Unauthorized(_) => true,
            Self::Declined(_)
            | Self::Conflict(_)
            | Self::NotFound(_)
            | Self::Unclear { .. }
            | Self::UnlistedRefusal(_)
            | Self::Probe
            | Self::Mismatch(_) => false,
        }
    }

    /// Whether it tells that the channel is ill, as a breaker counts it: transport, time-outs, provider's system
    /// errors, answers that do not verify, a key of ours that is not accepted. What the caller or the payer did wrong does
    /// not count.
    pub fn is_channel_failure(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Unauthorized(_) | Self::Unclear { .. } | Self::Mismatch(_))
    }

    /// A short name for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "unsupported_by_provider",
            Self::NotSent(_) => "not_sent",
            Self::Rejected { .. } => "held",
            Self::Unverifiable { .. } => "unverifiable",
            Self::ProviderBusy(_) => "provider_busy",
            Self::Unauthorized(_) => "unauthorized",
            Self::Declined(_) => "declined",
            Self::Conflict(_) => "conflict",
            Self::NotFound(_) => "absent",
            Self::Unclear { .. } => "unclear",
            Self::UnlistedRefusal(_) => "unlisted_refusal",
            Self::Probe => "probe",
            Self::Mismatch(_) => "mismatch",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_no_channel_failure_and_a_key_that_is_not_accepted_is_one() {
        let word = ProviderError { code: "X".into(), message: String::new() };
        let unverifiable = Error::Unverifiable { why: "x".into(), word: Some(word.clone()) };
        for (error, not_executed, channel_failure) in [
            (Error::Unsupported("x".into()), true, false),
            (Error::NotSent("x".into()), true, true),
            (Error::Rejected { why: "x".into(), retry_after: 1 }, true, false),
            (unverifiable, true, false),
            (Error::ProviderBusy(word.clone()), true, false),
            (Error::Unauthorized(word.clone()), true, true),
            (Error::Declined(word.clone()), false, false),
            (Error::Conflict(word.clone()), false, false),
            (Error::NotFound(word.clone()), false, false),
            (Error::unclear("x"), false, true),
            (Error::UnlistedRefusal(word), false, false),
            (Error::Probe, false, false),
            (Error::Mismatch("x".into()), false, true),
        ] {
            assert_eq!(error.provably_not_executed(), not_executed, "{error:?}");
            assert_eq!(error.is_channel_failure(), channel_failure, "{error:?}");
        }
    }
}
