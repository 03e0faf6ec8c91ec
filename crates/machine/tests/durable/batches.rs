//! Batches happen once, however often they are proposed.

use zwerm_machine::records::shard_command::Command;
use zwerm_machine::records::shard_reply::Reply;
use zwerm_machine::records::*;

use crate::commands::*;
use crate::fixture::*;

fn batch(incarnation: u64, sequence: u64, commands: Vec<Command>) -> ShardBatch {
    let commands = commands.into_iter().map(|command| shard_command(NOW, command)).collect();
    ShardBatch { commands, producer_node: 1, producer_incarnation: incarnation, sequence, level: 0 }
}

fn epochs(replies: &ShardReplies) -> Vec<u64> {
    let epoch = |reply: &ShardReply| match &reply.reply {
        Some(Reply::Claimed(claimed)) => claimed.epoch,
        other => panic!("not claimed: {other:?}"),
    };
    replies.replies.iter().map(epoch).collect()
}

#[test]
fn a_repeated_batch_gets_the_replies_that_it_got_first_and_does_nothing() {
    let mut shard = Replica::new();
    let claims = || vec![Command::Claim(claim_of("a")), Command::Claim(claim_of("b"))];
    let first = shard.shard.apply_batch(&batch(1, 1, claims()));
    assert_eq!(epochs(&first), [1, 2]);
    shard.take_effects();
    let mut shard = shard.restored();
    let before = shard.digest();
    assert_eq!(shard.shard.apply_batch(&batch(1, 1, claims())), first);
    assert_eq!(shard.digest(), before);
    assert_eq!(epochs(&shard.shard.apply_batch(&batch(1, 2, claims()))), [3, 4]);
}

#[test]
fn an_older_batch_or_one_of_an_older_start_gets_no_replies_and_does_nothing() {
    let mut shard = Replica::new();
    let claims = || vec![Command::Claim(claim_of("a"))];
    assert_eq!(epochs(&shard.shard.apply_batch(&batch(1, 5, claims()))), [1]);
    assert_eq!(epochs(&shard.shard.apply_batch(&batch(2, 1, claims()))), [2], "a new start counts anew");
    let before = shard.digest();
    for (incarnation, sequence) in [(1, 5), (1, 6), (1, 900)] {
        assert_eq!(shard.shard.apply_batch(&batch(incarnation, sequence, claims())), ShardReplies::default());
    }
    assert_eq!(shard.digest(), before);
    assert_eq!(epochs(&shard.shard.apply_batch(&batch(2, 7, claims()))), [3]);
    assert_eq!(shard.shard.apply_batch(&batch(2, 6, claims())), ShardReplies::default());
}

#[test]
fn batches_of_other_producers_and_unnumbered_ones_are_new() {
    let mut shard = Replica::new();
    let claims = || vec![Command::Claim(claim_of("a"))];
    shard.shard.apply_batch(&batch(1, 1, claims()));
    let other = ShardBatch { producer_node: 2, ..batch(1, 1, claims()) };
    assert_eq!(epochs(&shard.shard.apply_batch(&other)), [2]);
    for epoch in [3, 4] {
        assert_eq!(epochs(&shard.shard.apply_batch(&batch(1, 0, claims()))), [epoch]);
    }
}
