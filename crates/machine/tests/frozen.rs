//! Bytes that other versions read: one example of every command and of both snapshots, frozen. A change of a
//! file in `snapshots/` is a change of the format: it needs a new number, never a new meaning of an old one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;

use std::fmt::Write as _;

use bytes::Bytes;
use commands::*;
use prost::Message as _;
use zwerm_machine::records::control_command::Command as Controls;
use zwerm_machine::records::shard_command::Command as Shards;
use zwerm_machine::records::*;
use zwerm_machine::{Control, Shard, SnapshotError};

/// 32 bytes a line.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

/// A message with every field set.
fn full_message() -> Message {
    let user = |name: &str, value: &str| UserProperty { name: name.into(), value: value.into() };
    Message {
        topic: "sensors/1/temp".into(),
        payload: Bytes::from_static(b"21.5"),
        qos: 2,
        retain: true,
        properties: Some(Properties {
            payload_format: Some(true),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(&[0, 255])),
            user: vec![user("unit", "C"), user("unit", "K")],
        }),
        expires_at_ms: NOW + 60_000,
        publisher: "thermometer".into(),
        publisher_epoch: 0,
    }
}

fn full_claim() -> Claim {
    let will = Will { message: Some(full_message()), delay_s: 9, message_expiry_s: Some(30) };
    Claim { clean_start: true, will: Some(will), ..durable() }
}

const SHARD_ROUTES: &[(&str, u32, u64)] = &[("a/+/b", 1, 7), ("$share/g/#", 3, 2), ("gone", 0, 0)];

fn raise_level() -> RaiseLevel {
    let nodes = [(1, 1), (2, 1), (3, 300)];
    let node = |(id, incarnation)| NodeLevel { id, incarnation, newest_level: 2 };
    RaiseLevel { level: 2, nodes: nodes.map(node).to_vec() }
}

fn only_qos0(mut routes: Routes) -> Routes {
    routes.set.iter_mut().for_each(|route| route.only_qos0 = true);
    routes
}

#[test]
fn the_bytes_of_every_control_command_are_frozen() {
    let plain = routes(1, 7, true, &[("a/+/b", 1), ("$share/g/#", 3)]);
    for (name, command) in [
        ("form", Controls::Form(form())),
        ("node_up", Controls::NodeUp(NodeUp { node: Some(node(4, 2)) })),
        ("node_up_draining", Controls::NodeUp(NodeUp { node: Some(Node { draining: true, ..node(4, 2) }) })),
        ("node_down", Controls::NodeDown(NodeDown { id: 4, incarnation: 2 })),
        ("routes", Controls::Routes(plain)),
        ("routes_qos0", Controls::Routes(only_qos0(routes(1, 8, false, &[("a", 1)])))),
        ("shard_routes", Controls::ShardRoutes(shard_routes(5, 6, 7, true, SHARD_ROUTES))),
        ("join", Controls::Join(Join { node: Some(node(4, 2)) })),
        ("leave", Controls::Leave(Leave { id: 4, dead: true })),
        ("removed", Controls::Removed(Removed { id: 4 })),
        ("move", Controls::Move(Move { shard: 1, base: 2, next: vec![4, 1, 2] })),
        ("moved", Controls::Moved(Moved { shard: 1, base: 3 })),
        ("form_level_2", Controls::Form(Form { replicas: 5, level: 2, ..form() })),
        ("node_up_level_2", Controls::NodeUp(NodeUp { node: Some(Node { newest_level: 2, ..node(4, 2) }) })),
        ("raise_level", Controls::RaiseLevel(raise_level())),
        ("set_replicas", Controls::SetReplicas(SetReplicas { replicas: 5 })),
    ] {
        let command = control_command(NOW, command);
        let level = command.needs().filter(|level| *level > 1).unwrap_or_default();
        let command = ControlCommand { level, ..command };
        let bytes = command.encode_to_vec();
        insta::assert_snapshot!(format!("control_{name}"), hex(&bytes));
        assert_eq!(ControlCommand::decode(&*bytes), Ok(command));
    }
}

#[test]
fn the_bytes_of_every_shard_command_are_frozen() {
    let release = Release { expiry_s: Some(0), ..vanished(3) };
    let origin = Some(Origin { shard: 3, sequence: 300 });
    let client_id = || "client".to_owned();
    for (name, command) in [
        ("claim", Shards::Claim(full_claim())),
        ("release", Shards::Release(release)),
        ("owner_lost", Shards::OwnerLost(OwnerLost { node: 1, incarnation: 2 })),
        ("retain", Shards::Retain(Retain { message: Some(full_message()), origin, ..Retain::default() })),
        ("tick", Shards::Tick(Tick {})),
        ("delay", Shards::Delay(Delay { message: Some(full_message()), delay_s: 300, origin })),
        ("drained", Shards::Drained(Drained { upto: 5 })),
        ("pick", Shards::Pick(full_pick(300))),
        ("subscribe", Shards::Subscribe(full_subscribe(4))),
        (
            "unsubscribe",
            Shards::Unsubscribe(Unsubscribe {
                client_id: client_id(),
                epoch: 4,
                filters: vec!["a/#".into()],
            }),
        ),
        ("enqueue", Shards::Enqueue(full_enqueue())),
        (
            "deliver",
            Shards::Deliver(Deliver {
                client_id: client_id(),
                message: Some(full_message()),
                qos: 1,
                retain: true,
                identifiers: vec![7, 300],
                group: "$share/g/#".into(),
                replay_epoch: 4,
                origin,
            }),
        ),
        (
            "receive",
            Shards::Receive(Receive {
                client_id: client_id(),
                epoch: 4,
                packet_id: 9,
                message: Some(full_message()),
            }),
        ),
        ("complete", Shards::Complete(Complete { client_id: client_id(), epoch: 4, packet_id: 9 })),
        (
            "acknowledge",
            Shards::Acknowledge(Acknowledge {
                client_id: client_id(),
                epoch: 4,
                done: vec![1, 300],
                received: vec![2],
            }),
        ),
        ("end_replay", Shards::EndReplay(EndReplay { client_id: client_id(), epoch: 4 })),
        ("exclude", Shards::Exclude(full_exclude())),
        ("vacate", Shards::Vacate(Vacate { filter: "$exclusive/a/#".into(), by: holder("client", 4) })),
        ("holds", Shards::Holds(Holds { filter: "$exclusive/a/#".into(), by: holder("client", 4) })),
    ] {
        let batch = ShardBatch {
            commands: vec![shard_command(NOW, command)],
            producer_node: 1,
            producer_incarnation: 2,
            sequence: 3,
            level: 0,
        };
        let bytes = batch.encode_to_vec();
        insta::assert_snapshot!(format!("shard_{name}"), hex(&bytes));
        assert_eq!(ShardBatch::decode(&*bytes), Ok(batch));
    }
}

#[test]
fn the_bytes_of_every_reply_are_frozen() {
    let previous = Some(Owner { node: 1, incarnation: 2, epoch: 3, connected: true });
    let replies = [
        shard_reply::Reply::Applied(Applied {}),
        shard_reply::Reply::Ignored(Ignored { reason: Refusal::Busy.into() }),
        shard_reply::Reply::Claimed(Claimed {
            epoch: 4,
            session_present: true,
            previous,
            resumed: Some(Resumed {
                subscriptions: full_subscribe(4).subscriptions,
                received: vec![9],
                released: vec![2, 300],
                maybe_sent: 301,
            }),
            durable: true,
        }),
        shard_reply::Reply::Retained(Retained { replaced: true, repeated: true }),
        shard_reply::Reply::Subscribed(Subscribed {
            lines: vec![SubscribedLine { existed: true, since: 300 }],
        }),
        shard_reply::Reply::Unsubscribed(Unsubscribed { existed: vec![true, false] }),
        shard_reply::Reply::Enqueued(Enqueued { queued: 2, dropped: 1 }),
        shard_reply::Reply::Excluded(Excluded { holder: holder("client", 4) }),
        shard_reply::Reply::Held(Held { held: true, before: 300 }),
    ];
    let replies = replies.into_iter().map(|reply| ShardReply { reply: Some(reply) });
    insta::assert_snapshot!(
        "shard_replies",
        hex(&ShardReplies { replies: replies.collect() }.encode_to_vec())
    );
    let applied = control_reply::Reply::Applied(Applied {});
    let ignored = control_reply::Reply::Ignored(Ignored { reason: Refusal::StaleVersion.into() });
    let replies = [applied, ignored].map(|reply| ControlReply { reply: Some(reply) }.encode_to_vec());
    insta::assert_snapshot!("control_replies", replies.map(|reply| hex(&reply)).concat());
}

fn control() -> Control {
    let mut control = Control::new();
    for command in [
        Controls::Form(form()),
        Controls::Routes(routes(1, 7, true, &[("a/+/b", 1), ("$share/g/#", 3)])),
        Controls::Routes(routes(2, 1, false, &[("#", 1)])),
        Controls::NodeDown(NodeDown { id: 3, incarnation: 1 }),
    ] {
        apply(&mut control, command).unwrap();
    }
    control
}

fn full_subscribe(epoch: u64) -> Subscribe {
    let subscription = |filter: &str, qos, identifier| Subscription {
        filter: filter.into(),
        qos,
        no_local: true,
        retain_as_published: true,
        identifier,
        since: 0,
    };
    let subscriptions = vec![subscription("sensors/#", 2, 7), subscription("$share/g/#", 1, 0)];
    Subscribe { client_id: "client".into(), epoch, subscriptions, replay: true }
}

fn full_enqueue() -> Enqueue {
    let origin = Some(Origin { shard: 3, sequence: 300 });
    Enqueue { message: Some(full_message()), plain: true, groups: vec!["$share/g/#".into()], origin }
}

fn full_exclude() -> Exclude {
    Exclude { filter: "$exclusive/a/#".into(), by: holder("client", 4), gone: holder("before", 3) }
}

fn full_pick(sequence: u64) -> Pick {
    let node = picked::Destination::Node(PickedNode { id: 2, incarnation: 300 });
    let picked = |group: &str, destination| Picked { group: group.into(), destination: Some(destination) };
    let picks = vec![picked("$share/g/#", node), picked("$share/h/#", picked::Destination::Shard(3))];
    Pick { sequence, picks }
}

/// With something of everything in it, but for picks.
fn shard() -> Replica {
    let mut shard = Replica::new();
    shard.claims(&Claim { node: 2, ..full_claim() });
    let claimed = shard.claims(&Claim { node: 2, clean_start: false, will: None, ..full_claim() });
    let (client_id, epoch) = ("client".to_owned(), claimed.epoch);
    shard.reply(NOW, Shards::Subscribe(full_subscribe(epoch)));
    for _ in 0..3 {
        shard.reply(NOW, Shards::Enqueue(Enqueue { origin: None, ..full_enqueue() }));
    }
    shard.reply(NOW, Shards::Enqueue(full_enqueue()));
    let acknowledge = Acknowledge { client_id: client_id.clone(), epoch, done: vec![2], received: vec![1] };
    shard.does(NOW, Shards::Acknowledge(acknowledge));
    let receive = Receive { client_id, epoch, packet_id: 9, message: Some(full_message()) };
    shard.does(NOW, Shards::Receive(receive));
    shard.claims(&with_will(Claim { client_id: "other".into(), ..durable() }, "gone", 0));
    shard.claims(&with_will(Claim { client_id: "third".into(), ..durable() }, "scheduled", 9));
    let batch = ShardBatch {
        commands: vec![shard_command(NOW, Shards::OwnerLost(OwnerLost { node: 1, incarnation: 1 }))],
        producer_node: 2,
        producer_incarnation: 1,
        sequence: 5,
        level: 0,
    };
    shard.shard.apply_batch(&batch);
    shard.take_effects();
    shard.retains(full_message());
    shard.retains(message("$internal", "x"));
    shard.does(NOW, Shards::Delay(Delay { message: Some(full_message()), delay_s: 300, origin: None }));
    shard.reply(NOW, Shards::Exclude(full_exclude()));
    shard
}

#[test]
fn the_bytes_of_a_control_snapshot_are_frozen_and_give_the_state_back() {
    let bytes = control().encode_snapshot();
    insta::assert_snapshot!("control_snapshot", hex(&bytes));
    let back = Control::decode_snapshot(&bytes).unwrap();
    assert_eq!(back.encode_snapshot(), bytes);
    assert_eq!(back.digest(), control().digest());
    assert_eq!(back.routes().generation(), control().routes().generation());
    assert!(back.nodes().eq(control().nodes()));
}

#[test]
fn the_bytes_of_a_control_snapshot_with_shards_are_frozen_and_give_the_state_back() {
    let mut control = control();
    apply(&mut control, Controls::Routes(only_qos0(routes(2, 2, false, &[("a", 1)])))).unwrap();
    apply(&mut control, Controls::ShardRoutes(shard_routes(1, 0, 7, false, SHARD_ROUTES))).unwrap();
    apply(&mut control, Controls::ShardRoutes(shard_routes(1, 1, 9, true, &[("b", 1, 9)]))).unwrap();
    let bytes = control.encode_snapshot();
    insta::assert_snapshot!("control_snapshot_shards", hex(&bytes));
    let back = Control::decode_snapshot(&bytes).unwrap();
    assert_eq!(back.encode_snapshot(), bytes);
    assert_eq!((back.published(0), back.published(1)), (control.published(0), control.published(1)));
    assert!(back.routes().destinations().eq(control.routes().destinations()));
}

#[test]
fn the_bytes_of_a_control_snapshot_with_members_that_come_and_go_are_frozen_and_give_the_state_back() {
    let mut control = control();
    for command in [
        Controls::Join(Join { node: Some(node(7, 1)) }),
        Controls::Leave(Leave { id: 7, dead: true }),
        Controls::Removed(Removed { id: 7 }),
        Controls::Join(Join { node: Some(node(8, 1)) }),
        Controls::Join(Join { node: Some(Node { name: "node-8".into(), ..node(9, 1) }) }),
        Controls::Leave(Leave { id: 2, dead: false }),
        Controls::Move(Move { shard: 0, base: 0, next: vec![1, 2] }),
        Controls::Moved(Moved { shard: 0, base: 1 }),
        Controls::Move(Move { shard: 1, base: 0, next: vec![9, 1] }),
    ] {
        apply(&mut control, command).unwrap();
    }
    let bytes = control.encode_snapshot();
    insta::assert_snapshot!("control_snapshot_members", hex(&bytes));
    let back = Control::decode_snapshot(&bytes).unwrap();
    assert_eq!(back.encode_snapshot(), bytes);
    assert!(back.is_removed(7) && back.is_given_up(8) && back.node(2).unwrap().leaving);
    assert_eq!(back.placement(), control.placement());
    assert_eq!(back.placement()[1].next, [9, 1]);
}

#[test]
fn the_bytes_of_a_control_snapshot_of_level_2_are_frozen_and_give_the_state_back() {
    let mut control = control();
    for command in [
        Controls::NodeUp(NodeUp { node: Some(node(3, 300)) }),
        Controls::RaiseLevel(raise_level()),
        Controls::SetReplicas(SetReplicas { replicas: 5 }),
    ] {
        apply(&mut control, command).unwrap();
    }
    let bytes = control.encode_snapshot();
    insta::assert_snapshot!("control_snapshot_level_2", hex(&bytes));
    let back = Control::decode_snapshot(&bytes).unwrap();
    assert_eq!(back.encode_snapshot(), bytes);
    assert_eq!((back.level(), back.replicas()), (2, 5));
    assert!(back.nodes().all(|node| node.can() == 2));
}

#[test]
fn the_bytes_of_a_shard_snapshot_are_frozen_and_give_the_state_back() {
    let bytes = shard().encode_snapshot();
    insta::assert_snapshot!("shard_snapshot", hex(&bytes));
    let back = shard().restored();
    assert!(back.entries().eq(shard().entries()));
    assert!(back.queue("client", 0).eq(shard().queue("client", 0)));
    assert_eq!(back.queue("client", 0).count(), 6);
    assert_eq!(back.routes(), shard().routes());
    assert_eq!((back.sessions(), back.queued_messages(), back.queued_bytes()), (3, 6, 6 * 18));
    assert_eq!(back.next_due_ms(), shard().next_due_ms());
    assert_eq!(back.next_due_ms(), Some(NOW + 9_000));
    assert_eq!(back.fired(), ["gone"]);
}

#[test]
fn the_bytes_of_a_shard_snapshot_with_picks_are_frozen_and_give_the_state_back() {
    let mut shard = Replica::new();
    let claim = with_will(full_claim(), "gone", 0);
    let epoch = shard.claims(&claim).epoch;
    shard.does(NOW, Shards::Release(Release { client_id: claim.client_id, epoch, ..vanished(epoch) }));
    shard.does(NOW, Shards::Pick(full_pick(1)));
    let bytes = shard.encode_snapshot();
    insta::assert_snapshot!("shard_snapshot_picks", hex(&bytes));
    let back = shard.restored();
    assert!(back.outbox().eq(shard.outbox()));
    assert_eq!(back.outbox().next().unwrap().1.picks.len(), 2);
}

#[test]
fn a_newer_or_a_foreign_snapshot_is_refused() {
    let mut newer = shard().encode_snapshot();
    newer[4] = 3;
    assert_eq!(Shard::decode_snapshot(&newer).unwrap_err(), SnapshotError::Newer { found: 3, supported: 2 });
    assert!(matches!(Control::decode_snapshot(&shard().encode_snapshot()), Err(SnapshotError::Damaged(_))));
    assert!(matches!(Shard::decode_snapshot(&control().encode_snapshot()), Err(SnapshotError::Damaged(_))));
    assert!(matches!(Shard::decode_snapshot(&[]), Err(SnapshotError::Damaged(_))));
}
