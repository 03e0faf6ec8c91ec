//! Waits for clients at one address: how many are taken, and what happens when the system has none to give.
//!
//! Owns the connection tasks of its address and ends them. Knows no MQTT and nothing of what comes before it. Start at
//! [`Listener::run`].

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use zwerm_wire::ReasonCode;

use crate::admission::Admission;
use crate::{Bind, Counters, Peer};

/// Connections that the system keeps until they are accepted: what a storm of reconnecting clients needs.
const BACKLOG: i32 = 4096;

/// First and longest pause after the system could not hand over a connection (too many open files).
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Silence after which the system asks a peer for a sign of life: finds out about dead peers without keep
/// alive.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// A socket that hands over connections.
pub(crate) trait Accept: Send + Sync + Sized {
    /// A connection.
    type Stream: Send;

    /// Listens at a place of its kind.
    ///
    /// # Errors
    /// What the system says.
    fn open(bind: &Bind) -> io::Result<Self>;

    /// Waits for the next one. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;

    /// Sets what the system should do with it.
    fn prepare(stream: &Self::Stream) -> io::Result<()>;

    /// Where it listens, with the port that the system chose.
    fn bind(&self) -> io::Result<Bind>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    fn open(bind: &Bind) -> io::Result<Self> {
        let address = bind.tcp().ok_or(io::ErrorKind::InvalidInput)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::from_std(socket.into())
    }

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        self.accept().await.map(|(stream, address)| (stream, address.into()))
    }

    fn prepare(stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER))
    }

    fn bind(&self) -> io::Result<Bind> {
        self.local_addr().map(Bind::Tcp)
    }
}

/// A Unix socket and its file, which goes when this does.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    socket: UnixListener,
    path: PathBuf,
}

fn is_left_behind(path: &Path) -> bool {
    let connected = std::os::unix::net::UnixStream::connect(path);
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "the file of a Unix socket was not there to remove");
        }
    }
}

impl Accept for UnixSocket {
    type Stream = UnixStream;

    /// Makes the file, in the place of one that a process left behind. `AddrInUse` if somebody listens there or the
    /// file is no socket.
    fn open(bind: &Bind) -> io::Result<Self> {
        let Bind::Unix(path) = bind else { return Err(io::ErrorKind::InvalidInput.into()) };
        let metadata = std::fs::symlink_metadata(path);
        if metadata.is_ok_and(|metadata| metadata.file_type().is_socket()) && is_left_behind(path) {
            std::fs::remove_file(path)?;
        }
        Ok(Self { socket: UnixListener::bind(path)?, path: path.to_owned() })
    }

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        self.socket.accept().await.map(|(stream, _)| (stream, Peer::local()))
    }

    fn prepare(_: &UnixStream) -> io::Result<()> {
        Ok(())
    }

    fn bind(&self) -> io::Result<Bind> {
        Ok(Bind::Unix(self.path.clone()))
    }
}

/// One address where clients are waited for.
#[derive(Debug)]
pub(crate) struct Listener<A> {
    /// `None` while nobody is let in.
    socket: Option<A>,
    bind: Bind,
    terms: Terms,
    counters: Arc<Counters>,
}

/// On which terms connections are taken.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// At a time.
    pub(crate) max_connections: usize,
    /// How long all together may take to end.
    pub(crate) drain_timeout: Duration,
    /// Whether any are taken, and why not.
    pub(crate) closed: watch::Receiver<Option<ReasonCode>>,
    /// How fast.
    pub(crate) admission: Arc<Admission>,
}

impl<A: Accept> Listener<A> {
    /// `bind` is where the socket listens, with the port that the system chose.
    pub(crate) fn new(socket: A, bind: Bind, terms: Terms, counters: Arc<Counters>) -> Self {
        Self { socket: Some(socket), bind, terms, counters }
    }

    /// Takes connections until `stop` and has each served by a task of its own; then waits until all have
    /// ended and cuts those that take too long. Does not listen while the doors are closed.
    pub(crate) async fn run<F>(
        mut self,
        serve: impl Fn(A::Stream, Peer, CancellationToken) -> F,
        stop: CancellationToken,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        let mut pause = PAUSES.0;
        let mut closed = self.terms.closed.clone();
        loop {
            let is_closed = closed.borrow_and_update().is_some();
            self.follow(is_closed);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = closed.changed() => {}
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    note_end(ended, &self.counters);
                }
                accepted = self.accept(), if !is_closed => match accepted {
                    Ok((stream, peer)) => {
                        pause = PAUSES.0;
                        self.terms.admission.accepted();
                        if self.admits(&stream, &peer, connections.len()) {
                            // a token of its own: all asking one shared token would fight over its lock
                            connections.spawn(serve(stream, peer, stop.child_token()));
                        }
                    }
                    Err(error) => pause = self.pause_after(&error, pause).await,
                },
            }
        }
        let Self { socket, terms, counters, .. } = self;
        drop(socket);
        end_all(&mut connections, terms.drain_timeout, &counters).await;
    }

    /// Stops or begins to listen.
    fn follow(&mut self, is_closed: bool) {
        if is_closed {
            if self.socket.take().is_some() {
                info!(address = %self.bind, "not listening for MQTT clients any more");
            }
        } else if self.socket.is_none() {
            match A::open(&self.bind) {
                Ok(socket) => {
                    info!(address = %self.bind, "listening for MQTT clients again");
                    self.socket = Some(socket);
                }
                Err(error) => {
                    error!(address = %self.bind, %error, "cannot listen for MQTT clients; trying again")
                }
            }
        }
    }

    /// Waits for the next connection, and until it may be taken. Cancel-safe.
    async fn accept(&self) -> io::Result<(A::Stream, Peer)> {
        self.terms.admission.pace(&self.counters).await;
        match &self.socket {
            Some(socket) => socket.accept().await,
            // it could not be opened again
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    fn admits(&self, stream: &A::Stream, peer: &Peer, open: usize) -> bool {
        if open >= self.terms.max_connections {
            self.counters.connections_refused_total.increment();
            debug!(%peer, limit = self.terms.max_connections, "refused: too many connections");
            return false;
        }
        if let Err(error) = A::prepare(stream) {
            debug!(%peer, %error, "closed before it began");
            return false;
        }
        self.counters.connections_total.increment();
        true
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
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    struct Running {
        address: SocketAddr,
        counters: Arc<Counters>,
        closed: watch::Sender<Option<ReasonCode>>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    fn start<F>(
        max_connections: usize,
        serve: impl Fn(TcpStream, Peer, CancellationToken) -> F + Send + Sync + 'static,
    ) -> Running
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counters = Arc::new(Counters::default());
        let closed = watch::Sender::default();
        let drain_timeout = Duration::from_millis(100);
        let admission = Arc::new(Admission::new(&crate::Config::default()));
        let terms = Terms { max_connections, drain_timeout, closed: closed.subscribe(), admission };
        let socket = TcpListener::open(&LOOPBACK.into()).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let listener = Listener::new(socket, address.into(), terms, Arc::clone(&counters));
        let task = tokio::spawn(listener.run(serve, stop.clone()));
        Running { address, counters, closed, stop, task }
    }

    /// Sends one byte to greet, then ends when the client or the server does.
    async fn greet(mut stream: TcpStream, _: Peer, stop: CancellationToken) {
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
    async fn behind_closed_doors_nobody_comes_in_and_nobody_has_to_go() {
        let running = start(10, greet);
        let (mut stays, was_greeted) = greeted(running.address).await;
        assert!(was_greeted);
        for _ in 0..2 {
            running.closed.send_replace(Some(ReasonCode::UseAnotherServer));
            // one that was accepted before the doors were seen to be closed may still get in
            while TcpStream::connect(running.address).await.is_ok() {}
            running.closed.send_replace(None);
            while TcpStream::connect(running.address).await.is_err() {}
            assert!(greeted(running.address).await.1);
        }
        running.stop.cancel();
        assert!(stays.read_u8().await.is_err(), "nothing came but the end");
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_somebody_took_meanwhile_is_listened_at_when_it_is_free() {
        let running = start(10, greet);
        running.closed.send_replace(Some(ReasonCode::UseAnotherServer));
        while TcpStream::connect(running.address).await.is_ok() {}
        let taken = std::net::TcpListener::bind(running.address).unwrap();
        running.closed.send_replace(None);
        while running.counters.accept_errors_total.get() == 0 {
            tokio::task::yield_now().await;
        }
        drop(taken);
        while TcpStream::connect(running.address).await.is_err() {}
        assert!(greeted(running.address).await.1);
        running.stop.cancel();
        running.task.await.unwrap();
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

    #[tokio::test]
    async fn a_unix_socket_replaces_a_dead_one_and_spares_what_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
        let bind = Bind::Unix(path.clone());
        let socket = UnixSocket::open(&bind).unwrap();
        assert_eq!(socket.bind().unwrap(), Bind::Unix(path.clone()));
        assert_eq!(UnixSocket::open(&bind).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "a file of somebody").unwrap();
        assert_eq!(UnixSocket::open(&bind).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[test]
    fn only_the_failures_of_one_connection_cost_no_pause() {
        assert!(concerns_one_connection(io::ErrorKind::ConnectionAborted));
        let too_many_files = io::Error::from_raw_os_error(24);
        assert!(!concerns_one_connection(too_many_files.kind()));
    }
}
