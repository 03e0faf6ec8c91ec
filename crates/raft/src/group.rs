//! [`Group`]: the handle of one Raft group on this node.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::{GroupStatus, MembersError, NodeId, ProposeError, Role};

/// Which Raft group: 0 is control, 1 + n is shard n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A command that was committed and applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Log index of the command.
    pub index: u64,
    /// What the state machine answered.
    pub reply: Bytes,
}

/// Handle of one group on this node; clones share it.
#[derive(Debug, Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: GroupId,
    status: watch::Receiver<GroupStatus>,
}

impl Group {
    /// Which group.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Forms the group with these voters, once: does nothing if it already has members. Every voter may call
    /// it with the same set.
    ///
    /// # Errors
    /// When the set does not contain this node, or the group is closed.
    pub async fn initialize(&self, _voters: BTreeSet<NodeId>) -> Result<(), MembersError> {
        Err(ProposeError::Closed.into())
    }

    /// Whether the group has members (as far as this node's log knows).
    pub async fn is_initialized(&self) -> bool {
        false
    }

    /// Commits a command and applies it here; returns the state machine's reply.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, _command: Bytes) -> Result<Proposed, ProposeError> {
        Err(ProposeError::Closed)
    }

    /// Returns (with the applied index) when the state applied here is new enough for a linearizable read.
    ///
    /// # Errors
    /// See [`ProposeError`]; only the leader can do it.
    pub async fn linearize(&self) -> Result<u64, ProposeError> {
        Err(ProposeError::Closed)
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.status.borrow().leader
    }

    /// Whether this node believes to lead.
    pub fn is_leader(&self) -> bool {
        self.inner.status.borrow().state == Role::Leader
    }

    /// The status, now and at every change.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.clone()
    }

    /// Hands leadership to `to` and returns when this node has stopped to lead or the attempt has timed out.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn transfer_leader(&self, _to: NodeId) -> Result<(), ProposeError> {
        Err(ProposeError::Closed)
    }

    /// Adds a member without a vote; returns when the change is committed, not when the learner has caught up.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn add_learner(&self, _node: NodeId) -> Result<(), MembersError> {
        Err(ProposeError::Closed.into())
    }

    /// Makes exactly these nodes voters (each must be a member already) by joint consensus; voters that leave
    /// the set become learners if `keep_removed`, else leave the group.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn change_voters(
        &self,
        _voters: BTreeSet<NodeId>,
        _keep_removed: bool,
    ) -> Result<(), MembersError> {
        Err(ProposeError::Closed.into())
    }
}
