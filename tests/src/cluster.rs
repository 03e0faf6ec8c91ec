//! A cluster of real processes on loopback, and the brokers a foreign client is pointed at.
//!
//! Knows nodes as processes, not what they promise: that is for the tests. Start at [`Cluster::start`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{Certificates, DEADLINE, Node, PortBlock, Turn};

/// Lines of each node's log that a failed test shows.
const TAIL: usize = 40;

/// Nodes that form one cluster. Dropping it kills them; unless [`Cluster::finish`] was reached, their logs are
/// shown.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    finished: bool,
    _ports: PortBlock,
    dir: TempDir,
    _turn: Turn,
}

impl Cluster {
    /// Waits for its turn, starts `nodes` processes at once and waits until all are ready.
    ///
    /// # Errors
    /// When one of them does not get ready.
    pub async fn start(nodes: u16) -> Result<Self> {
        Self::start_with(nodes, &[]).await
    }

    /// The same with some configuration, each as `section.key=value`.
    ///
    /// # Errors
    /// When one of them does not get ready.
    pub async fn start_with(nodes: u16, settings: &[&str]) -> Result<Self> {
        let mut cluster = Self::configure(nodes, settings).await?;
        cluster.run().await?;
        Ok(cluster)
    }

    /// The same with listeners for all transports.
    ///
    /// # Errors
    /// When one of them does not get ready.
    pub async fn start_with_transports(nodes: u16, settings: &[&str]) -> Result<(Self, Certificates)> {
        let mut cluster = Self::configure(nodes, settings).await?;
        let certificates = Certificates::make(cluster.dir.path())?;
        for node in &cluster.nodes {
            node.listen_at_all(&certificates)?;
        }
        cluster.run().await?;
        Ok((cluster, certificates))
    }

    async fn configure(nodes: u16, settings: &[&str]) -> Result<Self> {
        let turn = Turn::wait().await?;
        let ports = PortBlock::reserve()?;
        let dir = TempDir::with_prefix("zwerm-cluster-")?;
        let members: Result<Vec<Node>> =
            (1..=nodes).map(|number| Node::configure(number, nodes, dir.path(), &ports, settings)).collect();
        Ok(Self { nodes: members?, finished: false, _ports: ports, dir, _turn: turn })
    }

    async fn run(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        let took = self.all_ready().await?;
        println!("cluster of {}: ready after {:.2} s", self.nodes.len(), took.as_secs_f64());
        Ok(())
    }

    /// Waits until every started node is ready; says how long the last one took.
    ///
    /// # Errors
    /// When one of them does not get ready.
    pub async fn all_ready(&mut self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for node in self.nodes.iter_mut().filter(|node| node.is_started()) {
            longest += node.ready(2 * DEADLINE).await?;
        }
        Ok(longest)
    }

    /// Node `number`, from 1.
    ///
    /// # Panics
    /// When there is no such node: a mistake in a test.
    #[must_use]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// Node `number`, from 1, to start or to kill.
    ///
    /// # Panics
    /// When there is no such node: a mistake in a test.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// All nodes in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where clients of node `number`, from 1, connect.
    #[must_use]
    pub fn mqtt(&self, number: usize) -> SocketAddr {
        self.node(number).mqtt()
    }

    /// Ends the test well: every node that runs stops on SIGTERM with exit code 0, and none has panicked.
    ///
    /// # Errors
    /// When one does not, or has.
    pub async fn finish(mut self) -> Result<()> {
        for number in 1..=self.nodes.len() {
            let node = self.node_mut(number);
            if node.is_started() {
                let status = node.terminate(DEADLINE).await?;
                ensure!(status.success(), "node {number} ended with {status} after SIGTERM");
            }
            let log = std::fs::read_to_string(node.log_path()).context("reading the log")?;
            let panic = log.lines().find(|line| line.contains("panicked at"));
            ensure!(panic.is_none(), "node {number}: {}", panic.unwrap_or_default());
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            println!("--- node {}, the end of its log:\n{}", index + 1, node.log_tail(TAIL));
        }
        if std::env::var_os("ZWERM_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            println!("--- kept: {}", self.dir.path().display());
        }
    }
}

/// What the interoperability tests run against: a cluster of their own, or the three endpoints that
/// `ZWERM_TEST_ENDPOINTS=host:port,host:port,host:port` names (any MQTT broker).
#[derive(Debug)]
pub enum Brokers {
    /// Started for the test.
    Own(Box<Cluster>),
    /// Somebody else's.
    Given(Vec<SocketAddr>),
}

impl Brokers {
    /// Three brokers.
    ///
    /// # Errors
    /// When the cluster does not start, or the variable does not name three addresses.
    pub async fn three() -> Result<Self> {
        let Ok(named) = std::env::var("ZWERM_TEST_ENDPOINTS") else {
            return Ok(Self::Own(Box::new(Cluster::start(3).await?)));
        };
        let parsed: Result<Vec<SocketAddr>, _> = named.split(',').map(str::parse).collect();
        let addresses = parsed.with_context(|| format!("ZWERM_TEST_ENDPOINTS is {named:?}"))?;
        ensure!(addresses.len() == 3, "ZWERM_TEST_ENDPOINTS must name three addresses");
        Ok(Self::Given(addresses))
    }

    /// Where clients connect, node by node.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        match self {
            Self::Own(cluster) => cluster.nodes().iter().map(Node::mqtt).collect(),
            Self::Given(addresses) => addresses.clone(),
        }
    }

    /// Ends the test well; see [`Cluster::finish`].
    ///
    /// # Errors
    /// When a node does not stop, or has panicked.
    pub async fn finish(self) -> Result<()> {
        match self {
            Self::Own(cluster) => cluster.finish().await,
            Self::Given(_) => Ok(()),
        }
    }
}
