//! A relay of TCP connections that loses them: all at once for a while, or one at a chosen place of what it carries.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::process_faults::Counts;

/// Who wrote the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Asking,
    Answering,
}

/// One connection's end: this much of what its writer wrote at once still comes through.
#[derive(Clone, Copy, Debug)]
struct Cut {
    writer: Writer,
    per_mille: usize,
}

/// What of a writing comes through, by name; as often as each stands here.
const SHARES: [(&str, &str, Option<usize>); 3] = [
    ("cut before a question", "cut before an answer", Some(0)),
    ("cut within a question", "cut within an answer", None),
    ("cut after a question", "cut after an answer", Some(1000)),
];

/// So many cuts wait for what is written next. More would fall on the first few words of each connection, for as long as hardly any is
/// opened: then no gateway could ever start again.
const PENDING: usize = 4;

/// A relay, open for as long as the process lives.
pub(super) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// `host:port`; one that cannot be reached is passed over.
    targets: Vec<String>,
    turn: AtomicUsize,
    is_open: watch::Sender<bool>,
    cuts: Mutex<VecDeque<Cut>>,
    counts: Mutex<Counts>,
}

impl Relay {
    /// To these in turn.
    pub(super) async fn open(targets: Vec<String>) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared {
            targets,
            turn: AtomicUsize::new(0),
            is_open: watch::Sender::new(true),
            cuts: Mutex::default(),
            counts: Mutex::default(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it did what.
    pub(super) fn counts(&self) -> Counts {
        self.shared.counts.lock().clone()
    }

    /// As if the machine behind it started anew: every connection ends, and none is taken for so long.
    pub(super) async fn sever(&self, time: Duration) {
        self.shared.count("outage");
        self.shared.is_open.send_replace(false);
        tokio::time::sleep(time).await;
        self.shared.is_open.send_replace(true);
    }

    /// The next that is written by one side is lost, all or in part, or what follows it, and the connection with it.
    pub(super) fn cut_next(&self, random: &mut StdRng) {
        let writer = if random.random() { Writer::Asking } else { Writer::Answering };
        let (.., share) = SHARES[random.random_range(0..SHARES.len())];
        let per_mille = share.unwrap_or_else(|| random.random_range(1..1000));
        let mut cuts = self.shared.cuts.lock();
        if cuts.len() < PENDING {
            cuts.push_back(Cut { writer, per_mille });
        }
    }

    /// Cuts no more.
    pub(super) fn pause_faults(&self) {
        self.shared.cuts.lock().clear();
    }
}

impl Shared {
    fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    async fn reach(&self) -> Option<TcpStream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let all = self.targets.iter().cycle().skip(turn % self.targets.len().max(1));
        for target in all.take(self.targets.len()) {
            if let Ok(stream) = TcpStream::connect(target).await {
                return Some(stream);
            }
        }
        None
    }

    fn cut_of(&self, writer: Writer) -> Option<Cut> {
        let mut cuts = self.cuts.lock();
        let at = cuts.iter().position(|cut| cut.writer == writer)?;
        cuts.remove(at)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut is_open = shared.is_open.subscribe();
        if *is_open.borrow_and_update() {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                tokio::select! {
                    () = pass(&shared, near) => {}
                    _ = is_open.wait_for(|is_open| !is_open) => {}
                }
            });
        }
    }
}

async fn pass(shared: &Shared, near: TcpStream) {
    let Some(far) = shared.reach().await else { return };
    for stream in [&near, &far] {
        let _ = stream.set_nodelay(true);
    }
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    tokio::select! {
        () = carry(shared, Writer::Asking, near_reads, far_writes) => {}
        () = carry(shared, Writer::Answering, far_reads, near_writes) => {}
    }
}

/// One direction; when it ends the connection does.
async fn carry(shared: &Shared, writer: Writer, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let cut = shared.cut_of(writer);
        let passed = cut.map_or(count, |cut| (count * cut.per_mille).div_ceil(1000));
        let is_written = to.write_all(buffer.get(..passed).unwrap_or_default()).await.is_ok();
        if let Some(cut) = cut {
            return shared.count(cut.name());
        }
        if !is_written {
            return;
        }
    }
}

impl Cut {
    fn name(self) -> &'static str {
        let kind = SHARES.iter().find(|(.., share)| *share == Some(self.per_mille)).unwrap_or(&SHARES[1]);
        if self.writer == Writer::Asking { kind.0 } else { kind.1 }
    }
}
