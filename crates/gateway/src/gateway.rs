//! The whole gateway: its listeners, what they share, and its end.
//!
//! Knows no configuration file and no signals. Start at [`Gateway::start`].

use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;
use zwerm_broker::Broker;

use crate::certificates::{CertificateError, Certificates};
use crate::connections::Connections;
use crate::doors::Doors;
use crate::handshake::Handshake;
use crate::link::Link;
use crate::listener::{Accept, Listener, Terms, UnixSocket};
use crate::upgrade::Upgrade;
use crate::watch::watch;
use crate::{Bind, Config, Counters, ListenerConfig};

/// Bytes of a WebSocket message that every client may send: a few small packets in one, whatever the largest may be.
const WEBSOCKET_MESSAGE: usize = 1024 * 1024;

/// Why the gateway did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened at: taken, not of this machine, or not allowed.
    #[error("cannot listen for MQTT clients at {bind}: {source}")]
    Bind {
        /// The address.
        bind: Bind,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("listener.{listener}.{source}")]
    Certificate {
        /// Which listener, from 0, in the order of the configuration.
        listener: usize,
        /// Which file, and what is wrong with it.
        source: CertificateError,
    },
}

/// A running gateway. Dropped without [`stopped`](Self::stopped) it cuts every connection.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<Bind>,
    counters: Arc<Counters>,
    doors: Doors,
    /// Listeners, and what watches certificates and users.
    tasks: JoinSet<()>,
}

/// A listener that is open and serves nobody yet.
struct Opened {
    socket: OpenSocket,
    bind: Bind,
    config: ListenerConfig,
    handshake: Handshake,
}

enum OpenSocket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Gateway {
    /// Opens every listener and serves clients until `shutdown` is cancelled. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    /// A certificate cannot be used, or an address cannot be listened at; then none is.
    pub fn start(config: Config, broker: Broker, shutdown: &CancellationToken) -> Result<Self, StartError> {
        let handshakes = handshakes(&config)?;
        let connections = Connections::new(config, broker);
        let listeners = connections.0.config.listeners.iter().zip(handshakes);
        let opened = listeners.map(|(listener, handshake)| {
            open(listener, handshake)
                .map_err(|source| StartError::Bind { bind: listener.bind.clone(), source })
        });
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        let counters = connections.counters();
        let doors = connections.doors();
        let mut gateway = Self { addresses: Vec::new(), counters, doors, tasks: JoinSet::new() };
        if let Some(users) = connections.0.config.users.clone() {
            let (every, counters) = (connections.0.config.file_interval, Arc::clone(&gateway.counters));
            gateway.tasks.spawn(watch(users, every, counters, shutdown.child_token()));
        }
        for listener in opened {
            gateway.serve(listener, &connections, shutdown);
        }
        Ok(gateway)
    }

    /// Reads the files that `config` names and opens nothing.
    ///
    /// # Errors
    /// A certificate cannot be used.
    pub fn check(config: &Config) -> Result<(), StartError> {
        handshakes(config).map(drop)
    }

    fn serve(&mut self, listener: Opened, connections: &Connections, shutdown: &CancellationToken) {
        let Opened { socket, bind, config, handshake } = listener;
        info!(address = %bind, tls = config.tls.is_some(), websocket = config.websocket.is_some(),
            "listening for MQTT clients");
        self.addresses.push(bind.clone());
        let stop = shutdown.child_token();
        if let Some(certificates) = handshake.certificates.clone() {
            let (every, counters) = (connections.0.config.file_interval, Arc::clone(&self.counters));
            self.tasks.spawn(watch(certificates, every, counters, shutdown.child_token()));
        }
        let terms = Terms {
            max_connections: config.max_connections,
            drain_timeout: connections.0.config.drain_timeout,
            closed: connections.0.closed.subscribe(),
            admission: Arc::clone(&connections.0.admission),
        };
        let counters = Arc::clone(&self.counters);
        match socket {
            // by far the most connections: no layer, no call through a table
            OpenSocket::Tcp(socket) if handshake.is_empty() => {
                let listener = Listener::new(socket, bind, terms, counters);
                let connections = connections.clone();
                let serve = move |stream, peer, stop| connections.serve(stream, peer, stop);
                self.tasks.spawn(listener.run(serve, stop));
            }
            OpenSocket::Tcp(socket) => {
                let listener = Listener::new(socket, bind, terms, counters);
                self.shake_hands_first(listener, handshake, connections, stop);
            }
            OpenSocket::Unix(socket) => {
                let listener = Listener::new(socket, bind, terms, counters);
                self.shake_hands_first(listener, handshake, connections, stop);
            }
        }
    }

    fn shake_hands_first<A: Accept + 'static>(
        &mut self,
        listener: Listener<A>,
        handshake: Handshake,
        connections: &Connections,
        stop: CancellationToken,
    ) where
        A::Stream: Link + AsyncRead + Unpin + Sync,
    {
        let (handshake, connections) = (Arc::new(handshake), connections.clone());
        let serve =
            move |stream, peer, stop| Arc::clone(&handshake).serve(connections.clone(), stream, peer, stop);
        self.tasks.spawn(listener.run(serve, stop));
    }

    /// Where clients are waited for, in the order of the configuration, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[Bind] {
        &self.addresses
    }

    /// Closes and opens all of them.
    #[must_use]
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Returns when, after the shutdown was asked for, every connection has ended.
    pub async fn stopped(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What the connections of each listener go through first.
fn handshakes(config: &Config) -> Result<Vec<Handshake>, StartError> {
    let packet = usize::try_from(config.limits.max_packet_size).unwrap_or(usize::MAX);
    let largest_message = packet.saturating_mul(2).max(WEBSOCKET_MESSAGE);
    let of = |(index, listener): (usize, &ListenerConfig)| {
        let certificates = listener.tls.clone().map(Certificates::load).transpose();
        let certificates =
            certificates.map_err(|source| StartError::Certificate { listener: index, source })?;
        Ok(Handshake {
            proxy: listener.proxy_protocol,
            certificates: certificates.map(Arc::new),
            upgrade: listener.websocket.clone().map(|path| Upgrade { path, largest_message }),
            timeout: listener.handshake_timeout,
        })
    };
    config.listeners.iter().enumerate().map(of).collect()
}

fn open(config: &ListenerConfig, handshake: Handshake) -> io::Result<Opened> {
    let (socket, bind) = match &config.bind {
        Bind::Tcp(_) => {
            let socket = TcpListener::open(&config.bind)?;
            let bind = socket.bind()?;
            (OpenSocket::Tcp(socket), bind)
        }
        Bind::Unix(_) => {
            let socket = UnixSocket::open(&config.bind)?;
            let bind = socket.bind()?;
            (OpenSocket::Unix(socket), bind)
        }
    };
    Ok(Opened { socket, bind, config: config.clone(), handshake })
}
