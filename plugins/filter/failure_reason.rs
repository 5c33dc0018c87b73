//! What a call failed of, in a word or two, for counting: an error's own words are for people.

use std::borrow::Cow;

use parking_lot::Mutex;

use crate::error::Error;

/// The longest that is kept.
const LONGEST: usize = 40;

/// As in `timeout` or `HTTP 500`, noted by the exchange. One call makes one exchange at a time.
#[derive(Default)]
pub struct FailureReason(Mutex<Option<Cow<'static, str>>>);

impl FailureReason {
    /// Notes it. Providers' codes may be in it: what is no plain character is left out.
    pub fn note(&self, text: impl Into<Cow<'static, str>>) {
        *self.0.lock() = Some(plain(text.into()));
    }

    /// What was noted since it was last taken, or else what can be told from the error.
    pub fn take(&self, error: &Error) -> Cow<'static, str> {
        self.0.lock().take().unwrap_or_else(|| match error {
            Error::Unclear { word: Some(word), .. } => plain(word.code.clone().into()),
            other => other.code().into(),
        })
    }
}

fn plain(text: Cow<'static, str>) -> Cow<'static, str> {
    let fits = |letter: &char| *letter == ' ' || letter.is_ascii_graphic();
    if text.len() <= LONGEST && text.chars().all(|letter| fits(&letter)) {
        return text;
    }
    text.chars().filter(fits).take(LONGEST).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ProviderError;

    #[test]
    fn what_a_provider_says_is_kept_short_and_plain() {
        let reason = FailureReason::default();
        reason.note("系统 SYSTEM\n_ERROR".to_owned() + &"x".repeat(100));
        let kept = reason.take(&Error::unclear("x"));
        assert!(kept.starts_with(" SYSTEM_ERRORxxx") && kept.len() == 40, "{kept}");
        let word = ProviderError { code: "ACQ.SYSTEM_ERROR".into(), message: String::new() };
        let error = Error::Unclear { why: String::new(), word: Some(word) };
        assert_eq!(reason.take(&error), "ACQ.SYSTEM_ERROR");
        assert_eq!(reason.take(&Error::NotSent("x".into())), "not_sent");
    }
}
