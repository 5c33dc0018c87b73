//! Tests of rollbacks and reloads at the same time.

use super::*;

/// The operator saves a fix while the automatic rollback begins.
#[tokio::test]
async fn fix_saved_before_an_automatic_rollback_is_put_in_force() {
    let _counting = COUNTING.lock().await;
    let dir = with_auto_rollback();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    *handle.0.baseline.lock() = [Counts::now(), Counts::now()];
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    METRICS.provider_requests_total.with_label_values(&["wechat", "pay", "a_test"]).inc_by(100_000_000);
    edit(&dir, "channels/wechat.toml", "\nrate = 1", "\nrate = 700");
    handle.check_probation().await;
    assert_eq!(current.load().generation, 3, "it was rolled back");
    let rolled_back = current.load().config.hash.clone();
    // The watch reads the files that it saw change.
    handle.reload_and_log().await;
    assert_ne!(current.load().config.hash, rolled_back, "the fix was never tried, so it was not rolled back");
}

/// The operator reloads while a rollback is under way.
#[tokio::test]
async fn manual_reload_requested_during_a_rollback_puts_the_files_in_force() {
    let dir = sandbox();
    let (current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    let files = current.load().config.hash.clone();
    let busy = handle.0.reload_lock.lock().await;
    let (rollback, reload) = (handle.roll_back(None), handle.reload());
    tokio::pin!(rollback, reload);
    assert!(futures_util::poll!(&mut rollback).is_pending() && futures_util::poll!(&mut reload).is_pending());
    drop(busy);
    let (rollback, reload) = tokio::join!(rollback, reload);
    assert_eq!((rollback.unwrap().generation, reload.unwrap().hash), (3, files.clone()), "the reload came last");
    assert_eq!(current.load().config.hash, files);
}

/// A reload hangs, for example on a network file system. No generation is on probation.
#[tokio::test]
async fn reloader_ends_at_shutdown_while_a_reload_hangs() {
    let running = Running::start(sandbox()).await;
    let handle = running.handle.clone();
    let _hanging = handle.0.reload_lock.lock().await;
    tokio::time::sleep(2 * PROBATION_INTERVAL).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), running.end()).await;
    assert!(ended.is_ok(), "the check of a probation that does not exist waits for the reload");
}

/// The operator names a generation that does not exist.
#[tokio::test]
async fn rejected_rollback_does_not_end_the_probation() {
    let _counting = COUNTING.lock().await;
    let dir = with_auto_rollback();
    let (_current, reloader) = loaded(&dir);
    let handle = reloader.handle();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    assert!(handle.0.probation.lock().is_some());
    assert!(handle.roll_back(Some(99)).await.is_err());
    assert!(handle.0.probation.lock().is_some(), "the same generation is in force, and nobody watches it");
}
