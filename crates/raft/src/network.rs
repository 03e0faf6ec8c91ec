//! How a group's bytes reach another node: the [`Network`] trait that the cluster implements, and
//! [`MemoryNetwork`], its twin in one process.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{GroupId, NodeId};

mod memory;

pub use memory::MemoryNetwork;

/// Carries one request to a peer's [`Host::handle`](crate::Host::handle) and its reply back.
///
/// Requests are at most about [`Config::max_request_bytes`](crate::Config::max_request_bytes), or one log
/// entry if that is larger. Order between calls is not relied on. The caller bounds its wait itself and drops
/// the future.
pub trait Network: Send + Sync + 'static {
    /// Sends `request` to `group` on node `target`.
    fn call(
        &self,
        target: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, NetworkError>>;
}

/// A call without a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// There is no connection to the node now: the caller backs off.
    #[error("node unreachable: {0}")]
    Unreachable(String),
    /// The request may have arrived, but no reply came: the caller retries.
    #[error("call failed: {0}")]
    Failed(String),
}
