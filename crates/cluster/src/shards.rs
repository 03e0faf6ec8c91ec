//! Commands for shards: one task per shard batches what arrives while its last proposal is on the way.
//!
//! One batch at a time and per shard keeps the order of retained messages; a repeat after an unknown
//! outcome is recognised by token, epoch or sequence. Knows no sessions. Start at [`ShardClient`].

use prost::Message as _;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use zwerm_machine::records::{
    Claim, Claimed, Message, Release, Retain, ShardBatch, ShardCommand, ShardReplies, ShardReply,
    shard_command::Command, shard_reply::Reply,
};

use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::receipt::Ticket;
use crate::transport::proto::ProposeRequest;

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
    /// A retained publish: only that it is safe matters.
    Ticket(Option<Ticket>),
}

struct Job {
    command: Command,
    answer: Answer,
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
        let (answer, answered) = oneshot::channel();
        let job = Job { command, answer: Answer::To(answer) };
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
    pub(crate) fn retain(&self, message: Message, ticket: Option<Ticket>) -> Result<(), ShardError> {
        let retain = Retain { message: Some(message), ..Retain::default() };
        let job = Job { command: Command::Retain(retain), answer: Answer::Ticket(ticket) };
        self.0.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ShardError::Busy,
            mpsc::error::TrySendError::Closed(_) => ShardError::Unavailable,
        })
    }
}

/// Serves one shard's queue until the node stops.
pub(crate) async fn run_shard_client(shared: &Shared, shard: u32, queue: &mut ShardQueue) {
    let mut sequence = 0;
    let mut carried = None;
    loop {
        let Some(first) = (match carried.take() {
            Some(job) => Some(job),
            None => queue.0.recv().await,
        }) else {
            return;
        };
        let mut bytes = first.command.encoded_len();
        let mut jobs = vec![first];
        while jobs.len() < BATCH {
            let Ok(job) = queue.0.try_recv() else { break };
            bytes += job.command.encoded_len();
            if bytes > BATCH_BYTES {
                carried = Some(job);
                break;
            }
            jobs.push(job);
        }
        propose_batch(shared, shard, jobs, &mut sequence).await;
    }
}

async fn propose_batch(shared: &Shared, shard: u32, jobs: Vec<Job>, sequence: &mut u64) {
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
    let command = ShardBatch { commands }.encode_to_vec().into();
    let request = ProposeRequest { group: group_of(shard).0, command, barrier: false };
    let reply = shared.propose(request).await;
    let replies = ShardReplies::decode(reply).map(|replies| replies.replies).unwrap_or_default();
    let mut replies = replies.into_iter();
    for answer in answers {
        settle(answer, replies.next().unwrap_or_default());
    }
}

fn settle(answer: Answer, reply: ShardReply) {
    match answer {
        // Nobody waits any more: the connection is gone.
        Answer::To(sender) => drop(sender.send(reply)),
        Answer::Ticket(ticket) => {
            if !matches!(reply.reply, Some(Reply::Retained(_) | Reply::Applied(_))) {
                tracing::warn!(?reply, "a retained message was not taken");
                if let Some(ticket) = ticket {
                    ticket.refuse();
                }
            }
        }
    }
}
