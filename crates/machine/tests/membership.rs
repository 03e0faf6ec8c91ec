//! Who belongs to a cluster and who holds what: joining, leaving, moving.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;

use std::collections::BTreeSet;

use commands::*;
use proptest::prelude::*;
use zwerm_machine::Control;
use zwerm_machine::limits::MAX_REMOVED;
use zwerm_machine::records::control_command::Command;
use zwerm_machine::records::{Join, Leave, Move, Moved, Node, NodeDown, NodeUp, Placement, Refusal, Removed};

fn formed() -> Control {
    let mut control = Control::new();
    apply(&mut control, Command::Form(form())).unwrap();
    control
}

fn up(id: u64, incarnation: u64) -> Command {
    Command::NodeUp(NodeUp { node: Some(node(id, incarnation)) })
}

fn down(id: u64, incarnation: u64) -> Command {
    Command::NodeDown(NodeDown { id, incarnation })
}

fn join(id: u64) -> Command {
    Command::Join(Join { node: Some(node(id, 7)) })
}

/// An empty node under the name of another.
fn replace(id: u64, old: u64) -> Command {
    Command::Join(Join { node: Some(Node { name: format!("node-{old}"), ..node(id, 7) }) })
}

fn leave(id: u64) -> Command {
    Command::Leave(Leave { id, dead: false })
}

fn give_up(id: u64) -> Command {
    Command::Leave(Leave { id, dead: true })
}

fn removed(id: u64) -> Command {
    Command::Removed(Removed { id })
}

fn begin(shard: u32, base: u64, next: &[u64]) -> Command {
    Command::Move(Move { shard, base, next: next.to_vec() })
}

fn end(shard: u32, base: u64) -> Command {
    Command::Moved(Moved { shard, base })
}

fn shard(control: &Control, shard: u32) -> Placement {
    control.placement_of(shard).unwrap().clone()
}

#[test]
fn a_node_that_joins_is_a_member_and_down_until_it_reports() {
    let mut control = formed();
    assert_eq!(apply(&mut control, up(4, 7)), Err(Refusal::UnknownNode));
    assert_eq!(apply(&mut control, join(4)), Ok(()));
    let joined = control.node(4).unwrap();
    assert_eq!((joined.up, joined.incarnation, joined.since_ms, joined.leaving), (false, 0, NOW, false));
    let before = control.digest();
    assert_eq!(apply(&mut control, join(4)), Ok(()), "asked again");
    assert_eq!(control.digest(), before);
    assert_eq!(apply(&mut control, up(4, 7)), Ok(()));
    assert_eq!(apply(&mut control, join(4)), Ok(()), "asked again, late");
    assert!(control.node(4).unwrap().up);
    assert_eq!(apply(&mut control, Command::Join(Join { node: None })), Err(Refusal::Invalid));
    assert_eq!(apply(&mut control, Command::Join(Join { node: Some(node(0, 7)) })), Err(Refusal::Invalid));
    assert_eq!(apply(&mut Control::new(), join(4)), Err(Refusal::NotFormed));
}

#[test]
fn an_empty_node_takes_the_name_of_one_that_is_down_and_of_no_other() {
    let mut control = formed();
    assert_eq!(apply(&mut control, replace(4, 3)), Err(Refusal::NameTaken));
    assert!(control.node(4).is_none());
    apply(&mut control, down(3, 1)).unwrap();
    assert_eq!(apply(&mut control, replace(4, 3)), Ok(()));
    assert!(control.node(3).unwrap().leaving && control.is_given_up(3));
    assert_eq!(control.named("node-3").unwrap().id, 4);
    assert_eq!(apply(&mut control, up(3, 2)), Err(Refusal::Removed), "its disk is there after all");
    let renamed = Node { name: "node-1".into(), ..node(2, 2) };
    let renamed = Command::NodeUp(NodeUp { node: Some(renamed) });
    assert_eq!(apply(&mut control, renamed), Err(Refusal::NameTaken), "nor by another way");
}

#[test]
fn who_leaves_is_removed_when_it_is_down_and_holds_nothing_and_never_comes_back() {
    let mut control = formed();
    assert_eq!(apply(&mut control, give_up(3)), Err(Refusal::NodeUp));
    assert_eq!(apply(&mut control, leave(9)), Err(Refusal::UnknownNode));
    assert_eq!(apply(&mut control, leave(3)), Ok(()));
    assert_eq!(apply(&mut control, leave(3)), Ok(()), "asked again");
    assert_eq!(apply(&mut control, up(3, 2)), Ok(()), "it may restart meanwhile");
    assert!(control.node(3).unwrap().leaving, "and leaves on");
    assert_eq!(apply(&mut control, removed(3)), Err(Refusal::NodeUp));
    apply(&mut control, down(3, 2)).unwrap();
    assert_eq!(apply(&mut control, removed(3)), Err(Refusal::Holds));
    for at in [0, 1] {
        apply(&mut control, begin(at, 0, &[1, 2])).unwrap();
        assert_eq!(apply(&mut control, removed(3)), Err(Refusal::Holds));
        apply(&mut control, end(at, 1)).unwrap();
    }
    assert_eq!(apply(&mut control, removed(1)), Err(Refusal::NodeUp));
    assert_eq!(apply(&mut control, removed(3)), Ok(()));
    assert_eq!(apply(&mut control, removed(3)), Ok(()), "asked again");
    assert!(control.node(3).is_none() && control.is_removed(3));
    for again in [up(3, 9), join(3), leave(3)] {
        assert_eq!(apply(&mut control, again), Err(Refusal::Removed));
    }
    apply(&mut control, leave(2)).unwrap();
    assert_eq!(apply(&mut control, leave(1)), Err(Refusal::LastNode));
}

#[test]
fn a_shard_moves_by_what_was_decided_upon_its_present_state_only() {
    let mut control = formed();
    apply(&mut control, join(4)).unwrap();
    assert_eq!(apply(&mut control, end(0, 0)), Err(Refusal::StaleVersion), "nothing moves");
    for (what, command, refusal) in [
        ("a strange node", begin(0, 0, &[1, 2, 9]), Refusal::Invalid),
        ("a node twice", begin(0, 0, &[1, 1]), Refusal::Invalid),
        ("nobody", begin(0, 0, &[]), Refusal::Invalid),
        ("no such shard", begin(2, 0, &[1]), Refusal::Invalid),
        ("an older state", begin(0, 1, &[1, 2, 4]), Refusal::StaleVersion),
    ] {
        assert_eq!(apply(&mut control, command), Err(refusal), "{what}");
    }
    assert_eq!(apply(&mut control, begin(0, 0, &[4, 1, 2])), Ok(()));
    let moving = Placement { shard: 0, voters: vec![1, 2, 3], next: vec![4, 1, 2], version: 1, moved: false };
    assert_eq!(shard(&control, 0), moving);
    assert_eq!(apply(&mut control, begin(0, 0, &[1, 2, 4])), Err(Refusal::StaleVersion), "of another leader");
    assert_eq!(apply(&mut control, end(0, 0)), Err(Refusal::StaleVersion));
    assert_eq!(apply(&mut control, end(0, 1)), Ok(()));
    let moved = Placement { voters: vec![4, 1, 2], next: Vec::new(), version: 2, moved: true, ..moving };
    assert_eq!(shard(&control, 0), moved);
    assert_eq!(apply(&mut control, end(0, 2)), Err(Refusal::StaleVersion), "said twice");
    assert_eq!(shard(&control, 1).version, 0);
}

#[test]
fn another_order_holds_at_once_and_a_move_may_be_called_back() {
    let mut control = formed();
    apply(&mut control, join(4)).unwrap();
    apply(&mut control, begin(0, 0, &[3, 1, 2])).unwrap();
    let turned = Placement { shard: 0, voters: vec![3, 1, 2], next: Vec::new(), version: 1, moved: false };
    assert_eq!(shard(&control, 0), turned);
    apply(&mut control, begin(0, 1, &[1, 2, 4])).unwrap();
    apply(&mut control, begin(0, 2, &[3, 1, 2])).unwrap();
    assert_eq!(shard(&control, 0).next, [3, 1, 2], "the votes may have changed already");
    assert_eq!(apply(&mut control, end(0, 2)), Err(Refusal::StaleVersion), "of the move before");
    apply(&mut control, end(0, 3)).unwrap();
    assert_eq!(shard(&control, 0), Placement { version: 4, ..turned });
    apply(&mut control, leave(4)).unwrap();
    assert_eq!(apply(&mut control, begin(0, 4, &[1, 2, 4])), Err(Refusal::Leaving));
}

#[test]
fn only_so_many_removed_nodes_are_remembered() {
    let mut control = formed();
    for id in 10..10 + MAX_REMOVED as u64 + 1 {
        apply(&mut control, join(id)).unwrap();
        apply(&mut control, give_up(id)).unwrap();
        apply(&mut control, removed(id)).unwrap();
    }
    assert_eq!(control.removed().count(), MAX_REMOVED);
    assert!(!control.is_removed(10) && control.is_removed(11));
}

fn any_step() -> impl Strategy<Value = Command> {
    let id = 1u64..7;
    prop_oneof![
        2 => id.clone().prop_map(join),
        1 => (id.clone(), id.clone()).prop_map(|(id, old)| replace(id, old)),
        2 => (id.clone(), 1u64..4).prop_map(|(id, incarnation)| up(id, incarnation)),
        2 => (id.clone(), 1u64..4).prop_map(|(id, incarnation)| down(id, incarnation)),
        1 => id.clone().prop_map(leave),
        1 => id.clone().prop_map(give_up),
        2 => id.clone().prop_map(removed),
        6 => (0u32..2, 0u64..8, prop::collection::vec(id, 1..4)).prop_map(|(shard, base, next)| begin(shard, base, &next)),
        4 => (0u32..2, 0u64..8).prop_map(|(shard, base)| end(shard, base)),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_shards_are_held_by_members_and_who_was_removed_stays_away(
        steps in prop::collection::vec(any_step(), 0..120),
        restore_at in 0usize..120,
    ) {
        let (mut control, mut gone) = (formed(), BTreeSet::new());
        for (number, step) in steps.into_iter().enumerate() {
            let before = control.clone();
            let outcome = apply(&mut control, step.clone());
            if outcome.is_err() {
                prop_assert_eq!(control.digest(), before.digest(), "an ignored command changes nothing");
            }
            if number == restore_at {
                let restored = Control::decode_snapshot(&control.encode_snapshot()).unwrap();
                prop_assert_eq!(restored.encode_snapshot(), control.encode_snapshot());
                control = restored;
            }
            gone.extend(control.removed());
            prop_assert!(control.nodes().all(|node| !gone.contains(&node.id)));
            let names: BTreeSet<&str> =
                control.nodes().filter(|node| !control.is_given_up(node.id)).map(|node| node.name.as_str()).collect();
            let named = control.nodes().filter(|node| !control.is_given_up(node.id)).count();
            prop_assert_eq!(names.len(), named, "no two nodes have one name");
            prop_assert!(control.nodes().all(|node| !(node.up && control.is_given_up(node.id))));
            for (placement, old) in control.placement().iter().zip(before.placement()) {
                let holders: BTreeSet<u64> = placement.voters.iter().chain(&placement.next).copied().collect();
                prop_assert!(!placement.voters.is_empty());
                prop_assert!(holders.iter().all(|id| control.node(*id).is_some()), "held by a stranger");
                prop_assert!(placement.version == old.version || placement.version == old.version + 1);
                prop_assert_eq!(placement.version == old.version, placement == old);
            }
        }
    }
}
