//! A cluster in one process: hosts on a [`MemoryNetwork`], each with a disk that outlives it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tempfile::TempDir;
use tokio::sync::watch;
use zwerm_store::{Engine, MemoryEngine, SledEngine, SyncMode};

use super::toll::{Toll, Tolls};
use crate::{
    Config, Group, GroupId, GroupStatus, Host, Machine, MemoryNetwork, NodeId, ProposeError, Proposed,
};

/// Long enough for a loaded machine; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const GROUP: GroupId = GroupId(0);

/// Runs a future that must end in time.
pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// What a [`Ledger`] shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) applied: u64,
    pub(super) commands: Arc<Vec<Bytes>>,
}

/// A state machine that remembers every command in order and answers how many there are.
pub(super) struct Ledger {
    commands: Arc<Vec<Bytes>>,
    view: watch::Sender<View>,
}

impl Ledger {
    fn make(_: Arc<dyn Engine>, _: GroupId, view: watch::Sender<View>) -> Box<dyn Machine> {
        Box::new(Self { commands: Arc::default(), view })
    }
}

impl Machine for Ledger {
    fn apply(&mut self, _index: u64, command: Bytes) -> Bytes {
        Arc::make_mut(&mut self.commands).push(command);
        Bytes::copy_from_slice(&(self.commands.len() as u64).to_be_bytes())
    }

    fn applied(&mut self, index: u64) -> Result<(), String> {
        self.view.send_replace(View { applied: index, commands: Arc::clone(&self.commands) });
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let commands = Arc::clone(&self.commands);
        Box::new(move || {
            let mut out = Vec::new();
            for command in commands.iter() {
                out.put_u32(u32::try_from(command.len()).unwrap());
                out.put_slice(command);
            }
            out
        })
    }

    fn restore(&mut self, mut snapshot: Bytes, _index: u64) -> Result<(), String> {
        let mut commands = Vec::new();
        while snapshot.has_remaining() {
            let length = snapshot.try_get_u32().map_err(|error| error.to_string())?;
            commands.push(snapshot.split_to(length as usize));
        }
        self.commands = Arc::new(commands);
        Ok(())
    }
}

/// What a node finds again when it restarts.
#[derive(Clone)]
pub(super) enum Disk {
    Memory(Arc<MemoryEngine>),
    Sled(Arc<TempDir>),
}

impl Disk {
    pub(super) fn memory() -> Self {
        Self::Memory(Arc::new(MemoryEngine::new()))
    }

    pub(super) fn sled() -> Self {
        Self::Sled(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub(super) fn open(&self) -> Arc<dyn Engine> {
        match self {
            Self::Memory(engine) => engine.clone(),
            Self::Sled(dir) => Arc::new(SledEngine::open(dir.path(), 8 << 20, SyncMode::Fsync).unwrap()),
        }
    }
}

pub(super) struct Node {
    pub(super) host: Host,
    pub(super) groups: BTreeMap<GroupId, (Group, watch::Receiver<View>)>,
    engine: Arc<dyn Engine>,
}

/// Makes the machine of a group on an engine.
pub(super) type MakeMachine = fn(Arc<dyn Engine>, GroupId, watch::Sender<View>) -> Box<dyn Machine>;

pub(super) struct Cluster {
    pub(super) network: MemoryNetwork,
    /// What pages of records pay.
    pub(super) tolls: Arc<Tolls>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, Disk>,
    config: Config,
    groups: u32,
    machine: MakeMachine,
}

/// Timing for tests: fails over fast, and tolerates a machine that builds other things meanwhile.
pub(super) fn quick() -> Config {
    Config {
        heartbeat: Duration::from_millis(60),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        ..Config::default()
    }
}

impl Cluster {
    /// Starts nodes 1 to `count` with `groups` groups each and forms the groups.
    pub(super) async fn start(count: u64, groups: u32, config: Config, disk: fn() -> Disk) -> Self {
        Self::start_with(count, groups, config, disk, Ledger::make).await
    }

    /// The same with another machine.
    pub(super) async fn start_with(
        count: u64,
        groups: u32,
        config: Config,
        disk: fn() -> Disk,
        machine: MakeMachine,
    ) -> Self {
        let disks = (1..=count).map(|node| (node, disk())).collect();
        let (network, tolls) = (MemoryNetwork::new(), Tolls::open());
        let mut cluster = Self { network, tolls, nodes: BTreeMap::new(), disks, config, groups, machine };
        for node in 1..=count {
            cluster.start_node(node).await;
        }
        let voters: BTreeSet<NodeId> = (1..=count).collect();
        for node in cluster.nodes.values() {
            for (group, _) in node.groups.values() {
                // Every voter may call it.
                group.initialize(voters.clone()).await.unwrap();
            }
        }
        cluster
    }

    /// Has a node that is to be started find this disk.
    pub(super) fn give_disk(&mut self, node: NodeId, disk: Disk) {
        self.disks.insert(node, disk);
    }

    /// Starts a node from its disk.
    pub(super) async fn start_node(&mut self, node: NodeId) {
        let engine = self.disks.entry(node).or_insert_with(Disk::memory).open();
        let socket = Arc::new(Toll { socket: self.network.socket(node), tolls: Arc::clone(&self.tolls) });
        let host = Host::start(node, self.config.clone(), Arc::clone(&engine), socket).await.unwrap();
        self.network.attach(host.clone());
        let mut groups = BTreeMap::new();
        for group in (0..self.groups).map(GroupId) {
            let (view, seen) = watch::channel(View::default());
            let machine = (self.machine)(Arc::clone(&engine), group, view);
            groups.insert(group, (host.open(group, machine).await.unwrap(), seen));
        }
        self.nodes.insert(node, Node { host, groups, engine });
    }

    /// Deletes what a node has of the group, and opens it again as a learner.
    pub(super) async fn give_anew(&mut self, node: NodeId) {
        let Some(Node { host, groups, engine }) = self.nodes.get_mut(&node) else { panic!("no node {node}") };
        host.close(GROUP).await;
        host.erase(GROUP, Vec::new()..Vec::new()).await.unwrap();
        let (view, seen) = watch::channel(View::default());
        let machine = (self.machine)(Arc::clone(engine), GROUP, view);
        groups.insert(GROUP, (host.open_as_learner(GROUP, machine).await.unwrap(), seen));
    }

    /// Ends a node as a power cut would: what was not synced is lost (on the memory disk).
    pub(super) async fn kill(&mut self, node: NodeId) {
        self.kill_keeping(node, |_| 0).await;
    }

    /// The same, but of so many unsynced commits (on the memory disk) so many happen to be on the disk.
    pub(super) async fn kill_keeping(&mut self, node: NodeId, kept: impl FnOnce(usize) -> usize) {
        let Node { host, groups, engine } = self.nodes.remove(&node).unwrap();
        self.network.detach(node);
        host.shutdown().await;
        drop((host, groups));
        if let Some(Disk::Memory(engine)) = self.disks.get(&node) {
            engine.crash_keeping(kept(engine.unsynced()));
            return;
        }
        // sled gives its lock back when the last handle is gone.
        let released = async {
            while Arc::strong_count(&engine) > 1 {
                tokio::task::yield_now().await;
            }
        };
        soon("the host lets go of its engine", released).await;
    }

    /// Where a node on sled has its data.
    pub(super) fn directory(&self, node: NodeId) -> &Path {
        match &self.disks[&node] {
            Disk::Sled(dir) => dir.path(),
            Disk::Memory(_) => panic!("node {node} has no directory"),
        }
    }

    pub(super) fn engine(&self, node: NodeId) -> &Arc<dyn Engine> {
        &self.nodes[&node].engine
    }

    pub(super) fn group(&self, node: NodeId) -> &Group {
        &self.nodes[&node].groups[&GROUP].0
    }

    pub(super) async fn wait_status(
        &self,
        node: NodeId,
        what: &str,
        condition: impl FnMut(&GroupStatus) -> bool,
    ) -> GroupStatus {
        let mut watch = self.group(node).watch();
        soon(&format!("node {node}: {what}"), watch.wait_for(condition)).await.unwrap().clone()
    }

    /// Waits until a node that is up leads, in the eyes of all that are up.
    pub(super) async fn leader(&self) -> NodeId {
        let agreed = async {
            loop {
                let leaders: BTreeSet<_> = self.nodes.keys().map(|node| self.group(*node).leader()).collect();
                if let (1, Some(Some(leader))) = (leaders.len(), leaders.first())
                    && self.nodes.contains_key(leader)
                    && self.group(*leader).is_leader()
                {
                    return *leader;
                }
                tokio::task::yield_now().await;
            }
        };
        soon("one leader", agreed).await
    }

    /// Proposes until a leader has taken it; only for commands whose repetition does no harm.
    pub(super) async fn propose(&self, command: &Bytes) -> Proposed {
        let taken = async {
            loop {
                for node in self.nodes.keys() {
                    match self.group(*node).propose(command.clone()).await {
                        Ok(proposed) => return proposed,
                        Err(ProposeError::Closed) => panic!("node {node} is closed"),
                        // Not a yield: a paused clock goes on only when everybody waits.
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            }
        };
        soon("a proposal is taken", taken).await
    }

    /// Waits until a linearizable read succeeds: the leader it was read from, and its index.
    pub(super) async fn linearize(&self) -> (NodeId, u64) {
        let read = async {
            loop {
                for node in self.nodes.keys() {
                    if let Ok(index) = self.group(*node).linearize().await {
                        return (*node, index);
                    }
                }
                // Not a yield: a paused clock goes on only when everybody waits.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("a linearizable read", read).await
    }

    /// Waits until a node has applied up to an index.
    pub(super) async fn wait_applied(&self, node: NodeId, index: u64) -> View {
        let mut view = self.nodes[&node].groups[&GROUP].1.clone();
        let what = format!("node {node} applies {index}");
        soon(&what, view.wait_for(|view| view.applied >= index)).await.unwrap().clone()
    }

    pub(super) async fn shutdown(self) {
        for node in self.nodes.values() {
            node.host.shutdown().await;
        }
    }
}

/// A command that says which one it is, `size` bytes long at least.
pub(super) fn command(number: u32, size: usize) -> Bytes {
    let mut command = format!("command {number} ").into_bytes();
    command.resize(command.len().max(size), b'.');
    command.into()
}
