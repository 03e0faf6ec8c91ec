//! skeleton
use crate::SnapshotError;
use crate::records::{ControlCommand, ControlReply, Node, Placement};
use zwerm_routing::RouteTable;
/// The state of the control group. Clone O(1).
#[derive(Debug, Clone, Default)]
pub struct Control {
    routes: RouteTable,
}
impl Control {
    /// Not formed.
    pub fn new() -> Self {
        Self::default()
    }
    /// Applies one command.
    pub fn apply(&mut self, _command: &ControlCommand) -> ControlReply {
        todo!()
    }
    /// Formed.
    pub fn is_formed(&self) -> bool {
        todo!()
    }
    /// All nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::empty()
    }
    /// One node.
    pub fn node(&self, _id: u64) -> Option<&Node> {
        todo!()
    }
    /// By shard.
    pub fn placement(&self) -> &[Placement] {
        todo!()
    }
    /// Count.
    pub fn shards(&self) -> u32 {
        todo!()
    }
    /// None until formed.
    pub fn cluster_id(&self) -> Option<&str> {
        todo!()
    }
    /// Last applied version of the node's current incarnation, 0 none.
    pub fn routes_version(&self, _node: u64) -> u64 {
        todo!()
    }
    /// Routes.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }
    /// Bytes.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        todo!()
    }
    /// From bytes.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn decode_snapshot(_bytes: &[u8]) -> Result<Self, SnapshotError> {
        todo!()
    }
    /// Of the whole state: equal states have equal digests.
    pub fn digest(&self) -> u64 {
        todo!()
    }
}
