//! QoS 2 from clients, acknowledgements of clients.

use zwerm_machine::Target;
use zwerm_machine::limits::{MAX_OUTBOX, MAX_OUTBOX_BYTES};
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::*;

use crate::commands::*;
use crate::fixture::*;

fn receive(epoch: u64, packet_id: u32, payload: &str) -> Command {
    let message = Some(Message { qos: 2, ..message("out", payload) });
    Command::Receive(Receive { client_id: "c".into(), epoch, packet_id, message })
}

fn complete(epoch: u64, packet_id: u32) -> Command {
    Command::Complete(Complete { client_id: "c".into(), epoch, packet_id })
}

#[test]
fn a_qos_2_message_is_published_once_and_only_after_its_pubrel() {
    let mut shard = Replica::new();
    let epoch = shard.claims(&claim_of("c")).epoch;
    shard.does(NOW, receive(epoch, 5, "first"));
    shard.does(NOW, receive(epoch, 5, "sent again"));
    assert_eq!((shard.messages.len(), shard.outbox_len()), (1, 0));
    let mut shard = shard.restored();
    let epoch = shard.claims(&claim_of("c")).epoch;
    shard.does(NOW, receive(epoch, 5, "again after a takeover"));
    shard.does(NOW, complete(epoch, 5));
    assert_eq!(shard.fired(), ["first"]);
    assert!(shard.outbox().all(|(_, entry)| entry.target == Target::All));
    assert_eq!(shard.refuses(complete(epoch, 5)), Refusal::UnknownPacket);
    shard.does(NOW, receive(epoch, 5, "the identifier is free again"));
    shard.does(NOW, Command::Drained(Drained { upto: 1 }));
    assert_eq!(shard.messages.len(), 1);
    shard.claims(&Claim { clean_start: true, ..claim_of("c") });
    assert!(shard.messages.is_empty(), "what was never released is never published");
}

#[test]
fn an_impossible_exchange_is_refused() {
    let mut shard = Replica::new();
    let epoch = shard.claims(&claim_of("c")).epoch;
    for packet_id in [0, 65_536] {
        assert_eq!(shard.refuses(receive(epoch, packet_id, "x")), Refusal::Invalid);
        assert_eq!(shard.refuses(complete(epoch, packet_id)), Refusal::Invalid);
    }
    let with = |message| Command::Receive(Receive { client_id: "c".into(), epoch, packet_id: 1, message });
    for bad in [None, Some(message("out", "qos 1")), Some(Message { qos: 2, ..message("a/#", "x") })] {
        assert_eq!(shard.refuses(with(bad)), Refusal::Invalid);
    }
}

#[test]
fn a_full_outbox_refuses_new_qos_2_messages_and_takes_those_it_promised() {
    let mut shard = Replica::new();
    let epoch = shard.claims(&claim_of("c")).epoch;
    let large = "x".repeat(MAX_OUTBOX_BYTES / 2);
    for packet_id in 1..4 {
        shard.does(NOW, receive(epoch, packet_id, &large));
    }
    for packet_id in 1..4 {
        shard.does(NOW, complete(epoch, packet_id));
    }
    assert!(shard.outbox_len() == 3 && shard.outbox_len() < MAX_OUTBOX);
    assert_eq!(shard.refuses(receive(epoch, 4, "x")), Refusal::Busy);
    shard.does(NOW, Command::Drained(Drained { upto: 2 }));
    shard.does(NOW, receive(epoch, 4, "x"));
}

#[test]
fn a_qos_2_message_goes_with_its_pubrec_and_its_position_with_its_pubcomp() {
    let mut shard = Replica::new();
    let epoch = shard.joins(&claim_of("c"), &[to("a", 2)]);
    for qos in [2, 1, 2] {
        shard.enqueues(enqueue(Message { qos, ..message("a", "x") }));
    }
    shard.does(NOW, acknowledge("c", epoch, &[], &[1, 2, 99]));
    assert_eq!(shard.positions("c", 0), [2, 3], "PUBREC of QoS 1 means nothing");
    assert_eq!((shard.messages.len(), shard.queued_messages()), (2, 2));
    let released = |shard: &mut Replica| shard.claims(&claim_of("c")).resumed.unwrap().released;
    assert_eq!(released(&mut shard), [1]);
    let epoch = shard.owner("c").unwrap().owner.epoch;
    shard.does(NOW, acknowledge("c", epoch, &[1, 3, 2, 0, u64::MAX], &[]));
    assert!(released(&mut shard).is_empty() && shard.messages.is_empty());
    assert_eq!(shard.queued_messages(), 0);
}
