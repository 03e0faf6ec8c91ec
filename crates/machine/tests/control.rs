//! The control machine's rules: forming, incarnations, routes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;

use commands::*;
use zwerm_machine::limits::{MAX_ROUTES, MAX_TEXT};
use zwerm_machine::records::control_command::Command;
use zwerm_machine::records::control_reply::Reply;
use zwerm_machine::records::{
    ControlCommand, Form, Node, NodeDown, NodeUp, Placement, Refusal, Routes, ShardRoutes,
};
use zwerm_machine::{Control, Published};
use zwerm_routing::{Destination, Matches};
use zwerm_wire::{TopicFilter, TopicName};

fn formed() -> Control {
    let mut control = Control::new();
    assert_eq!(apply(&mut control, Command::Form(form())), Ok(()));
    control
}

fn up(id: u64, incarnation: u64) -> Command {
    Command::NodeUp(NodeUp { node: Some(node(id, incarnation)) })
}

fn down(id: u64, incarnation: u64) -> Command {
    Command::NodeDown(NodeDown { id, incarnation })
}

/// Where a topic goes, with members.
fn wanted_by(control: &Control, topic: &str) -> Vec<(Destination, u32)> {
    let mut found = Matches::new();
    control.routes().matches(&TopicName::new(topic.to_owned()).unwrap(), &mut found);
    found.plain.iter().map(|(destination, interest)| (*destination, interest.members)).collect()
}

fn members(control: &Control, node: u64, filter: &str) -> u32 {
    let filter = TopicFilter::new(filter.to_owned()).unwrap();
    control.routes().interest(Destination::Node(node), &filter).members
}

#[test]
fn a_cluster_is_formed_once_and_before_anything_else() {
    let mut control = Control::new();
    assert_eq!(apply(&mut control, up(1, 1)), Err(Refusal::NotFormed));
    assert_eq!((control.is_formed(), control.cluster_id(), control.shards()), (false, None, 0));
    assert_eq!(apply(&mut control, Command::Form(form())), Ok(()));
    assert_eq!((control.is_formed(), control.cluster_id(), control.shards()), (true, Some("cluster"), 2));
    assert_eq!(control.nodes().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(control.placement().iter().map(|placement| placement.shard).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(control.node(2).map(|node| node.since_ms), Some(NOW));
    let other = Form { cluster_id: "other".into(), ..form() };
    assert_eq!(apply(&mut control, Command::Form(other)), Err(Refusal::AlreadyFormed));
}

#[test]
fn an_impossible_cluster_is_refused() {
    let placement =
        |shard, voters: &[u64]| Placement { shard, voters: voters.to_vec(), ..Placement::default() };
    for (what, bad, reason) in [
        ("no id", Form { cluster_id: String::new(), ..form() }, Refusal::Invalid),
        ("long id", Form { cluster_id: "x".repeat(MAX_TEXT + 1), ..form() }, Refusal::Limit),
        ("no nodes", Form { nodes: Vec::new(), ..form() }, Refusal::Invalid),
        (
            "a node twice",
            Form { nodes: vec![node(1, 1), node(2, 1), node(3, 1), node(1, 2)], ..form() },
            Refusal::Invalid,
        ),
        ("no shards", Form { shards: 0, placement: Vec::new(), ..form() }, Refusal::Invalid),
        ("too many shards", Form { shards: u32::MAX, ..form() }, Refusal::Limit),
        ("a shard missing", Form { shards: 3, ..form() }, Refusal::Invalid),
        (
            "a shard twice",
            Form { placement: vec![placement(0, &[1]), placement(0, &[1])], ..form() },
            Refusal::Invalid,
        ),
        (
            "no voters",
            Form { placement: vec![placement(0, &[1]), placement(1, &[])], ..form() },
            Refusal::Invalid,
        ),
        (
            "a voter twice",
            Form { placement: vec![placement(0, &[1]), placement(1, &[1, 1])], ..form() },
            Refusal::Invalid,
        ),
        (
            "a strange voter",
            Form { placement: vec![placement(0, &[1]), placement(1, &[4])], ..form() },
            Refusal::Invalid,
        ),
    ] {
        assert_eq!(apply(&mut Control::new(), Command::Form(bad)), Err(reason), "{what}");
    }
    let nothing = ControlCommand::default();
    let reply = Control::new().apply(&nothing).reply;
    assert!(matches!(reply, Some(Reply::Ignored(_))));
}

#[test]
fn only_a_newer_incarnation_brings_a_dead_node_back() {
    let mut control = formed();
    assert_eq!(apply(&mut control, down(1, 2)), Err(Refusal::StaleIncarnation), "not the current one");
    assert_eq!(apply(&mut control, down(9, 1)), Err(Refusal::UnknownNode));
    assert_eq!(apply(&mut control, down(1, 1)), Ok(()));
    assert_eq!(control.node(1).map(|node| node.up), Some(false));
    assert_eq!(apply(&mut control, down(1, 1)), Err(Refusal::StaleIncarnation));
    assert_eq!(apply(&mut control, up(1, 1)), Err(Refusal::StaleIncarnation));
    assert_eq!(apply(&mut control, up(1, 2)), Ok(()));
    assert_eq!(control.node(1).map(|node| (node.up, node.incarnation)), Some((true, 2)));
    assert_eq!(apply(&mut control, up(1, 1)), Err(Refusal::StaleIncarnation));
}

#[test]
fn a_node_may_tell_its_addresses_again_and_keeps_its_routes() {
    let mut control = formed();
    apply(&mut control, Command::Routes(routes(1, 1, true, &[("a", 1)]))).unwrap();
    let moved = Node { mqtt_addr: "elsewhere:1883".into(), ..node(1, 1) };
    assert_eq!(apply(&mut control, Command::NodeUp(NodeUp { node: Some(moved) })), Ok(()));
    assert_eq!(control.node(1).map(|node| node.mqtt_addr.as_str()), Some("elsewhere:1883"));
    assert_eq!(wanted_by(&control, "a"), [(Destination::Node(1), 1)]);
    assert_eq!(control.routes_version(1), 1);
    assert_eq!(apply(&mut control, up(4, 7)), Err(Refusal::UnknownNode), "it did not join");
    assert_eq!(control.nodes().count(), 3);
    assert_eq!(apply(&mut control, Command::NodeUp(NodeUp { node: None })), Err(Refusal::Invalid));
    let long = Node { name: "x".repeat(MAX_TEXT + 1), ..node(5, 1) };
    assert_eq!(apply(&mut control, Command::NodeUp(NodeUp { node: Some(long) })), Err(Refusal::Limit));
}

#[test]
fn routes_go_with_their_incarnation() {
    for end in [down(1, 1), up(1, 2)] {
        let mut control = formed();
        apply(&mut control, Command::Routes(routes(1, 1, false, &[("a", 1), ("$share/g/a", 3)]))).unwrap();
        apply(&mut control, Command::Routes(routes(2, 1, false, &[("a", 1)]))).unwrap();
        let generation = control.routes().generation();
        assert_eq!(apply(&mut control, end), Ok(()));
        assert_eq!(wanted_by(&control, "a"), [(Destination::Node(2), 1)]);
        assert_eq!(control.routes().len(), 1);
        assert!(control.routes().generation() > generation);
        let late = Command::Routes(routes(1, 2, false, &[("late", 1)]));
        assert_eq!(apply(&mut control, late), Err(Refusal::StaleIncarnation));
    }
}

#[test]
fn versions_make_routes_idempotent_and_start_again_with_an_incarnation() {
    let mut control = formed();
    let change = |version, set: &[(&str, u32)]| Command::Routes(routes(1, version, false, set));
    assert_eq!(
        apply(&mut control, change(0, &[("a", 1)])),
        Err(Refusal::StaleVersion),
        "versions start at 1"
    );
    assert_eq!(apply(&mut control, change(1, &[("a", 1), ("$share/g/a", 2)])), Ok(()));
    assert_eq!(apply(&mut control, change(3, &[("a", 0), ("$share/g/a", 5), ("b", 1)])), Ok(()));
    assert_eq!(apply(&mut control, change(3, &[("c", 1)])), Err(Refusal::StaleVersion));
    assert_eq!(apply(&mut control, change(2, &[("a", 1)])), Err(Refusal::StaleVersion));
    assert_eq!(["a", "$share/g/a", "b", "c"].map(|filter| members(&control, 1, filter)), [0, 5, 1, 0]);
    apply(&mut control, up(1, 2)).unwrap();
    assert_eq!(control.routes_version(1), 0);
    let again = Routes { incarnation: 2, ..routes(1, 1, false, &[("d", 1)]) };
    assert_eq!(apply(&mut control, Command::Routes(again)), Ok(()));
    assert_eq!(wanted_by(&control, "d"), [(Destination::Node(1), 1)]);
    assert_eq!(apply(&mut control, Command::Routes(routes(9, 1, false, &[]))), Err(Refusal::UnknownNode));
}

#[test]
fn full_routes_replace_the_nodes_own_and_nobody_elses() {
    let mut control = formed();
    apply(&mut control, Command::Routes(routes(1, 1, false, &[("a", 1), ("b", 1)]))).unwrap();
    apply(&mut control, Command::Routes(routes(2, 1, false, &[("a", 1)]))).unwrap();
    apply(&mut control, Command::Routes(routes(1, 2, true, &[("b", 1), ("c", 1), ("d", 0)]))).unwrap();
    assert_eq!(["a", "b", "c", "d"].map(|filter| members(&control, 1, filter)), [0, 1, 1, 0]);
    assert_eq!(members(&control, 2, "a"), 1);
    let generation = control.routes().generation();
    apply(&mut control, Command::Routes(routes(1, 3, true, &[("c", 1), ("b", 1)]))).unwrap();
    assert_eq!(control.routes().generation(), generation, "the same routes again: cached lookups hold");
    apply(&mut control, Command::Routes(routes(1, 4, true, &[]))).unwrap();
    assert_eq!(control.routes().len(), 1);
}

#[test]
fn routes_with_one_bad_filter_are_refused_whole() {
    let mut control = formed();
    let bad = Command::Routes(routes(1, 1, false, &[("a", 1), ("a/#/b", 1)]));
    assert_eq!(apply(&mut control, bad), Err(Refusal::Invalid));
    assert!(control.routes().is_empty());
}

/// Filters, members and since of a shard's routes.
fn to_shard(control: &Control, shard: u32) -> Vec<(String, u32, u64)> {
    let routes = control.routes().routes_of(Destination::Shard(shard));
    routes.map(|(filter, interest)| (filter.as_str().to_owned(), interest.members, interest.since)).collect()
}

fn shard_change(base: u64, version: u64, set: &[(&str, u32, u64)]) -> ShardRoutes {
    shard_routes(1, base, version, false, set)
}

#[test]
fn routes_of_a_shard_are_changes_upon_changes() {
    let mut control = formed();
    let first = shard_change(0, 4, &[("a", 1, 2), ("$share/g/a", 3, 4)]);
    assert_eq!(apply(&mut control, Command::ShardRoutes(first)), Ok(()));
    assert_eq!(control.published(1), Published { commands: 1, version: 4, begun: 4 });
    assert_eq!(wanted_by(&control, "a"), [(Destination::Shard(1), 1)]);
    let second = shard_change(1, 9, &[("a", 0, 0), ("b", 1, 9), ("$share/g/a", 2, 4)]);
    assert_eq!(apply(&mut control, Command::ShardRoutes(second)), Ok(()));
    assert_eq!(to_shard(&control, 1), [("$share/g/a".into(), 2, 4), ("b".into(), 1, 9)]);
    let elsewhere = ShardRoutes { shard: 2, ..shard_change(0, 1, &[]) };
    assert_eq!(apply(&mut control, Command::ShardRoutes(elsewhere)), Err(Refusal::Invalid), "no such shard");
    apply(&mut control, down(1, 1)).unwrap();
    assert_eq!(to_shard(&control, 1).len(), 2, "the routes of a shard outlive any node");
}

#[test]
fn what_another_leader_published_meanwhile_is_not_overwritten() {
    let mut control = formed();
    apply(&mut control, Command::ShardRoutes(shard_change(0, 4, &[("a", 1, 2)]))).unwrap();
    for (why, stale) in [
        ("a repeat", shard_change(0, 4, &[("a", 1, 2)])),
        ("from an older table", shard_change(0, 6, &[("a", 0, 0)])),
        ("from a table that is not yet", shard_change(2, 6, &[("a", 0, 0)])),
        ("an older version", shard_change(1, 3, &[("a", 0, 0)])),
        ("the same version", shard_change(1, 4, &[("a", 0, 0)])),
    ] {
        assert_eq!(apply(&mut control, Command::ShardRoutes(stale)), Err(Refusal::StaleVersion), "{why}");
    }
    assert_eq!(to_shard(&control, 1), [("a".into(), 1, 2)]);
}

#[test]
fn a_version_that_comes_in_parts_counts_with_the_last() {
    let mut control = formed();
    let part = |base, version, set: &[(&str, u32, u64)]| ShardRoutes {
        more: true,
        ..shard_change(base, version, set)
    };
    assert_eq!(apply(&mut control, Command::ShardRoutes(part(0, 7, &[("a", 1, 6)]))), Ok(()));
    assert_eq!(control.published(1), Published { commands: 1, version: 0, begun: 7 });
    let back = shard_change(1, 6, &[("a", 0, 0)]);
    assert_eq!(
        apply(&mut control, Command::ShardRoutes(back)),
        Err(Refusal::StaleVersion),
        "the newer version has begun: who saw its routes was promised them"
    );
    assert_eq!(
        apply(&mut control, Command::ShardRoutes(part(0, 7, &[("b", 1, 7)]))),
        Err(Refusal::StaleVersion)
    );
    assert_eq!(apply(&mut control, Command::ShardRoutes(part(1, 7, &[("b", 1, 7)]))), Ok(()));
    assert_eq!(apply(&mut control, Command::ShardRoutes(shard_change(2, 7, &[("c", 1, 7)]))), Ok(()));
    assert_eq!(control.published(1), Published { commands: 3, version: 7, begun: 7 });
    assert_eq!(to_shard(&control, 1).len(), 3);
}

#[test]
fn impossible_routes_of_a_shard_are_refused_whole() {
    let mut control = formed();
    let bad = shard_change(0, 1, &[("a", 1, 1), ("a/#/b", 1, 1)]);
    assert_eq!(apply(&mut control, Command::ShardRoutes(bad)), Err(Refusal::Invalid));
    let many = vec![("a", 1, 1); MAX_ROUTES + 1];
    assert_eq!(apply(&mut control, Command::ShardRoutes(shard_change(0, 1, &many))), Err(Refusal::Limit));
    assert_eq!(control.published(1), Published::default());
    assert!(control.routes().is_empty());
}

#[test]
fn a_node_may_want_a_filter_for_qos_0_only() {
    let mut control = formed();
    let mut change = routes(1, 1, false, &[("a", 1)]);
    change.set[0].only_qos0 = true;
    apply(&mut control, Command::Routes(change)).unwrap();
    let filter = TopicFilter::new("a").unwrap();
    assert!(control.routes().interest(Destination::Node(1), &filter).only_qos0);
    let generation = control.routes().generation();
    apply(&mut control, Command::Routes(routes(1, 2, false, &[("a", 1)]))).unwrap();
    assert!(!control.routes().interest(Destination::Node(1), &filter).only_qos0);
    assert!(control.routes().generation() > generation, "a cached lookup must not hold");
}
