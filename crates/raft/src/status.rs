//! What a group shows of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::watch;

use crate::consensus::{LogId, Raft, Types};
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

/// A group's status from openraft's metrics.
pub(crate) fn of(id: GroupId, metrics: &RaftMetrics<Types>) -> GroupStatus {
    let membership = metrics.membership_config.membership();
    let matched = metrics.replication.iter().flatten();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    GroupStatus {
        id,
        leader: metrics.current_leader,
        term: metrics.current_term,
        state: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        },
        last_log: metrics.last_log_index.unwrap_or(0),
        committed: index(metrics.local_committed),
        applied: index(metrics.last_applied),
        snapshot: index(metrics.snapshot),
        purged: index(metrics.purged),
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        matched: matched.map(|(node, matching)| (*node, index(*matching))).collect(),
        running: metrics.running_state.is_ok(),
    }
}

/// The task that keeps a group's status up to date, and begins a snapshot when enough bytes were applied
/// (openraft counts entries only).
pub(crate) struct Reporter {
    pub(crate) id: GroupId,
    pub(crate) raft: Raft,
    pub(crate) status: watch::Sender<GroupStatus>,
    pub(crate) unsnapshotted: Arc<AtomicU64>,
}

impl Reporter {
    /// Runs until the group has stopped.
    pub(crate) async fn run(self, snapshot_after_bytes: u64) {
        let mut metrics = self.raft.metrics();
        loop {
            let status = of(self.id, &metrics.borrow_and_update());
            let running = status.running;
            self.status.send_if_modified(|shown| {
                let changed = *shown != status;
                *shown = status;
                changed
            });
            if !running {
                return;
            }
            if self.unsnapshotted.load(Ordering::Relaxed) >= snapshot_after_bytes {
                self.begin_snapshot().await;
            }
            if metrics.changed().await.is_err() {
                break;
            }
        }
        self.status.send_modify(|shown| shown.running = false);
    }

    async fn begin_snapshot(&self) {
        self.unsnapshotted.store(0, Ordering::Relaxed);
        if let Err(error) = self.raft.trigger().snapshot().await {
            tracing::debug!(group = self.id.0, %error, "no snapshot: the group is closed");
        }
    }
}
