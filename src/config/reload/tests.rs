//! Real files, real watcher: what is noticed, what is put in force, and what is not.

use std::fs;
use std::time::Instant;

use super::*;
use crate::config::LedgerConfig;
use crate::config::file::tests::{Dir, edit, put, sandbox};

struct Running {
    dir: Dir,
    current: Current,
    handle: ReloadHandle,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// A reloader that watches.
    async fn start(dir: Dir) -> Self {
        let (current, reloader) = loaded(&dir);
        let handle = reloader.handle();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(reloader.run(stopped));
        // Its first look, once everything is watched.
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

    /// Longer than it takes to notice a change and to act on it.
    async fn wait_long(&self) {
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

fn loaded(dir: &Dir) -> (Current, Reloader) {
    let current = load_first(dir.path()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let reloader = Reloader::new(dir.path().to_owned(), Arc::clone(&current));
    (current, reloader)
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_named_with_its_line() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let before = current.load_full();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    put(&dir, "merchants/shop.toml", "\n\nkeys = [\n");
    let mistakes = reloader.handle().reload().await.unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].file.ends_with("merchants/shop.toml") && mistakes[0].line >= 3, "{mistakes:?}");
    assert!(Arc::ptr_eq(&before, &current.load_full()), "the good channel file was not taken either");
}

#[tokio::test]
async fn a_reload_says_what_it_did() {
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
    let said = report.to_string();
    assert!(said.contains("is in force: merchant store added") && said.ends_with("go on as they were"), "{said}");
}

#[tokio::test]
async fn what_needs_a_restart_keeps_its_value_and_is_named_until_then() {
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
async fn a_file_put_in_the_place_of_another_is_noticed() {
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
async fn two_files_saved_together_are_one_generation() {
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
async fn what_is_broken_at_first_is_taken_once_it_is_whole() {
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
async fn a_directory_put_in_the_place_of_another_is_watched_anew() {
    let running = Running::start(sandbox()).await;
    let merchants = running.dir.path().join("merchants");
    let new = running.dir.path().join("merchants.new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("store.toml"), "keys = [{ id = \"store-1\", secret = \"plain:0123456789abcdef\" }]\n").unwrap();
    fs::rename(&merchants, running.dir.path().join("merchants.old")).unwrap();
    fs::rename(&new, &merchants).unwrap();
    running.wait_for_generation(2).await;
    assert_eq!(running.current.load().merchants.keys().collect::<Vec<_>>(), ["store"]);
    running.wait_long().await;
    edit(&running.dir, "merchants/store.toml", "store-1", "store-2");
    running.wait_for_generation(3).await;
    running.end().await;
}

#[tokio::test]
async fn a_reload_on_demand_needs_no_watcher_and_watching_goes_on_after_it() {
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
fn certificates_and_generation_are_on_the_metrics_page() {
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
async fn a_generation_is_told_when_it_is_in_force_and_not_before() {
    /// No other test's, they count from 1.
    const NUMBER: u64 = 7_000_000;
    let dir = sandbox();
    let (current, _) = loaded(&dir);
    let running = current.load_full();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    let mut read = Snapshot { generation: NUMBER, ..file::load(dir.path(), Some(&running)).unwrap() };
    // To tell of them all takes a while.
    let ends = read.sources.certificates.clone();
    read.sources.certificates = ends.iter().cycle().take(20_000).cloned().collect();
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
async fn the_last_good_generation_survives_a_restart_with_broken_files() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
    reloader.handle().reload().await.unwrap();
    let before = current.load_full();
    assert_eq!(before.generation, 2);
    drop(reloader);

    // Neither the settings nor a key can be read any more.
    put(&dir, "tollgate.toml", "public_url = ");
    put(&dir, "channels/wechat/apiclient_key.pem", "");
    let (again, reloader) = loaded(&dir);
    let after = again.load_full();
    assert_eq!((after.generation, &after.hash), (2, &before.hash));
    let ledger = LedgerConfig::Embedded(fs::canonicalize(dir.path()).unwrap().join("data"));
    assert_eq!(after.process.ledger, ledger, "the ledger stays where it is");
    assert!(reloader.handle().reload().await.is_err(), "what is wrong is still wrong");
    assert_eq!(again.load().hash, before.hash);
}

#[tokio::test]
async fn a_generation_that_was_taken_back_stays_away_until_the_files_change() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    let first = current.load_full();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    let report = handle.roll_back(None).await.unwrap();
    assert_eq!((report.generation, &report.hash), (3, &first.hash), "{report}");
    assert_eq!(report.changed, ["channel wechat changed: filter[0].rate"]);

    handle.reload_quietly().await;
    assert_eq!(current.load().hash, first.hash, "a look at the same files changes nothing");
    drop(reloader);
    let (again, reloader) = loaded(&dir);
    assert_eq!((again.load().generation, &again.load().hash), (3, &first.hash), "nor does a restart");

    edit(&dir, "channels/wechat.toml", "\nrate = 1", "\nrate = 2");
    let handle = reloader.handle();
    handle.reload_quietly().await;
    assert_eq!(again.load().generation, 4, "other files are taken");
    handle.roll_back(Some(1)).await.unwrap();
    assert_eq!(again.load().hash, first.hash);
    handle.reload().await.unwrap();
    assert_ne!(again.load().hash, first.hash, "who asks for it gets it");
    let missing = handle.roll_back(Some(99)).await.unwrap_err();
    assert!(missing[0].to_string().contains("kept are 1, 2, 3, 4"), "{missing:?}");
}

#[tokio::test]
async fn what_cannot_be_taken_back_stays_and_is_not_counted() {
    let _counting = COUNTING.lock().await;
    for (is_kept, errors) in [(true, 1_000), (false, 100_000)] {
        let dir = wary();
        let (current, reloader) = loaded(&dir);
        let handle = reloader.handle();
        // The round before left errors, which are not the usual ones.
        *handle.0.usual.lock() = [Counts::now(), Counts::now()];
        edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
        handle.reload().await.unwrap();
        if !is_kept {
            fs::remove_dir_all(dir.path().with_file_name("conf.generations")).unwrap();
        }
        let before = METRICS.config_rollbacks_total.get();
        METRICS.provider_requests_total.with_label_values(&["wechat", "pay", "a_test"]).inc_by(errors);
        handle.try_out().await;
        let (generation, reverts) = (current.load().generation, METRICS.config_rollbacks_total.get() - before);
        assert_eq!((generation, reverts), if is_kept { (3, 1) } else { (2, 0) });
        assert!(handle.0.trial.lock().is_none(), "it was judged");
    }
}

/// Errors are counted for the whole process.
static COUNTING: Mutex<()> = Mutex::const_new(());

/// Takes its generations back by itself.
fn wary() -> Dir {
    let dir = sandbox();
    let text = fs::read_to_string(dir.path().join("tollgate.toml")).unwrap();
    put(&dir, "tollgate.toml", &format!("{text}[reload]\nrevert_if = {{ window = \"60s\" }}\n"));
    dir
}

#[tokio::test]
async fn where_the_one_before_was_not_kept_the_last_that_was_comes_back() {
    let _counting = COUNTING.lock().await;
    for was_tried in [true, false] {
        let dir = wary();
        let (current, reloader) = loaded(&dir);
        let handle = reloader.handle();
        let first = current.load().hash.clone();
        edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 700");
        handle.reload().await.unwrap();
        let second = Generations::of(dir.path()).list().remove(1);
        if !was_tried {
            *handle.0.trial.lock() = None;
        }
        *handle.0.usual.lock() = [Counts::now(), Counts::now()];
        edit(&dir, "channels/wechat.toml", "\nrate = 700", "\nrate = 1");
        handle.reload().await.unwrap();
        fs::remove_file(&second.path).unwrap();
        METRICS.provider_requests_total.with_label_values(&["wechat", "pay", "a_test"]).inc_by(1_000_000);
        handle.try_out().await;
        let (generation, is_first) = (current.load().generation, current.load().hash == first);
        let expected = if was_tried { (4, true) } else { (3, false) };
        assert_eq!((generation, is_first), expected, "what was good for long is not passed over");
    }
}

#[tokio::test]
async fn what_could_not_be_kept_is_once_it_can_be() {
    let dir = sandbox();
    let (_, reloader) = loaded(&dir);
    let handle = reloader.handle();
    let generations = Generations::of(dir.path());
    let kept = generations.last().unwrap();
    fs::remove_file(&kept.path).unwrap();
    assert!(handle.reload().await.unwrap().changed.is_empty());
    assert_eq!(generations.list(), [kept]);
}

mod kept;
