//! Whole nodes in one process: real gRPC over pipes, real Raft over engines in memory, links that can be cut.
//!
//! Time is real: Raft's log writer is a thread of its own, which paused time would run away from. Nothing
//! here waits for time to pass, only for conditions, with a generous deadline. Start at [`World::formed`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::Instant;
use zwerm_cluster::forward::LaneLimits;
use zwerm_cluster::level::{Level, Levels};
use zwerm_cluster::{
    Cluster, Config, LeaseConfig, Local, MemoryNet, NodeId, OutboxMessage, RaftConfig, StartError,
};

use crate::disk::Disk;

/// Longer than anything takes on a machine that others use, too.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Waits for something to be done.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

pub fn address(node: NodeId) -> String {
    format!("n{node}")
}

pub fn config(node: NodeId, start: u64, nodes: u64) -> Config {
    let now_ms = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    Config {
        id: node,
        name: address(node),
        start,
        cluster_addr: address(node),
        mqtt_addr: String::new(),
        http_addr: String::new(),
        peers: (1..=nodes).map(address).collect(),
        bootstrap_expect: usize::try_from(nodes).unwrap(),
        shards: 4,
        replicas: 3,
        levels: Levels::up_to(None),
        raft: RaftConfig {
            heartbeat: Duration::from_millis(80),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            ..RaftConfig::default()
        },
        lease: LeaseConfig {
            interval: Duration::from_millis(150),
            ttl: Duration::from_millis(1_000),
            margin: Duration::from_millis(200),
        },
        lanes: LaneLimits::default(),
        clock: Arc::new(now_ms),
    }
}

/// One running node; `app` is what the test put on top.
pub struct Node<A> {
    pub cluster: Cluster,
    pub app: A,
}

/// What makes a node of a world different from the others.
#[derive(Debug, Clone)]
pub struct Seat {
    pub name: String,
    /// Where it says that it is to be dialled.
    pub address: String,
    /// Its name is resolved to it.
    pub resolves: bool,
}

/// Nodes 1 to `nodes`, their disks and their network.
pub struct World<A> {
    pub net: MemoryNet,
    pub disks: BTreeMap<NodeId, Arc<Disk>>,
    pub nodes: BTreeMap<NodeId, Node<A>>,
    starts: BTreeMap<NodeId, u64>,
    pub lanes: LaneLimits,
    /// Nodes that form the cluster, and whose names are known to all.
    pub expect: usize,
    pub peers: Vec<String>,
    /// Replicas of a shard of a new cluster.
    pub replicas: u32,
    /// The newest level that a node started from now on can; `None`: all that there are.
    pub max_level: Option<Level>,
    /// Log entries after which a Raft group takes a snapshot; a tenth stays.
    pub snapshot_entries: u64,
    /// Of those that are not named and found as their id says.
    pub seats: BTreeMap<NodeId, Seat>,
    size: u64,
}

impl<A> World<A> {
    /// No node runs.
    pub fn new(size: u64) -> Self {
        Self {
            net: MemoryNet::new(),
            disks: (1..=size).map(|node| (node, Arc::default())).collect(),
            nodes: BTreeMap::new(),
            starts: BTreeMap::new(),
            lanes: LaneLimits::default(),
            expect: usize::try_from(size).unwrap(),
            peers: (1..=size).map(address).collect(),
            replicas: 3,
            max_level: None,
            snapshot_entries: RaftConfig::default().snapshot_after_entries,
            seats: BTreeMap::new(),
            size,
        }
    }

    pub fn seat(&self, node: NodeId) -> Seat {
        self.seats.get(&node).cloned().unwrap_or(Seat {
            name: address(node),
            address: address(node),
            resolves: true,
        })
    }

    /// Starts a node: `local` is what its cluster calls, `app` is made of the cluster and its outbox.
    pub async fn start_with(
        &mut self,
        node: NodeId,
        local: Arc<dyn Local>,
        app: impl FnOnce(&Cluster, mpsc::Receiver<OutboxMessage>) -> A,
    ) {
        self.try_start_with(node, local, app).await.unwrap();
    }

    /// The same with a node that may refuse to.
    pub async fn try_start_with(
        &mut self,
        node: NodeId,
        local: Arc<dyn Local>,
        app: impl FnOnce(&Cluster, mpsc::Receiver<OutboxMessage>) -> A,
    ) -> Result<(), StartError> {
        let start = self.starts.entry(node).or_default();
        *start += 1;
        let start = *start;
        let Seat { name, address: at, resolves } = self.seat(node);
        let mut incoming = self.net.listen(&at);
        if resolves && at != name {
            // The name is resolved to the address that the node has now.
            incoming = Box::pin(futures::stream::select(self.net.listen(&name), incoming));
        }
        let defaults = config(node, start, self.size);
        let raft = RaftConfig {
            snapshot_after_entries: self.snapshot_entries,
            keep_entries: self.snapshot_entries / 10,
            ..defaults.raft
        };
        let config = Config {
            raft,
            lanes: self.lanes,
            name,
            cluster_addr: at,
            peers: self.peers.clone(),
            bootstrap_expect: self.expect,
            replicas: self.replicas,
            levels: Levels::up_to(self.max_level),
            ..defaults
        };
        let dial = Arc::new(self.net.dialer(&address(node)));
        let engine = Arc::<Disk>::clone(self.disks.entry(node).or_default());
        let (cluster, outbox) = Cluster::start(config, engine, dial, incoming, local).await?;
        let app = app(&cluster, outbox);
        self.nodes.insert(node, Node { cluster, app });
        Ok(())
    }

    pub fn cluster(&self, node: NodeId) -> &Cluster {
        &self.nodes[&node].cluster
    }

    pub fn app(&self, node: NodeId) -> &A {
        &self.nodes[&node].app
    }

    /// Waits until all nodes that run are up in everybody's eyes, hold leases and know leaders.
    pub async fn ready(&self) {
        for (id, node) in &self.nodes {
            until(&format!("node {id} is ready"), || node.cluster.status().not_ready().is_empty()).await;
            let sees = |other: &Cluster| node.cluster.is_up(other.own.id, other.own.incarnation());
            until(&format!("node {id} sees all"), || self.nodes.values().all(|other| sees(&other.cluster)))
                .await;
        }
    }

    /// The links of a node to all others.
    fn links(&self, node: NodeId) -> impl Iterator<Item = (String, String)> + use<A> {
        (1..=self.size).filter(move |other| *other != node).map(move |other| (address(node), address(other)))
    }

    pub fn isolate(&self, node: NodeId) {
        self.links(node).for_each(|(one, other)| self.net.stall(&one, &other));
    }

    pub fn rejoin(&self, node: NodeId) {
        self.links(node).for_each(|(one, other)| self.net.heal(&one, &other));
    }

    /// Takes a node out as a power cut does: its links break, its disk forgets what was not synced.
    pub async fn kill(&mut self, node: NodeId) {
        self.links(node).for_each(|(one, other)| self.net.cut(&one, &other));
        let Node { cluster, .. } = self.nodes.remove(&node).unwrap();
        soon("the killed node's tasks end", cluster.stop()).await;
        self.disks[&node].crash();
        self.rejoin(node);
    }

    /// A power cut of everything.
    pub async fn kill_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.iter().for_each(|node| self.links(*node).for_each(|(one, other)| self.net.cut(&one, &other)));
        let nodes = std::mem::take(&mut self.nodes);
        let stops = nodes.values().map(|node| node.cluster.stop());
        soon("the tasks of all nodes end", futures::future::join_all(stops)).await;
        self.disks.values().for_each(|engine| engine.crash());
        ids.iter().for_each(|node| self.rejoin(*node));
    }

    pub async fn stop(mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        let stops = nodes.values().map(|node| node.cluster.stop());
        soon("all nodes stop", futures::future::join_all(stops)).await;
    }
}
