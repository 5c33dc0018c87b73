//! The swap of the snapshot in force, and which settings of the next one wait for a restart.

use std::sync::Arc;

use tollgate_config::{CertificateEnd, Process, diff};

use super::effects::effects;
use super::report::{Report, count_unchanged, export_in_force};
use crate::snapshot::{Current, Snapshot};
use crate::telemetry::LABELS;

/// Puts a snapshot in force, unless it equals the running one. Keys that need a restart keep their running values.
pub(super) fn put_in_force(current: &Current, running: &Snapshot, mut read: Snapshot) -> Report {
    let needs_restart = running.process.needs_restart(&read.process);
    let (changed, effects) = (diff::changes(&running.config, &read.config), effects(running, &read));
    let kept = count_unchanged(&running.config.merchants, &read.config.merchants)
        + count_unchanged(&running.channels, &read.channels);
    if running.config.hash == read.config.hash {
        let (generation, hash) = (running.generation, running.config.hash.clone());
        return Report { generation, hash, kept, needs_restart, ..Report::default() };
    }
    retain_served_certificates(running, &mut read);
    read.process = Arc::new(running.process.reloaded(&read.process));
    let report =
        Report { generation: read.generation, hash: read.config.hash.clone(), changed, kept, effects, needs_restart };
    // Labels are registered before the first request that uses a new name.
    LABELS.register(&read.config.merchants, &read.channels);
    let read = Arc::new(read);
    current.store(Arc::clone(&read));
    export_in_force(&read, &running.config.sources.certificates);
    report
}

/// Retains the expiry of the certificates in use for a listener whose TLS is switched on or off only at a restart.
fn retain_served_certificates(running: &Snapshot, read: &mut Snapshot) {
    let differs = |tls: fn(&Process) -> bool| tls(&running.process) != tls(&read.process);
    let listeners = [
        ("server", differs(|process| process.tls.is_some())),
        ("admin", differs(|process| process.admin_tls.is_some())),
    ];
    for (listener, _) in listeners.into_iter().filter(|(_, waits)| *waits) {
        let is_its = |end: &CertificateEnd| end.channel.is_empty() && end.certificate.starts_with(listener);
        read.config.sources.certificates.retain(|end| !is_its(end));
        let served = running.config.sources.certificates.iter().filter(|end| is_its(end)).cloned();
        read.config.sources.certificates.extend(served);
    }
}
