//! Short label of why a call failed, for counting. Error messages are for people and vary too much.

use std::borrow::Cow;

use parking_lot::Mutex;

use crate::error::Error;

/// Maximum length of a label, in characters.
const MAX_LENGTH: usize = 40;

/// Label of a failure such as `timeout` or `HTTP 500`. The exchange records it; a call has one exchange at a time.
#[derive(Default)]
pub struct FailureReason(Mutex<Option<Cow<'static, str>>>);

impl FailureReason {
    /// Records a label. It may contain a provider's code, so non-ASCII and control characters are removed.
    pub fn note(&self, text: impl Into<Cow<'static, str>>) {
        *self.0.lock() = Some(plain(text.into()));
    }

    /// Takes the recorded label, or derives one from the error.
    pub fn take(&self, error: &Error) -> Cow<'static, str> {
        self.0.lock().take().unwrap_or_else(|| match error {
            Error::Unclear { provider_error: Some(provider_error), .. } => plain(provider_error.code.clone().into()),
            other => other.code().into(),
        })
    }
}

fn plain(text: Cow<'static, str>) -> Cow<'static, str> {
    let is_plain = |letter: &char| *letter == ' ' || letter.is_ascii_graphic();
    if text.len() <= MAX_LENGTH && text.chars().all(|letter| is_plain(&letter)) {
        return text;
    }
    text.chars().filter(is_plain).take(MAX_LENGTH).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ProviderError;

    #[test]
    fn label_is_truncated_and_reduced_to_printable_ascii() {
        let reason = FailureReason::default();
        reason.note("系统 SYSTEM\n_ERROR".to_owned() + &"x".repeat(100));
        let label = reason.take(&Error::unclear("x"));
        assert!(label.starts_with(" SYSTEM_ERRORxxx") && label.len() == 40, "{label}");
        let provider_error = ProviderError { code: "ACQ.SYSTEM_ERROR".into(), message: String::new() };
        let error = Error::Unclear { why: String::new(), provider_error: Some(provider_error) };
        assert_eq!(reason.take(&error), "ACQ.SYSTEM_ERROR");
        assert_eq!(reason.take(&Error::NotSent("x".into())), "not_sent");
    }
}
