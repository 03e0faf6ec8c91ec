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
    }
}

fn full_claim() -> Claim {
    let will = Will { message: Some(full_message()), delay_s: 9, message_expiry_s: Some(30) };
    Claim { clean_start: true, will: Some(will), ..durable(0x0123_4567_89ab_cdef) }
}

const SHARD_ROUTES: &[(&str, u32, u64)] = &[("a/+/b", 1, 7), ("$share/g/#", 3, 2), ("gone", 0, 0)];

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
        ("node_down", Controls::NodeDown(NodeDown { id: 4, incarnation: 2 })),
        ("routes", Controls::Routes(plain)),
        ("routes_qos0", Controls::Routes(only_qos0(routes(1, 8, false, &[("a", 1)])))),
        ("shard_routes", Controls::ShardRoutes(shard_routes(5, 6, 7, true, SHARD_ROUTES))),
    ] {
        let command = control_command(NOW, command);
        let bytes = command.encode_to_vec();
        insta::assert_snapshot!(format!("control_{name}"), hex(&bytes));
        assert_eq!(ControlCommand::decode(&*bytes), Ok(command));
    }
}

#[test]
fn the_bytes_of_every_shard_command_are_frozen() {
    let release = Release { expiry_s: Some(0), ..vanished(3) };
    let retain =
        Retain { producer_node: 1, producer_incarnation: 2, message: Some(full_message()), sequence: 4 };
    for (name, command) in [
        ("claim", Shards::Claim(full_claim())),
        ("release", Shards::Release(release)),
        ("owner_lost", Shards::OwnerLost(OwnerLost { node: 1, incarnation: 2 })),
        ("retain", Shards::Retain(retain)),
        ("tick", Shards::Tick(Tick {})),
        ("drained", Shards::Drained(Drained { upto: 5 })),
    ] {
        let batch = ShardBatch { commands: vec![shard_command(NOW, command)], ..ShardBatch::default() };
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
        shard_reply::Reply::Claimed(Claimed { epoch: 4, session_present: true, previous, resumed: None }),
        shard_reply::Reply::Retained(Retained { replaced: true, repeated: true }),
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

fn shard() -> Shard {
    let mut shard = Shard::new();
    shard.claims(&Claim { node: 2, ..full_claim() });
    shard.claims(&Claim { node: 2, token: 2, clean_start: false, will: None, ..full_claim() });
    shard.claims(&with_will(Claim { client_id: "other".into(), ..durable(3) }, "gone", 0));
    shard.claims(&with_will(Claim { client_id: "third".into(), ..durable(4) }, "scheduled", 9));
    shard.does(NOW, Shards::OwnerLost(OwnerLost { node: 1, incarnation: 1 }));
    let numbered =
        Retain { producer_node: 2, producer_incarnation: 1, message: Some(full_message()), sequence: 1 };
    shard.reply(NOW, Shards::Retain(numbered));
    shard.retains(message("$internal", "x"));
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
fn the_bytes_of_a_shard_snapshot_are_frozen_and_give_the_state_back() {
    let bytes = shard().encode_snapshot();
    insta::assert_snapshot!("shard_snapshot", hex(&bytes));
    let back = Shard::decode_snapshot(&bytes).unwrap();
    assert_eq!(back.encode_snapshot(), bytes);
    assert!(back.entries().eq(shard().entries()));
    assert_eq!(back.next_due_ms(), shard().next_due_ms());
    assert_eq!(back.next_due_ms(), Some(NOW + 9_000));
    assert_eq!(back.fired(), ["gone"]);
}

#[test]
fn a_newer_or_a_foreign_snapshot_is_refused() {
    let mut newer = shard().encode_snapshot();
    newer[4] = 2;
    assert_eq!(Shard::decode_snapshot(&newer).unwrap_err(), SnapshotError::Newer { found: 2, supported: 1 });
    assert!(matches!(Control::decode_snapshot(&shard().encode_snapshot()), Err(SnapshotError::Damaged(_))));
    assert!(matches!(Shard::decode_snapshot(&control().encode_snapshot()), Err(SnapshotError::Damaged(_))));
    assert!(matches!(Shard::decode_snapshot(&[]), Err(SnapshotError::Damaged(_))));
}
