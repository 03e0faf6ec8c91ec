//! What this node knows of the cluster and itself, for people and probes. Local only: asks no other node.
//!
//! Start at [`Shared::status`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use zwerm_machine::level::{Level, Levels};
use zwerm_machine::records::{Node, Placement};
use zwerm_raft::GroupStatus;

use crate::NodeId;
use crate::cluster::Shared;
use crate::ledger::{CONTROL, group_of};
use crate::levels::holding_back;

/// Whether the cluster is formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formed {
    /// With this id.
    Yes {
        /// Random, for ever.
        cluster_id: String,
    },
    /// Not yet.
    No {
        /// Why, for people.
        because: String,
    },
}

/// A snapshot of what this node knows.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    /// Whether there is a cluster.
    pub formed: Formed,
    /// This node.
    pub id: NodeId,
    /// Its incarnation.
    pub incarnation: u64,
    /// What is left of its lease; `None` without one.
    pub lease_left: Option<Duration>,
    /// All nodes, by id.
    pub nodes: Vec<Node>,
    /// The Raft groups that this node holds, control first.
    pub groups: Vec<GroupStatus>,
    /// Shards of the cluster.
    pub shards: u32,
    /// How many replicas a shard is to have; 0 until the cluster is formed.
    pub replicas: u32,
    /// The feature level of the cluster; 0 until it is formed.
    pub level: Level,
    /// Those that this node can.
    pub levels: Levels,
    /// Names of the nodes without which the cluster would be at the newest of them.
    pub held_back_by: Vec<String>,
    /// A peer belongs to another cluster: why that is wrong, for people.
    pub foreign: Option<String>,
    /// Shards that are moving to other nodes.
    pub moving: Vec<u32>,
    /// Shards that this node is to hold and has no vote in yet.
    pub coming: Vec<u32>,
    /// Routes of all nodes: pairs of node and filter.
    pub routes: usize,
    /// Retained messages in the shards that this node leads.
    pub retained_led: usize,
    /// Client ids in the shards that this node leads.
    pub clients_led: usize,
    /// Messages and bytes in lanes to other nodes.
    pub lanes_held: (usize, usize),
    /// Messages handed to lanes since the start.
    pub forwarded: u64,
    /// QoS 0 messages dropped because a lane was full.
    pub lane_dropped: u64,
}

impl ClusterStatus {
    /// Why this node is not ready; empty when it is.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Formed::No { because } = &self.formed {
            reasons.push(because.clone());
            return reasons;
        }
        if self.nodes.iter().all(|node| node.id != self.id) {
            reasons.push("this node has not learnt yet who the members of the cluster are".to_owned());
        }
        if self.groups.iter().all(|group| group.id != CONTROL || group.leader.is_none()) {
            reasons.push("the control group has no leader that this node knows".to_owned());
        }
        if self.lease_left.is_none() {
            reasons.push(
                "this node holds no lease: it does not reach the leader of the control group".to_owned(),
            );
            reasons.extend(self.foreign.clone());
        }
        if self.nodes.iter().any(|node| node.id == self.id && node.leaving) {
            reasons.push("this node is leaving the cluster".to_owned());
        }
        let is_coming = |group: &GroupStatus| self.coming.iter().any(|shard| group_of(*shard) == group.id);
        let is_leaderless =
            |group: &&GroupStatus| group.id != CONTROL && group.leader.is_none() && !is_coming(group);
        let leaderless = self.groups.iter().filter(is_leaderless).count();
        if leaderless > 0 {
            reasons.push(format!("{leaderless} of the shards held here have no leader"));
        }
        reasons
    }
}

impl Shared {
    /// What this node knows now.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let control = self.control.state();
        let views = self.shard_views();
        let led = |shard: &u32| self.leads(group_of(*shard));
        let led_states: Vec<_> =
            views.iter().filter(|(shard, _)| led(shard)).map(|(_, view)| view.state()).collect();
        let (counters, levels) = (self.lanes.counters(), self.config.levels);
        let moving: Vec<_> =
            control.placement().iter().filter(|placement| !placement.next.is_empty()).collect();
        let is_coming = |placement: &&&Placement| !placement.voters.contains(&self.own.id);
        ClusterStatus {
            formed: self.formed_status(),
            id: self.own.id,
            incarnation: self.own.incarnation(),
            lease_left: self.lease.left(),
            nodes: control.nodes().cloned().collect(),
            groups: self.group_statuses(),
            shards: control.shards(),
            replicas: if control.is_formed() { control.replicas() } else { 0 },
            level: if control.is_formed() { control.level() } else { 0 },
            levels,
            held_back_by: holding_back(&control, levels.newest),
            foreign: self.foreign.lock().clone(),
            coming: moving.iter().filter(is_coming).map(|placement| placement.shard).collect(),
            moving: moving.iter().map(|placement| placement.shard).collect(),
            routes: control.routes().len(),
            retained_led: led_states.iter().map(|state| state.retained_count()).sum(),
            clients_led: led_states.iter().map(|state| state.clients()).sum(),
            lanes_held: self.lanes.held(),
            forwarded: counters.taken.load(Ordering::Relaxed),
            lane_dropped: counters.dropped_full.load(Ordering::Relaxed),
        }
    }

    fn formed_status(&self) -> Formed {
        match self.formation.get() {
            Some(formation) => Formed::Yes { cluster_id: formation.cluster_id.clone() },
            None => Formed::No { because: self.forming.lock().clone() },
        }
    }

    fn group_statuses(&self) -> Vec<GroupStatus> {
        let groups = self.host.known_groups().into_iter().filter_map(|id| self.host.group(id));
        groups.map(|group| group.watch().borrow().clone()).collect()
    }
}
