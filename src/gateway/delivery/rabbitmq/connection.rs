//! Connection to a broker that several sinks share, with one channel for each.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ipnet::IpNet;
use lapin::{Channel, Connection};
use tokio::sync::watch;

use super::broker_error::broker_error;
use super::socket::Socket;
use crate::delivery::connections;
use crate::delivery::failure::DeliveryError;

/// Time limit for closing a connection or a channel in order.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Reply code of a close without an error.
pub(super) const REPLY_SUCCESS: u16 = 200;

/// Handle of a connection. The connection is closed when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct SharedConnection(Arc<Open>);

/// Reference that keeps no connection open.
#[derive(Clone)]
pub(super) struct WeakConnection(Weak<Open>);

struct Open {
    connection: Arc<Connection>,
    closed: watch::Sender<bool>,
    peer: IpAddr,
}

impl SharedConnection {
    /// Starts the task that closes the connection in the end.
    pub(super) fn start(connection: Connection, socket: Socket, peer: IpAddr) -> Self {
        let connection = Arc::new(connection);
        let (closed, mut is_closed) = watch::channel(false);
        let held = Arc::clone(&connection);
        tokio::spawn(async move {
            drop(is_closed.wait_for(|closed| *closed).await);
            // In order, if the broker answers soon. The socket is shut down in any case.
            drop(tokio::time::timeout(CLOSE_TIMEOUT, held.close(REPLY_SUCCESS, "".into())).await);
            drop((held, socket));
        });
        Self(Arc::new(Open { connection, closed, peer }))
    }

    /// Opens a channel.
    pub(crate) async fn channel(&self) -> Result<Channel, DeliveryError> {
        self.0.connection.create_channel().await.map_err(|error| broker_error(&error))
    }

    /// Returns whether the connection is usable.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Returns whether the broker has asked for a pause (`connection.blocked`).
    pub(crate) fn is_blocked(&self) -> bool {
        self.0.connection.status().blocked()
    }

    /// Returns whether a connection to this address is still permitted.
    pub(crate) fn is_permitted(&self, allowed: &[IpNet]) -> bool {
        connections::not_permitted(self.0.peer, allowed).is_none()
    }

    /// Closes the connection for all its users.
    pub(crate) fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// Returns a reference that keeps no connection open.
    pub(super) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.0))
    }
}

impl WeakConnection {
    /// Returns the connection while it is open.
    pub(super) fn upgrade(&self) -> Option<SharedConnection> {
        self.0.upgrade().filter(|open| open.is_open()).map(SharedConnection)
    }

    /// Returns the number of handles.
    pub(super) fn handles(&self) -> usize {
        self.0.strong_count()
    }
}

impl Open {
    fn is_open(&self) -> bool {
        self.connection.status().connected() && !*self.closed.borrow()
    }
}
