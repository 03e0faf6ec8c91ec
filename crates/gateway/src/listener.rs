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

use crate::{Counters, ListenerConfig};

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
    drain_timeout: Duration,
    counters: Arc<Counters>,
}

impl Listener {
    /// Opens the address. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bind(
        config: ListenerConfig,
        drain_timeout: Duration,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(config.bind), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if config.bind.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&config.bind.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        Ok(Self { socket, max_connections: config.max_connections, drain_timeout, counters })
    }

    /// The address, with the port that the system chose.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes connections until `stop` and has each served by a task of its own; then waits until all have
    /// ended and cuts those that take too long.
    pub(crate) async fn run<F>(
        self,
        serve: impl Fn(TcpStream, SocketAddr, CancellationToken) -> F,
        stop: CancellationToken,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        let mut pause = PAUSES.0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => self.note_end(ended),
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => {
                        pause = PAUSES.0;
                        if self.admits(&stream, peer, connections.len()) {
                            // a token of its own: all asking one shared token would fight over its lock
                            connections.spawn(serve(stream, peer, stop.child_token()));
                        }
                    }
                    Err(error) => pause = self.pause_after(&error, pause).await,
                },
            }
        }
        let Self { socket, drain_timeout, counters, .. } = self;
        drop(socket);
        end_all(&mut connections, drain_timeout, &counters).await;
    }

    fn admits(&self, stream: &TcpStream, peer: SocketAddr, open: usize) -> bool {
        if open >= self.max_connections {
            self.counters.connections_refused_total.increment();
            debug!(%peer, limit = self.max_connections, "refused: too many connections");
            return false;
        }
        if let Err(error) = prepare(stream) {
            debug!(%peer, %error, "closed before it began");
            return false;
        }
        self.counters.connections_total.increment();
        true
    }

    fn note_end(&self, ended: Result<(), JoinError>) {
        note_end(ended, &self.counters);
    }

    /// Failures of one connection that is already gone cost nothing; the system's own (no file descriptors
    /// left) need time to pass. Returns the next pause.
    async fn pause_after(&self, error: &io::Error, pause: Duration) -> Duration {
        self.counters.accept_errors_total.increment();
        if concerns_one_connection(error.kind()) {
            return pause;
        }
        warn!(%error, ?pause, "cannot accept connections; waiting");
        tokio::time::sleep(pause).await;
        (pause * 2).min(PAUSES.1)
    }
}

fn concerns_one_connection(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(kind, Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER))
}

async fn end_all(connections: &mut JoinSet<()>, within: Duration, counters: &Counters) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            note_end(ended, counters);
        }
    };
    if tokio::time::timeout(within, all_ended).await.is_err() {
        warn!(left = connections.len(), "cutting connections that did not end in time");
        connections.shutdown().await;
    }
}

fn note_end(ended: Result<(), JoinError>, counters: &Counters) {
    if let Err(error) = ended
        && error.is_panic()
    {
        counters.connections_panicked_total.increment();
        error!(%error, "a connection task panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    struct Running {
        address: SocketAddr,
        counters: Arc<Counters>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    fn start<F>(
        max_connections: usize,
        serve: impl Fn(TcpStream, SocketAddr, CancellationToken) -> F + Send + Sync + 'static,
    ) -> Running
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counters = Arc::new(Counters::default());
        let config = ListenerConfig { bind: LOOPBACK, max_connections };
        let patience = Duration::from_millis(100);
        let listener = Listener::bind(config, patience, Arc::clone(&counters)).unwrap();
        let (address, stop) = (listener.address().unwrap(), CancellationToken::new());
        let task = tokio::spawn(listener.run(serve, stop.clone()));
        Running { address, counters, stop, task }
    }

    /// Sends one byte to greet, then ends when the client or the server does.
    async fn greet(mut stream: TcpStream, _: SocketAddr, stop: CancellationToken) {
        stream.write_all(b"!").await.unwrap();
        let mut end = [0];
        tokio::select! {
            () = stop.cancelled() => {}
            _ = stream.read(&mut end) => {}
        }
    }

    async fn greeted(address: SocketAddr) -> (TcpStream, bool) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let greeted = stream.read_u8().await.is_ok();
        (stream, greeted)
    }

    #[tokio::test]
    async fn more_than_the_limit_are_closed_and_counted() {
        let running = start(1, greet);
        let (first, was_greeted) = greeted(running.address).await;
        assert!(was_greeted);
        assert!(!greeted(running.address).await.1);
        assert_eq!(running.counters.connections_refused_total.get(), 1);
        drop(first);
        // the place is free as soon as the task of the first one has ended
        while !greeted(running.address).await.1 {}
        assert_eq!(running.counters.connections_total.get(), 2);
    }

    #[tokio::test]
    async fn stopping_ends_the_connections_and_frees_the_address() {
        let running = start(10, greet);
        let (mut stream, _) = greeted(running.address).await;
        running.stop.cancel();
        running.task.await.unwrap();
        assert!(stream.read_u8().await.is_err());
        assert!(TcpStream::connect(running.address).await.is_err());
    }

    #[tokio::test]
    async fn connections_that_do_not_end_in_time_are_cut() {
        let (started, mut has_started) = mpsc::channel(1);
        let running = start(10, move |stream, _, _| {
            let started = started.clone();
            async move {
                started.send(()).await.unwrap();
                let _open = stream;
                pending().await
            }
        });
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        has_started.recv().await.unwrap();
        running.stop.cancel();
        running.task.await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_is_counted() {
        let running = start(10, |mut stream, peer, stop| async move {
            assert_eq!(stream.read_u8().await.unwrap(), b'?', "on purpose");
            greet(stream, peer, stop).await;
        });
        for (says, answer) in [(b'x', None), (b'?', Some(b'!'))] {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            stream.write_u8(says).await.unwrap();
            assert_eq!(stream.read_u8().await.ok(), answer);
        }
        running.stop.cancel();
        running.task.await.unwrap();
        assert_eq!(running.counters.connections_panicked_total.get(), 1);
    }

    #[test]
    fn only_the_failures_of_one_connection_cost_no_pause() {
        assert!(concerns_one_connection(io::ErrorKind::ConnectionAborted));
        let too_many_files = io::Error::from_raw_os_error(24);
        assert!(!concerns_one_connection(too_many_files.kind()));
    }
}
