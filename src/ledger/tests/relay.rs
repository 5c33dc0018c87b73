//! TCP relay between a ledger and its PostgreSQL that simulates faults of networks and poolers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tollgate_plugins::secret::Secret;

use super::server::Server;
use super::*;

pub(super) struct Relay {
    folder: TempDir,
    /// Drops the answer to the next commit and cuts the connection.
    pub(super) cuts: Arc<AtomicBool>,
    /// Drops notifications, as a pooler in transaction mode does.
    pub(super) swallows: Arc<AtomicBool>,
}

impl Relay {
    pub(super) fn new(server: &Server) -> Self {
        let (_, rest) = server.url.split_once('@').unwrap();
        let backend = rest.split('/').next().unwrap().replace("%2F", "/");
        let server = PathBuf::from(backend).join(".s.PGSQL.5432");
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let (cuts, swallows) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (cutting, swallowing) = (Arc::clone(&cuts), Arc::clone(&swallows));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&cutting), Arc::clone(&swallowing)));
            }
        });
        Self { folder, cuts, swallows }
    }

    pub(super) fn address(&self, backend: &Schema) -> Address {
        let folder = self.folder.path().to_str().unwrap().replace('/', "%2F");
        let url = format!("postgres://tollgate@{folder}/postgres?options=-csearch_path%3D{}", backend.name());
        Address::parse(&Secret::new(url), None).unwrap()
    }

    pub(super) fn ledger(&self, backend: &Schema) -> Ledger {
        Ledger::connect(self.address(backend)).unwrap()
    }
}

async fn carry(mut client: UnixStream, mut server: UnixStream, cuts: Arc<AtomicBool>, swallows: Arc<AtomicBool>) {
    let (mut asked, mut said, mut unsent) = (vec![0; 65536], vec![0; 65536], Vec::new());
    loop {
        tokio::select! {
            Ok(count) = client.read(&mut asked) => {
                if count == 0 || server.write_all(&asked[..count]).await.is_err() {
                    return;
                }
                let commits = asked[..count].windows(7).any(|it| it == b"COMMIT\0");
                if commits && cuts.swap(false, Ordering::SeqCst) {
                    // The commit is done once the server has answered.
                    let _ = server.read(&mut said).await;
                    return;
                }
            }
            Ok(count) = server.read(&mut said) => {
                unsent.extend_from_slice(&said[..count]);
                let whole = messages(&mut unsent, swallows.load(Ordering::SeqCst));
                if count == 0 || client.write_all(&whole).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

/// Splits the server's bytes into messages, and drops notifications if that is enabled.
fn messages(unsent: &mut Vec<u8>, swallows: bool) -> Vec<u8> {
    let (mut whole, mut at) = (Vec::new(), 0);
    while let Some(head) = unsent.get(at..at + 5) {
        let length = 1 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some(message) = unsent.get(at..at + length) else { break };
        if !(swallows && head[0] == b'A') {
            whole.extend_from_slice(message);
        }
        at += length;
    }
    unsent.drain(..at);
    whole
}
