//! What can go wrong, by what the caller can do about it.

use zwerm_store::StoreError;

use crate::NodeId;

/// A proposal or a linearizable read that did not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Ask another node; the command was not appended.
    #[error("not the leader of the group (the leader is {leader:?})")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Retry later. The command may or may not take effect: only an idempotent command may be repeated.
    #[error("the group cannot answer now: {reason}")]
    Unavailable {
        /// For the log.
        reason: String,
    },
    /// This node no longer takes part (shutdown, or its disk failed).
    #[error("the group is closed on this node")]
    Closed,
}

/// A change of the voters of a group that was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// As for a proposal.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The group is in another change, or the change makes no sense for its present members.
    #[error("the change of members was refused: {0}")]
    Refused(String),
}

/// A host or group that does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The configuration contradicts itself.
    #[error("invalid raft configuration: {0}")]
    Config(String),
    /// The disk does not give back what was written.
    #[error("cannot read the raft state of this node")]
    Store(#[from] StoreError),
    /// The group is already open, or the host is shutting down.
    #[error("group {0} cannot be opened: {1}")]
    Group(u32, String),
}

/// A peer's request that got no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The group is not (yet) open here: the peer retries.
    #[error("no group {0} on this node")]
    UnknownGroup(u32),
    /// The bytes are no request of this version.
    #[error("malformed raft request: {0}")]
    Malformed(String),
    /// The group has stopped.
    #[error("the group is closed on this node")]
    Closed,
}
