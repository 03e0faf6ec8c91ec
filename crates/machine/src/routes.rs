//! Which filters the durable sessions of a shard want with QoS 1 or 2: what its leader tells the control group.
//! Knows no sessions. Start at [`Routes`].

use imbl::OrdMap;
use zwerm_wire::TopicFilter;

/// Routes by filter. A clone is O(1), and so is, almost, the difference of two that are alike.
pub type Routes = OrdMap<TopicFilter, ShardRoute>;

/// A filter that durable sessions of the shard want with QoS 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRoute {
    /// Members of a shared subscription, 1 for a plain filter; never 0.
    pub members: u32,
    /// Of a shared subscription: members whose clients are connected; else 0.
    pub online: u32,
    /// The version of the routes in which the filter last began to have members.
    pub since: u64,
}
