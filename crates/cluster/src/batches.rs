//! Takes the front of a shard's line to the shard: numbered batches, one at a time, each repeated until it is
//! committed.
//!
//! One batch under way keeps the order in which callers handed their commands; its number makes it happen once,
//! however often it is proposed. Start at [`run_shard_client`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prost::Message as _;
use zwerm_machine::records::{
    Owner, Release, ShardBatch, ShardCommand, ShardReplies, ShardReply, shard_command::Command,
    shard_reply::Reply,
};

use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::shards::{Answer, Job, ShardQueue};
use crate::transport::proto::{KickRequest, ProposeRequest};

/// Commands and bytes of one batch, about.
const BATCH: usize = 1_024;
const BATCH_BYTES: usize = 1024 * 1024;

/// Serves one shard's line until the node stops.
pub(crate) async fn run_shard_client(shared: &Arc<Shared>, shard: u32, queue: &ShardQueue) {
    let mut sequence = 0;
    // Claims to be given back go before the line.
    let mut first: Vec<Job> = Vec::new();
    loop {
        let mut jobs = std::mem::take(&mut first);
        if jobs.is_empty() {
            jobs = queue.next(BATCH, BATCH_BYTES).await;
        }
        jobs.retain(|job| !job.is_abandoned());
        if !jobs.is_empty() {
            sequence += 1;
            let counters = queue.counters();
            counters.commands.fetch_add(jobs.len() as u64, Ordering::Relaxed);
            first = propose_batch(shared, shard, jobs, sequence).await;
            counters.batches.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Proposes until committed; returns what follows from answers that nobody waited for.
async fn propose_batch(shared: &Arc<Shared>, shard: u32, jobs: Vec<Job>, sequence: u64) -> Vec<Job> {
    let (mut commands, mut answers) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    for Job { command, answer, .. } in jobs {
        commands.push(ShardCommand { command: Some(command), at_ms: 0 });
        answers.push(answer);
    }
    let batch = ShardBatch {
        commands,
        producer_node: shared.own.id,
        producer_incarnation: shared.own.boot_incarnation,
        sequence,
        level: 0,
    };
    let request =
        ProposeRequest { group: group_of(shard).0, command: batch.encode_to_vec().into(), barrier: false };
    drop(batch);
    let reply = shared.propose(request).await;
    let replies = ShardReplies::decode(reply).map(|replies| replies.replies).unwrap_or_default();
    if replies.len() != answers.len() {
        // A number that is not the producer's next: nothing was done.
        tracing::error!(shard, sequence, replies = replies.len(), "a shard did not answer a whole batch");
    }
    shared.shard_counters.dropped_full.fetch_add(dropped(&replies), Ordering::Relaxed);
    let mut replies = replies.into_iter();
    answers
        .into_iter()
        .filter_map(|answer| settle(shared, answer, replies.next().unwrap_or_default()))
        .collect()
}

/// Messages that found a queue full, or made room in it.
fn dropped(replies: &[ShardReply]) -> u64 {
    let dropped = replies.iter().filter_map(|reply| match &reply.reply {
        Some(Reply::Enqueued(enqueued)) => Some(u64::from(enqueued.dropped)),
        _ => None,
    });
    dropped.sum()
}

fn settle(shared: &Arc<Shared>, answer: Answer, reply: ShardReply) -> Option<Job> {
    match answer {
        // Nobody waits any more: the connection is gone.
        Answer::To(sender) => drop(sender.send(reply)),
        Answer::Claim(client_id, sender) => {
            return sender.send(reply).err().and_then(|reply| give_back(shared, client_id, &reply));
        }
        Answer::Done(done) => done.settle(reply.reply),
        Answer::Nobody => {}
    }
    None
}

/// The connection went away while its claim was on its way: it must not own the client id for ever. Its
/// client was never told that it is connected, so there is no will. The connection before it is outdated
/// all the same.
fn give_back(shared: &Arc<Shared>, client_id: String, reply: &ShardReply) -> Option<Job> {
    let Some(Reply::Claimed(claimed)) = &reply.reply else { return None };
    let epoch = claimed.epoch;
    let release = Release { client_id, epoch, fire_will: false, expiry_s: None, sent: 0 };
    let Some(Owner { node, incarnation, connected: true, .. }) = claimed.previous else {
        return Some(Job::new(Command::Release(release), Answer::Nobody));
    };
    let request = KickRequest { client_id: release.client_id.clone(), epoch, incarnation, node };
    let (over, releasing) = (shared.take_over(request), Arc::clone(shared));
    shared.spawn(async move {
        // Until then whoever claims it asks this node, which alone knows of the connection before.
        over.await;
        let Ok(shard) = releasing.client_of(&release.client_id) else { return };
        if let Err(error) = shard.release(release).await {
            // The node is stopping: its death releases what it owned.
            tracing::debug!(%error, "a claim was not given back");
        }
    });
    None
}
