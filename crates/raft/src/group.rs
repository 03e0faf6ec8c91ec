//! [`Group`]: the handle of one Raft group on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::errors::{
    ClientWriteError, Fatal, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError,
    RaftError,
};
use openraft::metrics::WaitError;
use openraft::{ChangeMembers, ReadPolicy, ServerState};
use tokio::sync::watch;

use crate::consensus::{Command, Raft, Types};
use crate::serve::Server;
use crate::{GroupStatus, HandleError, MembersError, NodeId, ProposeError};

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
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    node: NodeId,
    raft: Raft,
    server: Server,
    status: watch::Receiver<GroupStatus>,
    timeout: Duration,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        node: NodeId,
        raft: Raft,
        status: watch::Receiver<GroupStatus>,
        (timeout, server): (Duration, Server),
    ) -> Self {
        Self { inner: Arc::new(Inner { id, node, raft, server, status, timeout }) }
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Forms the group with these voters, once: does nothing if it already has members. Every voter may call
    /// it with the same set.
    ///
    /// # Errors
    /// When the set does not contain this node, or the group is closed.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), MembersError> {
        let members: BTreeMap<NodeId, ()> = voters.into_iter().map(|node| (node, ())).collect();
        match self.inner.raft.initialize(members).await {
            // A vote or an entry is here: another voter was first.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(MembersError::Refused(error.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(ProposeError::Closed.into()),
        }
    }

    /// Whether the group has members (as far as this node's log knows).
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// Commits a command and applies it here; returns the state machine's reply. Concurrent proposals share
    /// log writes and requests.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        let written = self.limited(self.inner.raft.client_write(Command(command))).await?;
        let done = written.map_err(|error| self.write_error(error))?;
        Ok(Proposed { index: done.log_id.index, reply: done.data })
    }

    /// Returns (with the index it had to reach) when the state applied here is new enough for a linearizable
    /// read: a quorum has confirmed in the meantime that this node leads.
    ///
    /// # Errors
    /// See [`ProposeError`]; only the leader can do it.
    pub async fn linearize(&self) -> Result<u64, ProposeError> {
        match self.limited(self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await? {
            Ok(read) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(self.forward_error(&forward))
            }
            Err(RaftError::APIError(error @ LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ProposeError::Unavailable { reason: error.to_string() })
            }
            Err(RaftError::Fatal(error)) => Err(closed(&error)),
        }
    }

    /// From now on this node stands for election when the leader is silent; for a group that was opened
    /// [as learner](crate::Host::open_as_learner). Its log must have the entry by which it votes now.
    pub fn stand_for_election(&self) {
        self.inner.raft.runtime_config().elect(true);
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.raft.metrics().borrow_watched().current_leader
    }

    /// Whether this node believes to lead.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// The status, now and at every change.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.clone()
    }

    /// Whether this node leads and has had an answer of `node` no longer ago than this.
    pub fn has_heard(&self, node: NodeId, within: Duration) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref().and_then(|heard| *heard.get(&node)?);
        heard.is_some_and(|at| at.elapsed() <= within)
    }

    /// Hands leadership to `to` and returns when this node has stopped to lead.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], or [`ProposeError::Unavailable`] if it still leads after a while.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if to == self.inner.node {
            return Ok(());
        }
        let raft = &self.inner.raft;
        raft.trigger().transfer_leader(to).await.map_err(|error| closed(&error))?;
        let stopped = raft.wait(Some(self.inner.timeout));
        let stopped = stopped.metrics(|metrics| metrics.state != ServerState::Leader, "hand over leadership");
        stopped.await.map(drop).map_err(|error| match error {
            WaitError::Timeout(..) => ProposeError::Unavailable { reason: "still the leader".into() },
            WaitError::ShuttingDown => ProposeError::Closed,
        })
    }

    /// Adds a member without a vote; returns when the change is committed, not when the learner has caught up.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembersError> {
        let added = self.limited(self.inner.raft.add_learner(node, (), false)).await?;
        added.map(drop).map_err(|error| self.members_error(error))
    }

    /// Makes exactly these nodes voters (each must be a member already) by joint consensus; voters that leave
    /// the set become learners if `keep_removed`, else leave the group. Returns the index of the last entry that it
    /// took: who has that one knows the new voters.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        keep_removed: bool,
    ) -> Result<u64, MembersError> {
        let change = self.inner.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), keep_removed);
        let changed = self.limited(change).await?;
        changed.map(|done| done.log_id.index).map_err(|error| self.members_error(error))
    }

    /// Removes members without a vote.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn remove_learners(&self, nodes: BTreeSet<NodeId>) -> Result<(), MembersError> {
        let change = self.inner.raft.change_membership(ChangeMembers::RemoveNodes(nodes), false);
        let changed = self.limited(change).await?;
        changed.map(drop).map_err(|error| self.members_error(error))
    }

    /// Begins a snapshot, if none is being built; the log before it is purged when it is done.
    ///
    /// # Errors
    /// [`ProposeError::Closed`].
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.inner.raft.trigger().snapshot().await.map_err(|error| closed(&error))
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// One round of the pulse.
    pub(crate) async fn beat(&self) {
        self.inner.server.beat().round(&self.inner.raft).await;
    }

    pub(crate) async fn handle(&self, request: Bytes) -> Result<Bytes, HandleError> {
        self.inner.server.handle(request).await
    }

    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(group = self.inner.id.0, %error, "the group's task did not end well");
        }
    }

    async fn limited<T>(&self, work: impl Future<Output = T>) -> Result<T, ProposeError> {
        tokio::time::timeout(self.inner.timeout, work)
            .await
            .map_err(|_| ProposeError::Unavailable { reason: "no answer in time".into() })
    }

    fn write_error(&self, error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => self.forward_error(&forward),
            RaftError::APIError(other) => ProposeError::Unavailable { reason: other.to_string() },
            RaftError::Fatal(error) => closed(&error),
        }
    }

    fn members_error(&self, error: RaftError<Types, ClientWriteError<Types>>) -> MembersError {
        match error {
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                MembersError::Refused(error.to_string())
            }
            other => self.write_error(other).into(),
        }
    }

    /// A leader without a fresh lease refuses writes although it leads, also in the first moments after its
    /// election: that is a reason to retry here, not to look for another node.
    fn forward_error(&self, forward: &ForwardToLeader<Types>) -> ProposeError {
        let here = forward.leader_id == Some(self.inner.node);
        if forward.reason == ForwardReason::LeaseExpired || here {
            return ProposeError::Unavailable { reason: "the leader waits for its quorum".into() };
        }
        ProposeError::NotLeader { leader: forward.leader_id }
    }
}

fn closed(error: &Fatal<Types>) -> ProposeError {
    tracing::debug!(%error, "the group is closed");
    ProposeError::Closed
}
