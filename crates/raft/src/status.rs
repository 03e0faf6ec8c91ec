//! What a group shows of itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::{GroupId, NodeId};

/// What this node is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Follows without a vote, or is not (yet) a member.
    Learner,
}

/// One group as this node sees it. Indices are 0 when there is none (Raft's first entry is 0 in openraft and
/// always the membership, so no command has it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub id: GroupId,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// What this node is in the group.
    pub state: Role,
    /// Index of the last log entry here.
    pub last_log: u64,
    /// Last index known to be committed.
    pub committed: u64,
    /// Last index applied to the state machine here.
    pub applied: u64,
    /// Last index covered by the snapshot here.
    pub snapshot: u64,
    /// Last index no longer in the log here.
    pub purged: u64,
    /// Members with a vote.
    pub voters: BTreeSet<NodeId>,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
    /// How far each member's log is known to match (on the leader only).
    pub matched: BTreeMap<NodeId, u64>,
    /// Whether the group still works on this node.
    pub running: bool,
}
