//! Commands for shards: one task per shard batches what arrives while its last proposal is on the way.
//!
//! One batch at a time and per shard keeps the order of retained messages; a repeat after an unknown
//! outcome is recognised by token, epoch or sequence. Knows no sessions. Start at [`ShardClient`].

use std::sync::Arc;

use prost::Message as _;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use zwerm_machine::records::{
    Claim, Claimed, Message, Owner, Release, Retain, ShardBatch, ShardCommand, ShardReplies, ShardReply,
    shard_command::Command, shard_reply::Reply,
};

use crate::cluster::{Shared, kick};
use crate::ledger::group_of;
use crate::receipt::Ticket;
use crate::transport::proto::{KickRequest, ProposeRequest};

/// Commands that wait in front of one shard; more wait in their callers, and a retained publish is
/// refused as busy.
const QUEUE: usize = 2_048;
/// Commands and bytes of one batch, about.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;

/// A shard command that was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// This node is stopping, or has not joined its cluster yet: go elsewhere.
    #[error("this node takes no part in the cluster now")]
    Unavailable,
    /// The state machine refused it: a limit or a value that it does not take.
    #[error("the shard refused the command ({reason})")]
    Refused {
        /// `zwerm.records.v1.Refusal`.
        reason: i32,
    },
    /// Too many commands wait in front of the shard: try again soon.
    #[error("too many commands wait for the shard")]
    Busy,
}

enum Answer {
    To(oneshot::Sender<ShardReply>),
    /// A claim of this client id: if nobody waits for the answer any more, it is given back.
    Claim(String, oneshot::Sender<ShardReply>),
    /// A retained publish: only that it is safe matters.
    Stored(Stored),
    /// Nobody waits.
    Nobody,
}

/// The ticket of a retained publish: refused unless [`accept`](Self::accept) is called.
struct Stored(Option<Ticket>);

impl Stored {
    fn accept(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.refuse();
        }
    }
}

struct Job {
    command: Command,
    answer: Answer,
}

impl Job {
    /// A claim whose connection went away before it was proposed.
    fn is_abandoned(&self) -> bool {
        matches!(&self.answer, Answer::Claim(_, sender) if sender.is_closed())
    }
}

/// The way to one shard. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ShardClient(mpsc::Sender<Job>);

impl std::fmt::Debug for ShardClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ShardClient").field(&self.0.capacity()).finish()
    }
}

/// The other end of [`ShardClient`].
pub(crate) struct ShardQueue(mpsc::Receiver<Job>);

impl ShardClient {
    pub(crate) fn new() -> (Self, ShardQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), ShardQueue(receiver))
    }

    async fn ask(&self, command: Command) -> Result<Reply, ShardError> {
        let (sender, answered) = oneshot::channel();
        let answer = match &command {
            Command::Claim(claim) => Answer::Claim(claim.client_id.clone(), sender),
            _ => Answer::To(sender),
        };
        let job = Job { command, answer };
        self.0.send(job).await.map_err(|_| ShardError::Unavailable)?;
        match answered.await.map_err(|_| ShardError::Unavailable)?.reply {
            Some(Reply::Ignored(ignored)) => Err(ShardError::Refused { reason: ignored.reason }),
            Some(reply) => Ok(reply),
            None => Err(ShardError::Unavailable),
        }
    }

    /// Becomes the owner of a client id.
    pub(crate) async fn claim(&self, claim: Claim) -> Result<Claimed, ShardError> {
        match self.ask(Command::Claim(claim)).await? {
            Reply::Claimed(claimed) => Ok(claimed),
            _ => Err(ShardError::Unavailable),
        }
    }

    /// Gives a client id up. A newer owner is no error: then it is given up already.
    pub(crate) async fn release(&self, release: Release) -> Result<(), ShardError> {
        match self.ask(Command::Release(release)).await {
            Ok(_) | Err(ShardError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Any other command, for the leader's own duties.
    pub(crate) async fn tell(&self, command: Command) -> Result<(), ShardError> {
        self.ask(command).await.map(|_| ())
    }

    /// Keeps a retained message; the ticket is dropped when a quorum has it on disk, refused if it was
    /// not taken.
    pub(crate) fn retain(
        &self,
        message: impl FnOnce() -> Message,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        let place = self.0.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => ShardError::Busy,
            mpsc::error::TrySendError::Closed(()) => ShardError::Unavailable,
        })?;
        let retain = Retain { message: Some(message()), ..Retain::default() };
        place.send(Job { command: Command::Retain(retain), answer: Answer::Stored(Stored(Some(ticket()))) });
        Ok(())
    }

    /// Waits until there is room for another command (or the node stops). Cancel safe.
    pub(crate) async fn room(&self) {
        // The place is given back at once: whoever comes first takes it.
        drop(self.0.reserve().await);
    }
}

/// Serves one shard's queue until the node stops.
pub(crate) async fn run_shard_client(shared: &Arc<Shared>, shard: u32, queue: &mut ShardQueue) {
    let mut sequence = 0;
    // What goes before the queue: what did not fit into the last batch, and claims to be given back.
    let mut first = Vec::new();
    loop {
        let mut jobs = std::mem::take(&mut first);
        if jobs.is_empty() {
            let Some(job) = queue.0.recv().await else { return };
            jobs.push(job);
        }
        let mut bytes: usize = jobs.iter().map(|job| job.command.encoded_len()).sum();
        while jobs.len() < BATCH {
            let Ok(job) = queue.0.try_recv() else { break };
            bytes += job.command.encoded_len();
            if bytes > BATCH_BYTES {
                first.push(job);
                break;
            }
            jobs.push(job);
        }
        jobs.retain(|job| !job.is_abandoned());
        if !jobs.is_empty() {
            first.extend(propose_batch(shared, shard, jobs, &mut sequence).await);
        }
    }
}

/// Proposes until committed; returns what follows from answers that nobody waited for.
async fn propose_batch(shared: &Arc<Shared>, shard: u32, jobs: Vec<Job>, sequence: &mut u64) -> Vec<Job> {
    let mut commands = Vec::with_capacity(jobs.len());
    let mut answers = Vec::with_capacity(jobs.len());
    for Job { mut command, answer } in jobs {
        if let Command::Retain(retain) = &mut command {
            *sequence += 1;
            retain.producer_node = shared.own.id;
            retain.producer_incarnation = shared.own.boot_incarnation;
            retain.sequence = *sequence;
        }
        commands.push(ShardCommand { command: Some(command), at_ms: 0 });
        answers.push(answer);
    }
    let command = ShardBatch { commands, ..ShardBatch::default() }.encode_to_vec().into();
    let request = ProposeRequest { group: group_of(shard).0, command, barrier: false };
    let reply = shared.propose(request).await;
    let replies = ShardReplies::decode(reply).map(|replies| replies.replies).unwrap_or_default();
    let mut replies = replies.into_iter();
    answers
        .into_iter()
        .filter_map(|answer| settle(shared, answer, replies.next().unwrap_or_default()))
        .collect()
}

fn settle(shared: &Arc<Shared>, answer: Answer, reply: ShardReply) -> Option<Job> {
    match answer {
        // Nobody waits any more: the connection is gone.
        Answer::To(sender) => drop(sender.send(reply)),
        Answer::Claim(client_id, sender) => {
            return sender.send(reply).err().and_then(|reply| give_back(shared, client_id, &reply));
        }
        Answer::Stored(stored) => match reply.reply {
            Some(Reply::Retained(_) | Reply::Applied(_)) => stored.accept(),
            reply => tracing::warn!(?reply, "a retained message was not taken"),
        },
        Answer::Nobody => {}
    }
    None
}

/// The connection went away while its claim was on its way: it must not own the client id for ever. Its
/// client was never told that it is connected, so there is no will. The connection before it is outdated
/// all the same.
fn give_back(shared: &Arc<Shared>, client_id: String, reply: &ShardReply) -> Option<Job> {
    let Some(Reply::Claimed(claimed)) = &reply.reply else { return None };
    if let Some(Owner { node, incarnation, connected: true, .. }) = claimed.previous {
        let request = KickRequest { client_id: client_id.clone(), epoch: claimed.epoch, incarnation };
        kick(shared, node, request);
    }
    let release = Release { client_id, epoch: claimed.epoch, fire_will: false, expiry_s: None, sent: 0 };
    Some(Job { command: Command::Release(release), answer: Answer::Nobody })
}
