//! What a node must know to take part in a cluster. Knows no file and no flag: `node` reads those.

use std::sync::Arc;

use zwerm_machine::level::Levels;

use crate::forward::LaneLimits;
use crate::{LeaseConfig, NodeId};

/// Milliseconds since the Unix epoch, from whatever clock the process runs on.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Everything about this node and its cluster.
#[derive(Clone)]
pub struct Config {
    /// Random, lives on the volume.
    pub id: NodeId,
    /// For people; unique in the cluster.
    pub name: String,
    /// Counts the starts of this node, from 1.
    pub start: u64,
    /// Where other nodes dial this one, host:port.
    pub cluster_addr: String,
    /// Where clients dial it; for people.
    pub mqtt_addr: String,
    /// Where its HTTP API is; for people.
    pub http_addr: String,
    /// Other nodes, host:port; itself may be among them.
    pub peers: Vec<String>,
    /// How many empty nodes form a new cluster.
    pub bootstrap_expect: usize,
    /// Shards of a new cluster.
    pub shards: u32,
    /// Replicas of a shard of a new cluster: 1, 3, 5 or 7.
    pub replicas: u32,
    /// The feature levels that this node can.
    pub levels: Levels,
    /// Raft timing.
    pub raft: zwerm_raft::Config,
    /// Lease timing.
    pub lease: LeaseConfig,
    /// Bounds of each lane.
    pub lanes: LaneLimits,
    /// The time of day.
    pub clock: WallClock,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("id", &format_args!("{:016x}", self.id))
            .field("name", &self.name)
            .field("cluster_addr", &self.cluster_addr)
            .field("peers", &self.peers)
            .field("bootstrap_expect", &self.bootstrap_expect)
            .field("shards", &self.shards)
            .field("replicas", &self.replicas)
            .field("levels", &self.levels)
            .finish_non_exhaustive()
    }
}
