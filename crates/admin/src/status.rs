//! What a node says about itself and its cluster, as JSON: `/api/v1/status`.
//!
//! Plain data, written by the server and read by `zwerm status`. `openapi.json` describes it; a test holds
//! the two together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Drain;

/// A node's random 64-bit id. In JSON 16 hexadecimal digits: such a number does not survive JavaScript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The answer of `/api/v1/status`: what the node knows, and the rates its HTTP server measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What the node knows.
    #[serde(flatten)]
    pub known: NodeStatus,
    /// Per second, over the last ten seconds.
    pub rates: Rates,
}

/// What a node knows of itself and of its cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `None` until the cluster is formed.
    pub cluster_id: Option<String>,
    /// Of the program.
    pub version: String,
    /// The node that answers.
    pub node: ThisNode,
    /// Whether it takes clients.
    pub readiness: Readiness,
    /// Whether it sends them away.
    pub drain: Drain,
    /// What its cluster can, and what it could.
    #[serde(default)]
    pub levels: Levels,
    /// How many replicas shards are to have; 0 until the cluster is formed.
    #[serde(default)]
    pub replicas: u32,
    /// All nodes of the cluster, itself included, by name.
    pub nodes: Vec<NodeRow>,
    /// The Raft groups that this node hosts.
    pub groups: Vec<GroupRow>,
    /// This node's share of the clients' state.
    pub sessions: Sessions,
    /// Counters since this node started.
    pub totals: Totals,
    /// This node's disk.
    pub storage: Storage,
}

/// The node that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisNode {
    /// Random, from its volume.
    pub id: NodeId,
    /// From its configuration.
    pub name: String,
    /// Grows at every start.
    pub incarnation: u64,
    /// Seconds since this start.
    pub uptime_s: u64,
}

/// Feature levels: what nodes of several versions can together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// Of the cluster; 0 until it is formed. It rises by itself when all nodes can more, and never falls.
    pub cluster: u32,
    /// The oldest that the node that answers can.
    pub oldest: u32,
    /// The newest that it can.
    pub newest: u32,
    /// Names of the nodes without which the cluster would be at `newest`.
    pub held_back_by: Vec<String>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether clients may be sent here.
    pub ready: bool,
    /// Why not; empty when ready.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Ready exactly when there is no reason against it.
    #[must_use]
    pub fn unless(reasons: Vec<String>) -> Self {
        Self { ready: reasons.is_empty(), reasons }
    }
}

/// Whether the control group counts a node as there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// A member with a lease.
    Up,
    /// Its lease ran out, or it left.
    Down,
}

/// What a node is to the control group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VoterRole {
    /// Votes and leads.
    Leader,
    /// Votes.
    Voter,
    /// Follows without a vote.
    Learner,
}

/// One node of the cluster, as the control group describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Random, from its volume.
    pub id: NodeId,
    /// From its configuration.
    pub name: String,
    /// Up or down.
    pub state: NodeState,
    /// In the control group.
    pub role: VoterRole,
    /// Of its latest start that the cluster has seen.
    pub incarnation: u64,
    /// It sends its clients and leaderships to other nodes.
    pub draining: bool,
    /// It gives up what it holds, and is no member then.
    #[serde(default)]
    pub leaving: bool,
    /// The newest feature level that its program can, as it said last; 0: not said.
    #[serde(default)]
    pub newest_level: u32,
    /// Since when it is in this state: milliseconds since 1970.
    pub since_ms: u64,
    /// `host:port` for other nodes.
    pub cluster_addr: String,
    /// `host:port` for clients.
    pub mqtt_addr: String,
    /// `host:port` of its HTTP port.
    pub http_addr: String,
}

/// What this node is in a Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// Leads it.
    Leader,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote.
    Learner,
}

/// A Raft group as one of its hosts sees it. Positions are log indexes; `None` before the first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// `control` or `shard-N`.
    pub group: String,
    /// What this node is in it.
    pub state: GroupState,
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Term of the vote.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Last entry in this node's log.
    pub last_log: Option<u64>,
    /// Last entry known to be committed.
    pub committed: Option<u64>,
    /// Last entry in this node's state machine.
    pub applied: Option<u64>,
    /// Last entry in its latest snapshot.
    pub snapshot: Option<u64>,
    /// How far each follower is behind; only the leader knows.
    pub lag: Vec<Lag>,
    /// Client ids in a shard's registry; `None` for the control group.
    pub clients: Option<u64>,
    /// Retained messages of a shard; `None` for the control group.
    pub retained: Option<u64>,
    /// Durable sessions of a shard, connected or not; `None` for the control group.
    pub sessions: Option<u64>,
    /// Those whose client is not connected.
    pub waiting: Option<u64>,
    /// QoS 1 and 2 messages in the queues of those sessions, not acknowledged by their clients; one that waits for
    /// several sessions counts for each.
    pub queued_messages: Option<u64>,
    /// Bytes of their topics and payloads, likewise.
    pub queued_bytes: Option<u64>,
}

/// How far a follower is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Which follower.
    pub node: NodeId,
    /// Entries of the leader's log that it has not confirmed.
    pub entries: u64,
}

/// This node's share of the clients' state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Clients connected to this node.
    pub connected: u64,
    /// Subscriptions of those clients.
    pub subscriptions: u64,
    /// Filters in the cluster's route table, as replicated to this node.
    pub routes: u64,
}

/// Counters since the start of this node. Messages and bytes are those of clients, not of peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections accepted as clients.
    pub connects: u64,
    /// PUBLISH packets from clients.
    pub messages_in: u64,
    /// PUBLISH packets to clients.
    pub messages_out: u64,
    /// Messages given up, for whatever reason.
    pub messages_dropped: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Connections accepted as clients.
    pub connects: f64,
    /// PUBLISH packets from clients.
    pub messages_in: f64,
    /// PUBLISH packets to clients.
    pub messages_out: f64,
    /// Messages given up.
    pub messages_dropped: f64,
    /// Bytes from clients.
    pub bytes_in: f64,
    /// Bytes to clients.
    pub bytes_out: f64,
}

/// This node's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// `fsync` or `os`.
    pub sync: String,
    /// What was acknowledged is there after the machine lost its power. False with `os`: then only the end of the
    /// process is survived.
    pub survives_power_loss: bool,
    /// Bytes on disk, `None` when they could not be counted.
    pub size_bytes: Option<u64>,
}
