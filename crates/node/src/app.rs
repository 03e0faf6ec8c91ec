//! The wiring of one node: everything that runs is built, owned and ended here.
//!
//! Nothing starts before all ports are taken and the volume is read; the end goes the other way round: the node
//! drains, then clients that are left go, the cluster is told, HTTP last. Start at [`App::build`], then [`App::run`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zwerm_admin::{Guard, NodeControl, NodeView, Server};
use zwerm_broker::{Broker, Unstarted};
use zwerm_cluster::{Cluster, Failure, TcpDial, tcp_incoming};
use zwerm_gateway::{Counters, Gateway};
use zwerm_store::{Engine, SledEngine};

use crate::config::Config;
use crate::drain::Drainer;
use crate::identity::Identity;
use crate::view::View;
use crate::{departure, parts, sys};

/// One node, built: it takes part in its cluster, but serves no client yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    gateway: zwerm_gateway::Config,
    guard: Guard,
    identity: Identity,
    http: TcpListener,
    cluster: Cluster,
    broker: Broker,
    engine: Arc<SledEngine>,
}

/// Builds a node and runs it until `shutdown` is cancelled and everything has ended.
///
/// # Errors
/// When the node cannot start or one of its parts fails.
pub async fn run(config: Config, identity: Identity, shutdown: CancellationToken) -> anyhow::Result<()> {
    App::build(config, identity).await?.run(shutdown).await
}

async fn listen(bind: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(bind)
        .await
        .with_context(|| format!("cannot listen on {bind} ({key}); stop what uses it or choose another port"))
}

impl App {
    /// Takes the ports, opens the volume and joins the cluster. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a certificate cannot be used, a port is taken or the volume cannot be read.
    pub async fn build(config: Config, identity: Identity) -> anyhow::Result<Self> {
        // before others hear of this node: it would only come to go again
        let gateway = parts::gateway(&config)?;
        Gateway::check(&gateway)?;
        let guard = parts::guard(&config)?;
        let http = listen(config.http.bind, "http.bind").await?;
        let peers = listen(config.cluster.listen, "cluster.listen").await?;
        let engine = open_engine(&config, &identity).await?;
        let unstarted = Unstarted::new(parts::broker(&config));
        let (cluster, outbox) = Cluster::start(
            parts::cluster(&config, &identity),
            Arc::clone(&engine) as Arc<dyn Engine>,
            Arc::new(TcpDial),
            tcp_incoming(peers),
            unstarted.door(),
        )
        .await
        .context("this node cannot take part in its cluster")?;
        let broker = Broker::start(unstarted, cluster.clone(), outbox);
        Ok(Self { config, gateway, guard, identity, http, cluster, broker, engine })
    }

    /// Serves clients until `shutdown` is cancelled and everything has ended.
    ///
    /// # Errors
    /// When a client port is taken or HTTP fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, gateway, guard, mut identity, http, cluster, broker, engine } = self;
        // Between being told to end and ending the node drains: everything runs on.
        let stop = CancellationToken::new();
        let gateway = Gateway::start(gateway, broker.clone(), &stop)?;
        let drainer = Arc::new(Drainer::new(broker.clone(), gateway.doors(), config.node.drain_rate));
        let storage = (config.storage.sync, engine);
        let lives = (Arc::clone(&drainer), shutdown.clone());
        let view = View::new(&identity, broker.clone(), gateway.counters(), storage, lives);
        // HTTP answers until the very end, so that probes see a node that is leaving.
        let last = CancellationToken::new();
        let view = Arc::new(view);
        let node = zwerm_admin::Node {
            view: Arc::clone(&view) as Arc<dyn NodeView>,
            control: Arc::clone(&drainer) as Arc<dyn NodeControl>,
            guard,
        };
        let server = Server::start(http, node, last.clone())?;
        let told = tell(&config, &broker, view, gateway.counters(), &stop);
        let (draining, until) = (Arc::clone(&drainer), stop.clone());
        let draining = tokio::spawn(async move { draining.run(until).await });
        let mut left = false;
        if let Some(cluster_id) = shutdown.run_until_cancelled(cluster.cluster_id()).await {
            identity.set_cluster_id(&cluster_id)?;
            // A disk that fails while the node drains ends the draining.
            let drained = async {
                left = tokio::select! {
                    () = shutdown.cancelled() => departure::leave_if_scaled_away(&config, &cluster).await,
                    () = cluster.left() => true,
                };
                if left {
                    shutdown.cancel();
                    // Nobody comes back to this node; whether there is another one matters no more.
                    let request = zwerm_admin::DrainRequest { for_good: true, force: true };
                    drop(drainer.drain(request).await);
                }
                drainer.finish(Duration::from_secs(config.node.shutdown_grace)).await;
            };
            tokio::select! {
                failure = cluster.failed() => {
                    // Nothing that this node could still say to its clients would be kept: they go to others.
                    if let Failure::Level(error) = failure {
                        return Err(error).context("this node cannot take part in its cluster");
                    }
                    anyhow::bail!(
                        "the database in {} cannot be written (the log says why); this node ends, start it again when its disk is well",
                        identity.database().display()
                    );
                }
                () = drained => {}
            }
        }
        stop.cancel();
        tracing::info!("stopping: closing client connections");
        gateway.stopped().await;
        tracing::info!("stopping: leaving the cluster");
        draining.await?;
        if let Some(told) = told {
            told.await?;
        }
        broker.stop().await;
        cluster.stop().await;
        last.cancel();
        server.stopped().await?;
        if left {
            identity.set_left()?;
            tracing::info!("this node has left its cluster; started again it joins as a new, empty one");
        }
        Ok(())
    }
}

/// Tells `$SYS` topics, unless there are none.
fn tell(
    config: &Config,
    broker: &Broker,
    view: Arc<View>,
    counters: Arc<Counters>,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let every = Duration::from_secs(u64::from(config.mqtt.sys_interval));
    let telling = sys::tell(broker.clone(), view, counters, every, stop.clone());
    (!every.is_zero()).then(|| tokio::spawn(telling))
}

async fn open_engine(config: &Config, identity: &Identity) -> anyhow::Result<Arc<SledEngine>> {
    let (path, mode) = (identity.database(), parts::sync_mode(config));
    let (shown, cache) = (path.display().to_string(), config.storage.cache_size.0);
    let opened = tokio::task::spawn_blocking(move || SledEngine::open(&path, cache, mode)).await?;
    Ok(Arc::new(opened.with_context(|| format!("cannot open the database in {shown}"))?))
}
