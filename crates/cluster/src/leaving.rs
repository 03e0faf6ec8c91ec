//! How a node is taken out of its cluster: one that is up gives up what it holds and then ends, one that is dead is
//! replaced by the others.
//!
//! Knows what is asked and what is refused; `members.rs` and `moving.rs` do it. Start at [`Cluster::leave`] and
//! [`Cluster::remove`].

use thiserror::Error;
use zwerm_machine::Control;
use zwerm_machine::records::{Leave, Node, Refusal};
use zwerm_machine::records::{control_command::Command, control_reply::Reply};

use crate::cluster::Shared;
use crate::{Cluster, NodeId};

/// Why a node is not taken out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// There is no such member (any more).
    #[error("no member of the cluster has id {0:016x}")]
    UnknownNode(NodeId),
    /// It would be the last.
    #[error("no other node would stay: a cluster is ended by stopping it")]
    LastNode,
    /// It is up, and only a dead node can be removed.
    #[error("the node is up: let it leave, or stop it first")]
    NodeUp,
    /// What the node holds could not be taken over.
    #[error(
        "only {up} of the {stay} nodes that would stay are up, and a majority is needed: start the others, \
         or remove them first if they are dead"
    )]
    TooFewUp {
        /// Nodes that would stay and are up.
        up: usize,
        /// Nodes that would stay.
        stay: usize,
    },
    /// The control group does not answer: this node is cut off, or a majority is down.
    #[error("the control group does not answer; a majority of its voters must be up and reachable from here")]
    Unavailable,
}

impl Cluster {
    /// Has a node give up its shards and its vote and then end ([`Cluster::left`]). Returns when that is decided, not
    /// when it is done: the node is no member any more then. It may be asked of any node, and again.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub async fn leave(&self, node: NodeId) -> Result<(), LeaveError> {
        self.take_out(node, false).await
    }

    /// Has the others take the place of a node that is dead for ever: it must be down, and its id never comes back.
    /// Returns when that is decided, not when it is done.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub async fn remove(&self, node: NodeId) -> Result<(), LeaveError> {
        self.take_out(node, true).await
    }

    async fn take_out(&self, id: NodeId, dead: bool) -> Result<(), LeaveError> {
        let control = self.control.state();
        if control.node(id).is_none() {
            return Err(LeaveError::UnknownNode(id));
        }
        check_who_stays(&control, id)?;
        match self.decide(Command::Leave(Leave { id, dead })).await {
            Some(Reply::Applied(_)) => Ok(()),
            Some(Reply::Ignored(ignored)) => Err(match ignored.reason() {
                Refusal::LastNode => LeaveError::LastNode,
                Refusal::NodeUp => LeaveError::NodeUp,
                Refusal::UnknownNode | Refusal::Removed => LeaveError::UnknownNode(id),
                _ => LeaveError::Unavailable,
            }),
            None => Err(LeaveError::Unavailable),
        }
    }
}

/// Whether those that would stay can take over.
fn check_who_stays(control: &Control, id: NodeId) -> Result<(), LeaveError> {
    let stays = |node: &&Node| node.id != id && !node.leaving;
    let (stay, up) =
        control.nodes().filter(stays).fold((0, 0), |(stay, up), node| (stay + 1, up + usize::from(node.up)));
    match stay {
        0 => Err(LeaveError::LastNode),
        _ if up <= stay / 2 => Err(LeaveError::TooFewUp { up, stay }),
        _ => Ok(()),
    }
}

/// Notes when this node has given up everything and was told to leave, or was removed.
pub(crate) async fn await_departure(shared: &Shared) {
    let Some(group) = shared.control_group().await else { return };
    let (mut applied, mut status) = (shared.control.applied(), group.watch());
    loop {
        let control = shared.control.state();
        let own = shared.own.id;
        let leaves = control.node(own).is_some_and(|node| node.leaving);
        let holds = control.holds(own) || status.borrow_and_update().voters.contains(&own);
        if control.is_removed(own) || (leaves && !holds) {
            tracing::info!("this node holds nothing any more and is no member of its cluster: it ends");
            return shared.departed.cancel();
        }
        // Both are cancel safe; a closed watch means that the node stops.
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
