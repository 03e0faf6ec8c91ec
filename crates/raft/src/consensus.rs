//! openraft, as this crate sets it up: the one place that names its type parameters.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_adv;

use crate::NodeId;
use crate::replica::Replica;

/// The opaque command of a log entry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    /// Commands and replies are opaque bytes; nodes are bare ids, because addresses belong to the cluster.
    pub(crate) Types:
        D = Command,
        R = Bytes,
        NodeId = u64,
        Node = (),
);

/// The term and the node that won it. Totally ordered: a split vote goes to the greater id.
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, NodeId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<NodeId, ()>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, ()>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, NodeId, ()>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, NodeId, (), Bytes>;
pub(crate) type Entry = openraft::Entry<LeaderId, openraft::EntryPayload<Command, NodeId, ()>>;
pub(crate) type Raft = openraft::Raft<Types, Replica>;
