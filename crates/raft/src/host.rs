//! [`Host`]: all Raft groups of this node.

use std::sync::Arc;

use bytes::Bytes;
use zwerm_store::Engine;

use crate::{Config, Group, GroupId, HandleError, HostError, Machine, Network, NodeId};

/// All Raft groups of this node; clones share it.
#[derive(Debug, Clone)]
pub struct Host {
    node: NodeId,
}

/// What the shared log writer did since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushStats {
    /// Syncs of the engine.
    pub syncs: u64,
    /// Requests that those syncs made durable (appends, votes, truncations).
    pub requests: u64,
    /// Bytes committed.
    pub bytes: u64,
    /// Time spent in commit and sync, in microseconds.
    pub busy_us: u64,
}

impl Host {
    /// Starts the log writer of this node. Opens no group.
    ///
    /// # Errors
    /// [`HostError::Config`], or when the store cannot be read.
    pub async fn start(
        node: NodeId,
        _config: Config,
        _engine: Arc<dyn Engine>,
        _network: Arc<dyn Network>,
    ) -> Result<Self, HostError> {
        Ok(Self { node })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Opens a group: restores snapshot and log from the engine, then takes part.
    ///
    /// # Errors
    /// [`HostError::Group`] if it is open already, or when its state cannot be read.
    pub async fn open(&self, group: GroupId, _machine: Box<dyn Machine>) -> Result<Group, HostError> {
        Err(HostError::Group(group.0, "not built yet".into()))
    }

    /// What a peer's [`Network::call`] arrives as.
    ///
    /// # Errors
    /// See [`HandleError`].
    pub async fn handle(&self, _from: NodeId, group: GroupId, _request: Bytes) -> Result<Bytes, HandleError> {
        Err(HandleError::UnknownGroup(group.0))
    }

    /// An open group.
    pub fn group(&self, _group: GroupId) -> Option<Group> {
        None
    }

    /// Groups that have state on disk, open or not, in order.
    pub fn known_groups(&self) -> Vec<GroupId> {
        Vec::new()
    }

    /// Counters of the log writer.
    pub fn flush_stats(&self) -> FlushStats {
        FlushStats::default()
    }

    /// Closes all groups and the log writer; returns when their tasks and thread have ended.
    pub async fn shutdown(&self) {}
}
