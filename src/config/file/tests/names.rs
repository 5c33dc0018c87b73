//! Files whose names are nearly right, what is told first, and what is only noted.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn notes_of(dir: &Dir) -> Vec<String> {
    let root = format!("{}/", dir.path().display());
    let summary = check(dir.path()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    summary.notes.iter().map(|note| note.to_string().replace(&root, "")).collect()
}

#[test]
fn broken_process_file_is_told_first_and_nothing_that_follows_from_it() {
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
        let told = told(&dir);
        assert!(told[0].starts_with("tollgate.toml:"), "{told:#?}");
        let others: Vec<_> = told.iter().filter(|told| !told.starts_with("tollgate.toml:")).collect();
        assert_eq!(others, ["merchants/a.toml:2:1: unknown key `limits` (did you mean `limit`?)"], "{broken}");
    }
    let dir = sandbox();
    fs::remove_file(dir.path().join("tollgate.toml")).unwrap();
    assert_told(&dir, &["tollgate.toml: this file is missing"]);
}

#[test]
fn file_name_in_the_wrong_case_is_refused_and_a_strange_one_is_noted() {
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
        let said = if is_refused { told(&dir) } else { notes_of(&dir) };
        assert!(
            said.iter().any(|said| said.starts_with(&format!("{name}: this file is not read"))),
            "{name}: {said:?}"
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
    assert_eq!(told(&dir), [""; 0]);
    assert!(notes_of(&dir).iter().all(|note| !note.contains("not read")), "what editors leave behind is no mistake");
}

#[test]
fn secrets_that_others_may_read_and_missing_routes_are_noted() {
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
                notes.iter().any(|note| note.starts_with(&format!("{name}: this file holds"))),
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
fn many_mistakes_in_a_file_are_counted_and_not_all_listed() {
    let dir = sandbox();
    let many: String = (0..5_000).map(|number| format!("unknown_{number} = 1\n")).collect();
    let text = fs::read_to_string(dir.path().join("merchants/shop.toml")).unwrap();
    put(&dir, "merchants/shop.toml", &(text + &many));
    let told = told(&dir);
    assert_eq!(told.len(), 1_001);
    assert!(
        told[1_000].starts_with("merchants/shop.toml:1002:1: from here on there are 4000 more mistakes"),
        "{}",
        told[1_000]
    );
    put(&dir, "merchants/shop.toml", &format!("{} = 1\n", "k".repeat(100_000)));
    assert!(self::told(&dir).iter().all(|told| told.len() < 500), "a long key is not repeated");
}
