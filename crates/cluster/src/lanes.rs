//! The lanes to all other nodes that are up, each for the incarnation that is up.
//!
//! They follow the control group: they are made before the first route of a node can be seen and closed
//! when its incarnation is declared dead. Start at [`Lanes::to`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use zwerm_machine::Control;

use crate::NodeId;
use crate::forward::{Doubts, Lane, LaneCounters, LaneLimits, run_lane};
use crate::transport::Peers;

type Table = BTreeMap<NodeId, Arc<Lane>>;

/// All lanes of this node.
#[derive(Debug)]
pub struct Lanes {
    own: NodeId,
    /// Names the sequence space of this process towards its peers; stays when the lease is lost.
    boot_incarnation: u64,
    limits: LaneLimits,
    counters: Arc<LaneCounters>,
    doubts: Arc<Doubts>,
    peers: Peers,
    tasks: TaskTracker,
    table: ArcSwap<Table>,
    /// Set at shutdown, held while the table changes: nothing is opened afterwards.
    closed: Mutex<bool>,
}

impl Lanes {
    pub(crate) fn new(
        (own, boot_incarnation): (NodeId, u64),
        limits: LaneLimits,
        doubts: Arc<Doubts>,
        peers: Peers,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            own,
            boot_incarnation,
            limits,
            counters: Arc::default(),
            doubts,
            peers,
            tasks,
            table: ArcSwap::default(),
            closed: Mutex::new(false),
        }
    }

    /// The lane to a node; `None` when it is down: then no session there waits for anything.
    #[must_use]
    pub fn to(&self, node: NodeId) -> Option<Arc<Lane>> {
        self.table.load().get(&node).cloned()
    }

    /// Does something with the lane to a node, if it is up, without taking a handle of it.
    pub fn with(&self, node: NodeId, act: impl FnOnce(&Lane)) {
        if let Some(lane) = self.table.load().get(&node) {
            act(lane);
        }
    }

    /// Counters of all lanes, also of those that are gone.
    #[must_use]
    pub fn counters(&self) -> &LaneCounters {
        &self.counters
    }

    /// Messages and bytes held in all lanes.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        self.table
            .load()
            .values()
            .map(|lane| lane.held())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Makes and closes lanes as the control group says. Called with each new state before it is seen.
    pub(crate) fn follow(&self, control: &Control) {
        let closed = self.closed.lock();
        if *closed {
            return;
        }
        let current = self.table.load();
        let wanted: BTreeMap<NodeId, u64> = control
            .nodes()
            .filter(|node| node.up && node.id != self.own)
            .map(|node| (node.id, node.incarnation))
            .collect();
        let same = |lane: &Lane, node: &NodeId| wanted.get(node) == Some(&lane.incarnation());
        if wanted.len() == current.len() && current.iter().all(|(node, lane)| same(lane, node)) {
            return;
        }
        let mut table = Table::new();
        for (&node, &incarnation) in &wanted {
            let lane = match current.get(&node).filter(|lane| lane.incarnation() == incarnation) {
                Some(lane) => Arc::clone(lane),
                None => self.open(node, incarnation),
            };
            table.insert(node, lane);
        }
        let gone: Vec<_> = current
            .iter()
            .filter(|(node, lane)| !same(lane, node))
            .map(|(_, lane)| Arc::clone(lane))
            .collect();
        self.table.store(Arc::new(table));
        drop(closed);
        gone.iter().for_each(|lane| lane.close());
    }

    /// What all lanes share.
    fn of_all(&self) -> (Arc<LaneCounters>, Arc<Doubts>) {
        (Arc::clone(&self.counters), Arc::clone(&self.doubts))
    }

    fn open(&self, node: NodeId, incarnation: u64) -> Arc<Lane> {
        let lane = Arc::new(Lane::new(node, incarnation, self.limits, self.of_all()));
        self.tasks.spawn(run_lane(Arc::clone(&lane), self.peers.clone(), self.boot_incarnation));
        lane
    }

    /// Closes all lanes, at shutdown.
    pub(crate) fn close(&self) {
        let mut closed = self.closed.lock();
        *closed = true;
        let table = self.table.swap(Arc::default());
        drop(closed);
        table.values().for_each(|lane| lane.close());
    }
}
