//! What people change of a node over its HTTP port, and how it is put in JSON.
//!
//! The seam beside [`NodeView`](crate::NodeView): whoever wires the node implements it, tests fake it. Start at
//! [`NodeControl`].

use std::future::Future;
use std::pin::Pin;

use axum::body::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::NodeId;

/// What a change comes to.
pub type Changed<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlError>> + Send + 'a>>;

/// An archive, as its bytes come. Whether it is whole they say themselves.
pub type Archive = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// A node as its HTTP port changes it. Who may do so was checked before.
pub trait NodeControl: Send + Sync + 'static {
    /// Begins to drain, or goes on draining in this way; does not wait for the end.
    fn drain(&self, request: DrainRequest) -> Changed<'_, Drain>;

    /// Takes clients again.
    fn undrain(&self) -> Changed<'_, Drain>;

    /// Has this node give up what it holds, end, and be no member of its cluster any more; does not wait for that.
    fn leave(&self) -> Changed<'_, Leaving>;

    /// Has the cluster replace a node that is dead; does not wait for that.
    fn remove(&self, request: RemoveRequest) -> Changed<'_, Leaving>;

    /// Has shards be held by more or fewer nodes; does not wait until they are.
    fn set_replicas(&self, request: Replicas) -> Changed<'_, Replicas>;

    /// Takes a backup of the whole cluster; the archive comes after the answer.
    fn backup(&self) -> Changed<'_, Archive>;
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It would do harm, or makes no sense as things are: what is the matter and what to do (409).
    #[error("{0}")]
    Refused(String),
    /// It cannot be done now; trying again may help (503).
    #[error("{0}")]
    Unavailable(String),
}

/// The body of `POST /api/v1/node/drain`; an empty body is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainRequest {
    /// The node does not come back: clients are told 0x9D (Server moved) and not 0x9C (Use another server).
    pub for_good: bool,
    /// Also if no other node is up, so that clients have nowhere to go.
    pub force: bool,
}

/// The body of `POST /api/v1/node/remove`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// The node that is dead, which any other may be asked to remove.
    pub node: NodeId,
}

/// How many replicas shards are to have: the body of `POST /api/v1/cluster/replicas`, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    /// 1, 3, 5 or 7; shards have as many as there are nodes, if these are fewer.
    pub replicas: u32,
}

/// A node that is taken out of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Which.
    pub node: NodeId,
}

/// How far draining is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainState {
    /// Clients are taken.
    #[default]
    Serving,
    /// Nobody is let in; clients and leaderships are sent elsewhere.
    Draining,
    /// No client is left.
    Drained,
}

/// What a node says of its draining.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// How far it is.
    pub state: DrainState,
    /// The node does not come back.
    pub for_good: bool,
    /// Clients connected to this node.
    pub clients_left: u64,
    /// Raft groups that this node leads.
    pub groups_led: u64,
}
