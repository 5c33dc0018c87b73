//! Errors of an operation, sorted by the question that counts: may money have moved?

use std::fmt;

use serde::{Deserialize, Serialize};

/// Code and message of a provider, passed on unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderError {
    /// Provider's code, for example `PARAM_ERROR`.
    pub code: String,
    /// Provider's message, in the provider's language.
    pub message: String,
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Reason why an operation has no outcome. Each variant says whether money may have moved and whether to retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The provider's protocol cannot express the request. Nothing was sent. The caller must change the request.
    #[error("{0}")]
    Unsupported(String),
    /// No byte was sent. The same request may be retried, on this channel or another.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// A filter rejected the call (breaker open, limit reached). Nothing was sent.
    #[error("nothing was sent: {why}")]
    Rejected {
        /// Filter and reason, for people.
        why: String,
        /// Seconds after which a retry may succeed; at least 1.
        retry_after: u64,
    },
    /// No key can verify the provider's response, so nothing was sent: the outcome could not be learnt. The same request may be
    /// retried once the channel has a key.
    #[error("nothing was sent, because no key could verify the provider's answer: {why}")]
    Unverifiable {
        /// Reason why there is no key, and what to do about it.
        why: String,
        /// The provider's code and message, if it gave them.
        provider_error: Option<ProviderError>,
    },
    /// The provider rejected the request without executing it (rate limit; merchant's balance too low for a refund). The same
    /// request may be retried later.
    #[error("the provider asks to come back later ({0})")]
    ProviderBusy(ProviderError),
    /// The provider rejected the channel's signature, key or certificate. Providers check those first, so nothing was executed.
    /// The same request may be retried after the channel's configuration is corrected.
    #[error("the provider does not accept this channel's signature, and did nothing ({0})")]
    Unauthorized(ProviderError),
    /// The provider declined the operation. Final; no money moved.
    #[error("the provider refused ({0})")]
    Declined(ProviderError),
    /// The provider has the order in another state (paid, closed, number used). Query it and adopt the answer.
    #[error("the provider has this in another state ({0})")]
    Conflict(ProviderError),
    /// The provider does not know the order or refund. Shortly after an unclear create request this proves nothing.
    #[error("the provider does not know it ({0})")]
    NotFound(ProviderError),
    /// Bytes were written and no trustworthy response came. Query the provider; never send the request again.
    #[error("unclear what the provider did: {why}{}", in_brackets(.provider_error.as_ref()))]
    Unclear {
        /// Failure that happened instead of a response. Contains nothing of an unverified body.
        why: String,
        /// The provider's code and message, if it gave them (for example `SYSTEM_ERROR`).
        provider_error: Option<ProviderError>,
    },
    /// A verified refusal whose code is in none of the provider's tables. Query the provider; never send the request again. The
    /// channel works, so breakers do not count it.
    #[error("the provider refused with a code that is not in its table ({0})")]
    UnlistedRefusal(ProviderError),
    /// The provider signed its response wrongly on purpose, to test that signatures are verified. Query the provider; never send
    /// the request again. The channel works, so breakers do not count it.
    #[error("unclear what the provider did: the response is the provider's probe, signed wrongly on purpose")]
    Probe,
    /// The verified response names another amount, currency or account. It is not accepted.
    #[error("the provider's answer does not agree with the order: {0}")]
    Mismatch(String),
}

fn in_brackets(provider_error: Option<&ProviderError>) -> String {
    provider_error.map_or_else(String::new, |provider_error| format!(" ({provider_error})"))
}

impl Error {
    /// Returns [`Error::Unclear`] without a provider's code.
    pub fn unclear(why: impl Into<String>) -> Self {
        Self::Unclear { why: why.into(), provider_error: None }
    }

    /// Returns the provider's code and message, if the error has them.
    pub fn provider_error(&self) -> Option<&ProviderError> {
        match self {
            Self::ProviderBusy(provider_error)
            | Self::Unauthorized(provider_error)
            | Self::Declined(provider_error)
            | Self::Conflict(provider_error)
            | Self::NotFound(provider_error)
            | Self::UnlistedRefusal(provider_error) => Some(provider_error),
            Self::Unclear { provider_error, .. } | Self::Unverifiable { provider_error, .. } => provider_error.as_ref(),
            Self::Unsupported(_) | Self::NotSent(_) | Self::Rejected { .. } | Self::Probe | Self::Mismatch(_) => None,
        }
    }

    /// Returns whether the provider cannot have executed the request.
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

    /// Returns whether a breaker counts the error as a failure of the channel: transport errors, timeouts, system errors of the
    /// provider, unverifiable responses, a rejected key. Errors of the caller or the payer do not count.
    pub fn is_channel_failure(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Unauthorized(_) | Self::Unclear { .. } | Self::Mismatch(_))
    }

    /// Returns the error's name for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "unsupported_by_provider",
            Self::NotSent(_) => "not_sent",
            Self::Rejected { .. } => "rejected",
            Self::Unverifiable { .. } => "unverifiable",
            Self::ProviderBusy(_) => "provider_busy",
            Self::Unauthorized(_) => "unauthorized",
            Self::Declined(_) => "declined",
            Self::Conflict(_) => "conflict",
            Self::NotFound(_) => "not_found",
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
    fn declined_is_not_a_channel_failure_but_rejected_key_is() {
        let provider_error = ProviderError { code: "X".into(), message: String::new() };
        let unverifiable = Error::Unverifiable { why: "x".into(), provider_error: Some(provider_error.clone()) };
        for (error, not_executed, channel_failure) in [
            (Error::Unsupported("x".into()), true, false),
            (Error::NotSent("x".into()), true, true),
            (Error::Rejected { why: "x".into(), retry_after: 1 }, true, false),
            (unverifiable, true, false),
            (Error::ProviderBusy(provider_error.clone()), true, false),
            (Error::Unauthorized(provider_error.clone()), true, true),
            (Error::Declined(provider_error.clone()), false, false),
            (Error::Conflict(provider_error.clone()), false, false),
            (Error::NotFound(provider_error.clone()), false, false),
            (Error::unclear("x"), false, true),
            (Error::UnlistedRefusal(provider_error), false, false),
            (Error::Probe, false, false),
            (Error::Mismatch("x".into()), false, true),
        ] {
            assert_eq!(error.provably_not_executed(), not_executed, "{error:?}");
            assert_eq!(error.is_channel_failure(), channel_failure, "{error:?}");
        }
    }
}
