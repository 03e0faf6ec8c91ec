//! Waits for clients at one address: how many are taken, and what happens when the system has none to give.
//!
//! Owns the connection tasks of its address and ends them. Knows no MQTT. Start at [`Listener::run`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::ListenerConfig;
use crate::driver::{self, Shared};

/// Connections that the system keeps until they are accepted: what a storm of reconnecting clients needs.
const BACKLOG: i32 = 4096;

/// First and longest pause after the system could not hand over a connection (too many open files).
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Silence after which the system asks a peer for a sign of life: finds out about dead peers without keep
/// alive.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// One address where clients are waited for.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    max_connections: usize,
}

impl Listener {
    /// Opens the address. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bind(config: ListenerConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(config.bind), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if config.bind.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&config.bind.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        Ok(Self { socket, max_connections: config.max_connections })
    }

    /// The address, with the port that the system chose.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes connections until `stop`, then waits until all have ended; cuts those that take too long.
    pub(crate) async fn run(self, shared: Arc<Shared>, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut pause = PAUSES.0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    ended_well(&shared, ended);
                }
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => {
                        pause = PAUSES.0;
                        self.admit(stream, peer, &shared, &stop, &mut connections);
                    }
                    Err(error) => pause = accept_failed(&shared, &error, pause).await,
                },
            }
        }
        drop(self.socket);
        end_all(&shared, &mut connections).await;
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        shared: &Arc<Shared>,
        stop: &CancellationToken,
        connections: &mut JoinSet<()>,
    ) {
        if connections.len() >= self.max_connections {
            shared.counters.connections_refused_total.increment();
            debug!(%peer, limit = self.max_connections, "refused: too many connections");
            return;
        }
        if let Err(error) = prepare(&stream) {
            debug!(%peer, %error, "closed before it began");
            return;
        }
        shared.counters.connections_total.increment();
        // a token of its own: all connections asking one shared token would fight over its lock
        let stop = stop.child_token();
        connections.spawn(driver::run(stream, peer, Arc::clone(shared), stop));
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER))
}

/// Counts the failure and says how long the next pause would be. Failures of one connection that is already
/// gone cost nothing; the system's own (no file descriptors left) need time to pass.
async fn accept_failed(shared: &Shared, error: &io::Error, pause: Duration) -> Duration {
    shared.counters.accept_errors_total.increment();
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) {
        return pause;
    }
    warn!(%error, ?pause, "cannot accept connections; waiting");
    tokio::time::sleep(pause).await;
    (pause * 2).min(PAUSES.1)
}

async fn end_all(shared: &Shared, connections: &mut JoinSet<()>) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            ended_well(shared, ended);
        }
    };
    if tokio::time::timeout(shared.config.drain_timeout, all_ended).await.is_err() {
        warn!(left = connections.len(), "cutting connections that did not end in time");
        connections.shutdown().await;
    }
}

fn ended_well(shared: &Shared, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        shared.counters.connections_panicked_total.increment();
        error!(%error, "a connection task panicked");
    }
}
