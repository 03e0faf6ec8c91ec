//! How a shard comes to other nodes while it serves: what the leader of its group does when the control group says that
//! others are to hold it.
//!
//! Whoever is new takes part without a vote until it has caught up, then the votes change at once (joint consensus), and
//! when all that vote from then on know it the control group is told. Each step is found out from the group itself, so
//! a new leader goes on where its predecessor was. When the control group changes its mind meanwhile, the votes change
//! to that. Who should hold what is not decided here (`members.rs`). Start at [`move_shard`].

use std::collections::BTreeSet;
use std::time::Duration;

use zwerm_machine::records::{Moved, Placement, control_command::Command};
use zwerm_raft::{Group, GroupStatus, MembersError};

use crate::NodeId;
use crate::cluster::Shared;
use crate::ledger::{control_request, shard_of_group};

/// Between two looks while a move runs.
const LOOK: Duration = Duration::from_millis(50);
/// Before a step that failed is tried again: an earlier one may still be under way, or a majority missing.
const RETRY: Duration = Duration::from_millis(500);
/// How far behind a node may be that is given a vote.
const CAUGHT_UP: u64 = 256;
/// How long the nodes that vote may take to learn that they do, before it is looked at again.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

/// Carries out what the control group decides about one shard, while this node leads it, until the group is closed.
pub(crate) async fn move_shard(shared: &Shared, group: &Group) {
    let (mut status, mut control) = (group.watch(), shared.control.applied());
    let shard = shard_of_group(group.id());
    loop {
        let placement = shared.control.state().placement_of(shard).cloned();
        if let Some(placement) = placement.filter(|placement| group.is_leader() && !placement.next.is_empty())
        {
            match advance(shared, group, &placement).await {
                Ok(Progress::Moved) => {
                    tracing::info!(shard, version = placement.version, "a shard has moved");
                    let command = Command::Moved(Moved { shard, base: placement.version });
                    // Ignored if another leader was first; the state says so then.
                    shared.propose(control_request(command, false)).await;
                }
                Ok(Progress::Waits(why)) => tracing::trace!(shard, why, "a shard is moving"),
                Err(error) => {
                    tracing::debug!(shard, %error, "a step of a move failed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
            tokio::time::sleep(LOOK).await;
            if status.has_changed().is_err() {
                return;
            }
            continue;
        }
        // Both are cancel safe; a closed watch means that the group or the node ends.
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = control.changed() => if changed.is_err() { return },
        }
    }
}

enum Progress {
    /// All that are to vote do, and know it.
    Moved,
    Waits(&'static str),
}

/// Who has the log of the leader, nearly.
pub(crate) fn has_caught_up(status: &GroupStatus, node: NodeId) -> bool {
    status.matched.get(&node).is_some_and(|matched| matched + CAUGHT_UP >= status.last_log)
}

/// One step as leader.
async fn advance(shared: &Shared, group: &Group, placement: &Placement) -> Result<Progress, MembersError> {
    // Without a majority nothing changes, and a change that is under way must not be begun again and again.
    group.linearize().await?;
    let next: BTreeSet<NodeId> = placement.next.iter().copied().collect();
    let status = group.watch().borrow().clone();
    for &node in &next {
        if !status.voters.contains(&node) && !status.learners.contains(&node) {
            group.add_learner(node).await?;
        }
    }
    let status = group.watch().borrow().clone();
    if !next.iter().all(|node| *node == shared.own.id || has_caught_up(&status, *node)) {
        return Ok(Progress::Waits("for a node to catch up"));
    }
    if !next.contains(&shared.own.id) {
        // Better than to be voted out: then nobody would lead until somebody finds out.
        let successor = next.iter().copied().find(|node| status.voters.contains(node));
        if let Some(successor) = successor {
            group.transfer_leader(successor).await?;
            return Ok(Progress::Waits("for another leader"));
        }
    }
    let index = group.change_voters(next.clone(), false).await?;
    let left: BTreeSet<NodeId> = group.watch().borrow().learners.difference(&next).copied().collect();
    if !left.is_empty() {
        group.remove_learners(left).await?;
    }
    let all_know = |status: &GroupStatus| {
        let knows = |node: &NodeId| status.matched.get(node).is_some_and(|matched| *matched >= index);
        next.iter().all(|node| *node == shared.own.id || knows(node))
    };
    let mut status = group.watch();
    match tokio::time::timeout(KNOWN_WITHIN, status.wait_for(all_know)).await {
        Ok(Ok(_)) => Ok(Progress::Moved),
        Ok(Err(_)) | Err(_) => Ok(Progress::Waits("for all voters to know that they vote")),
    }
}
