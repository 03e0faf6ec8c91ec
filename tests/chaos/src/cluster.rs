//! Three nodes, their networks and their disks, and how each kind of fault is made and healed.
//!
//! Knows how to break and to heal, not when. A process that ends by itself is started again, as an orchestrator
//! would. Start at [`Cluster::start`].

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, timeout};
use zwerm_tests::Signal;

use crate::disk::SmallDisk;
use crate::fault::{Fault, Kind, SMALL_DISK};
use crate::network::{CLIENTS, Network, Side};
use crate::node::Node;

/// Nodes of a cluster.
pub(crate) const NODES: Side = 3;
/// How long the first start may take.
const STARTING: Duration = Duration::from_secs(60);
/// Between two looks at the nodes.
pub(crate) const GLANCE: Duration = Duration::from_millis(100);
/// How long a process that ended by itself stays down.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The nodes and what they stand on.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    network: Network,
    disk: SmallDisk,
    /// Processes that ended by themselves, and since when.
    fallen: Vec<(Side, Instant)>,
}

impl Cluster {
    /// Builds everything below a directory, starts the nodes and waits until all are ready.
    ///
    /// # Errors
    /// When one does not get ready, or something cannot be built.
    pub(crate) async fn start(binary: &Path, dir: &Path, disk_mib: u32) -> Result<Self> {
        let network = Network::build(NODES).await?;
        let nodes: Result<Vec<Node>> = (1..=NODES)
            .map(|side| Node::configure(side, NODES, &dir.join(format!("node-{side}")), binary))
            .collect();
        let mut nodes = nodes?;
        let small = nodes.get(usize::from(SMALL_DISK) - 1).context("no node has the small disk")?;
        let disk = SmallDisk::mount(&small.data(), disk_mib).await?;
        for node in &mut nodes {
            node.start()?;
        }
        let mut cluster = Self { nodes, network, disk, fallen: Vec::new() };
        timeout(STARTING, async {
            while !cluster.is_ready().await {
                cluster.revive();
                sleep(GLANCE).await;
            }
        })
        .await
        .context("the cluster did not get ready")?;
        Ok(cluster)
    }

    /// Where clients connect, node by node.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::mqtt).collect()
    }

    /// Whether every node says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        for node in &self.nodes {
            if !Node::is_ready(node.http()).await {
                return false;
            }
        }
        true
    }

    fn node(&mut self, side: Side) -> Result<&mut Node> {
        self.nodes.get_mut(usize::from(side).wrapping_sub(1)).context("no such node")
    }

    /// Makes a fault.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn break_it(&mut self, fault: &Fault) -> Result<()> {
        let others = (1..=NODES).filter(|side| *side != fault.node);
        let cuts: Vec<(Side, Side)> = match (fault.kind, fault.other) {
            (Kind::Kill, _) => return self.node(fault.node)?.kill().await,
            (Kind::Pause, _) => return self.node(fault.node)?.signal(Signal::STOP),
            (Kind::Restart, _) => return self.node(fault.node)?.terminate().await.map(drop),
            (Kind::DiskFull, _) => return self.disk.fill().await.map(drop),
            (Kind::Isolate, _) => others.flat_map(|side| both(fault.node, side)).collect(),
            (Kind::Mute, _) => others.map(|side| (fault.node, side)).collect(),
            (Kind::Deaf, _) => others.map(|side| (side, fault.node)).collect(),
            (Kind::Vanish, _) => others.chain([CLIENTS]).flat_map(|side| both(fault.node, side)).collect(),
            (Kind::CutLink, Some(other)) => both(fault.node, other).to_vec(),
            (Kind::CutOneWay, Some(other)) => vec![(fault.node, other)],
            (Kind::CutLink | Kind::CutOneWay, None) => Vec::new(),
        };
        for (from, to) in cuts {
            self.network.cut(from, to).await?;
        }
        Ok(())
    }

    /// Heals a fault.
    ///
    /// # Errors
    /// When it cannot be healed.
    pub(crate) async fn heal(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::Kill | Kind::Restart => self.node(fault.node)?.start(),
            Kind::Pause => self.node(fault.node)?.signal(Signal::CONT),
            Kind::DiskFull => self.disk.free(),
            _ => self.network.heal().await,
        }
    }

    /// Starts processes again that ended by themselves; names those that have just ended.
    pub(crate) fn revive(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for (side, node) in (1..).zip(&mut self.nodes) {
            if let Some(status) = node.ended() {
                self.fallen.push((side, Instant::now()));
                said.push(format!("node {side} ended by itself: {status}"));
            }
        }
        let (due, still): (Vec<_>, Vec<_>) =
            self.fallen.drain(..).partition(|(_, since)| since.elapsed() >= BACK_OFF);
        self.fallen = still;
        for (side, _) in due {
            if let Err(error) = self.node(side).and_then(Node::start) {
                said.push(format!("node {side} did not start again: {error:#}"));
            }
        }
        said
    }

    /// Kills a node that does not recover and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) async fn replace(&mut self, side: Side) -> Result<()> {
        let node = self.node(side)?;
        node.kill().await?;
        node.start()
    }

    /// The nodes that are not ready.
    pub(crate) async fn unready(&self) -> Vec<Side> {
        let mut unready = Vec::new();
        for (side, node) in (1..).zip(&self.nodes) {
            if !Node::is_ready(node.http()).await {
                unready.push(side);
            }
        }
        unready
    }

    /// Prints the last lines of every node's log.
    pub(crate) fn show_logs(&self) {
        for (side, node) in (1..).zip(&self.nodes) {
            let side: Side = side;
            println!("--- node {side}, the end of its log\n{}", node.log_tail());
        }
    }

    /// Lines of the logs that tell of a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.nodes.iter().flat_map(Node::panics).collect()
    }
}

fn both(one: Side, other: Side) -> [(Side, Side); 2] {
    [(one, other), (other, one)]
}
