//! A TCP proxy that injects faults: an outage of all connections, or a cut at a chosen point of one transfer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::counts::FaultCounts;

/// The side that sent the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

/// A cut of one connection: this share of the next write is still forwarded.
#[derive(Clone, Copy, Debug)]
struct Cut {
    sender: Sender,
    per_mille: usize,
}

/// Cut types: name for client and for server, and the forwarded share in per mille. `None` is a random share. Each
/// type has the same probability.
const CUT_TYPES: [(&str, &str, Option<usize>); 3] = [
    ("cut before request", "cut before response", Some(0)),
    ("cut within request", "cut within response", None),
    ("cut after request", "cut after response", Some(1000)),
];

/// Maximum number of pending cuts. A gateway that starts opens few connections and writes little: with more pending
/// cuts all of its first writes would be cut, and no gateway could start.
const MAX_PENDING_CUTS: usize = 4;

/// A TCP proxy that listens until the process ends.
pub(super) struct TcpProxy {
    address: SocketAddr,
    state: Arc<ProxyState>,
}

struct ProxyState {
    /// Targets as `host:port`. An unreachable target is skipped.
    targets: Vec<String>,
    next_target: AtomicUsize,
    is_open: watch::Sender<bool>,
    cuts: Mutex<VecDeque<Cut>>,
    counts: Mutex<FaultCounts>,
}

impl TcpProxy {
    /// Opens a proxy that distributes connections over the targets round-robin.
    pub(super) async fn open(targets: Vec<String>) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let state = Arc::new(ProxyState {
            targets,
            next_target: AtomicUsize::new(0),
            is_open: watch::Sender::new(true),
            cuts: Mutex::default(),
            counts: Mutex::default(),
        });
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of injected faults by type.
    pub(super) fn counts(&self) -> FaultCounts {
        self.state.counts.lock().clone()
    }

    /// Ends every connection and accepts none for this time, like a restart of the server.
    pub(super) async fn sever(&self, duration: Duration) {
        self.state.count("outage");
        self.state.is_open.send_replace(false);
        tokio::time::sleep(duration).await;
        self.state.is_open.send_replace(true);
    }

    /// Enqueues a cut: the next write of one side is forwarded not at all, in part, or completely. The connection is
    /// then closed.
    pub(super) fn cut_next(&self, random: &mut StdRng) {
        let sender = if random.random() { Sender::Client } else { Sender::Server };
        let (.., share) = CUT_TYPES[random.random_range(0..CUT_TYPES.len())];
        let per_mille = share.unwrap_or_else(|| random.random_range(1..1000));
        let mut cuts = self.state.cuts.lock();
        if cuts.len() < MAX_PENDING_CUTS {
            cuts.push_back(Cut { sender, per_mille });
        }
    }

    /// Removes all pending cuts.
    pub(super) fn clear_pending_cuts(&self) {
        self.state.cuts.lock().clear();
    }
}

impl ProxyState {
    fn count(&self, fault: &'static str) {
        *self.counts.lock().entry(fault).or_default() += 1;
    }

    async fn connect(&self) -> Option<TcpStream> {
        let next_target = self.next_target.fetch_add(1, Ordering::Relaxed);
        let rotated = self.targets.iter().cycle().skip(next_target % self.targets.len().max(1));
        for target in rotated.take(self.targets.len()) {
            if let Ok(stream) = TcpStream::connect(target).await {
                return Some(stream);
            }
        }
        None
    }

    fn take_cut(&self, sender: Sender) -> Option<Cut> {
        let mut cuts = self.cuts.lock();
        let index = cuts.iter().position(|cut| cut.sender == sender)?;
        cuts.remove(index)
    }
}

async fn accept(listener: TcpListener, state: Arc<ProxyState>) {
    while let Ok((client, _)) = listener.accept().await {
        let mut is_open = state.is_open.subscribe();
        if *is_open.borrow_and_update() {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                tokio::select! {
                    () = forward_connection(&state, client) => {}
                    _ = is_open.wait_for(|is_open| !is_open) => {}
                }
            });
        }
    }
}

async fn forward_connection(state: &ProxyState, client: TcpStream) {
    let Some(server) = state.connect().await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::select! {
        () = forward_direction(state, Sender::Client, client_reads, server_writes) => {}
        () = forward_direction(state, Sender::Server, server_reads, client_writes) => {}
    }
}

/// Forwards one direction. The caller closes the connection when this returns.
async fn forward_direction(state: &ProxyState, sender: Sender, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let cut = state.take_cut(sender);
        let forwarded = cut.map_or(count, |cut| (count * cut.per_mille).div_ceil(1000));
        let is_written = to.write_all(buffer.get(..forwarded).unwrap_or_default()).await.is_ok();
        if let Some(cut) = cut {
            return state.count(cut.name());
        }
        if !is_written {
            return;
        }
    }
}

impl Cut {
    fn name(self) -> &'static str {
        let names = CUT_TYPES.iter().find(|(.., share)| *share == Some(self.per_mille)).unwrap_or(&CUT_TYPES[1]);
        if self.sender == Sender::Client { names.0 } else { names.1 }
    }
}
