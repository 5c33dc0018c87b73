//! Tests of reloading: which parts are reused and which are rebuilt.

use super::*;

#[test]
fn unchanged_parts_are_reused_and_filters_retain_their_state() {
    let dir = sandbox();
    let second = "[[filter]]\nuse = \"limit\"\nin_flight = 5\n";
    let text = fs::read_to_string(dir.path().join("channels/wechat.toml")).unwrap() + second;
    put(&dir, "channels/wechat.toml", &text);
    copy(&dir.path().join("channels/wechat"), &dir.path().join("channels/east"));
    put(&dir, "channels/east.toml", &text);
    let first = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));

    let changed = text.replace("rate = 600", "rate = 700").replace(second, "[[filter]]\nuse = \"breaker\"\n");
    put(&dir, "channels/wechat.toml", &changed);
    let next = load(dir.path(), Some(&first)).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert_ne!(next.hash, first.hash);
    assert!(Arc::ptr_eq(&next.channels["east"], &first.channels["east"]));
    assert!(Arc::ptr_eq(&next.merchants["shop"], &first.merchants["shop"]));
    assert_eq!(next.sources.certificates, first.sources.certificates);
    let (before, after) = (&first.channels["wechat"].filters, &next.channels["wechat"].filters);
    assert!(!Arc::ptr_eq(&next.channels["wechat"], &first.channels["wechat"]));
    assert_eq!(after.iter().map(|filter| filter.name()).collect::<Vec<_>>(), ["limit", "retry", "breaker", "breaker"]);
    let same = |old: usize, new: usize| Arc::ptr_eq(&before[old].state().unwrap(), &after[new].state().unwrap());
    assert_eq!(before.len(), 4);
    assert!(same(0, 0), "limit");
    assert!(same(2, 2), "breaker");
    assert!(!same(2, 3), "the second breaker is a new one");
}

#[test]
fn changed_key_file_rebuilds_the_channel() {
    let dir = sandbox();
    let first = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let account = dir.path().join("channels/wechat");
    fs::copy(account.join("platform_cert.pem"), account.join("pub_key.pem")).unwrap();
    assert!(reported(&dir).concat().contains("this id is of WeChat Pay's public key, and the file is a certificate"));
    let text = fs::read_to_string(dir.path().join("channels/wechat.toml")).unwrap();
    let (before, after) = text.split_once("verify = [{ id = ").unwrap();
    let (_, after) = after.split_once(", ").unwrap();
    put(&dir, "channels/wechat.toml", &format!("{before}verify = [{{ {after}"));
    let next = load(dir.path(), Some(&first)).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert!(!Arc::ptr_eq(&next.channels["wechat"], &first.channels["wechat"]));
    // The bare key was replaced by a certificate, which has an expiry.
    assert_eq!((first.sources.certificates.len(), next.sources.certificates.len()), (1, 2));
    assert!(next.channels["wechat"].configured_keys.iter().all(|key| key.not_after.is_some()));
    fs::remove_file(account.join("pub_key.pem")).unwrap();
    assert!(load(dir.path(), Some(&next)).is_err(), "a missing file is an error");
}

#[test]
fn changed_key_or_secret_file_is_a_change_without_toml_changes() {
    let dir = sandbox();
    put(&dir, "shop.secret", "0123456789abcdef");
    put(&dir, "merchants/shop.toml", "keys = [{ id = \"shop-1\", secret = \"file:../shop.secret\" }]\n");
    let first = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    for name in ["shop.secret", "channels/wechat/apiclient_key.pem", "channels/wechat/apiclient_cert.pem"] {
        let is_it = |path: &PathBuf| path.canonicalize().unwrap() == dir.path().join(name).canonicalize().unwrap();
        assert!(first.sources.files.iter().any(is_it), "{name} is watched");
    }
    put(&dir, "shop.secret", "fedcba9876543210");
    let next = load(dir.path(), Some(&first)).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert_ne!(next.hash, first.hash);
    assert_eq!(next.merchants["shop"].keys[0].1.expose(), b"fedcba9876543210");
    assert!(Arc::ptr_eq(&next.channels["wechat"], &first.channels["wechat"]));
    assert_eq!(crate::diff::changes(&first, &next), ["merchant shop changed: the content of ../shop.secret"]);

    let key = fs::read_to_string(dir.path().join("channels/wechat/apiclient_key.pem")).unwrap();
    put(&dir, "channels/wechat/apiclient_key.pem", &format!("# rotated\n{key}"));
    let last = load(dir.path(), Some(&next)).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let changes = crate::diff::changes(&next, &last);
    assert_eq!(changes, ["channel wechat changed: the content of wechat/apiclient_key.pem"]);
}

#[test]
fn shared_key_is_parsed_once_and_reused_after_a_reload() {
    let dir = sandbox();
    let text = fs::read_to_string(dir.path().join("channels/wechat.toml")).unwrap();
    put(&dir, "channels/second.toml", &text);
    let first = load(dir.path(), None).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let signer = |config: &Config, name: &str| Arc::clone(&config.channels[name].signer);
    assert!(Arc::ptr_eq(&signer(&first, "wechat"), &signer(&first, "second")));
    edit(&dir, "channels/second.toml", "rate = 600", "rate = 700");
    let next = load(dir.path(), Some(&first)).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    assert!(!Arc::ptr_eq(&first.channels["second"], &next.channels["second"]));
    assert!(Arc::ptr_eq(&signer(&first, "wechat"), &signer(&next, "second")));
}
