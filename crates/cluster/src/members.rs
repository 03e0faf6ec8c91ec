//! What the leader of the control group does about its members: gives votes to those that should have them, shards to
//! those that should hold them, and takes out who has given up everything.
//!
//! One step at a time, each found out from the replicated state alone, so that a new leader goes on where its
//! predecessor was. Only nodes that are up are given anything, and nothing is begun that needs one that is not. It
//! decides; the leaders of the shards carry it out (`moving.rs`). Start at [`tend_members`].

use std::collections::BTreeSet;

use zwerm_machine::Control;
use zwerm_machine::records::{Move, Node, Placement, Removed, control_command::Command};
use zwerm_raft::{Group, GroupStatus, MembersError, Role};

use crate::NodeId;
use crate::cluster::Shared;
use crate::levels::raise_level;
use crate::moving::has_caught_up;
use crate::overseer::propose;
use crate::placement::{place, step};

/// Most nodes with a vote in the control group.
const CONTROL_VOTERS: usize = 5;
/// Shards that move at the same time.
const MOVES: usize = 2;

/// Tends the members while this node leads the control group, until the node stops.
pub(crate) async fn tend_members(shared: &Shared) {
    let Some(group) = shared.control_group().await else { return };
    let mut tick = tokio::time::interval(shared.config.lease.interval / 2);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut status = group.watch();
    loop {
        tick.tick().await;
        // An error means that the group is closed: the node is stopping.
        if status.wait_for(|status| status.state == Role::Leader).await.is_err() {
            return;
        }
        if !group.is_leader() || !shared.control.state().is_formed() {
            continue;
        }
        if let Err(error) = tend_group(shared, &group).await {
            tracing::debug!(%error, "the members of the control group were not changed; trying again");
        }
        raise_level(shared).await;
        move_shards(shared).await;
        take_out(shared, &group).await;
    }
}

/// Brings nodes into the control group and out of it, and gives votes.
async fn tend_group(shared: &Shared, group: &Group) -> Result<(), MembersError> {
    let control = shared.control.state();
    let status = group.watch().borrow().clone();
    let has = |id: NodeId| status.voters.contains(&id) || status.learners.contains(&id);
    for node in control.nodes().filter(|node| !has(node.id)) {
        group.add_learner(node.id).await?;
    }
    let gone = |id: &&NodeId| control.node(**id).is_none();
    let gone: BTreeSet<NodeId> = status.learners.iter().filter(gone).copied().collect();
    if !gone.is_empty() {
        group.remove_learners(gone).await?;
    }
    let wanted = control_voters(control.nodes(), &status.voters);
    match next_voters(&control, &status, &wanted, shared.own.id) {
        Some(Votes::HandOver(successor)) => Ok(group.transfer_leader(successor).await?),
        Some(Votes::Change(voters)) => {
            tracing::info!(from = ?status.voters, to = ?voters, "the votes of the control group change");
            group.change_voters(voters, true).await.map(drop)
        }
        None => Ok(()),
    }
}

/// What brings the votes of the control group nearer to what they should be.
#[derive(Debug, PartialEq, Eq)]
enum Votes {
    /// The leader is to have no vote: first another one leads.
    HandOver(NodeId),
    Change(BTreeSet<NodeId>),
}

/// The next step to the voters that are wanted, if there is one that does no harm.
fn next_voters(
    control: &Control,
    status: &GroupStatus,
    wanted: &BTreeSet<NodeId>,
    own: NodeId,
) -> Option<Votes> {
    if *wanted == status.voters || wanted.is_empty() {
        return None;
    }
    let is_up = |node: &&NodeId| control.node(**node).is_some_and(|node| node.up);
    let can_decide = |voters: &BTreeSet<NodeId>| voters.iter().filter(is_up).count() > voters.len() / 2;
    let is_ready =
        |node: &NodeId| status.voters.contains(node) || *node == own || has_caught_up(status, *node);
    if !can_decide(&status.voters) || !can_decide(wanted) || !wanted.iter().all(is_ready) {
        return None;
    }
    if wanted.contains(&own) {
        return Some(Votes::Change(wanted.clone()));
    }
    let leads_well =
        |node: &&NodeId| status.voters.contains(*node) && is_up(node) && has_caught_up(status, **node);
    match wanted.iter().find(leads_well) {
        Some(successor) => Some(Votes::HandOver(*successor)),
        None => {
            let mut both = wanted.clone();
            both.insert(own);
            Some(Votes::Change(both)).filter(|_| !wanted.iter().any(|node| status.voters.contains(node)))
        }
    }
}

/// Who should vote in the control group: an odd number of nodes that stay, five at most, and who does already first.
pub(crate) fn control_voters<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    voting: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let can_vote = |node: &&Node| !node.leaving && (node.up || voting.contains(&node.id));
    let mut able: Vec<&Node> = nodes.filter(can_vote).collect();
    able.sort_by_key(|node| (!voting.contains(&node.id), !node.up, node.id));
    able.truncate(CONTROL_VOTERS);
    if able.len().is_multiple_of(2) {
        // With one more nothing more may fail. Who is down first.
        let at = able.iter().rposition(|node| !node.up).or(able.len().checked_sub(1));
        at.map(|at| able.remove(at));
    }
    able.into_iter().map(|node| node.id).collect()
}

/// Begins moves, and changes those that cannot end.
async fn move_shards(shared: &Shared) {
    let control = shared.control.state();
    for (shard, base, next) in moves(&control) {
        tracing::info!(shard, ?next, "a shard begins to move");
        propose(shared, Command::Move(Move { shard, base, next })).await;
    }
}

/// The moves to begin now: shard, version of its placement, and who is to hold it.
fn moves(control: &Control) -> Vec<(u32, u64, Vec<NodeId>)> {
    // Who never came up yet is given nothing.
    let stays = |node: &&Node| !node.leaving && node.incarnation > 0;
    let members: Vec<NodeId> = control.nodes().filter(stays).map(|node| node.id).collect();
    if members.is_empty() {
        return Vec::new();
    }
    let is_up = |node: NodeId| control.node(node).is_some_and(|node| node.up);
    let is_stuck = |placement: &Placement| !placement.next.iter().all(|node| is_up(*node));
    let target = place(&members, control.shards(), control.replicas(), control.placement());
    let running =
        control.placement().iter().filter(|placement| !placement.next.is_empty() && !is_stuck(placement));
    let mut room = MOVES.saturating_sub(running.count());
    let mut moves = Vec::new();
    for (placement, target) in control.placement().iter().zip(&target) {
        let next = if placement.next.is_empty() {
            step(&placement.voters, &target.voters, is_up)
        } else if is_stuck(placement) {
            // To somebody else, or back.
            let back = || placement.voters.iter().all(|node| is_up(*node)).then(|| placement.voters.clone());
            let next = step(&placement.voters, &target.voters, is_up).or_else(back);
            next.filter(|next| *next != placement.next)
        } else {
            None
        };
        let Some(next) = next else { continue };
        let only_order = placement.next.is_empty()
            && next.iter().all(|node| placement.voters.contains(node))
            && next.len() == placement.voters.len();
        if !only_order {
            if room == 0 {
                continue;
            }
            room -= 1;
        }
        moves.push((placement.shard, placement.version, next));
    }
    moves
}

/// Takes out who leaves, is down and holds nothing any more.
async fn take_out(shared: &Shared, group: &Group) {
    let control = shared.control.state();
    let voters = group.watch().borrow().voters.clone();
    let is_done =
        |node: &&Node| node.leaving && !node.up && !control.holds(node.id) && !voters.contains(&node.id);
    for node in control.nodes().filter(is_done) {
        tracing::info!(
            node = node.name,
            id = format_args!("{:016x}", node.id),
            "a node is no member any more"
        );
        propose(shared, Command::Removed(Removed { id: node.id })).await;
    }
}

#[cfg(test)]
mod tests {
    use zwerm_machine::records::{ControlCommand, Form, Join, Leave, Moved, NodeDown, NodeUp};

    use super::*;

    fn node(id: NodeId) -> Node {
        Node { id, incarnation: 1, name: format!("n{id}"), up: true, ..Node::default() }
    }

    fn apply(control: &mut Control, command: Command) {
        let before = control.digest();
        control.apply(&ControlCommand { at_ms: 1, ..ControlCommand::from(command) });
        assert_ne!(control.digest(), before, "it was ignored");
    }

    fn formed(nodes: u64, shards: u32) -> Control {
        let ids: Vec<NodeId> = (1..=nodes).collect();
        let placement = place(&ids, shards, 3, &[]);
        let nodes = ids.into_iter().map(node).collect();
        let mut control = Control::new();
        let form = Form { cluster_id: "c".into(), nodes, shards, placement, ..Form::default() };
        apply(&mut control, Command::Form(form));
        control
    }

    fn join(control: &mut Control, id: NodeId) {
        apply(control, Command::Join(Join { node: Some(node(id)) }));
        apply(control, Command::NodeUp(NodeUp { node: Some(node(id)) }));
    }

    /// Carries out what is decided until there is nothing more; how many replicas were moved.
    fn settle(control: &mut Control) -> usize {
        for moved in 0..1_000 {
            let before: Vec<Placement> = control.placement().to_vec();
            let moves = moves(control);
            for (shard, base, next) in &moves {
                let old = &before[*shard as usize].voters;
                let coming = next.iter().filter(|node| !old.contains(node)).count();
                let going = old.iter().filter(|node| !next.contains(node)).count();
                assert!(coming <= 1 && going <= 1, "one at a time: {old:?} {next:?}");
                apply(control, Command::Move(Move { shard: *shard, base: *base, next: next.clone() }));
            }
            let running: Vec<Placement> =
                control.placement().iter().filter(|placement| !placement.next.is_empty()).cloned().collect();
            assert!(running.len() <= MOVES);
            if moves.is_empty() && running.is_empty() {
                return moved;
            }
            for placement in running {
                apply(control, Command::Moved(Moved { shard: placement.shard, base: placement.version }));
            }
        }
        panic!("it does not come to rest: {:?}", control.placement());
    }

    fn is_balanced(control: &Control) -> bool {
        let led = |node: &Node| {
            control.placement().iter().filter(|shard| shard.voters.first() == Some(&node.id)).count()
        };
        let loads: Vec<usize> = control.nodes().filter(|node| !node.leaving).map(led).collect();
        loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
    }

    #[test]
    fn shards_follow_nodes_that_come_and_go_and_are_led_evenly() {
        for shards in [1, 4, 16] {
            let mut control = formed(1, shards);
            for id in [2, 3] {
                join(&mut control, id);
                settle(&mut control);
                assert!(is_balanced(&control));
            }
            assert!(control.placement().iter().all(|placement| placement.voters.len() == 3));
            join(&mut control, 4);
            join(&mut control, 5);
            settle(&mut control);
            assert!(is_balanced(&control) && control.placement().iter().all(|placement| placement.moved));
            for id in [1, 2] {
                apply(&mut control, Command::Leave(Leave { id, dead: false }));
            }
            settle(&mut control);
            assert!(is_balanced(&control) && !control.holds(1) && !control.holds(2));
            assert!(control.placement().iter().all(|placement| placement.voters.len() == 3));
        }
    }

    #[test]
    fn shards_get_and_give_up_replicas_one_at_a_time_when_their_number_changes() {
        use zwerm_machine::records::SetReplicas;
        let mut control = formed(5, 4);
        let raise = |control: &Control| control.next_level(zwerm_machine::level::NEWEST);
        assert_eq!(raise(&control), None, "the nodes have not said that they can more");
        for id in 1..=5 {
            let node = Node { newest_level: 2, ..node(id) };
            apply(&mut control, Command::NodeUp(NodeUp { node: Some(node) }));
        }
        let raise = raise(&control).unwrap();
        apply(&mut control, Command::RaiseLevel(raise));
        for (replicas, held) in [(5, 5), (1, 1), (7, 5), (3, 3)] {
            apply(&mut control, Command::SetReplicas(SetReplicas { replicas }));
            assert!(settle(&mut control) > 0);
            let all = control.placement().iter().all(|placement| placement.voters.len() == held);
            assert!(all && is_balanced(&control), "{replicas}: {:?}", control.placement());
        }
        apply(&mut control, Command::SetReplicas(SetReplicas { replicas: 5 }));
        settle(&mut control);
        let both = Node { newest_level: 2, ..node(6) };
        apply(&mut control, Command::Join(Join { node: Some(both.clone()) }));
        apply(&mut control, Command::NodeUp(NodeUp { node: Some(both) }));
        settle(&mut control);
        assert!(is_balanced(&control));
        assert!(control.placement().iter().all(|placement| placement.voters.len() == 5));
    }

    #[test]
    fn a_node_that_dies_while_it_is_given_a_shard_gets_it_no_more() {
        let mut control = formed(3, 1);
        join(&mut control, 4);
        apply(&mut control, Command::Leave(Leave { id: 1, dead: false }));
        let first = moves(&control).pop().unwrap();
        assert!(first.2.contains(&4));
        apply(&mut control, Command::Move(Move { shard: 0, base: first.1, next: first.2 }));
        assert_eq!(moves(&control), [], "it runs");
        apply(&mut control, Command::NodeDown(NodeDown { id: 4, incarnation: 1 }));
        let back = moves(&control).pop().unwrap();
        assert!(!back.2.contains(&4), "{back:?}");
        apply(&mut control, Command::Move(Move { shard: 0, base: back.1, next: back.2 }));
        assert_eq!(moves(&control), []);
    }

    #[test]
    fn the_control_group_has_an_odd_number_of_voters_and_keeps_those_it_has() {
        let nodes = |ids: &[NodeId], down: &[NodeId]| -> Vec<Node> {
            ids.iter().map(|id| Node { up: !down.contains(id), ..node(*id) }).collect()
        };
        for (ids, down, voting, wanted) in [
            (&[1, 2, 3][..], &[][..], &[1, 2, 3][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[3], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2], &[], &[1], &[1]),
            (&[1, 2, 3], &[], &[1], &[1, 2, 3]),
            (&[1, 2, 3], &[3], &[1], &[1]),
            (&[1, 2, 3, 4], &[], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2, 3, 4, 5, 6], &[], &[2, 3, 6], &[1, 2, 3, 4, 6]),
            (&[1, 2, 3, 4, 5, 6, 7], &[], &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]),
            (&[1, 2, 3, 4], &[2], &[1, 2, 3, 4], &[1, 3, 4]),
            (&[1, 2, 4], &[], &[1, 2, 3], &[1, 2, 4]),
        ] {
            let voting: BTreeSet<NodeId> = voting.iter().copied().collect();
            let found = control_voters(nodes(ids, down).iter(), &voting);
            assert_eq!(found, wanted.iter().copied().collect(), "{ids:?} without {down:?}");
        }
    }
}
