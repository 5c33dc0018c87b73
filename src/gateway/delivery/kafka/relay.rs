//! Relay between the library and the brokers.
//!
//! librdkafka resolves names and opens connections by itself, to every broker that the cluster names, and its Rust binding
//! has no hook for that. So it knows loopback ports of this process only, one for each broker, and the relay opens the real
//! connections: addresses are checked as for webhooks, TLS is rustls, and the login happens here. `Metadata` responses are
//! rewritten, so that the library meets a port of the relay for every broker of the cluster. Only what a producer needs
//! passes. A random password, which the library alone knows, keeps other processes of the machine out.

mod session;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tollgate_config::{BrokerAddress, KafkaConfig};

use super::sasl;
use crate::delivery::failure::DeliveryError;

/// User of the library at the relay.
pub(super) const USER: &str = "tollgate";
/// Maximum number of connections of one listener. The library opens one or two.
const MAX_SESSIONS: usize = 8;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listeners for the brokers of one sink. They and their connections end when it is dropped.
pub(super) struct Relay(Arc<Shared>);

/// State of a relay that its listeners share.
struct Shared {
    config: Arc<KafkaConfig>,
    /// Password of the library.
    password: String,
    /// Private networks that brokers may be in.
    allowed: watch::Sender<Vec<IpNet>>,
    /// Listeners by broker; `None` once the relay is closed.
    listeners: Mutex<Option<HashMap<BrokerAddress, Listener>>>,
    state: Mutex<State>,
}

/// Port of one broker. It is closed when dropped.
struct Listener {
    port: u16,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct State {
    /// Number of connections to brokers.
    open: usize,
    /// Reason of the last connection that failed, until another one succeeds.
    fault: Option<String>,
}

impl Relay {
    /// Opens a port for each configured broker. Connects to none.
    pub(super) fn open(config: Arc<KafkaConfig>, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let relay = Self(Arc::new(Shared {
            config: Arc::clone(&config),
            password: hex::encode(rand::rng().random::<[u8; 32]>()),
            allowed: watch::Sender::new(allowed.to_vec()),
            listeners: Mutex::new(Some(HashMap::new())),
            state: Mutex::default(),
        }));
        relay.0.ports(&config.brokers)?;
        Ok(relay)
    }

    /// Returns the addresses of the configured brokers for the library.
    pub(super) fn bootstrap(&self) -> Result<String, DeliveryError> {
        let ports = self.0.ports(&self.0.config.brokers)?;
        Ok(ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(","))
    }

    /// Returns the password of the library.
    pub(super) fn password(&self) -> &str {
        &self.0.password
    }

    /// Follows the configuration. Connections to addresses that are permitted no more are closed.
    pub(super) fn allow(&self, allowed: &[IpNet]) {
        self.0.allowed.send_if_modified(|present| {
            let is_other = present != allowed;
            if is_other {
                *present = allowed.to_vec();
            }
            is_other
        });
    }

    /// Returns why no broker is connected; `None` while one is.
    pub(super) fn fault(&self) -> Option<String> {
        let state = self.0.state.lock();
        state.fault.clone().filter(|_| state.open == 0)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        *self.0.listeners.lock() = None;
    }
}

impl Shared {
    /// Returns the ports of these brokers, and closes those of all others except the configured ones.
    fn ports(self: &Arc<Self>, brokers: &[BrokerAddress]) -> Result<Vec<u16>, DeliveryError> {
        let mut listeners = self.listeners.lock();
        let listeners = listeners.as_mut().ok_or(DeliveryError::BrokerClosed)?;
        listeners.retain(|broker, _| brokers.contains(broker) || self.config.brokers.contains(broker));
        let mut ports = Vec::new();
        for broker in brokers {
            if let Some(known) = listeners.get(broker) {
                ports.push(known.port);
                continue;
            }
            let listener = self.listen(broker.clone()).map_err(DeliveryError::BrokerConnection)?;
            ports.push(listener.port);
            listeners.insert(broker.clone(), listener);
        }
        Ok(ports)
    }

    fn listen(self: &Arc<Self>, broker: BrokerAddress) -> std::io::Result<Listener> {
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(Arc::clone(self).accept(broker, TcpListener::from_std(listener)?));
        Ok(Listener { port, task: task.abort_handle() })
    }

    /// Serves the connections to one broker until the task is aborted.
    async fn accept(self: Arc<Self>, broker: BrokerAddress, listener: TcpListener) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) if sessions.len() < MAX_SESSIONS => {
                        sessions.spawn(Arc::clone(&self).serve(broker.clone(), client));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(_) = sessions.join_next() => {}
            }
        }
    }

    async fn serve(self: Arc<Self>, broker: BrokerAddress, client: TcpStream) {
        if let Err(error) = session::serve(&self, &broker, client).await {
            tracing::debug!(%broker, "a connection to a Kafka broker ended: {error}");
            self.state.lock().fault = Some(format!("{broker}: {error}"));
        }
    }

    /// Returns whether the message is the library's login.
    fn is_login(&self, message: &[u8]) -> bool {
        let expected = sasl::plain_message(USER.as_bytes(), self.password.as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(message, expected.expose()).is_ok()
    }

    /// Counts an open connection until the result is dropped.
    fn connected(self: &Arc<Self>) -> Connected {
        let mut state = self.state.lock();
        state.open += 1;
        state.fault = None;
        Connected(Arc::clone(self))
    }
}

/// Open connection to a broker.
struct Connected(Arc<Shared>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.state.lock().open -= 1;
    }
}
