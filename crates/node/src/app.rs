//! The wiring of one node: everything that runs is built, owned and ended here.
//!
//! So far the HTTP port; it says that the node is not ready. Start at [`App::build`], then [`App::run`].

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zwerm_admin::{
    Exposition, NodeId, NodeStatus, NodeView, Readiness, Server, Sessions, Storage, ThisNode, Totals,
};

use crate::config::Config;
use crate::identity::Identity;

/// One node, built but not running.
#[derive(Debug)]
pub struct App {
    http: TcpListener,
    view: Arc<View>,
}

#[derive(Debug)]
struct View {
    config: Config,
    identity: Identity,
    started: Instant,
}

/// Runs.
pub async fn run(config: Config, identity: Identity, shutdown: CancellationToken) -> anyhow::Result<()> {
    App::build(config, identity).await?.run(shutdown).await
}

impl App {
    /// Builds.
    pub async fn build(config: Config, identity: Identity) -> anyhow::Result<Self> {
        let bind = config.http.bind;
        let http =
            TcpListener::bind(bind).await.with_context(|| format!("cannot listen on {bind} (http.bind)"))?;
        let view = View { config, identity, started: Instant::now() };
        Ok(Self { http, view: Arc::new(view) })
    }

    /// Runs.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let server = Server::start(self.http, self.view, shutdown.clone())?;
        shutdown.cancelled().await;
        server.stopped().await?;
        Ok(())
    }
}

impl NodeView for View {
    fn status(&self) -> NodeStatus {
        NodeStatus {
            cluster_id: self.identity.cluster_id().map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: ThisNode {
                id: NodeId(self.identity.id),
                name: self.identity.name.clone(),
                incarnation: self.identity.incarnation,
                uptime_s: self.started.elapsed().as_secs(),
            },
            readiness: self.readiness(),
            nodes: Vec::new(),
            groups: Vec::new(),
            sessions: Sessions::default(),
            totals: self.totals(),
            storage: Storage { sync: self.config.storage.sync.as_str().to_owned(), size_bytes: None },
        }
    }
    fn readiness(&self) -> Readiness {
        Readiness::unless(vec!["this node is not a member of a cluster".to_owned()])
    }
    fn totals(&self) -> Totals {
        Totals::default()
    }
    fn metrics(&self, out: &mut Exposition) {
        out.gauge(
            "uptime_seconds",
            "time since this start of the node",
            self.started.elapsed().as_secs_f64(),
        );
    }
}
