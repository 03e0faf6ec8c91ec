//! Feature levels: when they rise, who is turned away, and what needs which.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;

use commands::*;
use proptest::prelude::*;
use zwerm_machine::Control;
use zwerm_machine::level::NEWEST;
use zwerm_machine::records::control_command::Command;
use zwerm_machine::records::{
    ControlCommand, Form, Join, Leave, Node, NodeDown, NodeLevel, NodeUp, RaiseLevel, Refusal, Removed,
    SetReplicas,
};

fn can(newest_level: u32, node: Node) -> Node {
    Node { newest_level, ..node }
}

fn up(node: Node) -> Command {
    Command::NodeUp(NodeUp { node: Some(node) })
}

/// Three nodes at level 1 that can so much.
fn formed(can_levels: [u32; 3]) -> Control {
    let nodes = [1, 2, 3].into_iter().zip(can_levels).map(|(id, level)| can(level, node(id, 1)));
    let mut control = Control::new();
    apply(&mut control, Command::Form(Form { nodes: nodes.collect(), ..form() })).unwrap();
    control
}

fn raise(level: u32, nodes: &[(u64, u64, u32)]) -> Command {
    let nodes =
        nodes.iter().map(|&(id, incarnation, newest_level)| NodeLevel { id, incarnation, newest_level });
    Command::RaiseLevel(RaiseLevel { level, nodes: nodes.collect() })
}

fn replicas(replicas: u32) -> Command {
    Command::SetReplicas(SetReplicas { replicas })
}

#[test]
fn the_level_rises_when_all_members_can_and_never_falls() {
    let mut control = formed([2, 0, 3]);
    assert_eq!((control.level(), control.next_level(3)), (1, None));
    let names = |control: &Control| control.holding_back(2).map(|node| node.id).collect::<Vec<_>>();
    assert_eq!(names(&control), [2]);
    // Down, it counts with what it said last.
    apply(&mut control, Command::NodeDown(NodeDown { id: 2, incarnation: 1 })).unwrap();
    assert_eq!(control.next_level(3), None);
    apply(&mut control, up(can(2, node(2, 2)))).unwrap();
    assert_eq!(control.next_level(1), None, "the leader's own program counts, too");
    let next = control.next_level(3).unwrap();
    assert_eq!(Command::RaiseLevel(next.clone()), raise(2, &[(1, 1, 2), (2, 2, 2), (3, 1, 3)]));
    apply(&mut control, Command::RaiseLevel(next.clone())).unwrap();
    assert_eq!((control.level(), control.next_level(3)), (2, None));
    assert_eq!(apply(&mut control, Command::RaiseLevel(next)), Err(Refusal::StaleVersion));
    assert_eq!(apply(&mut control, raise(1, &[(1, 1, 2), (2, 2, 2), (3, 1, 3)])), Err(Refusal::StaleVersion));
}

#[test]
fn a_level_rises_only_upon_what_the_present_members_said() {
    for (why, nodes, refused) in [
        ("one is missing", &[(1, 1, 2), (2, 1, 2)][..], Err(Refusal::StaleVersion)),
        ("one has started anew", &[(1, 1, 2), (2, 4, 2), (3, 1, 2)], Err(Refusal::StaleIncarnation)),
        ("one cannot", &[(1, 1, 2), (2, 1, 1), (3, 1, 2)], Err(Refusal::Level)),
        // What a program of level 1, or its snapshot, has lost is in the command again.
        ("the state does not know", &[(1, 1, 2), (2, 1, 2), (3, 1, 2)], Ok(())),
        ("one is gone since", &[(1, 1, 2), (2, 1, 2), (3, 1, 2), (9, 1, 2)], Ok(())),
    ] {
        let mut control = formed([0, 0, 0]);
        assert_eq!(apply(&mut control, raise(2, nodes)), refused, "{why}");
        let raised = refused.is_ok();
        assert_eq!(control.level() == 2, raised, "{why}");
        assert!(control.nodes().all(|node| node.can() == if raised { 2 } else { 1 }), "{why}");
    }
    assert_eq!(apply(&mut Control::new(), raise(2, &[])), Err(Refusal::NotFormed));
}

#[test]
fn who_is_removed_as_dead_holds_nothing_back_and_who_leaves_does() {
    for (dead, next) in [(true, true), (false, false)] {
        let mut control = formed([2, 2, 1]);
        apply(&mut control, Command::NodeDown(NodeDown { id: 3, incarnation: 1 })).unwrap();
        apply(&mut control, Command::Leave(Leave { id: 3, dead })).unwrap();
        let raised = control.next_level(NEWEST).map(|next| apply(&mut control, Command::RaiseLevel(next)));
        assert_eq!(raised, next.then_some(Ok(())), "dead {dead}");
    }
}

#[test]
fn who_cannot_the_level_is_no_member_and_never_up() {
    let mut control = formed([2, 2, 2]);
    let join = |level| Command::Join(Join { node: Some(can(level, node(7, 1))) });
    let next = control.next_level(2).unwrap();
    apply(&mut control, Command::RaiseLevel(next)).unwrap();
    for (command, refused) in [
        (join(0), Err(Refusal::Level)),
        (join(1), Err(Refusal::Level)),
        (join(2), Ok(())),
        (up(node(2, 2)), Err(Refusal::Level)),
        (up(can(1, node(2, 2))), Err(Refusal::Level)),
        (up(can(3, node(2, 2))), Ok(())),
    ] {
        assert_eq!(apply(&mut control, command.clone()), refused, "{command:?}");
    }
    // At level 1 everybody may: such programs do not know of levels.
    let mut control = formed([2, 0, 2]);
    apply(&mut control, Command::Join(Join { node: Some(node(7, 1)) })).unwrap();
    apply(&mut control, up(node(2, 2))).unwrap();
}

#[test]
fn the_number_of_replicas_is_set_from_level_2_on() {
    let mut control = formed([2, 2, 2]);
    assert_eq!(control.replicas(), 3);
    assert_eq!(apply(&mut control, replicas(5)), Err(Refusal::Level));
    let next = control.next_level(2).unwrap();
    apply(&mut control, Command::RaiseLevel(next)).unwrap();
    for (number, outcome) in [
        (0, Err(Refusal::Invalid)),
        (1, Ok(())),
        (2, Err(Refusal::Invalid)),
        (3, Ok(())),
        (4, Err(Refusal::Invalid)),
        (7, Ok(())),
        (9, Err(Refusal::Invalid)),
        (5, Ok(())),
    ] {
        assert_eq!(apply(&mut control, replicas(number)), outcome, "{number}");
    }
    assert_eq!(control.replicas(), 5);
    assert_eq!(Control::decode_snapshot(&control.encode_snapshot()).unwrap().replicas(), 5);
}

#[test]
fn a_cluster_begins_with_what_its_founders_can() {
    let begin = |replicas, level, newest| {
        let nodes = form().nodes.into_iter().map(|node| can(newest, node)).collect();
        let mut control = Control::new();
        let outcome = apply(&mut control, Command::Form(Form { nodes, replicas, level, ..form() }));
        outcome.map(|()| (control.level(), control.replicas()))
    };
    for (replicas, level, newest, outcome) in [
        (0, 0, 0, Ok((1, 3))),
        (0, 2, 2, Ok((2, 3))),
        (5, 2, 2, Ok((2, 5))),
        (5, 1, 2, Err(Refusal::Invalid)),
        (4, 2, 2, Err(Refusal::Invalid)),
        (0, 2, 1, Err(Refusal::Level)),
    ] {
        assert_eq!(begin(replicas, level, newest), outcome, "{replicas} {level} {newest}");
    }
}

#[test]
fn every_command_says_what_it_needs() {
    let needs = |command: Command| ControlCommand::from(command).needs();
    for (command, level) in [
        (Command::Form(form()), 1),
        (Command::Form(Form { replicas: 5, ..form() }), 2),
        (Command::Form(Form { level: 2, ..form() }), 2),
        (up(can(2, node(1, 1))), 1),
        (raise(2, &[]), 2),
        (raise(7, &[]), 7),
        (replicas(3), 2),
    ] {
        assert_eq!(needs(command.clone()), Some(level), "{command:?}");
    }
    assert_eq!(ControlCommand::default().needs(), None, "what is not known needs what is not known");
}

/// What is left of a command when a program from before there were levels has read it.
fn as_read_before(command: &Command) -> Command {
    let without = |node: &Option<Node>| node.clone().map(|node| can(0, node));
    match command {
        Command::NodeUp(up) => Command::NodeUp(NodeUp { node: without(&up.node) }),
        Command::Join(join) => Command::Join(Join { node: without(&join.node) }),
        Command::Form(form) => {
            let nodes = form.nodes.iter().map(|node| can(0, node.clone())).collect();
            Command::Form(Form { nodes, ..form.clone() })
        }
        other => other.clone(),
    }
}

/// What happens to a cluster, or a decision to raise its level is taken, or one that was taken is committed.
#[derive(Debug, Clone)]
enum Step {
    Happens(Command),
    Decide,
    Commit,
}

fn any_step() -> impl Strategy<Value = Step> {
    let node =
        (1u64..6, 1u64..5, 0u32..4).prop_map(|(id, incarnation, level)| can(level, node(id, incarnation)));
    prop_oneof![
        6 => node.clone().prop_map(|node| Step::Happens(up(node))),
        2 => node.prop_map(|node| Step::Happens(Command::Join(Join { node: Some(node) }))),
        2 => (1u64..6, 1u64..5).prop_map(|(id, incarnation)| {
            Step::Happens(Command::NodeDown(NodeDown { id, incarnation }))
        }),
        1 => (1u64..6).prop_map(|id| Step::Happens(Command::Leave(Leave { id, dead: true }))),
        1 => (1u64..6).prop_map(|id| Step::Happens(Command::Removed(Removed { id }))),
        6 => Just(Step::Decide),
        4 => Just(Step::Commit),
    ]
}

proptest! {
    /// Two replicas of one log, of which one was run by a program from before there were levels until the level rose, and
    /// then taken over by this one with what that had kept: both answer alike, and from then on they are the same.
    #[test]
    fn a_program_that_knows_no_levels_does_not_differ_when_the_level_rises(
        steps in prop::collection::vec(any_step(), 0..60),
    ) {
        let (mut new, mut old) = (Control::new(), Control::new());
        let mut decided = None;
        let begin = Step::Happens(Command::Form(Form { nodes: form().nodes, ..form() }));
        for step in [begin].into_iter().chain(steps) {
            let command = match step {
                Step::Happens(command) => command,
                Step::Decide => {
                    decided = new.next_level(3).or(decided);
                    continue;
                }
                Step::Commit => match decided.take() {
                    Some(raise) => Command::RaiseLevel(raise),
                    None => continue,
                },
            };
            let seen = if new.level() == 1 { as_read_before(&command) } else { command.clone() };
            let (reply, other) = (new.apply(&control_command(NOW, command)), old.apply(&control_command(NOW, seen)));
            prop_assert_eq!(reply, other);
            prop_assert_eq!(new.level(), old.level());
            prop_assert!(new.level() == 1 || new.digest() == old.digest(), "{new:?}\n{old:?}");
            let all_can = new.holding_back(new.level()).next().is_none();
            prop_assert!(all_can, "somebody cannot level {}: {new:?}", new.level());
        }
    }
}
