//! Tests of misnamed files, the order of diagnostics, and warnings.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn notes_of(dir: &Dir) -> Vec<String> {
    let root = format!("{}/", dir.path().display());
    warnings(dir).iter().map(|note| note.to_string().replace(&root, "")).collect()
}

#[test]
fn error_in_tollgate_toml_is_reported_first_without_consequential_errors() {
    for broken in ["public_url = ", "public_ulr = \"http://127.0.0.1\"", "public_url = \"127.0.0.1\"", "x = 1\nx = 2"] {
        let dir = sandbox();
        put(&dir, "tollgate.toml", broken);
        put(&dir, "merchants/a.toml", "keys = [{ id = \"a\", secret = \"plain:0123456789abcdef\" }]\nlimits = 1\n");
        edit(
            &dir,
            "merchants/shop.toml",
            "keys",
            "webhook = { url = \"http://127.0.0.1:1/\", secrets = [\"plain:whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\"] }\nkeys",
        );
        let reported = reported(&dir);
        assert!(reported[0].starts_with("tollgate.toml:"), "{reported:#?}");
        let others: Vec<_> = reported.iter().filter(|reported| !reported.starts_with("tollgate.toml:")).collect();
        assert_eq!(others, ["merchants/a.toml:2:1: unknown key `limits` (did you mean `limit`?)"], "{broken}");
    }
    let dir = sandbox();
    fs::remove_file(dir.path().join("tollgate.toml")).unwrap();
    assert_reported(&dir, &["tollgate.toml: this file is missing"]);
}

#[test]
fn file_name_in_wrong_case_is_rejected_and_unusual_extension_is_warned_about() {
    for (name, is_refused) in [
        ("merchants/shop3.TOML", true),
        ("merchants/shop3.Toml", true),
        ("channels/east.TOML", true),
        ("Routes.toml", true),
        ("routes.TOML", true),
        ("merchants/shop3.tml", false),
        ("merchants/shop3.yaml", false),
        ("channels/east.tom", false),
        ("merchant.toml", false),
    ] {
        let dir = sandbox();
        put(&dir, name, "");
        let messages = if is_refused { reported(&dir) } else { notes_of(&dir) };
        assert!(
            messages.iter().any(|messages| messages.starts_with(&format!("{name}: this file is not read"))),
            "{name}: {messages:?}"
        );
    }
    let dir = sandbox();
    for name in [
        "merchants/shop.toml~",
        "merchants/.shop.toml.swp",
        "merchants/old.bak",
        "channels/x.toml.example",
        "channels/x.pem",
        "README.md",
    ] {
        put(&dir, name, "");
    }
    assert_eq!(reported(&dir), [""; 0]);
    assert!(notes_of(&dir).iter().all(|note| !note.contains("not read")), "editor backups cause no warning");
}

#[test]
fn world_readable_secrets_and_missing_routes_are_warned_about() {
    let dir = sandbox();
    put(&dir, "secret", "0123456789abcdef\n");
    edit(&dir, "merchants/shop.toml", "plain:0123456789abcdef", "file:../secret");
    let set = |name: &str, mode: u32| {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = "channels/wechat/apiclient_key.pem";
    let (expected, others) = (["merchants/../secret", key], ["pub_key.pem", "ca.pem", "apiclient_cert.pem"]);
    for mode in [0o644, 0o640, 0o604] {
        expected.iter().for_each(|name| set(name, mode));
        others.iter().for_each(|name| set(&format!("channels/wechat/{name}"), mode));
        let notes = notes_of(&dir);
        for name in expected {
            assert!(
                notes.iter().any(|note| note.starts_with(&format!("{name}: this file contains"))),
                "{name}: {notes:?}"
            );
        }
        assert_eq!(notes.iter().filter(|note| note.contains("may read it")).count(), 2, "{mode:o}: {notes:?}");
    }
    expected.iter().for_each(|name| set(name, 0o600));
    assert_eq!(notes_of(&dir), [""; 0]);
    fs::remove_file(dir.path().join("routes.toml")).unwrap();
    assert!(notes_of(&dir)[0].starts_with("routes.toml: there are no routes"), "{:?}", notes_of(&dir));
}

#[test]
fn excess_diagnostics_of_a_file_are_counted_and_not_listed() {
    let dir = sandbox();
    let many: String = (0..5_000).map(|number| format!("unknown_{number} = 1\n")).collect();
    let text = fs::read_to_string(dir.path().join("merchants/shop.toml")).unwrap();
    put(&dir, "merchants/shop.toml", &(text + &many));
    let reported = reported(&dir);
    assert_eq!(reported.len(), 1_001);
    assert!(
        reported[1_000].starts_with("merchants/shop.toml:1002:1: 4000 more errors in this file"),
        "{}",
        reported[1_000]
    );
    put(&dir, "merchants/shop.toml", &format!("{} = 1\n", "k".repeat(100_000)));
    assert!(self::reported(&dir).iter().all(|reported| reported.len() < 500), "a long key is not repeated");
}
