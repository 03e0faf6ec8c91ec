//! Shared subscriptions of durable sessions.

use zwerm_machine::Target;
use zwerm_machine::limits::MAX_OUTBOX;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::*;
use zwerm_wire::TopicFilter;

use crate::commands::*;
use crate::fixture::*;

const GROUP: &str = "$share/g/a";

fn to_group(payload: &str) -> Enqueue {
    Enqueue { plain: false, groups: vec![GROUP.into()], ..enqueue(message("a", payload)) }
}

fn groups_in_outbox(shard: &Replica) -> Vec<(String, String)> {
    let entries = shard.outbox().map(|(_, entry)| match &entry.target {
        Target::Group(filter) => (filter.to_string(), text(shard.message(entry.message))),
        Target::All => panic!("not of a group"),
    });
    entries.collect()
}

#[test]
fn one_member_of_each_named_group_gets_a_message() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("1"), &[to(GROUP, 1), to("a", 1)]);
    shard.joins(&claim_of("2"), &[to(GROUP, 1)]);
    shard.joins(&claim_of("3"), &[to("$share/h/a", 1)]);
    assert_eq!(shard.enqueues(Enqueue { plain: true, ..to_group("x") }), (2, 0));
    assert_eq!((shard.waiting("1"), shard.waiting("2")), (vec!["x".into()], vec!["x".into()]));
    assert_eq!(shard.enqueues(to_group("y")), (1, 0));
    assert_eq!(shard.waiting("1"), ["x", "y"], "one of its own, one of the group");
    assert!(shard.waiting("3").is_empty());
    let plain = Enqueue { groups: vec!["a".into()], ..to_group("z") };
    assert_eq!(shard.refuses(Command::Enqueue(plain)), Refusal::Invalid);
}

#[test]
fn a_connected_member_comes_before_others_then_the_shortest_queue() {
    let mut shard = Replica::new();
    let one = shard.joins(&claim_of("1"), &[to(GROUP, 1)]);
    shard.joins(&claim_of("2"), &[to(GROUP, 1)]);
    shard.does(NOW, gone("1", one, 0));
    shard.enqueues(to_group("x"));
    shard.enqueues(to_group("y"));
    assert_eq!(shard.waiting("2"), ["x", "y"]);
    let lost = Command::OwnerLost(OwnerLost { node: 1, incarnation: 1 });
    shard.does(NOW, lost);
    let mut shard = shard.restored();
    shard.enqueues(to_group("z"));
    assert_eq!(shard.waiting("1"), ["z"], "nobody is connected");
    shard.claims(&Claim { incarnation: 2, ..claim_of("2") });
    shard.enqueues(to_group("w"));
    assert_eq!(shard.waiting("2"), ["x", "y", "w"]);
}

/// A group whose only member got these, QoS 2 but for the last, and has acknowledged the first and received the third.
fn left_behind(shard: &mut Replica) -> u64 {
    let epoch = shard.joins(&claim_of("1"), &[to(GROUP, 2), to("a", 1)]);
    for (payload, qos) in [("done", 2), ("sent", 2), ("released", 2), ("waiting", 2), ("repeated", 1)] {
        let message = Some(Message { qos, ..message("a", payload) });
        shard.enqueues(Enqueue { message, ..to_group("") });
    }
    shard.publishes("a", "its own");
    shard.does(NOW, acknowledge("1", epoch, &[1], &[3]));
    epoch
}

#[test]
fn what_a_member_left_unacknowledged_goes_to_its_group_when_its_session_ends() {
    let mut shard = Replica::new();
    let epoch = left_behind(&mut shard);
    shard.does(NOW, gone("1", epoch, 2));
    shard.claims(&Claim { clean_start: true, ..claim_of("1") });
    let waiting = [(GROUP.into(), "waiting".into()), (GROUP.into(), "repeated".into())];
    assert_eq!(groups_in_outbox(&shard), waiting, "but for what was sent with QoS 2 (MQTT-4.8.2-5)");
    assert_eq!(shard.messages.len(), 2, "what was for itself ended with it");
    let mut shard = shard.restored();
    assert_eq!(groups_in_outbox(&shard).len(), 2);
    shard.does(NOW, Command::Drained(Drained { upto: 2 }));
    assert!(shard.messages.is_empty());
}

#[test]
fn what_may_have_been_sent_with_qos_2_goes_to_nobody_else_mqtt_4_8_2_5() {
    let mut shard = Replica::new();
    left_behind(&mut shard);
    // taken over by a client that begins anew: nobody knows how far the owner had come
    shard.claims(&Claim { clean_start: true, ..claim_of("1") });
    assert_eq!(groups_in_outbox(&shard), [(GROUP.into(), "repeated".into())]);
    assert_eq!(shard.messages.len(), 1);
}

#[test]
fn a_message_that_finds_no_member_left_goes_to_the_group_elsewhere_once() {
    let mut shard = Replica::new();
    let late = Enqueue { origin: Some(Origin { shard: 3, sequence: 7 }), ..to_group("x") };
    for _ in 0..2 {
        assert_eq!(shard.enqueues(late.clone()), (0, 0));
        assert_eq!(groups_in_outbox(&shard), [(GROUP.into(), "x".into())]);
    }
    let mut shard = shard.restored();
    assert_eq!(shard.messages.len(), 1);
    shard.does(NOW, Command::Drained(Drained { upto: 1 }));
    assert!(shard.messages.is_empty());
}

fn pick(sequence: u64, group: &str, shard: u32) -> Command {
    let destination = Some(picked::Destination::Shard(shard));
    Command::Pick(Pick { sequence, picks: vec![Picked { group: group.into(), destination }] })
}

#[test]
fn where_a_message_of_the_outbox_goes_of_a_group_is_decided_once() {
    let mut shard = Replica::new();
    shard.enqueues(to_group("x"));
    for _ in 0..2 {
        shard.does(NOW, pick(1, GROUP, 3));
    }
    assert_eq!(shard.refuses(pick(1, GROUP, 4)), Refusal::Busy, "another leader was first");
    shard.does(NOW, pick(1, "$share/h/a", 4));
    let mut shard = shard.restored();
    assert_eq!(shard.refuses(pick(1, GROUP, 4)), Refusal::Busy);
    for (sequence, group, place) in [(2, GROUP, 3), (1, "a", 3), (1, "$share/i/a", u32::MAX)] {
        assert_eq!(shard.refuses(pick(sequence, group, place)), Refusal::Invalid);
    }
    let picks = |shard: &Replica| shard.outbox().map(|(_, entry)| entry.picks.len()).collect::<Vec<_>>();
    assert_eq!(picks(&shard), [2]);
    shard.does(NOW, Command::Drained(Drained { upto: 1 }));
    assert_eq!(shard.refuses(pick(1, GROUP, 3)), Refusal::Invalid, "it is published already");
}

#[test]
fn what_finds_no_member_is_refused_when_the_outbox_is_full() {
    let mut shard = Replica::new();
    for _ in 0..MAX_OUTBOX {
        shard.enqueues(to_group("x"));
    }
    let (late, joined) = (to_group("late"), to("$share/h/a", 1));
    shard.joins(&claim_of("1"), &[joined, to("a", 1)]);
    let groups = vec!["$share/h/a".into(), GROUP.into()];
    let both = Enqueue { plain: true, groups, ..late.clone() };
    assert_eq!(shard.refuses(Command::Enqueue(both)), Refusal::Busy);
    assert!(shard.waiting("1").is_empty(), "nothing of it was done");
    let taken = Enqueue { groups: vec!["$share/h/a".into()], ..late.clone() };
    assert_eq!(shard.enqueues(taken), (1, 0));
    shard.does(NOW, Command::Drained(Drained { upto: 1 }));
    assert_eq!(shard.enqueues(late), (0, 0));
}

#[test]
fn messages_of_an_ended_member_wait_for_room_in_the_outbox() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("1"), &[to(GROUP, 1)]);
    let messages = MAX_OUTBOX + 1_000;
    for _ in 0..messages {
        shard.enqueues(to_group("x"));
    }
    shard.claims(&Claim { clean_start: true, ..claim_of("1") });
    while shard.next_due_ms() == Some(0) {
        shard.ticks(NOW);
    }
    assert!((MAX_OUTBOX..MAX_OUTBOX + 64).contains(&shard.outbox_len()));
    shard.does(NOW, Command::Drained(Drained { upto: MAX_OUTBOX as u64 }));
    assert_eq!(shard.next_due_ms(), Some(0), "there is room again");
    shard.ticks(NOW);
    let filter = TopicFilter::new(GROUP).unwrap();
    assert!(shard.outbox().all(|(_, entry)| entry.target == Target::Group(filter.clone())));
    assert_eq!((shard.outbox_len(), shard.messages.len()), (1_000, 1_000));
    assert_eq!(shard.next_due_ms(), None);
}
