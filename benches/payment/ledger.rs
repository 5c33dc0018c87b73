//! Durable claims per second, compared with a bare preallocated log that is synced for the same batches.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tollgate_ledger::{Address, ClaimKey, ClaimResult, Intent, Ledger, Payment, RecordState};
use tollgate_plugins::payment::{Currency, Method, Money, provider_number};
use tollgate_plugins::secret::Secret;

use crate::ROUNDS;
use crate::server::Server;

const TIME: Duration = Duration::from_secs(2);

pub async fn measure() {
    println!("\ndurable claims, next to a bare preallocated log synced for the same batches (1 KiB records)");
    for tasks in [1, 32, 256] {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("ledger")).unwrap();
        let log = Log::start(&directory.path().join("log"));
        // Interleaved after a warm-up round, so that noise falls on both; the median ratio is printed.
        let mut rounds = Vec::new();
        for _ in 0..=ROUNDS {
            let claims = claims(tasks, vec![ledger.clone()]).await;
            let bare = log.measure(tasks).await;
            rounds.push((claims / bare, claims, bare));
        }
        rounds.remove(0);
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let ratios: Vec<String> = rounds.iter().map(|round| format!("{:.2}", round.0)).collect();
        let (ratio, claims, bare) = rounds[ROUNDS / 2];
        println!(
            "{tasks:>4} tasks   ledger {claims:>7.0}/s   bare log {bare:>7.0}/s   ratio {ratio:.2}   (rounds: {})",
            ratios.join(" ")
        );
    }
    println!("\ndurable claims in a PostgreSQL on the same machine, shared by one gateway or three");
    for tasks in [1, 32, 256] {
        let [mut one, mut three] = [0.0, 0.0];
        for (gateways, rate) in [(1, &mut one), (3, &mut three)] {
            let server = Server::start(&["--synced"]);
            let address = Address::parse(&Secret::new(server.url.as_str()), None).unwrap();
            let ledgers = (0..gateways).map(|_| Ledger::connect(address.clone()).unwrap()).collect();
            *rate = claims(tasks, ledgers).await;
        }
        println!("{tasks:>4} tasks   one {one:>7.0}/s   three {three:>7.0}/s");
    }
}

async fn claims(tasks: usize, ledgers: Vec<Ledger>) -> f64 {
    static ROUND: AtomicUsize = AtomicUsize::new(0);
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    rate(tasks, move |task, number| {
        let ledger = ledgers[task % ledgers.len()].clone();
        async move {
            let order = format!("o-{round}-{task}-{number}");
            let claimed =
                ledger.claim(claim_key(&order), Intent::Pay(payment(&order)), Timestamp::now()).await.unwrap();
            let ClaimResult::Run(ticket) = claimed else { panic!("{claimed:?}") };
            // The claim is not settled: only the claim is measured.
            std::mem::forget(ticket);
        }
    })
    .await
}

/// Returns the key of a request that creates this order.
pub fn claim_key(order: &str) -> ClaimKey {
    ClaimKey {
        merchant: "shop".into(),
        method: "POST".into(),
        path: "/v1/payments".into(),
        key: order.into(),
        fingerprint: [7; 32],
    }
}

/// Returns a payment of the merchant `shop` of which nothing was sent.
pub fn payment(order: &str) -> Payment {
    let now = Timestamp::now();
    Payment {
        merchant: "shop".into(),
        order_id: order.into(),
        provider_order_no: provider_number(&["shop", order]),
        content: "0".repeat(64),
        amount: Money { value: 888, currency: Currency::CNY },
        refunded: 0,
        refunded_elsewhere: 0,
        method: Method::parse("wechat.native").unwrap(),
        channel: "main".into(),
        account: "wechat-v3:1900000109".into(),
        provider_payment_id: None,
        action: None,
        create_request: None,
        expires_at: None,
        paid_at: None,
        metadata: None,
        state: RecordState::new(now),
    }
}

/// Log file with a writer thread.
struct Log(std::sync::mpsc::Sender<oneshot::Sender<()>>);

impl Log {
    fn start(path: &std::path::Path) -> Self {
        let mut file = File::create(path).unwrap();
        file.write_all(&vec![0; 256 << 20]).unwrap();
        file.sync_all().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<oneshot::Sender<()>>();
        std::thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                let mut batch = vec![first];
                batch.extend(receiver.try_iter().take(127));
                if file.stream_position().unwrap() > 200 << 20 {
                    file.seek(SeekFrom::Start(0)).unwrap();
                }
                file.write_all(&vec![1; batch.len() * 1024]).unwrap();
                file.sync_data().unwrap();
                for waiting in batch {
                    let _ = waiting.send(());
                }
            }
        });
        Self(sender)
    }

    async fn measure(&self, tasks: usize) -> f64 {
        let sender = self.0.clone();
        rate(tasks, move |_, _| {
            let sender = sender.clone();
            async move {
                let (done, waiting) = oneshot::channel();
                sender.send(done).unwrap();
                waiting.await.unwrap();
            }
        })
        .await
    }
}

/// Returns how many operations per second this number of concurrent tasks completes.
async fn rate<F, T>(tasks: usize, work: F) -> f64
where
    F: Fn(usize, usize) -> T + Clone + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let started = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let work = work.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while started.elapsed() < TIME {
                    work(task, done).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut total = 0;
    for task in running {
        total += task.await.unwrap();
    }
    total as f64 / started.elapsed().as_secs_f64()
}
