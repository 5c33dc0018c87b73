//! Configuration reload: one generation at a time, or no change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::harness::{SHOP, World, WorldOptions, copy_dir, payment_body, signed_request, until};
use crate::load::{Load, is_clear};

/// Returns the number of the active generation.
pub async fn generation(world: &World) -> u64 {
    let metrics = world.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("tollgate_config_generation ")).unwrap();
    line.parse().unwrap()
}

/// Saves like an editor: writes a new file, then renames it.
pub fn save(path: &Path, text: &str) {
    let new = path.with_extension("swp");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Updates files like a Kubernetes volume: the files are symlinks through one symlink, which is swapped.
fn swap_routes(conf: &Path, version: usize, text: &str) {
    let directory = conf.join(format!("..version-{version}"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("routes.toml"), text).unwrap();
    let old = std::fs::read_link(conf.join("..data")).ok();
    symlink(format!("..version-{version}"), conf.join("..data-next")).unwrap();
    std::fs::rename(conf.join("..data-next"), conf.join("..data")).unwrap();
    let routes = conf.join("routes.toml");
    if !routes.is_symlink() {
        symlink("..data/routes.toml", conf.join("routes-next")).unwrap();
        std::fs::rename(conf.join("routes-next"), &routes).unwrap();
    }
    if let Some(old) = old {
        std::fs::remove_dir_all(conf.join(old)).unwrap();
    }
}

const TO_WEST: &str = "[[route]]\nto = [{ channel = \"west\" }]\n";
const TO_EAST: &str = "[[route]]\nto = [{ channel = \"east\" }]\n";
const TO_BOTH: &str = "[[route]]\nto = [{ channel = \"east\", weight = 1 }, { channel = \"west\", weight = 3 }]\n";

/// Generation that answered a request, and the channel of the payment.
type Observation = (u64, String);

/// Creates and queries payments until `stop`. Returns the observed generations and all failures.
async fn pay_and_query(
    listen: SocketAddr,
    worker: usize,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> (BTreeSet<Observation>, Vec<String>) {
    let (mut said, mut bad) = (BTreeSet::new(), Vec::new());
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let order = format!("o-{worker}-{number}");
        let created = signed_request(listen, &SHOP, "POST", "/v1/payments", Some(&order), &payment_body(&order)).await;
        let asked = signed_request(listen, &SHOP, "GET", &format!("/v1/payments/{order}"), None, &Value::Null).await;
        if (created.status, asked.status) != (201, 200) {
            bad.push(format!("{order}: {} {:?}, then {}", created.status, created.body, asked.status));
        }
        let generation = created.headers["x-tollgate-generation"].to_str().unwrap().parse().unwrap();
        said.insert((generation, created.json()["channel"].as_str().unwrap_or_default().to_owned()));
        served.fetch_add(2, Ordering::SeqCst);
    }
    (said, bad)
}

#[tokio::test]
async fn thousand_reloads_under_load_lose_no_request_and_leak_no_memory() {
    // Connections of a dropped generation close after this idle time, so leaked ones become visible.
    let edit = |conf: &Path, _| {
        for name in ["east", "west"] {
            let file = conf.join(format!("channels/{name}.toml"));
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains("idle_timeout = \"60s\""), "{text}");
            std::fs::write(&file, text.replace("idle_timeout = \"60s\"", "idle_timeout = \"1s\"")).unwrap();
        }
    };
    let world = World::with(WorldOptions { channels: vec!["east", "west"], edit, ..WorldOptions::default() }).await;
    let (listen, stop, served) =
        (world.gateway.listen, Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = (0..4).map(|worker| tokio::spawn(pay_and_query(listen, worker, Arc::clone(&stop), Arc::clone(&served))));
    let load: Vec<_> = load.collect();
    let channel = world.conf().join("channels/east.toml");
    let good = std::fs::read_to_string(&channel).unwrap();
    // Routes of each generation.
    let mut leads = BTreeMap::from([(1, TO_EAST)]);
    let (mut routes, mut memory) = (TO_EAST, 0);
    for round in 0..1000 {
        let before = served.load(Ordering::SeqCst);
        let is_good = match round % 8 {
            0 | 2 | 4 => {
                routes = [TO_WEST, TO_BOTH, TO_EAST][round % 8 / 2];
                swap_routes(world.conf(), round, routes);
                true
            }
            1 | 5 => {
                save(&channel, &good.replace("total = \"100s\"", &format!("total = \"100.{round}s\"")));
                true
            }
            3 => {
                save(&channel, "provider = \"wechat-v3\"\nhost = 5\n");
                false
            }
            // Half-written file, in place.
            6 => {
                std::fs::write(&channel, &good[..good.len() / 2]).unwrap();
                false
            }
            // The routes name the removed channel.
            _ => {
                std::fs::remove_file(&channel).unwrap();
                false
            }
        };
        let answer = world.reload().await;
        assert_eq!(answer.status, if is_good { 200 } else { 422 }, "{round}: {:?}", answer.body);
        leads.insert(generation(&world).await, routes);
        if !is_good {
            save(&channel, &good);
            assert_eq!(world.reload().await.status, 200, "{round}: restored");
            leads.insert(generation(&world).await, routes);
        }
        until("a request is served", || async {
            let now = served.load(Ordering::SeqCst);
            if now > before { Ok(()) } else { Err("none was served") }
        })
        .await;
        if round == 300 {
            memory = world.gateway.memory();
        }
    }
    stop.store(true, Ordering::SeqCst);
    let mut seen = BTreeSet::new();
    for task in load {
        let (said, bad) = task.await.unwrap();
        assert!(bad.is_empty(), "{bad:#?}");
        seen.extend(said);
    }
    for (generation, channel) in &seen {
        let routes = leads.get(generation).unwrap_or_else(|| panic!("unknown generation {generation}"));
        assert!(routes.contains(&format!("\"{channel}\"")), "generation {generation} does not route to {channel}");
    }
    assert!(generation(&world).await > 500 && seen.len() > 100, "{}", seen.len());
    // Payments use a few KiB each. Leaked snapshots of the rejected reloads alone would use 100 MiB.
    let grown = world.gateway.memory().saturating_sub(memory);
    assert!(grown < 64 * 1024, "memory grew by {grown} KiB from {memory} KiB");
}

#[tokio::test]
async fn swapped_symlink_triggers_reload() {
    let world = World::with(WorldOptions { channels: vec!["east", "west"], ..WorldOptions::default() }).await;
    for (version, (routes, channel)) in
        [(TO_WEST, "west"), (TO_EAST, "east"), (TO_WEST, "west")].into_iter().enumerate()
    {
        let before = generation(&world).await;
        swap_routes(world.conf(), version, routes);
        until("the watcher activates the generation", || async {
            let generation = generation(&world).await;
            if generation > before { Ok(()) } else { Err(generation) }
        })
        .await;
        let order = format!("o-{version}");
        assert_eq!(world.create(&order, &order).await.json()["channel"], channel, "version {version}");
    }
}

/// Deploys like `git pull` into a new directory with a symlink to the newest.
#[tokio::test]
async fn swapped_symlink_of_conf_directory_triggers_reload() {
    let mut world = World::with(WorldOptions { channels: vec!["east", "west"], ..WorldOptions::default() }).await;
    world.gateway.kill();
    let conf = world.conf().to_owned();
    let revision = |number: usize| conf.with_file_name(format!("revision-{number}"));
    std::fs::rename(&conf, revision(1)).unwrap();
    symlink("revision-1", &conf).unwrap();
    world.start().await;
    let before = generation(&world).await;
    copy_dir(&revision(1), &revision(2));
    std::fs::write(revision(2).join("routes.toml"), TO_WEST).unwrap();
    let next = conf.with_file_name("next");
    symlink("revision-2", &next).unwrap();
    std::fs::rename(&next, &conf).unwrap();
    until("the watcher activates the generation", || async {
        let generation = generation(&world).await;
        if generation > before { Ok(()) } else { Err(generation) }
    })
    .await;
    assert_eq!(world.create("o-1", "k-1").await.json()["channel"], "west");
    // The archive refers to the symlink's path, not to the target, which may be deleted.
    std::fs::remove_dir_all(revision(1)).unwrap();
    let back = world.admin_request("POST", "/rollback", &[]).await;
    assert_eq!(back.status, 200, "{:?}", back.body);
    assert_eq!(world.create("o-2", "k-2").await.json()["channel"], "east");
}

#[tokio::test]
async fn broken_file_is_rejected_with_file_and_line() {
    let world = World::new().await;
    let before = generation(&world).await;
    let channel = world.conf().join("channels/main.toml");
    let good = std::fs::read_to_string(&channel).unwrap();
    let line = good.lines().position(|line| line.starts_with("rate")).unwrap() + 1;
    save(&channel, &good.replace("rate = 600", "ratee = 600"));
    let refused = world.reload().await;
    let report = String::from_utf8(refused.body.to_vec()).unwrap();
    assert_eq!(refused.status, 422);
    assert!(report.contains(&format!("main.toml:{line}:")) && report.contains("did you mean `rate`"), "{report}");
    assert_eq!(generation(&world).await, before);
    assert!(world.metrics().await.contains("tollgate_config_last_reload_success 0"));
    assert_eq!(world.create("o-1", "k-1").await.status, 201, "the old generation stays active");
    save(&channel, &good);
    until("the watcher loads the fixed file", || async {
        let metrics = world.metrics().await;
        metrics.contains("tollgate_config_last_reload_success 1").then_some(()).ok_or(metrics)
    })
    .await;
}

#[tokio::test]
async fn saved_file_or_sighup_triggers_reload() {
    let world = World::with(WorldOptions { channels: vec!["east", "west"], ..WorldOptions::default() }).await;
    let routes = world.conf().join("routes.toml");
    assert_eq!(world.create("o-1", "k-1").await.json()["channel"], "east");
    save(&routes, "[[route]]\nto = [{ channel = \"west\" }]\n");
    until("the watcher activates the generation", || async {
        let generation = generation(&world).await;
        if generation == 2 { Ok(()) } else { Err(generation) }
    })
    .await;
    assert_eq!(world.create("o-2", "k-2").await.json()["channel"], "west");
    let unchanged = async || {
        let name = "tollgate_config_reloads_total{result=\"unchanged\"} ";
        let count = world.metrics().await.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        count.unwrap_or(0_u64)
    };
    let before = unchanged().await;
    world.gateway.signal("HUP");
    until("SIGHUP triggers a reload", || async {
        let now = unchanged().await;
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(world.create("o-3", "k-3").await.status, 201, "the gateway serves after SIGHUP");
    assert_eq!(generation(&world).await, 2, "an unchanged configuration makes no generation");
}

#[tokio::test]
async fn breaker_state_survives_reload() {
    let edit = |conf: &Path, _| {
        let path = conf.join("channels/main.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        // Queries fail here; their own breaker would keep the orders unknown.
        let numbers = "request_volume_threshold = 2\nquery = { request_volume_threshold = 100000 }";
        let text = text.replace("request_volume_threshold = 20", numbers);
        std::fs::write(path, text.replace("sleep_window = \"5s\"", "sleep_window = \"60s\"")).unwrap();
    };
    let world = World::with(WorldOptions { edit, ..WorldOptions::default() }).await;
    // Failing queries keep the resolver from finding the orders and repeating their creates.
    world.inject_fault(serde_json::json!({"operation": "query", "fault": "cut_before", "times": 1000})).await;
    world.inject_fault(serde_json::json!({"operation": "create", "fault": "status_after", "times": 2})).await;
    for order in ["o-1", "o-2"] {
        assert_eq!(world.create(order, order).await.status, 202);
    }
    let held = world.create("o-3", "o-3").await;
    assert_eq!((held.status, held.json()["code"].as_str()), (503, Some("channel_unavailable")), "{:?}", held.body);
    assert!(held.headers.contains_key("retry-after"));
    let path = world.conf().join("channels/main.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    save(&path, &text.replace("request_volume_threshold = 2", "request_volume_threshold = 1000"));
    assert_eq!(world.reload().await.status, 200);
    assert_eq!(world.create("o-3", "o-3").await.status, 503, "the breaker is still open");
    assert!(world.metrics().await.contains("tollgate_breaker_state{channel=\"main\",operation=\"pay\"} 2"));
}

/// Makes the channel trust only another CA: no connection to the provider can be established.
fn trust_other_ca(world: &World) {
    let made = tempfile::tempdir().unwrap();
    tollgate_sandbox::keygen::sandbox_channel(made.path(), "other", "127.0.0.1:1").unwrap();
    std::fs::copy(made.path().join("other/ca.pem"), world.conf().join("channels/main/other_ca.pem")).unwrap();
    let channel = world.conf().join("channels/main.toml");
    let text = std::fs::read_to_string(&channel).unwrap();
    save(&channel, &text.replace("main/ca.pem", "main/other_ca.pem"));
}

#[tokio::test]
async fn bad_ca_under_load_is_rolled_back_without_unknown_payments() {
    let edit = |conf: &Path, _| {
        let path = conf.join("channels/main.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace("request_volume_threshold = 20", "request_volume_threshold = 5")).unwrap();
    };
    let server = "[reload]\nauto_rollback = { window = \"60s\" }";
    let world = World::with(WorldOptions { edit, server, ..WorldOptions::default() }).await;
    let load = Load::start(&world, "wechat.native").await;
    let before = generation(&world).await;
    trust_other_ca(&world);
    let counted = |name: &'static str, wanted: f64| {
        let world = &world;
        move || async move {
            let metrics = world.metrics().await;
            let value =
                metrics.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or("0").to_owned();
            if value.parse::<f64>().unwrap() >= wanted { Ok(()) } else { Err(value) }
        }
    };
    until("the generation is rolled back", counted("tollgate_config_rollbacks_total", 1.0)).await;
    world.until_logged("the new generation is rolled back automatically").await;
    // The previous configuration returns under a new number. Its channel recovers after the breaker's sleep window.
    let mut number = 0;
    until("payments succeed again", || {
        number += 1;
        let order = format!("after-{number}");
        let world = &world;
        async move {
            let answer = world.create(&order, &order).await;
            if answer.status == 201 { Ok(()) } else { Err(answer.status) }
        }
    })
    .await;
    for answer in load.stop().await {
        assert!(is_clear(&answer), "{} {:?}", answer.status, answer.body);
    }
    assert!(generation(&world).await > before);
}

#[tokio::test]
async fn channel_under_maintenance_rejects_new_payments_and_finishes_old() {
    let world = World::with(WorldOptions { channels: vec!["east", "west"], ..WorldOptions::default() }).await;
    world.create("before", "k-1").await;
    let channel = world.conf().join("channels/east.toml");
    let whole = std::fs::read_to_string(&channel).unwrap();
    let before = generation(&world).await;
    save(&channel, &format!("{whole}\n[[maintenance]]\nfrom = 2020-01-01T00:00:00Z\nto = 9999-01-01T00:00:00Z\n"));
    until("the new generation is active", || async {
        let now = generation(&world).await;
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
    world.pay("before").await;
    world.receiver.until("before", "payment.succeeded").await;
    let created = world.create("after", "k-2").await.json();
    assert_eq!(created["channel"], "west", "the next route's channel is used");
    let mut pinned = payment_body("pinned");
    pinned["channel"] = "east".into();
    let refused = world.signed_request("POST", "/v1/payments", Some("k-3"), &pinned).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &Value::from("maintenance")), "{:?}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(
        world.signed_request("POST", "/v1/payments", Some("k-3"), &payment_body("pinned")).await.status,
        201,
        "the rejected request was not stored"
    );
}

#[tokio::test]
async fn rollback_then_start_with_broken_files_uses_last_good_generation() {
    let mut world = World::new().await;
    let channel = world.conf().join("channels/main.toml");
    let whole = std::fs::read_to_string(&channel).unwrap();
    let tollgate = |world: &World, command: &[&str]| {
        let mut tollgate = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let output = tollgate.arg("--conf").arg(world.conf()).args(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    save(&channel, &whole.replace("total = \"100s\"", "total = \"90s\""));
    assert!(world.reload().await.status == 200 && generation(&world).await == 2);
    save(&channel, &whole.replace("total = \"100s\"", "total = \"80s\""));
    let (_, said) = tollgate(&world, &["diff"]);
    assert!(said.contains("channel main changed: timeouts.total") || said.contains("nothing would change"), "{said}");
    world.reload().await;
    assert_eq!(generation(&world).await, 3);
    let (right, said) = tollgate(&world, &["rollback"]);
    assert!(right && said.contains("generation 4") && said.contains("channel main changed"), "{said}");
    let (right, said) = tollgate(&world, &["rollback", "--to", "99"]);
    assert!(!right && said.contains("archived generations: 1, 2, 3, 4"), "{said}");

    world.gateway.kill();
    save(&world.conf().join("routes.toml"), "[[route]\n");
    world.start().await;
    assert_eq!(generation(&world).await, 4, "the generation of the rollback is active");
    world.until_logged("the last one in force, is used instead").await;
    assert!(world.metrics().await.contains("tollgate_config_last_reload_success 0"));
    assert_eq!(world.create("o-1", "k-1").await.status, 201);
}
