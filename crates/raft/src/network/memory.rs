//! [`MemoryNetwork`]: the twin of the cluster's transport for tests: hosts of one process call each other,
//! and any direction between two of them can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Network, NetworkError};
use crate::{GroupId, Host, NodeId};

/// A switchboard between the hosts of one process; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<NodeId, Host>,
    /// Directions in which nothing passes: from, to.
    cut: BTreeSet<(NodeId, NodeId)>,
    calls: u64,
}

/// One node's socket.
#[derive(Debug)]
struct Socket {
    from: NodeId,
    network: MemoryNetwork,
}

impl MemoryNetwork {
    /// A network without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the host of node `from` calls others through.
    pub fn socket(&self, from: NodeId) -> Arc<dyn Network> {
        Arc::new(Socket { from, network: self.clone() })
    }

    /// Makes a host reachable under its node id.
    pub fn attach(&self, host: Host) {
        self.state.lock().hosts.insert(host.node(), host);
    }

    /// Makes a node unreachable: it has died.
    pub fn detach(&self, node: NodeId) {
        self.state.lock().hosts.remove(&node);
    }

    /// Lets nothing pass between a node and the others, in both directions.
    pub fn isolate(&self, node: NodeId, others: impl IntoIterator<Item = NodeId>) {
        let mut state = self.state.lock();
        for other in others.into_iter().filter(|other| *other != node) {
            state.cut.insert((node, other));
            state.cut.insert((other, node));
        }
    }

    /// Lets nothing pass from one node to another; the other direction stays open.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state.lock().cut.insert((from, to));
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        self.state.lock().cut.clear();
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    fn route(&self, from: NodeId, to: NodeId) -> Result<Host, NetworkError> {
        let state = self.state.lock();
        let open = !state.cut.contains(&(from, to));
        let host = state.hosts.get(&to).filter(|_| open).cloned();
        host.ok_or_else(|| NetworkError::Unreachable(format!("no way from {from} to {to}")))
    }

    async fn carry(
        self,
        from: NodeId,
        to: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> Result<Bytes, NetworkError> {
        self.state.lock().calls += 1;
        let host = self.route(from, to)?;
        let reply = host.handle(from, group, request).await;
        // The reply needs its way too.
        self.route(to, from)?;
        reply.map_err(|error| NetworkError::Failed(error.to_string()))
    }
}

impl Network for Socket {
    fn call(
        &self,
        target: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, NetworkError>> {
        self.network.clone().carry(self.from, target, group, request).boxed()
    }
}
