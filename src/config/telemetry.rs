//! `[telemetry]`: log filter and log buffer.

use tollgate_plugins::settings::{Settings, Size};

use super::value_checks::ValueChecks;

/// Default of `log_buffer`: maximum bytes of buffered lines.
pub const DEFAULT_LOG_BUFFER: u64 = 4 << 20;

/// Reads the log filter, and the maximum bytes of buffered log lines.
pub(super) fn read(section: Option<Settings<'_>>, checks: &ValueChecks) -> (String, u64) {
    let Some(mut section) = section else { return ("info".to_owned(), DEFAULT_LOG_BUFFER) };
    let text = section.or("log", "info".to_owned());
    if !(checks.is_log_filter)(&text) {
        let suggestion = "as in \"info\" or \"info,tollgate=debug\"".to_owned();
        section.problem("log", format!("`telemetry.log` is not a log filter: \"{text}\""), Some(suggestion));
    } else if let Some(word) = text.split(',').map(str::trim).find(|word| is_misspelled_level(word)) {
        let near = LEVELS.iter().find(|level| strsim::osa_distance(level, &word.to_ascii_lowercase()) <= 2);
        let suggestion = match near {
            Some(level) => format!("did you mean `{level}`?"),
            None => format!("levels are {}; to log everything of a crate write `{word}=trace`", LEVELS.join(", ")),
        };
        section.problem("log", format!("`telemetry.log` contains `{word}`, which is not a level"), Some(suggestion));
    }
    let Size(buffer) = section.or("log_buffer", Size(DEFAULT_LOG_BUFFER));
    if !(64 << 10..=1 << 30).contains(&buffer) {
        section.problem("log_buffer", "`telemetry.log_buffer` must be from 64KiB to 1GiB", None);
    }
    (text, buffer)
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Returns whether `word` is a single word that is neither a level nor a target of Tollgate. The filter would take it
/// for a crate name, and log nothing of other crates.
fn is_misspelled_level(word: &str) -> bool {
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte));
    let is_level =
        LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || matches!(word.as_bytes(), [b'0'..=b'5']);
    let is_own = word.starts_with("tollgate_") || word.starts_with("tollgate::") || word == "tollgate";
    is_word && !is_level && !is_own
}
