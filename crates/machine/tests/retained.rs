//! Retained messages: replace, delete, expire, repeat.

mod commands;

use bytes::Bytes;
use commands::*;
use zwerm_machine::limits::MAX_DUE;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::{Message, Origin, OwnerLost, Properties, Refusal, Retain, Retained};

const NEW: Retained = Retained { replaced: false, repeated: false };
const REPLACED: Retained = Retained { replaced: true, repeated: false };
const REPEATED: Retained = Retained { replaced: false, repeated: true };

#[test]
fn a_retained_message_replaces_the_one_before_and_an_empty_one_deletes_it() {
    let mut shard = Replica::new();
    assert_eq!(shard.retains(message("a", "")), NEW);
    assert_eq!(shard.retained_count(), 0);
    assert_eq!(shard.retains(message("a", "1")), NEW);
    assert_eq!(shard.retains(message("a", "2")), REPLACED);
    assert_eq!(shard.retains(message("a/b", "3")), NEW);
    assert_eq!(shard.found("a", NOW), ["2"]);
    assert_eq!(shard.found("#", NOW), ["2", "3"]);
    assert_eq!(shard.retains(message("a", "")), REPLACED);
    assert_eq!(shard.found("#", NOW), ["3"]);
}

#[test]
fn an_expired_message_is_not_found_and_the_next_tick_removes_it() {
    let mut shard = Replica::new();
    let expiring = |payload, at_ms| Message { expires_at_ms: at_ms, ..message("a", payload) };
    shard.retains(expiring("1", NOW + 10));
    shard.retains(expiring("2", NOW + 20));
    assert_eq!(shard.next_due_ms(), Some(NOW + 20), "the timer of the replaced one is gone");
    assert_eq!(shard.found("#", NOW + 19), ["2"]);
    assert!(shard.found("#", NOW + 20).is_empty());
    assert_eq!(shard.retained_count(), 1);
    shard.ticks(NOW + 20);
    assert_eq!((shard.retained_count(), shard.next_due_ms()), (0, None));

    shard.retains(expiring("3", NOW + 30));
    shard.retains(message("a", "4"));
    assert_eq!(shard.next_due_ms(), None);
    assert_eq!(shard.retains(expiring("dead on arrival", NOW)), REPLACED);
    assert_eq!(shard.retained_count(), 0);
}

#[test]
fn a_tick_does_a_bounded_amount_of_work_and_the_next_one_goes_on() {
    let mut shard = Replica::new();
    for number in 0..=MAX_DUE {
        shard.retains(Message { expires_at_ms: NOW + 1, ..message(&format!("topic/{number}"), "x") });
    }
    shard.ticks(NOW + 1);
    assert_eq!(shard.retained_count(), 1);
    assert_eq!(shard.next_due_ms(), Some(NOW + 1));
    shard.ticks(NOW + 1);
    assert_eq!((shard.retained_count(), shard.next_due_ms()), (0, None));
}

#[test]
fn a_message_of_an_outbox_is_retained_once_also_when_another_came_between() {
    let mut shard = Replica::new();
    let mut retain = |sequence, payload: &str| {
        let origin = (sequence > 0).then_some(Origin { shard: 3, sequence });
        shard.reply(
            NOW,
            Command::Retain(Retain { message: Some(message("a", payload)), origin, ..Retain::default() }),
        )
    };
    assert_eq!(retain(2, "will"), Reply::Retained(NEW));
    assert_eq!(retain(0, "newer"), Reply::Retained(REPLACED));
    assert_eq!(retain(2, "will"), Reply::Retained(REPEATED));
    assert_eq!(shard.found("a", NOW), ["newer"]);
    let mut shard = shard.restored();
    let origin = Some(Origin { shard: 3, sequence: 2 });
    let repeat = Retain { message: Some(message("a", "will")), origin, ..Retain::default() };
    assert_eq!(shard.reply(NOW, Command::Retain(repeat)), Reply::Retained(REPEATED));
    let origin = Some(Origin { shard: 9_999, sequence: 1 });
    let nowhere = Retain { message: Some(message("a", "x")), origin, ..Retain::default() };
    assert_eq!(shard.refuses(Command::Retain(nowhere)), Refusal::Invalid);
}

#[test]
fn what_comes_late_from_an_older_connection_or_a_dead_node_replaces_nothing() {
    let mut shard = Replica::new();
    let retain = |payload: &str, publisher: &str, epoch, incarnation| {
        let kept = Message { publisher: publisher.into(), publisher_epoch: epoch, ..message("a", payload) };
        Command::Retain(Retain { message: Some(kept), node: 1, incarnation, ..Retain::default() })
    };
    assert_eq!(shard.reply(NOW, retain("sent again", "p", 2, 7)), Reply::Retained(NEW));
    assert_eq!(shard.reply(NOW, retain("newer", "p", 2, 7)), Reply::Retained(REPLACED));
    assert_eq!(shard.reply(NOW, retain("sent first", "p", 1, 7)), Reply::Retained(REPEATED));
    let mut shard = shard.restored();
    assert_eq!(shard.reply(NOW, retain("sent first", "p", 1, 7)), Reply::Retained(REPEATED));
    assert_eq!(shard.reply(NOW, retain("of another", "q", 1, 7)), Reply::Retained(REPLACED));
    shard.reply(NOW, Command::OwnerLost(OwnerLost { node: 1, incarnation: 7 }));
    assert_eq!(shard.refuses(retain("too late", "q", 9, 7)), Refusal::StaleIncarnation);
    assert_eq!(shard.found("a", NOW), ["of another"]);
    assert_eq!(shard.reply(NOW, retain("back", "q", 9, 8)), Reply::Retained(REPLACED));
}

#[test]
fn an_impossible_message_is_refused() {
    let mut shard = Replica::new();
    let bad_response = Properties { response_topic: Some("a/+".into()), ..Properties::default() };
    for bad in [
        None,
        Some(message("", "x")),
        Some(message("a/+", "x")),
        Some(message("a\0", "x")),
        Some(message(&"a".repeat(65_536), "x")),
        Some(Message { qos: 3, ..message("a", "x") }),
        Some(Message { properties: Some(bad_response), ..message("a", "x") }),
    ] {
        let retain = Retain { message: bad, ..Retain::default() };
        assert_eq!(shard.refuses(Command::Retain(retain)), Refusal::Invalid);
    }
}

#[test]
fn a_kept_message_does_not_hold_the_log_entry_it_came_in() {
    let entry = Bytes::from(vec![b'x'; 1 << 20]);
    let properties = Properties { correlation_data: Some(entry.slice(8..16)), ..Properties::default() };
    let small = Message { payload: entry.slice(0..8), properties: Some(properties), ..message("a", "") };
    let mut shard = Replica::new();
    shard.retains(small.clone());
    let filter = zwerm_wire::TopicFilter::new("a").unwrap();
    let kept = shard.retained(&filter, NOW).next().unwrap().1;
    assert_eq!(**kept, small);
    assert_ne!(kept.payload.as_ptr(), small.payload.as_ptr());
    let data =
        |message: &Message| message.properties.as_ref().unwrap().correlation_data.as_ref().unwrap().as_ptr();
    assert_ne!(data(kept), data(&small));
}
