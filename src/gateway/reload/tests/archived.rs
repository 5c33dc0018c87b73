//! Tests of archived generations: fallback at start, rollback, and damaged archives.

use super::*;

#[tokio::test]
async fn file_with_an_absolute_path_is_archived_and_restored() {
    let dir = sandbox();
    let name = dir.path().with_file_name("id");
    let set = |id: &str| {
        fs::write(&name, format!("{id}-0123456789abcdef")).unwrap();
    };
    set("first");
    let merchant = format!("keys = [{{ id = \"shop-1\", secret = \"file:{}\" }}]\n", name.display());
    put(&dir, "merchants/shop.toml", &merchant);
    let (current, reloader) = loaded(&dir);
    let secret = || current.load().config.merchants["shop"].keys[0].1.expose().to_vec();
    set("second");
    let handle = reloader.handle();
    handle.reload().await.unwrap();
    assert!(secret().starts_with(b"second"));
    handle.roll_back(None).await.unwrap();
    assert!(secret().starts_with(b"first"));
    let generations = Generations::of(dir.path());
    let loaded = generations.load(&generations.last().unwrap(), None).unwrap();
    let files = loaded.config.sources.files;
    assert!(files.contains(&name) && files.contains(&dir.path().join("routes.toml")), "not the copies: {files:?}");
}

#[test]
fn configuration_directory_may_be_given_by_a_path_with_links() {
    let dir = sandbox();
    let link = tempfile::tempdir().unwrap();
    let current = link.path().join("current");
    std::os::unix::fs::symlink(dir.path().parent().unwrap(), &current).unwrap();
    let conf = current.join("conf");
    put(&dir, "id", "0123456789abcdef");
    let merchant = |name: &Path| format!("keys = [{{ id = \"shop-1\", secret = \"file:{}\" }}]\n", name.display());
    put(&dir, "merchants/shop.toml", &merchant(&conf.join("id")));
    let ledger = |current: &Current| match &current.load().process.ledger {
        LedgerConfig::Embedded(path) => path.clone(),
        LedgerConfig::Postgres(_) => unreachable!(),
    };
    let first = load_first(&conf).unwrap();
    put(&dir, "routes.toml", "[[route]\n");
    let again = load_first(&conf).unwrap();
    assert_eq!((&again.load().config.hash, ledger(&again)), (&first.load().config.hash, ledger(&first)));
    // The same directory by another path.
    let again = load_first(dir.path()).unwrap();
    assert_eq!(again.load().config.hash, first.load().config.hash);
}

#[test]
fn start_falls_back_to_the_newest_undamaged_generation() {
    let dir = sandbox();
    let hash = |rate: &str| {
        edit(&dir, "channels/wechat.toml", "\nrate = 600", rate);
        let hash = load_first(dir.path()).unwrap().load().config.hash.clone();
        edit(&dir, "channels/wechat.toml", rate, "\nrate = 600");
        hash
    };
    let [first, second, _] = ["\nrate = 1", "\nrate = 2", "\nrate = 3"].map(hash);
    put(&dir, "routes.toml", "[[route]\n");
    let damage = |numbers: &[u64]| {
        let archived = Generations::of(dir.path()).list();
        archived
            .iter()
            .filter(|archived| numbers.contains(&archived.number))
            .for_each(|archived| fs::write(&archived.path, "").unwrap());
    };
    // A fallback creates a new generation, like `rollback`.
    for (damaged, generation, hash) in [(&[3][..], 4, &second), (&[2, 4], 5, &first)] {
        damage(damaged);
        let started = load_first(dir.path()).unwrap().load_full();
        assert_eq!((started.generation, &started.config.hash), (generation, hash));
    }
    damage(&[1, 5]);
    let diagnostics = load_first(dir.path()).err().unwrap();
    let messages: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    assert!(
        messages[0].contains("routes.toml:1:") && messages.last().unwrap().contains("this archive is damaged"),
        "{messages:?}"
    );
}

#[test]
fn fallback_without_its_ledger_directory_is_rejected() {
    let dir = sandbox();
    load_first(dir.path()).unwrap();
    put(&dir, "routes.toml", "[[route]\n");
    let started = || load_first(dir.path()).map(|current| current.load().generation);
    assert_eq!(started().ok(), Some(1));
    let messages = |diagnostics: Vec<Diagnostic>| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>();
    fs::rename(dir.path().join("data"), dir.path().join("elsewhere")).unwrap();
    let diagnostics = messages(started().unwrap_err());
    assert!(
        diagnostics[0].contains("routes.toml:1:") && diagnostics[1].contains("data: the ledger of the last generation"),
        "{diagnostics:?}"
    );
    fs::rename(dir.path(), dir.path().with_file_name("elsewhere")).unwrap();
    let diagnostics = messages(started().unwrap_err());
    assert!(diagnostics[0].contains("there is no such directory"), "{diagnostics:?}");
}

#[tokio::test]
async fn rollback_works_after_a_link_was_changed() {
    let dir = sandbox();
    let inside = |name: &str| dir.path().join(name);
    fs::create_dir(inside("revision")).unwrap();
    fs::rename(inside("channels"), inside("revision/channels")).unwrap();
    std::os::unix::fs::symlink("revision/channels", inside("channels")).unwrap();
    // Behind the link this is `revision/key.pem`, not the `key.pem` that the path seems to name.
    edit(&dir, "channels/wechat.toml", "wechat/apiclient_key.pem", "../key.pem");
    fs::copy(inside("revision/channels/wechat/apiclient_key.pem"), inside("revision/key.pem")).unwrap();
    put(&dir, "key.pem", "0123456789abcdef");
    put(&dir, "merchants/shop.toml", "keys = [{ id = \"shop-1\", secret = \"file:../key.pem\" }]\n");
    let (current, reloader) = loaded(&dir);
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    let handle = reloader.handle();
    handle.reload().await.unwrap();
    fs::remove_file(inside("channels")).unwrap();
    let report = handle.roll_back(None).await.unwrap();
    assert_eq!((report.generation, current.load().channels.len()), (3, 1));
}

#[test]
fn file_changed_since_loading_is_not_archived() {
    for name in
        ["tollgate.toml", "routes.toml", "merchants/shop.toml", "channels/wechat.toml", "channels/wechat/ca.pem"]
    {
        for change in [
            |path: &Path| fs::remove_file(path).unwrap(),
            |path: &Path| {
                let text = fs::read_to_string(path).unwrap();
                fs::write(path, format!("# again\n{text}")).unwrap();
            },
        ] {
            let dir = sandbox();
            let read = snapshot::load(dir.path(), None).unwrap();
            let generations = Generations::of(dir.path());
            let path = dir.path().join(name);
            let before = fs::read(&path).unwrap();
            change(&path);
            let why = generations.archive(&read, None, None).unwrap_err();
            assert!(why.starts_with("generation 1 cannot be archived in"), "{name}: {why}");
            assert!(generations.list().is_empty(), "{name}");
            fs::write(&path, before).unwrap();
            generations.archive(&read, None, None).unwrap();
            assert_eq!(
                generations.load(&generations.last().unwrap(), None).unwrap().config.hash,
                read.config.hash,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn rollback_to_a_damaged_archive_is_rejected() {
    let dir = sandbox();
    let (_, reloader) = loaded(&dir);
    let handle = reloader.handle();
    edit(&dir, "channels/wechat.toml", "\nrate = 600", "\nrate = 1");
    handle.reload().await.unwrap();
    let archived = Generations::of(dir.path()).list().remove(0);
    let whole = fs::read(&archived.path).unwrap();
    fs::write(&archived.path, &whole[..whole.len() - 9]).unwrap();
    let diagnostics = handle.roll_back(None).await.unwrap_err();
    let messages = diagnostics[0].to_string();
    assert!(
        messages.contains(".tar.lz4: this archive is damaged: ") && messages.contains("rollback --to"),
        "{messages}"
    );
}

#[test]
fn rolled_back_configuration_is_used_if_nothing_else_is_readable() {
    let dir = sandbox();
    let archived = dir.path().with_file_name("conf.generations");
    fs::create_dir(&archived).unwrap();
    fs::write(archived.join("rolled-back"), snapshot::load(dir.path(), None).unwrap().config.hash).unwrap();
    assert_eq!(load_first(dir.path()).unwrap().load().generation, 1);
}

#[tokio::test]
async fn archive_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let dir = sandbox();
    let _ = loaded(&dir);
    let archived = Generations::of(dir.path()).last().unwrap();
    assert_eq!(archived.number, 1);
    let root = dir.path().with_file_name("conf.generations");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&archived.path), 0o600);
    assert_eq!(fs::read_dir(root).unwrap().count(), 1, "nothing unfinished");
}

#[test]
fn fallback_at_start_never_crosses_a_change_of_the_ledger() {
    let dir = sandbox();
    load_first(dir.path()).unwrap();
    let whole = fs::read_to_string(dir.path().join("tollgate.toml")).unwrap();
    let messages = || {
        let diagnostics = load_first(dir.path()).map(|current| current.load().generation);
        diagnostics.map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    };
    let with = |ledger: &str| put(&dir, "tollgate.toml", &format!("{whole}\n{ledger}"));
    put(&dir, "routes.toml", "[[route]\n");
    assert_eq!(messages(), Ok(1), "the ledger is the same");
    // The generation in force would use the ledger in `data`, which may have been moved.
    let postgres = "[ledger]\nkind = \"postgres\"\nurl = \"plain:postgres://localhost/pay\"";
    for (ledger, why) in [
        (postgres, "`[ledger]` of the files names PostgreSQL at localhost:5432, database pay"),
        ("[ledger]\npath = \"elsewhere\"", "`[ledger]` of the files names"),
        ("[ledger]\nkind = \"postgres\"\nurl = \"env:TOLLGATE_NO_SUCH_URL\"", "is not the same or cannot be read"),
        ("[ledger]\nkind = \"postgres\nurl = \"\"", "is not the same or cannot be read"),
        ("[ledger", "is not the same or cannot be read"),
    ] {
        with(ledger);
        let rejected = messages().unwrap_err();
        assert!(rejected.contains(why) && rejected.contains("could execute payments twice"), "{ledger}: {rejected}");
    }
    // An error elsewhere in the file does not concern the ledger.
    with("[telemetry]\nlog = info");
    assert_eq!(messages(), Ok(1));
    with("[telemetry]\nlogg = \"info\"");
    assert_eq!(messages(), Ok(1));
}

#[test]
fn fallback_at_start_never_leaves_the_ledger_in_use() {
    let dir = sandbox();
    load_first(dir.path()).unwrap();
    let generations = Generations::of(dir.path());
    let file = dir.path().with_file_name("conf.generations").join("ledger.json");
    put(&dir, "routes.toml", "[[route]\n");
    fs::write(&file, r#"{"kind": "postgres", "name": "0a", "place": "PostgreSQL at localhost:5432, database pay"}"#)
        .unwrap();
    let rejected = load_first(dir.path()).err().unwrap().iter().map(ToString::to_string).collect::<String>();
    assert!(rejected.contains("the ledger in PostgreSQL at localhost:5432, database pay is in use"), "{rejected}");
    let place = LedgerConfig::Embedded(dir.path().join("data"));
    let rejected = generations.in_use().admit(&place).unwrap_err();
    assert!(rejected.contains("is in use") && rejected.contains("delete"), "{rejected}");
    fs::write(&file, "{").unwrap();
    assert!(
        load_first(dir.path()).is_err() && generations.in_use().admit(&place).is_err(),
        "an unreadable record may name any ledger"
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(load_first(dir.path()).unwrap().load().generation, 1);
}

#[test]
fn empty_directory_in_place_of_the_ledger_in_use_is_rejected() {
    let dir = sandbox();
    let at = |name: &str| LedgerConfig::Embedded(dir.path().join(name));
    load_first(dir.path()).unwrap();
    let in_use = Generations::of(dir.path()).in_use();
    let ledger = tollgate_ledger::Ledger::open(&dir.path().join("data")).unwrap();
    in_use.confirm(&at("data"), &ledger).unwrap();
    assert!(in_use.admit(&at("data")).is_ok());
    let rejected = in_use.admit(&at("dta")).unwrap_err();
    assert!(rejected.contains("dta holds no ledger") && rejected.contains("is in use"), "{rejected}");
    drop(ledger);
    fs::rename(dir.path().join("data"), dir.path().join("moved")).unwrap();
    assert!(in_use.admit(&at("moved")).is_ok(), "a directory may be moved with its ledger");
}

#[tokio::test]
async fn rollback_does_not_cross_a_change_of_the_ledger() {
    let dir = sandbox();
    let (_, first) = loaded(&dir);
    drop(first);
    let whole = fs::read_to_string(dir.path().join("tollgate.toml")).unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    put(&dir, "tollgate.toml", &format!("{whole}\n[ledger]\npath = \"elsewhere\""));
    let (current, reloader) = loaded(&dir);
    assert_eq!(current.load().generation, 2);
    let rejected = reloader.handle().roll_back(None).await.unwrap_err()[0].to_string();
    assert!(rejected.contains("no rollback crosses a change of `[ledger]`"), "{rejected}");
    assert_eq!(current.load().generation, 2);
}
