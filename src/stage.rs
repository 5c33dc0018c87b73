//! The gateway as a process of its own, for `demo` and `chaos`, and plain HTTP to whatever listens on this machine.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::clock;

/// How long anything on one machine may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway as a process; ended when it is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    directory: PathBuf,
    process: Mutex<Option<Child>>,
    /// How many seconds its clock is ahead from its next start on.
    ahead: AtomicI64,
}

impl Gateway {
    /// One that reads `DIRECTORY/conf` and writes `DIRECTORY/gateway.log`; not started yet.
    pub(crate) fn new(directory: &Path) -> Result<Self, String> {
        let (address, admin) = (free()?, free()?);
        Ok(Self {
            address,
            admin,
            directory: directory.to_owned(),
            process: Mutex::new(None),
            ahead: AtomicI64::new(0),
        })
    }

    /// From its next start on its clock is wrong by so many seconds.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.ahead.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("gateway.log")
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<(), String> {
        let cannot = |error: std::io::Error| format!("cannot start the gateway: {error}");
        let log = std::fs::File::options().create(true).append(true).open(self.log()).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(["run", "--conf"]).arg(self.directory.join("conf"));
        match self.ahead.load(Ordering::Relaxed) {
            0 => {}
            ahead => drop(command.env(clock::AHEAD_VARIABLE, ahead.to_string())),
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(cannot)?;
        *self.process.lock() = Some(child);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok((200, _)) = call(self.admin, "GET", "/readyz", &[], String::new()).await {
                return Ok(());
            }
            let ended = self.process.lock().as_mut().is_none_or(|child| child.try_wait().ok().flatten().is_some());
            if ended || Instant::now() > until {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                return Err(format!(
                    "the gateway did not start:\n{}",
                    end.into_iter().rev().collect::<Vec<_>>().join("\n")
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) async fn terminate(&self) -> Result<(), String> {
        let Some(mut child) = self.process.lock().take() else { return Ok(()) };
        let asked = signal(&child, "TERM");
        let leaving = async {
            while child.try_wait().ok().flatten().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let left = tokio::time::timeout(2 * PATIENCE, leaving).await;
        if asked.is_ok() && left.is_ok() {
            return Ok(());
        }
        let _ = child.kill();
        let _ = child.wait();
        Err("the gateway did not leave when it was asked to".to_owned())
    }

    /// Sends it a signal by name; nothing when it does not run.
    pub(crate) fn signal(&self, name: &str) -> Result<(), String> {
        self.process.lock().as_ref().map_or(Ok(()), |child| signal(child, name))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, name: &str) -> Result<(), String> {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    match sent {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("the gateway could not be sent {name}; is there a program `kill`?")),
    }
}

/// An address that nobody listens on now.
pub(crate) fn free() -> Result<SocketAddr, String> {
    let socket = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    socket.local_addr().map_err(|error| error.to_string())
}

/// One request on a connection of its own; gives status and body: JSON, or a string that holds another text.
pub(crate) async fn call(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<(u16, Value), String> {
    let stream = TcpStream::connect(to).await.map_err(|error| format!("cannot reach {to}: {error}"))?;
    exchange(stream, to, method, target, headers, body).await
}

/// The same over a connection that is there.
pub(crate) async fn exchange<S>(
    stream: S,
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<(u16, Value), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| format!("the connection to {to} broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header("host", to.to_string());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
    let text = || Value::from(String::from_utf8_lossy(&body).into_owned());
    Ok((status, serde_json::from_slice(&body).unwrap_or_else(|_| text())))
}
