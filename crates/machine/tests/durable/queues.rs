//! What comes into queues, in what form, and what gives way.

use zwerm_machine::Queued;
use zwerm_machine::limits::{MAX_DROPPED, OUTBOX_WINDOW};
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::*;
use zwerm_wire::QoS;

use crate::commands::*;
use crate::fixture::*;

fn only(shard: &Replica, client: &str) -> Queued {
    let queued: Vec<_> = shard.queue(client, 0).collect();
    assert_eq!(queued.len(), 1);
    queued.into_iter().next().unwrap()
}

#[test]
fn a_message_is_stored_once_however_many_sessions_take_it_and_not_if_none_does() {
    let mut shard = Replica::new();
    let epochs = ["1", "2", "3"].map(|client| shard.joins(&claim_of(client), &[to("a", 1)]));
    assert_eq!(shard.publishes("b", "nobody"), (0, 0));
    assert!(shard.messages.is_empty());
    assert_eq!(shard.publishes("a", "all"), (3, 0));
    assert_eq!((shard.messages.len(), shard.queued_messages(), shard.queued_bytes()), (1, 3, 12));
    for (client, epoch) in ["1", "2", "3"].into_iter().zip(epochs) {
        assert_eq!(shard.messages.len(), 1);
        shard.does(NOW, acknowledge(client, epoch, &[1], &[]));
    }
    assert!(shard.messages.is_empty());
    assert_eq!((shard.queued_messages(), shard.queued_bytes()), (0, 0));
}

#[test]
fn overlapping_subscriptions_make_one_entry_with_the_highest_qos_and_all_identifiers() {
    let with = |filter, qos, identifier| Subscription { identifier, ..to(filter, qos) };
    let mut shard = Replica::new();
    shard.joins(
        &claim_of("c"),
        &[with("a/b", 1, 9), with("a/+", 0, 3), with("a/#", 2, 3), with("#", 1, 0), with("x", 1, 5)],
    );
    shard.enqueues(enqueue(Message { qos: 2, ..message("a/b", "x") }));
    let queued = only(&shard, "c");
    assert_eq!(
        (queued.qos, queued.identifiers.as_slice(), queued.group),
        (QoS::ExactlyOnce, &[3, 9][..], false)
    );
}

#[test]
fn the_quality_of_service_is_the_lower_of_both_and_0_is_not_queued() {
    for (published, granted, queued) in [
        (1, 2, Some(QoS::AtLeastOnce)),
        (2, 1, Some(QoS::AtLeastOnce)),
        (2, 2, Some(QoS::ExactlyOnce)),
        (2, 0, None),
    ] {
        let mut shard = Replica::new();
        shard.joins(&claim_of("c"), &[to("a", granted)]);
        shard.enqueues(enqueue(Message { qos: published, ..message("a", "x") }));
        assert_eq!(shard.queue("c", 0).next().map(|queued| queued.qos), queued);
    }
    let mut shard = Replica::new();
    for qos in [0, 3] {
        assert_eq!(
            shard.refuses(Command::Enqueue(enqueue(Message { qos, ..message("a", "x") }))),
            Refusal::Invalid
        );
    }
}

#[test]
fn no_local_and_retain_as_published_are_of_each_subscription() {
    let mut shard = Replica::new();
    let own = Subscription { no_local: true, identifier: 1, ..to("a", 2) };
    shard.joins(&claim_of("publisher"), std::slice::from_ref(&own));
    shard.joins(&claim_of("c"), &[own]);
    let retained = Message { retain: true, ..message("a", "x") };
    assert_eq!(shard.enqueues(enqueue(retained.clone())), (1, 0));
    assert!(!only(&shard, "c").retain);
    let epoch = shard.claims(&claim_of("publisher")).epoch;
    let other = Subscription { retain_as_published: true, identifier: 2, ..to("#", 1) };
    shard.subscribes("publisher", epoch, &[other]);
    shard.enqueues(enqueue(retained));
    let queued = only(&shard, "publisher");
    assert_eq!(
        (queued.retain, queued.qos, queued.identifiers.as_slice()),
        (true, QoS::AtLeastOnce, &[2][..])
    );
}

#[test]
fn a_message_that_is_dead_on_arrival_is_queued_nowhere() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("c"), &[to("a", 1)]);
    let dead = Message { expires_at_ms: NOW, ..message("a", "x") };
    assert_eq!(shard.enqueues(enqueue(dead.clone())), (0, 0));
    assert_eq!(shard.delivers(deliver("c", dead)), (0, 0));
    assert!(shard.messages.is_empty());
}

#[test]
fn a_full_queue_drops_its_oldest_messages_or_the_newest() {
    for (full, left) in [(QueueFull::DropOldest, ["2", "3"]), (QueueFull::DropNewest, ["1", "2"])] {
        let mut shard = Replica::new();
        shard.joins(&limited("c", 2, 0, full), &[to("a", 1)]);
        shard.joins(&claim_of("unlimited"), &[to("a", 1)]);
        let replies = ["1", "2", "3"].map(|payload| shard.publishes("a", payload));
        assert_eq!(replies, [(2, 0), (2, 0), if full == QueueFull::DropOldest { (2, 1) } else { (1, 1) }]);
        assert_eq!(shard.waiting("c"), left);
        assert_eq!(shard.waiting("unlimited").len(), 3);
        assert_eq!(shard.queued_messages(), 5);
    }
}

#[test]
fn a_bound_of_bytes_makes_room_for_a_large_message_but_not_for_one_that_never_fits() {
    let mut shard = Replica::new();
    shard.joins(&limited("c", 0, 10, QueueFull::DropOldest), &[to("a", 1)]);
    for payload in ["1", "22", "333"] {
        shard.publishes("a", payload); // with the topic 2, 3 and 4 bytes
    }
    assert_eq!(shard.publishes("a", "55555"), (1, 2));
    assert_eq!(shard.waiting("c"), ["333", "55555"]);
    assert_eq!(shard.publishes("a", "0123456789"), (0, 1));
    assert_eq!((shard.waiting("c").len(), shard.queued_bytes()), (2, 10));
}

#[test]
fn a_new_claim_brings_new_limits_and_a_queue_that_is_too_long_shrinks_in_steps() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("c"), &[to("a", 1)]);
    for _ in 0..2_000 {
        shard.publishes("a", "x");
    }
    shard.claims(&limited("c", 10, 0, QueueFull::DropOldest));
    assert_eq!(shard.queued_messages(), 2_000, "what is there stays until something comes");
    assert_eq!(shard.publishes("a", "x"), (1, MAX_DROPPED as u32));
    assert_eq!(shard.publishes("a", "x"), (1, 2_000 + 1 - 9 - MAX_DROPPED as u32));
    assert_eq!(shard.queued_messages(), 10);
}

#[test]
fn a_dropped_message_that_was_sent_may_still_be_acknowledged() {
    let mut shard = Replica::new();
    let epoch = shard.joins(&limited("c", 1, 0, QueueFull::DropOldest), &[to("a", 2)]);
    for payload in ["1", "2"] {
        shard.enqueues(enqueue(Message { qos: 2, ..message("a", payload) }));
    }
    shard.does(NOW, acknowledge("c", epoch, &[1], &[1]));
    assert_eq!((shard.waiting("c"), shard.positions("c", 0)), (vec!["2".to_owned()], vec![2]));
}

#[test]
fn a_queue_is_read_from_any_position() {
    let mut shard = Replica::new();
    let epoch = shard.joins(&claim_of("c"), &[to("a", 1)]);
    for _ in 0..200 {
        shard.publishes("a", "x");
    }
    shard.does(NOW, acknowledge("c", epoch, &[1, 64, 128, 200], &[]));
    assert_eq!(shard.positions("c", 0).len(), 196);
    assert_eq!(shard.positions("c", 126), [127].into_iter().chain(129..=199).collect::<Vec<_>>());
    assert_eq!(shard.positions("c", 198), [199]);
    assert!(shard.positions("c", 199).is_empty() && shard.positions("c", u64::MAX).is_empty());
    assert_eq!(shard.session("c").unwrap().last_position(), 200);
    shard.publishes("a", "y");
    assert_eq!(shard.positions("c", 199), [201], "a position is never given again");
}

#[test]
fn a_replayed_value_is_not_queued_behind_a_newer_live_one() {
    let mut shard = Replica::new();
    let epoch = shard.claims(&claim_of("c")).epoch;
    let subscribe = Subscribe { client_id: "c".into(), epoch, subscriptions: vec![to("#", 1)], replay: true };
    let replayed =
        |topic, replay_epoch| Deliver { replay_epoch, retain: true, ..deliver("c", message(topic, "old")) };
    assert_eq!(shard.refuses(Command::Deliver(replayed("a", epoch))), Refusal::StaleEpoch);
    shard.reply(NOW, Command::Subscribe(subscribe.clone()));
    shard.reply(NOW, Command::Subscribe(subscribe));
    shard.enqueues(enqueue(Message { retain: true, ..message("a", "new") }));
    shard.publishes("b", "no retained one");
    let mut shard = shard.restored();
    assert_eq!(shard.delivers(replayed("a", epoch)), (0, 0));
    assert_eq!(shard.delivers(replayed("b", epoch)), (1, 0));
    assert_eq!(shard.delivers(replayed("b", epoch)), (1, 0), "what was replayed is not live");
    let end = || Command::EndReplay(EndReplay { client_id: "c".into(), epoch });
    shard.does(NOW, end());
    assert_eq!(shard.delivers(replayed("a", epoch)), (0, 0), "the other replay still runs");
    shard.does(NOW, end());
    assert_eq!(shard.refuses(Command::Deliver(replayed("a", epoch))), Refusal::StaleEpoch);
    let next = shard.claims(&claim_of("c")).epoch;
    for epoch in [epoch, next] {
        assert_eq!(shard.refuses(Command::Deliver(replayed("c", epoch))), Refusal::StaleEpoch);
    }
    assert_eq!(shard.waiting("c"), ["new", "no retained one", "old", "old"]);
}

#[test]
fn a_message_for_one_client_needs_its_session() {
    let mut shard = Replica::new();
    shard.claims(&Claim { expiry_s: 0, ..claim_of("transient") });
    let epoch = shard.joins(&claim_of("c"), &[to("$share/g/a", 1)]);
    for client in ["nobody", "transient"] {
        assert_eq!(shard.refuses(Command::Deliver(deliver(client, message("a", "x")))), Refusal::NoSession);
    }
    let full = Deliver {
        qos: 2,
        retain: true,
        identifiers: vec![9, 3, 9],
        group: "$share/g/a".into(),
        ..deliver("c", message("a", "x"))
    };
    assert_eq!(shard.delivers(full.clone()), (1, 0));
    let queued = only(&shard, "c");
    assert_eq!(
        (queued.qos, queued.retain, queued.identifiers.as_slice(), queued.group),
        (QoS::ExactlyOnce, true, &[3, 9][..], true)
    );
    for bad in [
        Deliver { qos: 0, ..full.clone() },
        Deliver { group: "a".into(), ..full.clone() },
        Deliver { message: None, ..full.clone() },
    ] {
        assert_eq!(shard.refuses(Command::Deliver(bad)), Refusal::Invalid);
    }
    let unsubscribe = Unsubscribe { client_id: "c".into(), epoch, filters: vec!["$share/g/a".into()] };
    shard.reply(NOW, Command::Unsubscribe(unsubscribe));
    assert_eq!(shard.refuses(Command::Deliver(full)), Refusal::NoSession, "it is no member any more");
}

#[test]
fn what_an_outbox_publishes_again_reaches_each_destination_once() {
    let mut shard = Replica::new();
    shard.joins(&claim_of("c"), &[to("a", 1), to("$share/g/a", 1)]);
    shard.joins(&claim_of("d"), &[to("$share/h/a", 1)]);
    let from = |sequence| Some(Origin { shard: 7, sequence });
    let part = |plain, groups: &[&str], sequence| Enqueue {
        plain,
        groups: groups.iter().map(ToString::to_string).collect(),
        origin: from(sequence),
        ..enqueue(message("a", &sequence.to_string()))
    };
    let retain = Retain { message: Some(message("a", "r")), origin: from(2), ..Retain::default() };
    shard.reply(NOW, Command::Retain(retain));
    assert_eq!(
        shard.enqueues(part(true, &["$share/g/a"], 2)),
        (2, 0),
        "the retained one was another destination"
    );
    let mut shard = shard.restored();
    assert_eq!(shard.enqueues(part(true, &["$share/g/a"], 2)), (0, 0));
    assert_eq!(
        shard.enqueues(part(true, &["$share/g/a", "$share/h/a"], 2)),
        (1, 0),
        "it went elsewhere before"
    );
    let member = Deliver { group: "$share/h/a".into(), origin: from(2), ..deliver("d", message("a", "2")) };
    assert_eq!(shard.delivers(member), (0, 0), "however it comes to the group");
    let alone = Deliver { origin: from(2), ..deliver("d", message("a", "2")) };
    assert_eq!([shard.delivers(alone.clone()), shard.delivers(alone)], [(1, 0), (0, 0)]);
    assert_eq!(shard.enqueues(part(true, &[], 1)), (1, 0), "late, but not a repeat");
    assert_eq!(shard.enqueues(part(true, &[], 1 + OUTBOX_WINDOW)), (1, 0));
    assert_eq!(shard.enqueues(part(true, &[], 1)), (0, 0));
    assert_eq!(shard.waiting("d"), ["2", "2"]);
}
