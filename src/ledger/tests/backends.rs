//! Backends of the tests: a directory, or a schema in PostgreSQL.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tollgate_plugins::secret::Secret;

use super::super::postgres;
use super::server::Server;
use super::*;

/// Backend of one ledger.
pub(super) trait Backend {
    /// Returns an empty backend.
    fn new() -> Self;
    /// Opens the ledger in the backend.
    fn open(&self) -> Ledger;
    /// Returns a copy of the present state, while the ledger may be in use.
    fn copy(&self) -> Self;
}

/// A directory.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Backend for Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Ledger {
        Ledger::open_with(self.path(), RESERVE, environment()).unwrap()
    }

    /// Files of a running ledger must not be copied one after another, so the copy is made while all threads are
    /// stopped, as in a crash.
    fn copy(&self) -> Self {
        loop {
            let (before, other) = (files(self.path()), Self::new());
            if try_copy(self.path(), other.path()).is_ok() && files(self.path()) == before {
                return other;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// A directory whose ledger has short WAL segments.
pub(super) struct Tables(Directory);

impl Tables {
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Segment size in bytes.
    pub(super) fn open_with(&self, segment: u64) -> Ledger {
        let engine = embedded::Engine::open_with(self.path(), RESERVE, segment, environment(), |tx, running| {
            claims::recover(tx, running, Timestamp::now())
        });
        let engine = engine.unwrap();
        Ledger::over(Engine::Embedded(Arc::new(engine)))
    }
}

impl Backend for Tables {
    fn new() -> Self {
        Self(Directory::new())
    }

    fn open(&self) -> Ledger {
        self.open_with(24 << 10)
    }

    fn copy(&self) -> Self {
        Self(self.0.copy())
    }
}

/// Returns every file with its length and modification time.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, u64, Option<std::time::SystemTime>)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(it) if it.is_dir() => found.extend(files(&entry.path())),
            Ok(it) => found.push((entry.path(), it.len(), it.modified().ok())),
            Err(_) => {}
        }
    }
    found.sort();
    found
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            try_copy(&entry.path(), &target)?;
        } else {
            // A WAL file is mostly preallocated zeros, which are copied as a hole.
            let bytes = std::fs::read(entry.path())?;
            let used = bytes.chunks(4096).rposition(|part| *part != [0; 4096][..part.len()]);
            let used = used.map_or(0, |last| bytes.len().min((last + 1) * 4096));
            std::fs::write(&target, &bytes[..used])?;
            std::fs::File::options().write(true).open(target)?.set_len(bytes.len() as u64)?;
        }
    }
    Ok(())
}

/// Returns the PostgreSQL that all tests of this process share.
pub(super) fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

/// A schema of its own in a PostgreSQL.
pub(super) struct Schema {
    name: String,
    server: String,
    is_own: bool,
}

impl Schema {
    pub(super) fn on(server: &Server) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench_{}", MADE.fetch_add(1, Ordering::SeqCst));
        let it = Self { name, server: server.url.clone(), is_own: true };
        it.sql(&format!("CREATE SCHEMA {}", it.name));
        it
    }

    /// Returns the same schema, for another ledger.
    pub(super) fn again(&self) -> Self {
        Self { name: self.name.clone(), server: self.server.clone(), is_own: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn address(&self) -> Address {
        let url = format!("{}?options=-csearch_path%3D{}", self.server, self.name);
        Address::parse(&Secret::new(url), None).unwrap()
    }

    /// Connects with this many connections.
    pub(super) fn connect(&self, connections: usize) -> Ledger {
        let engine = postgres::Engine::with(self.address(), connections, environment()).unwrap();
        Ledger::over(Engine::Postgres(Arc::new(engine)))
    }

    pub(super) fn sql(&self, statements: &str) {
        postgres::sql(self.address(), statements.to_owned()).unwrap();
    }
}

impl Backend for Schema {
    fn new() -> Self {
        Self::on(shared())
    }

    /// One connection runs transactions one after another, as the tests expect.
    fn open(&self) -> Ledger {
        self.connect(1)
    }

    fn copy(&self) -> Self {
        let other = Self::on(shared());
        let (from, to) = (&self.name, &other.name);
        for table in ["records", "due", "merchant_events", "schema"] {
            self.sql(&format!(
                "CREATE TABLE {to}.tollgate_{table} (LIKE {from}.tollgate_{table} INCLUDING ALL);
                 INSERT INTO {to}.tollgate_{table} SELECT * FROM {from}.tollgate_{table}"
            ));
        }
        // Ends the sessions of other processes.
        self.sql(&format!(
            "CREATE TABLE {to}.tollgate_owners (LIKE {from}.tollgate_owners INCLUDING ALL);
             CREATE SEQUENCE {to}.tollgate_owner_numbers;
             SELECT setval('{to}.tollgate_owner_numbers', last_value) FROM {from}.tollgate_owner_numbers"
        ));
        other
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        if self.is_own {
            // The server may be stopped already.
            let _ = postgres::sql(self.address(), format!("DROP SCHEMA {} CASCADE", self.name));
        }
    }
}
