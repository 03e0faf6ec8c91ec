//! What a queued message costs in the machine.

use bytes::Bytes;
use zwerm_machine::Shard;
use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::*;

use crate::commands::*;
use crate::fixture::*;

/// Messages in the queue that is measured.
const MANY: i64 = 200_000;

/// Bytes that a shard keeps after `act`.
fn kept(shard: &mut Shard, act: impl FnOnce(&mut Shard)) -> i64 {
    allocation_counter::measure(|| act(shard)).bytes_current
}

fn fill(shard: &mut Shard) {
    let message = Message { payload: Bytes::from(vec![0; 256]), ..message("a", "") };
    let command = shard_command(NOW, Command::Enqueue(enqueue(message)));
    for round in 0..MANY {
        shard.apply(&command);
        // As in the cluster: a view is published after a batch, of whatever length.
        if round % 7 == 0 {
            drop(shard.take_effects());
            drop(shard.clone());
        }
    }
    drop(shard.take_effects());
}

fn joined(clients: usize) -> Shard {
    let mut replica = Replica::new();
    for client in 0..clients {
        let with = Subscription { identifier: 7, ..to("a", 1) };
        replica.joins(&claim_of(&client.to_string()), &[with]);
    }
    replica.shard
}

#[test]
fn a_message_in_a_long_queue_costs_less_than_24_bytes() {
    let mut shard = joined(1);
    let bytes = kept(&mut shard, fill);
    assert_eq!(shard.queued_messages() as i64, MANY);
    assert!(bytes < 24 * MANY, "{} bytes a message", bytes as f64 / MANY as f64);
    let bytes = shard.encode_snapshot();
    let mut back = Shard::new();
    let restored = kept(&mut back, |back| *back = Shard::decode_snapshot(&bytes).unwrap());
    assert!(restored < 24 * MANY, "{} bytes a message when restored", restored as f64 / MANY as f64);
}

#[test]
fn views_that_are_held_cost_what_changed_and_not_the_queue() {
    let mut shard = joined(1);
    fill(&mut shard);
    let mut views = Vec::with_capacity(1_000);
    let bytes = kept(&mut shard, |shard| {
        for _ in 0..1_000 {
            let message = message("a", "x");
            shard.apply(&shard_command(NOW, Command::Enqueue(enqueue(message))));
            drop(shard.take_effects());
            views.push(shard.clone());
        }
    });
    assert!(bytes < 16 * 1024 * 1_000, "{} bytes a view", bytes / 1_000);
    assert_eq!(views[0].queued_messages() as i64, MANY + 1);
}

#[test]
fn a_queue_that_was_acknowledged_leaves_nothing() {
    let mut shard = joined(3);
    let bytes = kept(&mut shard, |shard| {
        fill(shard);
        for client in ["0", "1", "2"] {
            let epoch = shard.owner(client).unwrap().owner.epoch;
            let done: Vec<u64> = (1..=MANY as u64).collect();
            for done in done.chunks(1_000) {
                shard.apply(&shard_command(NOW, acknowledge(client, epoch, done, &[])));
            }
        }
        drop(shard.take_effects());
    });
    assert_eq!(shard.queued_messages(), 0);
    assert!(bytes < 10_000, "{bytes} bytes are left");
}
