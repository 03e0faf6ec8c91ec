//! Messages that are published later.

mod commands;

use commands::*;
use zwerm_machine::limits::MAX_OUTBOX;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::*;

fn delay(payload: &str, delay_s: u32) -> Delay {
    Delay { message: Some(message("later", payload)), delay_s, origin: None }
}

fn published(shard: &Replica) -> Vec<String> {
    shard.outbox().map(|(_, entry)| text(shard.message(entry.message))).collect()
}

#[test]
fn a_message_waits_for_its_time_and_those_of_one_time_keep_their_order() {
    let mut shard = Replica::new();
    for (payload, seconds) in [("b", 5), ("c", 5), ("a", 1), ("d", 4_000_000_000), ("now", 0)] {
        shard.does(NOW, Command::Delay(delay(payload, seconds)));
    }
    assert_eq!((shard.next_due_ms(), shard.delayed_messages()), (Some(NOW), 5));
    shard.ticks(NOW + 999);
    assert_eq!(published(&shard), ["now"]);
    let mut shard = shard.restored();
    assert_eq!(shard.next_due_ms(), Some(NOW + 1_000));
    shard.ticks(NOW + 5_000);
    assert_eq!(published(&shard), ["now", "a", "b", "c"]);
    shard.does(NOW, Command::Drained(Drained { upto: 4 }));
    assert_eq!((shard.delayed_messages(), shard.messages.len()), (1, 1));
}

#[test]
fn a_message_of_an_outbox_comes_once() {
    let mut shard = Replica::new();
    let again = Delay { origin: Some(Origin { shard: 4, sequence: 9 }), ..delay("x", 1) };
    for _ in 0..2 {
        shard.does(NOW, Command::Delay(again.clone()));
        assert_eq!(shard.delayed_messages(), 1);
    }
    let impossible = Delay { origin: Some(Origin { shard: 4, sequence: 0 }), ..delay("x", 1) };
    assert_eq!(shard.refuses(Command::Delay(impossible)), Refusal::Invalid);
    assert_eq!(shard.refuses(Command::Delay(Delay::default())), Refusal::Invalid);
}

#[test]
fn messages_whose_time_has_come_wait_for_room_in_the_outbox() {
    let mut shard = Replica::new();
    let messages = MAX_OUTBOX + 100;
    for _ in 0..messages {
        shard.does(NOW, Command::Delay(delay("x", 1)));
    }
    while shard.next_due_ms().is_some() {
        shard.ticks(NOW + 1_000);
    }
    assert_eq!((shard.outbox_len(), shard.delayed_messages()), (MAX_OUTBOX, 100));
    shard.does(NOW, Command::Drained(Drained { upto: 50 }));
    assert_eq!(shard.next_due_ms(), Some(NOW + 1_000), "there is room again");
    shard.ticks(NOW + 1_000);
    assert_eq!((shard.outbox_len(), shard.delayed_messages()), (MAX_OUTBOX, 50));
}
