//! The HTTP listener: accepts, bounds and ends connections, and samples the counters for the rates.
//!
//! Knows no path: that is `routes`. Start at [`Server::start`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::connect_info::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::routes::{Shared, router};
use crate::{Guard, NodeControl, NodeView, RateWindow};

/// Connections served at a time. Policy: the next ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 256;
/// A connection that sends no whole request head in this time is closed, idle ones too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open requests may take to finish at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the counters are sampled for the rates.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the HTTP port is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The listener has no address: it is no usable socket.
    #[error("the HTTP listener has no address")]
    Listener(#[source] io::Error),
    /// The accept loop ended by a panic; a fault of the program.
    #[error("the HTTP server ended unexpectedly")]
    Ended(#[source] tokio::task::JoinError),
}

/// The node behind the port.
#[derive(Clone)]
pub struct Node {
    /// What it shows.
    pub view: Arc<dyn NodeView>,
    /// How it is changed.
    pub control: Arc<dyn NodeControl>,
    /// Who may change it.
    pub guard: Guard,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// A running HTTP server. Await [`Server::stopped`] at shutdown: it owns every task of the port.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `listener` until `shutdown` is cancelled; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ServerError::Listener`] when the socket is not usable.
    pub fn start(
        listener: TcpListener,
        node: Node,
        shutdown: CancellationToken,
    ) -> Result<Self, ServerError> {
        let address = listener.local_addr().map_err(ServerError::Listener)?;
        let task = tokio::spawn(serve(listener, node, shutdown));
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped: at most two seconds after the shutdown it was given.
    ///
    /// # Errors
    /// [`ServerError::Ended`] when its task panicked.
    pub async fn stopped(self) -> Result<(), ServerError> {
        self.task.await.map_err(ServerError::Ended)
    }
}

async fn serve(listener: TcpListener, node: Node, shutdown: CancellationToken) {
    let shared = Shared { node, rates: Arc::new(Mutex::new(RateWindow::default())) };
    let app = router(shared.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(sample(shared, shutdown.clone()));
    // selecting is safe: accepting gives a connection or nothing
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&listener, &app, &shutdown, &mut tasks) => {}
    }
    drop(listener);
    let drained = timeout(DRAIN_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tasks.shutdown().await;
    }
}

/// Accepts for ever. Finished connections are reaped on the way.
async fn accept(listener: &TcpListener, app: &Router, shutdown: &CancellationToken, tasks: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let app = app.clone().layer(Extension(ConnectInfo(peer)));
                tasks.spawn(connection(stream, app, shutdown.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: TcpStream,
    app: Router,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// Samples the counters until shutdown.
async fn sample(shared: Shared, shutdown: CancellationToken) {
    let start = Instant::now();
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let totals = shared.node.view.totals();
        shared.rates.lock().unwrap_or_else(PoisonError::into_inner).observe(start.elapsed(), totals);
    }
}
