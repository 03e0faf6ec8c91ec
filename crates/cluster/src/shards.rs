//! Commands for shards: one bounded, ordered line in front of each shard.
//!
//! What is published is refused as busy when the line is full; what somebody waits for (claims, subscriptions,
//! acknowledgements) has room of its own beyond that, so that a flood of messages keeps nobody from connecting.
//! Knows no sessions and no leaders: `batches.rs` takes the line's front to the shard. Start at [`ShardClient`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use zwerm_machine::records::{
    Claim, Claimed, EndReplay, Exclude, Held, Holder, Holds, Refusal, Release, ShardReply, Subscribe,
    Subscribed, Unsubscribe, Unsubscribed, Vacate, shard_command::Command, shard_reply::Reply,
};

use crate::receipt::Ticket;

/// How much may wait in front of one shard. The command that reaches a bound is still taken whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    commands: usize,
    bytes: usize,
}

/// For messages. Policy when full: [`ShardError::Busy`], and the publisher waits.
pub(crate) const PUBLISHED: Room = Room { commands: 2_048, bytes: 8 << 20 };
/// For what somebody waits for, or what makes room in the shard itself. Policy when full: the caller waits, or
/// [`ShardError::Busy`] if it cannot.
pub(crate) const AWAITED: Room = Room { commands: 4_096, bytes: 16 << 20 };

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

/// What the lines in front of all shards did.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Batches that were answered.
    pub batches: AtomicU64,
    /// Commands in them.
    pub commands: AtomicU64,
    /// Commands that a full line did not take.
    pub busy: AtomicU64,
    /// Messages that gave way, or were not taken, because a durable session's queue was full.
    pub dropped_full: AtomicU64,
}

/// Who is to be told what became of a command.
pub(crate) enum Answer {
    To(oneshot::Sender<ShardReply>),
    /// A claim of this client id: if nobody waits for the answer any more, it is given back.
    Claim(String, oneshot::Sender<ShardReply>),
    /// Only whether it was done matters.
    Done(Done),
    /// Nobody waits.
    Nobody,
}

/// The ticket of a command: refused unless [`settle`](Self::settle) says otherwise.
pub(crate) struct Done(Option<Ticket>);

impl Done {
    pub(crate) fn settle(mut self, reply: Option<Reply>) {
        match (self.0.take(), reply) {
            (Some(ticket), Some(Reply::Ignored(ignored))) => ticket.refuse_for(ignored.reason()),
            (Some(ticket), None) => ticket.refuse_for(Refusal::Unspecified),
            (_, Some(_)) | (None, None) => {}
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.refuse();
        }
    }
}

/// A command in the line.
pub(crate) struct Job {
    pub(crate) command: Command,
    /// Bytes of the command.
    pub(crate) len: usize,
    pub(crate) answer: Answer,
}

impl Job {
    pub(crate) fn new(command: Command, answer: Answer) -> Self {
        let len = command.encoded_len();
        Self { command, len, answer }
    }

    /// A claim whose connection went away before it was proposed.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(&self.answer, Answer::Claim(_, sender) if sender.is_closed())
    }
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

impl Waiting {
    fn fits(&self, room: Room) -> bool {
        self.jobs.len() < room.commands && self.bytes < room.bytes
    }
}

#[derive(Default)]
struct Line {
    waiting: Mutex<Waiting>,
    more: Notify,
    room: Notify,
    counters: Arc<ShardCounters>,
}

/// The way to one shard. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ShardClient(Arc<Line>);

impl std::fmt::Debug for ShardClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.0.waiting.lock();
        f.debug_struct("ShardClient")
            .field("commands", &waiting.jobs.len())
            .field("bytes", &waiting.bytes)
            .finish()
    }
}

/// The front of the line; dropping it closes the line and refuses what waits in it.
pub(crate) struct ShardQueue(Arc<Line>);

/// The line is closed, or has no room: here is the job again.
enum NotTaken {
    Closed,
    Full(Box<Job>),
}

impl ShardClient {
    pub(crate) fn new(counters: Arc<ShardCounters>) -> (Self, ShardQueue) {
        let line = Arc::new(Line { counters, ..Line::default() });
        (Self(Arc::clone(&line)), ShardQueue(line))
    }

    fn try_push(&self, job: Job, room: Room) -> Result<(), NotTaken> {
        let mut waiting = self.0.waiting.lock();
        if waiting.closed {
            return Err(NotTaken::Closed);
        }
        if !waiting.fits(room) {
            return Err(NotTaken::Full(Box::new(job)));
        }
        waiting.bytes += job.len;
        waiting.jobs.push_back(job);
        drop(waiting);
        self.0.more.notify_one();
        Ok(())
    }

    async fn push(&self, mut job: Job) -> Result<(), ShardError> {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            // Before the look, so that room made after it is not missed.
            room.as_mut().enable();
            job = match self.try_push(job, AWAITED) {
                Ok(()) => return Ok(()),
                Err(NotTaken::Closed) => return Err(ShardError::Unavailable),
                Err(NotTaken::Full(job)) => *job,
            };
            room.await;
        }
    }

    /// Puts a command into the line and waits for its reply.
    async fn ask(&self, command: Command) -> Result<Reply, ShardError> {
        let (sender, answered) = oneshot::channel();
        let answer = match &command {
            Command::Claim(claim) => Answer::Claim(claim.client_id.clone(), sender),
            _ => Answer::To(sender),
        };
        self.push(Job::new(command, answer)).await?;
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

    /// Adds subscriptions to a durable session.
    pub(crate) async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscribed, ShardError> {
        match self.ask(Command::Subscribe(subscribe)).await? {
            Reply::Subscribed(subscribed) => Ok(subscribed),
            _ => Err(ShardError::Unavailable),
        }
    }

    /// Removes subscriptions of a durable session.
    pub(crate) async fn unsubscribe(&self, unsubscribe: Unsubscribe) -> Result<Unsubscribed, ShardError> {
        match self.ask(Command::Unsubscribe(unsubscribe)).await? {
            Reply::Unsubscribed(unsubscribed) => Ok(unsubscribed),
            _ => Err(ShardError::Unavailable),
        }
    }

    /// Ends what [`subscribe`](Self::subscribe) began with `replay`.
    pub(crate) async fn end_replay(&self, end: EndReplay) -> Result<(), ShardError> {
        self.tell(Command::EndReplay(end)).await
    }

    /// Asks for an exclusive filter; who holds it then.
    pub(crate) async fn exclude(&self, exclude: Exclude) -> Result<Holder, ShardError> {
        match self.ask(Command::Exclude(exclude)).await? {
            Reply::Excluded(excluded) => excluded.holder.ok_or(ShardError::Unavailable),
            _ => Err(ShardError::Unavailable),
        }
    }

    /// Gives an exclusive filter back.
    pub(crate) async fn vacate(&self, vacate: Vacate) -> Result<(), ShardError> {
        self.tell(Command::Vacate(vacate)).await
    }

    /// Asks whether a connection of a client of this shard may hold an exclusive filter.
    pub(crate) async fn holds(&self, holds: Holds) -> Result<Held, ShardError> {
        match self.ask(Command::Holds(holds)).await? {
            Reply::Held(held) => Ok(held),
            _ => Err(ShardError::Unavailable),
        }
    }

    /// Any other command, for the leader's own duties.
    pub(crate) async fn tell(&self, command: Command) -> Result<(), ShardError> {
        self.ask(command).await.map(|_| ())
    }

    /// Puts a command into the line, without waiting; a ticket is dropped when it is committed, refused when
    /// the machine ignored it or this node stops. On [`ShardError::Busy`] neither command nor ticket is made.
    pub(crate) fn hand(
        &self,
        room: Room,
        command: impl FnOnce() -> Command,
        ticket: impl FnOnce() -> Option<Ticket>,
    ) -> Result<(), ShardError> {
        {
            let waiting = self.0.waiting.lock();
            if waiting.closed {
                return Err(ShardError::Unavailable);
            }
            if !waiting.fits(room) {
                self.0.counters.busy.fetch_add(1, Ordering::Relaxed);
                return Err(ShardError::Busy);
            }
        }
        // Made without the lock: others that do the same now may exceed the room by one command each.
        let answer = ticket().map_or(Answer::Nobody, |ticket| Answer::Done(Done(Some(ticket))));
        let unbounded = Room { commands: usize::MAX, bytes: usize::MAX };
        self.try_push(Job::new(command(), answer), unbounded).map_err(|_| ShardError::Unavailable)
    }

    /// Waits until there is room for another message (or the node stops). Cancel safe.
    pub(crate) async fn room(&self) {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let waiting = self.0.waiting.lock();
                if waiting.closed || waiting.fits(PUBLISHED) {
                    return;
                }
            }
            room.await;
        }
    }
}

impl ShardQueue {
    /// Waits for the next batch of jobs: what waits now, as far as `commands` and `bytes` go, at least one.
    /// Cancel safe.
    pub(crate) async fn next(&self, commands: usize, bytes: usize) -> Vec<Job> {
        loop {
            let jobs = self.take(commands, bytes);
            if !jobs.is_empty() {
                return jobs;
            }
            self.0.more.notified().await;
        }
    }

    /// As [`next`](Self::next), but what is there.
    pub(crate) fn take(&self, commands: usize, bytes: usize) -> Vec<Job> {
        let mut waiting = self.0.waiting.lock();
        let (mut jobs, mut taken) = (Vec::new(), 0);
        while let Some(job) = waiting.jobs.front() {
            if !jobs.is_empty() && (jobs.len() >= commands || taken + job.len > bytes) {
                break;
            }
            taken += job.len;
            jobs.extend(waiting.jobs.pop_front());
        }
        waiting.bytes -= taken;
        drop(waiting);
        if !jobs.is_empty() {
            self.0.room.notify_waiters();
        }
        jobs
    }

    pub(crate) fn counters(&self) -> &ShardCounters {
        &self.0.counters
    }
}

impl Drop for ShardQueue {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.closed = true;
        waiting.bytes = 0;
        let refused = std::mem::take(&mut waiting.jobs);
        drop(waiting);
        // Tickets ring bells: not under the lock.
        drop(refused);
        self.0.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use zwerm_machine::records::{Applied, Enqueue, Ignored, Message};

    use super::*;
    use crate::receipt::{Bell, Receipt};

    fn line() -> (ShardClient, ShardQueue) {
        ShardClient::new(Arc::default())
    }

    fn enqueue(size: usize) -> Command {
        let message = Message { payload: vec![0; size].into(), ..Message::default() };
        Command::Enqueue(Enqueue { message: Some(message), ..Enqueue::default() })
    }

    fn hand(client: &ShardClient, room: Room, size: usize, receipt: &Receipt) -> Result<(), ShardError> {
        client.hand(room, || enqueue(size), || Some(receipt.ticket()))
    }

    #[test]
    fn a_line_is_bounded_by_commands_and_by_bytes_and_keeps_room_for_what_is_awaited() {
        for (size, fits) in [(1, 2_048), (1 << 20, 8), (64 << 20, 1)] {
            let ((client, queue), receipt) = (line(), Receipt::new(Bell::new()));
            for _ in 0..fits {
                assert_eq!(hand(&client, PUBLISHED, size, &receipt), Ok(()));
            }
            assert_eq!(hand(&client, PUBLISHED, size, &receipt), Err(ShardError::Busy));
            assert_eq!(queue.counters().busy.load(Ordering::Relaxed), 1);
            if size < AWAITED.bytes {
                assert_eq!(hand(&client, AWAITED, 1, &receipt), Ok(()));
            }
            while !queue.take(100, 1 << 20).is_empty() {}
            assert_eq!(hand(&client, PUBLISHED, size, &receipt), Ok(()));
        }
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_when_there_is_some_or_the_line_ends() {
        let ((client, queue), receipt) = (line(), Receipt::new(Bell::new()));
        hand(&client, PUBLISHED, PUBLISHED.bytes, &receipt).unwrap();
        let mut room = std::pin::pin!(client.room());
        assert!(futures::poll!(&mut room).is_pending());
        queue.take(1, 1);
        assert!(futures::poll!(&mut room).is_ready());
        hand(&client, PUBLISHED, PUBLISHED.bytes, &receipt).unwrap();
        let mut room = std::pin::pin!(client.room());
        assert!(futures::poll!(&mut room).is_pending());
        drop(queue);
        assert!(futures::poll!(&mut room).is_ready());
        assert_eq!(hand(&client, PUBLISHED, 1, &receipt), Err(ShardError::Unavailable));
    }

    #[test]
    fn a_batch_is_the_front_of_the_line_up_to_its_bounds_and_at_least_one() {
        let ((client, queue), receipt) = (line(), Receipt::new(Bell::new()));
        for size in [10, 20, 5_000, 30] {
            hand(&client, PUBLISHED, size, &receipt).unwrap();
        }
        let sizes = |jobs: Vec<Job>| -> Vec<usize> {
            let size = |job: &Job| match &job.command {
                Command::Enqueue(enqueue) => enqueue.message.as_ref().unwrap().payload.len(),
                other => panic!("{other:?}"),
            };
            jobs.iter().map(size).collect()
        };
        assert_eq!(sizes(queue.take(9, 1_000)), [10, 20]);
        assert_eq!(sizes(queue.take(9, 1_000)), [5_000]);
        assert_eq!(sizes(queue.take(9, 1_000)), [30]);
        assert!(queue.take(9, 1_000).is_empty());
    }

    #[test]
    fn a_ticket_says_what_became_of_its_command() {
        let reason = Refusal::NoSession;
        let ignored = Reply::Ignored(Ignored { reason: reason.into() });
        for (reply, refusal) in [
            (Some(Reply::Applied(Applied {})), None),
            (Some(ignored), Some(reason)),
            (None, Some(Refusal::Unspecified)),
        ] {
            let ((client, queue), receipt) = (line(), Receipt::new(Bell::new()));
            hand(&client, PUBLISHED, 1, &receipt).unwrap();
            let Some(Job { answer: Answer::Done(done), .. }) = queue.take(1, 1).pop() else { panic!() };
            assert!(!receipt.is_complete());
            done.settle(reply);
            assert!(receipt.is_complete());
            assert_eq!(receipt.refusal(), refusal);
        }
    }

    #[test]
    fn what_waits_in_a_line_that_ends_is_refused() {
        let ((client, queue), receipt) = (line(), Receipt::new(Bell::new()));
        hand(&client, PUBLISHED, 1, &receipt).unwrap();
        drop(queue);
        assert!(receipt.is_complete() && receipt.has_failed());
    }
}
