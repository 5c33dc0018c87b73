//! Admin port: authentication, browser protection, generation reports.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Answer, World, WorldOptions, copy_dir};
use crate::reload::{generation, save};

const TOKEN: &str = "a-token-for-the-admin-port";

fn tollgate(world: &World, command: &[&str]) -> Output {
    tollgate_of(world.conf(), command)
}

fn tollgate_of(conf: &Path, command: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("--conf").arg(conf).args(command).output().unwrap()
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Adds lines to `[admin]`.
fn configure_admin(conf: &Path, lines: &str) {
    let path = conf.join("tollgate.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    save(&path, &text.replace("[admin]\n", &format!("[admin]\n{lines}\n")));
}

#[tokio::test]
async fn admin_request_without_token_is_401() {
    let mut world = World::new().await;
    world.gateway.kill();
    save(&world.conf().join("admin.token"), TOKEN);
    configure_admin(world.conf(), "token = \"file:admin.token\"");
    world.start().await;
    let with = |token: &str| [("authorization", format!("Bearer {token}"))];
    for target in ["/healthz", "/readyz"] {
        assert_eq!(world.admin_request("GET", target, &[]).await.status, 200, "{target} needs no token");
    }
    for (method, target) in
        [("GET", "/metrics"), ("GET", "/generations"), ("POST", "/reload"), ("GET", "/breakers"), ("GET", "/x")]
    {
        let refused = world.admin_request(method, target, &[]).await;
        assert_eq!(
            (refused.status, &refused.headers["www-authenticate"]),
            (401, &"Bearer".parse().unwrap()),
            "{target}"
        );
        assert_eq!(
            world.admin_request(method, target, &with("a-token-for-the-admin-por")).await.status,
            401,
            "{target}"
        );
        assert!(!text(&refused).contains(TOKEN));
    }
    assert_eq!(world.admin_request("GET", "/metrics", &with(TOKEN)).await.status, 200);
    let output = tollgate(&world, &["rollback", "--to", "99"]);
    assert!(said(&output).contains("archived generations: 1"), "the command sends the token itself: {}", said(&output));
    world.create("o-1", "k-1").await;
    assert!(said(&tollgate(&world, &["explain", "o-1"])).contains("o-1 of shop"));

    // The token file is reloaded like any secret.
    save(&world.conf().join("admin.token"), "another-token-for-the-port");
    crate::harness::until("the new token is accepted", || async {
        let status = world.admin_request("GET", "/metrics", &with("another-token-for-the-port")).await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(world.admin_request("GET", "/metrics", &with(TOKEN)).await.status, 401);
}

/// Headers that a browser sends for a request from another site's page.
const FOREIGN: [(&str, &str); 4] = [
    ("host", "evil.example"),
    ("origin", "https://evil.example"),
    ("sec-fetch-site", "cross-site"),
    ("content-type", "text/plain"),
];

#[tokio::test]
async fn cross_site_browser_request_to_admin_port_is_403() {
    let mut world = World::new().await;
    let force = "/breakers?channel=main&force=open&for=24h";
    for (name, value) in FOREIGN {
        let refused = world.admin_request("POST", force, &[(name, value.to_owned())]).await;
        assert_eq!(refused.status, 403, "{name}: {:?}", refused.body);
        assert!(text(&refused).ends_with('\n') && text(&refused).len() > 20, "the body gives the reason");
        if name != "content-type" {
            for target in ["/metrics", "/generations", "/explain/o-1?merchant=shop", "/breakers", "/x"] {
                let refused = world.admin_request("GET", target, &[(name, value.to_owned())]).await;
                assert_eq!(refused.status, 403, "{name} {target}");
            }
        }
        for target in ["/healthz", "/readyz"] {
            assert_eq!(
                world.admin_request("GET", target, &[(name, value.to_owned())]).await.status,
                200,
                "{name} {target}"
            );
        }
    }
    assert_eq!(world.create("o-1", "k-1").await.status, 201, "the breaker was not forced");
    let own = [("origin", format!("http://{}", world.gateway.admin)), ("sec-fetch-site", "same-origin".to_owned())];
    assert_eq!(world.admin_request("POST", "/reload", &own).await.status, 200, "same-origin requests are allowed");
    assert!(
        said(&tollgate(&world, &["rollback", "--to", "99"])).contains("archived generations"),
        "the commands are allowed"
    );

    // An operator can allow a host name or use a token; a foreign page knows neither.
    let named = [("host", "ops.example.com:9090".to_owned())];
    assert_eq!(world.admin_request("GET", "/breakers", &named).await.status, 403);
    configure_admin(world.conf(), "hosts = [\"ops.example.com\"]");
    assert_eq!(world.reload().await.status, 200);
    assert_eq!(world.admin_request("GET", "/breakers", &named).await.status, 200);
    world.gateway.kill();
    save(&world.conf().join("admin.token"), TOKEN);
    configure_admin(world.conf(), "token = \"file:admin.token\"");
    world.start().await;
    let token = ("authorization", format!("Bearer {TOKEN}"));
    for (name, value) in FOREIGN {
        let with = [token.clone(), (name, value.to_owned())];
        assert_eq!(world.admin_request("GET", "/metrics", &with).await.status, 200, "{name}");
        let expected = if ["origin", "sec-fetch-site"].contains(&name) { 403 } else { 200 };
        assert_eq!(world.admin_request("POST", "/reload", &with).await.status, expected, "{name}");
    }
}

#[tokio::test]
async fn head_request_returns_headers_of_get_without_body() {
    let world = World::new().await;
    for target in ["/healthz", "/readyz", "/metrics", "/breakers", "/x"] {
        let get = world.admin_request("GET", target, &[]).await;
        let head = world.admin_request("HEAD", target, &[]).await;
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{target}");
        let length: usize = head.headers["content-length"].to_str().unwrap().parse().unwrap();
        assert!(length > 0 && (target == "/metrics" || length == get.body.len()), "{target}");
    }
    assert_eq!(world.admin_request("HEAD", "/reload", &[]).await.status, 404, "HEAD has no side effect");
}

#[tokio::test]
async fn cli_verifies_certificate_of_tls_admin_port() {
    let mut world = World::new().await;
    world.gateway.kill();
    let pair = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(world.conf().join("admin.pem"), pair.cert.pem()).unwrap();
    std::fs::write(world.conf().join("admin_key.pem"), pair.signing_key.serialize_pem()).unwrap();
    configure_admin(world.conf(), "tls = { cert = \"admin.pem\", key = \"admin_key.pem\" }");
    world.start_tls().await;
    let output = tollgate(&world, &["rollback", "--to", "99"]);
    assert!(said(&output).contains("archived generations: 1"), "{}", said(&output));
    // Another process on that port would present another certificate.
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let conf = elsewhere.path().join("conf");
    copy_dir(world.conf(), &conf);
    std::fs::write(conf.join("admin.pem"), other.cert.pem()).unwrap();
    std::fs::write(conf.join("admin_key.pem"), other.signing_key.serialize_pem()).unwrap();
    let output = tollgate_of(&conf, &["rollback", "--to", "99"]);
    assert!(said(&output).contains("does not present the certificate of `admin.tls`"), "{}", said(&output));

    // The listener's files may be the broken ones: the archived contents are served.
    world.gateway.kill();
    for file in ["admin.pem", "admin_key.pem", "routes.toml"] {
        std::fs::write(world.conf().join(file), "broken").unwrap();
    }
    world.start_tls().await;
    let output = tollgate(&world, &["rollback", "--to", "99"]);
    assert!(said(&output).contains("archived generations: 1"), "{}", said(&output));
    world.until_logged("the last one in force, is used instead").await;
}

/// Requests a reload and returns the newest generation of the list. The watcher may have activated it before.
async fn last_generation_after_reload(world: &World) -> serde_json::Value {
    let json = [("accept", "application/json".to_owned())];
    let report = world.admin_request("POST", "/reload", &json).await.json();
    let generations = world.admin_request("GET", "/generations", &json).await.json();
    let last = generations.as_array().unwrap().last().unwrap().clone();
    assert!(report["generation"] == last["generation"] && last["in_force"] == true, "{report} {generations}");
    last
}

#[tokio::test]
async fn generation_report_lists_changes_preserved_state_and_keys_needing_restart() {
    let world = World::with(WorldOptions { channels: vec!["main", "other"], ..WorldOptions::default() }).await;
    let path = world.conf().join("channels/main.toml");
    let channel = std::fs::read_to_string(&path).unwrap();
    let process = world.conf().join("tollgate.toml");
    let before = std::fs::read_to_string(&process).unwrap();
    let json = [("accept", "application/json".to_owned())];
    // One file at a time: between two saves the watcher could create two generations.
    save(
        &path,
        &channel
            .replace("sleep_window = \"5s\"", "sleep_window = \"6s\"")
            .replace("total = \"100s\"", "total = \"90s\""),
    );
    let last = last_generation_after_reload(&world).await;
    for expected in [
        "channel main changed: ",
        "timeouts.total",
        "filter[2].sleep_window",
        "channel main: state retained: limit, retry, breaker; connections are re-established",
    ] {
        assert!(last["report"].to_string().contains(expected), "{expected} is missing: {last}");
    }
    let lines = text(&world.admin_request("GET", "/generations", &[]).await);
    assert!(lines.contains("channel main changed: ") && lines.contains("in force"), "{lines}");
    save(&process, &format!("{before}[telemetry]\nlog = \"warn\"\n"));
    let last = last_generation_after_reload(&world).await;
    assert_eq!(last["report"]["needs_restart"], serde_json::json!(["telemetry.log"]), "{last}");
    let metrics = world.metrics().await;
    assert!(metrics.contains("tollgate_config_needs_restart 1"), "{metrics}");
    assert!(metrics.contains("tollgate_config_changes_total{kind=\"channel\"} 1"), "{metrics}");
    let log = world.log();
    assert!(
        log.contains("filter[2].sleep_window")
            && log.contains("these keys of tollgate.toml take effect after a restart"),
        "{log}"
    );

    // A rollback also removes the need for a restart.
    assert_eq!(world.admin_request("POST", "/rollback?to=1", &json).await.status, 200);
    world.until_metric("tollgate_config_needs_restart 0").await;
    let back = generation(&world).await;
    let changed = std::fs::read_to_string(&path).unwrap();
    save(&path, &channel.replace("rate = 600", "ratee = 600"));
    world.until_metric("tollgate_config_last_reload_success 0").await;
    // The diagnostic disappears with the rejected file. The rolled-back configuration stays inactive.
    save(&path, &changed);
    world.until_metric("tollgate_config_last_reload_success 1").await;
    assert_eq!(generation(&world).await, back);

    save(&path, &channel.replace("rate = 600", "ratee = 600"));
    let refused = world.admin_request("POST", "/reload", &json).await;
    assert_eq!(refused.status, 422);
    assert!(refused.json()["mistakes"].to_string().contains("did you mean `rate`?"), "{:?}", refused.body);
}
