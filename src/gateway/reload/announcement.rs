//! Operator events about the configuration.

use tollgate_config::{Diagnostic, OperatorEventType};

use super::report::Report;
use crate::operator_events::{Details, OperatorEvent, emit};

/// Maximum number of changes that an event lists.
const MAX_LISTED: usize = 20;

/// Emits an operator event: a reload changed the generation in force, or was rejected. `running` is the number of the
/// generation before.
pub(super) fn announce(running: u64, result: &Result<Report, Vec<Diagnostic>>) {
    match result {
        Ok(report) if report.changed.is_empty() => {}
        Ok(report) => emit([applied(report)]),
        Err(diagnostics) => emit([rejected(running, diagnostics)]),
    }
}

/// Emits an operator event: the files have errors. `generation` is the number of the generation that stays in force.
pub(super) fn announce_rejected(generation: u64, diagnostics: &[Diagnostic]) {
    emit([rejected(generation, diagnostics)]);
}

/// Emits an operator event: an earlier generation is in force again, and why.
pub(super) fn announce_rollback(from: u64, report: &Report, why: &str) {
    let cause = format!("Generation {from} was rolled back: {why}.");
    emit([OperatorEvent::new(OperatorEventType::ConfigRolledBack, Details { cause, ..details(report) })]);
}

/// Emits an operator event: an automatic rollback failed.
pub(super) fn announce_failed_rollback(generation: u64, diagnostics: &[Diagnostic]) {
    let event = rejected(generation, diagnostics);
    let cause = format!("The automatic rollback of generation {generation} failed: {}", event.details.cause);
    let advice = "Choose another generation with `tollgate rollback --to`; the new one stays in force until then.";
    let details = Details { cause, advice: advice.to_owned(), ..event.details };
    emit([OperatorEvent::new(OperatorEventType::ConfigRejected, details)]);
}

fn applied(report: &Report) -> OperatorEvent {
    let cause = format!("A reload put generation {} in force.", report.generation);
    OperatorEvent::new(OperatorEventType::ConfigApplied, Details { cause, ..details(report) })
}

fn rejected(generation: u64, diagnostics: &[Diagnostic]) -> OperatorEvent {
    let first = diagnostics.first();
    let suggestion = first.and_then(|first| first.suggestion.as_deref()).map(|text| format!(" ({text})"));
    let message = first.map_or("the configuration has errors", |first| first.message.as_str());
    let details = Details {
        cause: format!("The configuration was rejected: {message}{}", suggestion.unwrap_or_default()),
        generation: Some(generation),
        file: first.map_or_else(String::new, |first| first.file.display().to_string()),
        line: first.map(|first| first.line).filter(|line| *line > 0),
        diagnostics: Some(diagnostics.len()),
        ..Details::default()
    };
    OperatorEvent::new(OperatorEventType::ConfigRejected, details)
}

fn details(report: &Report) -> Details {
    let listed = |all: &[String]| all.iter().take(MAX_LISTED).cloned().collect();
    Details {
        generation: Some(report.generation),
        changed: listed(&report.changed),
        needs_restart: listed(&report.needs_restart),
        ..Details::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejection_names_the_first_place_and_the_number_of_errors() {
        let diagnostic = |line| Diagnostic {
            file: "conf/routes.toml".into(),
            line,
            column: 3,
            message: "unknown key `too`".into(),
            suggestion: Some("did you mean `to`?".into()),
        };
        let details = rejected(7, &[diagnostic(12), diagnostic(13)]).details;
        assert_eq!((details.file.as_str(), details.line, details.diagnostics), ("conf/routes.toml", Some(12), Some(2)));
        assert_eq!(details.generation, Some(7));
        assert_eq!(details.cause, "The configuration was rejected: unknown key `too` (did you mean `to`?)");
        let many = Report { generation: 8, changed: vec!["channel a changed".into(); 30], ..Report::default() };
        assert_eq!(applied(&many).details.changed.len(), MAX_LISTED);
    }
}
