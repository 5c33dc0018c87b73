//! Tests of reloading with real files and a real watcher.

use std::fs;
use std::path::Path;
use std::time::Instant;

use tollgate_config::LedgerConfig;
use tollgate_config::testing::{Dir, edit, put};

use super::*;
use crate::snapshot::testing::sandbox;

struct Running {
    dir: Dir,
    current: Current,
    handle: ReloadHandle,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Starts a reloader that watches the files.
    async fn start(dir: Dir) -> Self {
        let (current, reloader) = loaded(&dir);
        let handle = reloader.handle();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(reloader.run(stopped));
        // The first watch may trigger a reload.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Self { dir, current, handle, stop, task }
    }

    async fn wait_for_generation(&self, wanted: u64) {
        let start = Instant::now();
        while self.current.load().generation < wanted {
            assert!(start.elapsed() < Duration::from_secs(60), "generation {wanted} never came");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits longer than it takes to detect a change and to apply it.
    async fn wait_long(&self) {
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

fn loaded(dir: &Dir) -> (Current, Reloader) {
    let current = load_first(dir.path()).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let reloader = Reloader::new(dir.path().to_owned(), Arc::clone(&current));
    (current, reloader)
}

#[tokio::test]
async fn invalid_file_leaves_the_snapshot_unchanged_and_is_reported_with_its_line() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let before = current.load_full();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    put(&dir, "merchants/shop.toml", "\n\nkeys = [\n");
    let diagnostics = reloader.handle().reload().await.unwrap_err();
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert!(diagnostics[0].file.ends_with("merchants/shop.toml") && diagnostics[0].line >= 3, "{diagnostics:?}");
    assert!(Arc::ptr_eq(&before, &current.load_full()), "the valid channel file is not applied either");
}

#[tokio::test]
async fn reload_reports_its_changes() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    let report = handle.reload().await.unwrap();
    assert_eq!((report.generation, report.changed.len(), report.kept), (1, 0, 2));
    assert!(report.to_string().starts_with("nothing changed: generation 1 ("), "{report}");

    let channel = Arc::clone(&current.load().channels["wechat"]);
    fs::rename(dir.path().join("merchants/shop.toml"), dir.path().join("merchants/store.toml")).unwrap();
    put(&dir, "routes.toml", "");
    let report = handle.reload().await.unwrap();
    assert_eq!(
        report.changed,
        ["merchant store added", "merchant shop removed", "routes.toml changed: route 1 removed"]
    );
    assert_eq!((report.generation, report.kept), (2, 1));
    assert!(Arc::ptr_eq(&channel, &current.load().channels["wechat"]));
    let printed = report.to_string();
    assert!(printed.contains("is in force: merchant store added") && printed.ends_with("are unchanged"), "{printed}");
}

#[tokio::test]
async fn keys_that_need_a_restart_retain_their_value_and_are_reported() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    let text = "public_url = \"http://localhost:1\"\nserver.listen = \"127.0.0.1:1\"\nledger.path = \"x\"\ndelivery.allowed_networks = [\"10.0.0.0/8\"]\nqueue.limit = 7\nserver.max_in_flight = 99\ncache.ttl_pending = \"1s\"\n";
    put(&dir, "tollgate.toml", text);
    for changed in [1, 0] {
        let report = handle.reload().await.unwrap();
        assert_eq!((report.changed.len(), report.generation), (changed, 2), "{report}");
        assert_eq!(report.needs_restart, ["server.listen", "ledger.path"]);
    }
    let process = Arc::clone(&current.load().process);
    assert_eq!((process.public_url.as_str(), process.listen.port()), ("http://localhost:1", 8080));
    assert_eq!(process.ledger, LedgerConfig::Embedded(dir.path().join("data")));
    assert_eq!(process.webhook_allow.len(), 1);
    assert_eq!((process.queue.limit, process.in_flight, process.fresh.pending), (7, 99, Duration::from_secs(1)));
    put(&dir, "tollgate.toml", "public_url = \"http://localhost:1\"\n");
    assert_eq!(handle.reload().await.unwrap().needs_restart, [""; 0]);
}

#[tokio::test]
async fn replaced_file_is_detected() {
    let running = Running::start(sandbox()).await;
    let text = fs::read_to_string(running.dir.path().join("channels/wechat.toml")).unwrap();
    for (generation, rate) in [(2, 700), (3, 800)] {
        let text = text.replace("\nrate = 600", &format!("\nrate = {rate}"));
        put(&running.dir, "channels/.wechat.toml.swp", &text);
        let [from, to] =
            ["channels/.wechat.toml.swp", "channels/wechat.toml"].map(|name| running.dir.path().join(name));
        fs::rename(from, to).unwrap();
        running.wait_for_generation(generation).await;
    }
    running.wait_long().await;
    assert_eq!(running.current.load().generation, 3, "reading the files is no change of them");
    running.end().await;
}

#[tokio::test]
async fn files_saved_together_are_one_generation() {
    let running = Running::start(sandbox()).await;
    edit(&running.dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    tokio::time::sleep(Duration::from_millis(60)).await;
    put(&running.dir, "routes.toml", "");
    running.wait_for_generation(2).await;
    assert!(running.current.load().routes.is_empty());
    running.wait_long().await;
    assert_eq!(running.current.load().generation, 2);
    running.end().await;
}

#[tokio::test]
async fn invalid_file_is_applied_once_it_is_corrected() {
    let running = Running::start(sandbox()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secrets/shop");
    let text = format!("keys = [{{ id = \"shop-1\", secret = \"file:{}\" }}]\n", secret.display());
    put(&running.dir, "merchants/shop.toml", &text[..text.len() / 2]);
    running.wait_long().await;
    put(&running.dir, "merchants/shop.toml", &text);
    running.wait_long().await;
    assert_eq!(running.current.load().generation, 1, "the secret's file is missing");
    fs::create_dir(secret.parent().unwrap()).unwrap();
    running.wait_long().await;
    fs::write(&secret, "0123456789abcdef-new\n").unwrap();
    running.wait_for_generation(2).await;
    fs::write(&secret, "0123456789abcdef-newer\n").unwrap();
    running.wait_for_generation(3).await;
    assert_eq!(running.current.load().merchant_keys["shop-1"].1.expose(), b"0123456789abcdef-newer");
    running.end().await;
}

#[tokio::test]
async fn replaced_directory_is_watched() {
    let running = Running::start(sandbox()).await;
    let merchants = running.dir.path().join("merchants");
    let new = running.dir.path().join("merchants.new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("store.toml"), "keys = [{ id = \"store-1\", secret = \"plain:0123456789abcdef\" }]\n").unwrap();
    fs::rename(&merchants, running.dir.path().join("merchants.old")).unwrap();
    fs::rename(&new, &merchants).unwrap();
    running.wait_for_generation(2).await;
    assert_eq!(running.current.load().config.merchants.keys().collect::<Vec<_>>(), ["store"]);
    running.wait_long().await;
    edit(&running.dir, "merchants/store.toml", "store-1", "store-2");
    running.wait_for_generation(3).await;
    running.end().await;
}

#[tokio::test]
async fn manual_reload_is_serialized_and_watching_continues() {
    let running = Running::start(sandbox()).await;
    let (one, other) = (running.handle.clone(), running.handle.clone());
    put(&running.dir, "routes.toml", "");
    let (one, other) = tokio::join!(one.reload(), other.reload());
    let changed = [one.unwrap(), other.unwrap()].map(|report| report.changed.len());
    assert_eq!(changed, [1, 0], "one at a time, and the second finds nothing to do");
    edit(&running.dir, "merchants/shop.toml", "shop-1", "shop-2");
    running.wait_for_generation(3).await;
    running.end().await;
}

#[test]
fn certificate_expiry_is_exported_as_metric() {
    let dir = sandbox();
    let (current, _) = loaded(&dir);
    let page = METRICS.render();
    let line = page
        .lines()
        .find(|line| line.starts_with("tollgate_certificate_days_left{certificate=\"mtls\",channel=\"wechat\"}"));
    let days: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1800.0..1900.0).contains(&days), "{days}");
    assert_eq!(current.load().generation, 1);
}

#[tokio::test]
async fn generation_metric_is_set_after_the_swap() {
    /// Unique among the tests, which count from 1.
    const NUMBER: u64 = 7_000_000;
    let dir = sandbox();
    let (current, _) = loaded(&dir);
    let running = current.load_full();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    let mut read = Snapshot { generation: NUMBER, ..snapshot::load(dir.path(), Some(&running)).unwrap() };
    // Exporting this many certificates takes a while.
    let ends = read.config.sources.certificates.clone();
    read.config.sources.certificates = ends.iter().cycle().take(20_000).cloned().collect();
    let taken = Arc::clone(&current);
    let reload = tokio::spawn(run_low_priority(move || put_in_force(&taken, &running, read)));
    while !reload.is_finished() {
        if METRICS.config_generation.get() == NUMBER as i64 {
            assert_eq!(current.load().generation, NUMBER);
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(reload.await.unwrap().unwrap().generation, NUMBER);
}

#[tokio::test]
async fn restart_with_invalid_files_falls_back_to_the_last_generation() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    reloader.handle().reload().await.unwrap();
    let before = current.load_full();
    assert_eq!(before.generation, 2);
    drop(reloader);

    // Neither the settings nor a key are readable any more.
    put(&dir, "tollgate.toml", "public_url = ");
    put(&dir, "channels/wechat/apiclient_key.pem", "");
    let (again, reloader) = loaded(&dir);
    let after = again.load_full();
    assert_eq!((after.generation, &after.config.hash), (2, &before.config.hash));
    let ledger = LedgerConfig::Embedded(fs::canonicalize(dir.path()).unwrap().join("data"));
    assert_eq!(after.process.ledger, ledger, "the ledger stays where it is");
    assert!(reloader.handle().reload().await.is_err(), "the files are still invalid");
    assert_eq!(again.load().config.hash, before.config.hash);
}

#[tokio::test]
async fn rolled_back_generation_is_not_reloaded_until_the_files_change() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    let first = current.load_full();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    let report = handle.roll_back(None).await.unwrap();
    assert_eq!((report.generation, &report.hash), (3, &first.config.hash), "{report}");
    assert_eq!(report.changed, ["channel wechat changed: filter[0].rate"]);

    handle.reload_and_log().await;
    assert_eq!(current.load().config.hash, first.config.hash, "an automatic reload of the same files changes nothing");
    drop(reloader);
    let (again, reloader) = loaded(&dir);
    assert_eq!((again.load().generation, &again.load().config.hash), (3, &first.config.hash), "nor does a restart");

    edit(&dir, "channels/wechat.toml", "\nrate = 1", "\nrate = 2");
    let handle = reloader.handle();
    handle.reload_and_log().await;
    assert_eq!(again.load().generation, 4, "changed files are applied");
    handle.roll_back(Some(1)).await.unwrap();
    assert_eq!(again.load().config.hash, first.config.hash);
    handle.reload().await.unwrap();
    assert_ne!(again.load().config.hash, first.config.hash, "a manual reload applies it");
    let missing = handle.roll_back(Some(99)).await.unwrap_err();
    assert!(missing[0].to_string().contains("archived generations: 1, 2, 3, 4"), "{missing:?}");
}

#[tokio::test]
async fn failed_rollback_leaves_the_generation_in_force_and_is_not_counted() {
    let _counting = COUNTING.lock().await;
    for (is_archived, errors) in [(true, 1_000), (false, 100_000)] {
        let dir = with_auto_rollback();
        let (current, reloader) = loaded(&dir);
        let handle = reloader.handle();
        // The errors of the previous round must not count as the baseline.
        *handle.0.baseline.lock() = [Counts::now(), Counts::now()];
        edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
        handle.reload().await.unwrap();
        if !is_archived {
            fs::remove_dir_all(dir.path().with_file_name("conf.generations")).unwrap();
        }
        let before = METRICS.config_rollbacks_total.get();
        METRICS.provider_requests_total.with_label_values(&["wechat", "pay", "a_test"]).inc_by(errors);
        handle.check_probation().await;
        let (generation, reverts) = (current.load().generation, METRICS.config_rollbacks_total.get() - before);
        assert_eq!((generation, reverts), if is_archived { (3, 1) } else { (2, 0) });
        assert!(handle.0.probation.lock().is_none(), "the probation ended");
    }
}

/// A probation fails while the operator's fix is being reloaded.
#[tokio::test]
async fn generation_on_probation_is_not_rolled_back_while_a_reload_runs() {
    let _counting = COUNTING.lock().await;
    let dir = with_auto_rollback();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    *handle.0.baseline.lock() = [Counts::now(), Counts::now()];
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    METRICS.provider_requests_total.with_label_values(&["wechat", "pay", "a_test"]).inc_by(10_000_000);
    let reload = handle.0.reload_lock.lock().await;
    handle.check_probation().await;
    assert_eq!(current.load().generation, 2);
    drop(reload);
    handle.check_probation().await;
    assert_eq!(current.load().generation, 3, "the check after the reload rolls back");
}

/// Serializes tests that count errors, because the metrics are global.
static COUNTING: Mutex<()> = Mutex::const_new(());

/// Returns a configuration with automatic rollback.
fn with_auto_rollback() -> Dir {
    let dir = sandbox();
    let text = fs::read_to_string(dir.path().join("tollgate.toml")).unwrap();
    put(&dir, "tollgate.toml", &format!("{text}[reload]\nauto_rollback = {{ window = \"60s\" }}\n"));
    dir
}

#[tokio::test]
async fn rollback_skips_a_missing_generation_only_if_it_was_on_probation() {
    let _counting = COUNTING.lock().await;
    for was_on_probation in [true, false] {
        let dir = with_auto_rollback();
        let (current, reloader) = loaded(&dir);
        let handle = reloader.handle();
        let first = current.load().config.hash.clone();
        edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
        handle.reload().await.unwrap();
        let second = Generations::of(dir.path()).list().remove(1);
        if !was_on_probation {
            *handle.0.probation.lock() = None;
        }
        *handle.0.baseline.lock() = [Counts::now(), Counts::now()];
        edit(&dir, "channels/wechat.toml", "\nrate = 700", "\nrate = 1");
        handle.reload().await.unwrap();
        fs::remove_file(&second.path).unwrap();
        METRICS.provider_requests_total.with_label_values(&["wechat", "pay", "a_test"]).inc_by(1_000_000);
        handle.check_probation().await;
        let (generation, is_first) = (current.load().generation, current.load().config.hash == first);
        let expected = if was_on_probation { (4, true) } else { (3, false) };
        assert_eq!((generation, is_first), expected, "a generation beyond its probation is not skipped");
    }
}

#[tokio::test]
async fn unarchived_generation_is_archived_at_the_next_reload() {
    let dir = sandbox();
    let (_, reloader) = loaded(&dir);
    let handle = reloader.handle();
    let generations = Generations::of(dir.path());
    let archived = generations.last().unwrap();
    fs::remove_file(&archived.path).unwrap();
    assert!(handle.reload().await.unwrap().changed.is_empty());
    assert_eq!(generations.list(), [archived]);
}

mod archived;
mod rollbacks;
