//! A PostgreSQL that goes and comes, and connections that are cut at the worst moment.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tollgate_plugins::secret::Secret;

use super::places::shared;
use super::server::Server;
use super::*;

/// Waits for what comes by itself; says so when it does not.
pub(super) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !look().await {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_gone_nothing_runs_and_when_it_is_back_all_goes_on() {
    let server = Server::start(&[]);
    let place = Schema::on(&server);
    let bench = Bench { ledger: place.connect(3), place };
    bench.paid("before").await;
    let [kept, lost] = [bench.run("kept", pay("kept")).await, bench.run("lost", pay("lost")).await];
    server.crash();
    for number in 0..5 {
        let key = format!("while {number}");
        assert!(bench.ledger.claim(claim_key(&key, ""), pay(&key), at(0)).await.is_err());
    }
    assert!(bench.ledger.payment("shop", "before").await.is_err());
    assert!(
        bench.ledger.record("wechat", told("e", "before", None, Outcome::of(Status::Closed)), at(1)).await.is_err()
    );
    assert!(bench.ledger.settle(lost, outcome(Status::Succeeded), at(1), answer).await.is_err());
    assert!(bench.ledger.due_searches(at(10), 10).await.is_empty());
    assert!(!bench.ledger.is_healthy());
    server.revive();
    until("it is healthy", async || bench.ledger.is_healthy()).await;
    until("connections are back", async || bench.ledger.payment("shop", "before").await.is_ok()).await;
    assert_eq!(bench.payment("before").await.status, Status::Succeeded);
    bench.paid("after").await;
    // Whose end could not be written is asked about; whose ticket is held is left alone.
    until("the lost one is unknown", async || bench.payment("lost").await.status == Status::Unknown).await;
    assert_eq!(bench.due().await.len(), 1);
    assert_eq!(bench.payment("kept").await.version, 1);
    bench.settle(kept, outcome(Status::Pending)).await;
    for number in 0..5 {
        bench.run(&format!("while {number}"), pay(&format!("while {number}"))).await;
    }
}

/// Stands between a ledger and its server.
struct Between {
    folder: TempDir,
    /// Swallows the answer to the next commit, and cuts the connection.
    cuts: Arc<AtomicBool>,
}

impl Between {
    fn new(server: &Server) -> Self {
        let (_, rest) = server.url.split_once('@').unwrap();
        let place = rest.split('/').next().unwrap().replace("%2F", "/");
        let server = PathBuf::from(place).join(".s.PGSQL.5432");
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let cuts = Arc::new(AtomicBool::new(false));
        tokio::spawn({
            let cuts = cuts.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = UnixStream::connect(&server).await.unwrap();
                    tokio::spawn(Self::carry(client, server, cuts.clone()));
                }
            }
        });
        Self { folder, cuts }
    }

    async fn carry(mut client: UnixStream, mut server: UnixStream, cuts: Arc<AtomicBool>) {
        let (mut asked, mut said) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                Ok(count) = client.read(&mut asked) => {
                    if count == 0 || server.write_all(&asked[..count]).await.is_err() {
                        return;
                    }
                    let commits = asked[..count].windows(7).any(|it| it == b"COMMIT\0");
                    if commits && cuts.swap(false, Ordering::SeqCst) {
                        // It is done once the server has answered.
                        let _ = server.read(&mut said).await;
                        return;
                    }
                }
                Ok(count) = server.read(&mut said) => {
                    if count == 0 || client.write_all(&said[..count]).await.is_err() {
                        return;
                    }
                }
                else => return,
            }
        }
    }

    fn ledger(&self, place: &Schema) -> Ledger {
        let folder = self.folder.path().to_str().unwrap().replace('/', "%2F");
        let url = format!("postgres://tollgate@{folder}/postgres?options=-csearch_path%3D{}", place.name());
        Ledger::connect(Address::parse(&Secret::new(url), None).unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_commit_nobody_heard_of_sends_nothing_and_is_taken_back() {
    let place = Schema::new();
    let between = Between::new(shared());
    let bench = Bench { ledger: between.ledger(&place), place };
    bench.paid("warm").await;
    let looker = bench.place.connect(1);
    between.cuts.store(true, Ordering::SeqCst);
    let claimed = bench.ledger.claim(claim_key("k", ""), pay("o"), at(0)).await;
    assert!(claimed.is_err(), "{claimed:?}");
    assert!(!between.cuts.load(Ordering::SeqCst), "it was the commit that was cut");
    until("it is taken back", async || looker.payment("shop", "o").await.unwrap().is_none()).await;
    bench.run("k", pay("o")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settling_whose_commit_nobody_heard_of_stays_as_it_was_written() {
    let place = Schema::new();
    let between = Between::new(shared());
    let bench = Bench { ledger: between.ledger(&place), place };
    let ticket = bench.run("k", pay("o")).await;
    between.cuts.store(true, Ordering::SeqCst);
    assert!(bench.ledger.settle(ticket, outcome(Status::Succeeded), at(1), answer).await.is_err());
    // What the ticket's end sets off finds nothing running any more.
    let claimed = bench.claim("k", pay("o")).await;
    assert!(matches!(claimed, Claimed::Replay(_)), "{claimed:?}");
    assert_eq!(bench.payment("o").await.status, Status::Succeeded);
}
