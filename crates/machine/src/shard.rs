//! A shard group's state: the registry of client ids, durable sessions, retained messages, the outbox.
//!
//! Start at [`Shard::apply`]. The commands are in files of their own: `registry.rs` (who owns a client id),
//! `sessions.rs` (durable sessions), `enqueue.rs` (messages to them), `exchange.rs` (what their clients say of
//! messages), `retain.rs`, `delay.rs`, `exclusive.rs`.

use std::sync::Arc;

use imbl::OrdMap;
use prost::Message as _;
use zwerm_routing::RetainedIndex;
use zwerm_wire::TopicName;

use crate::arrivals::Arrivals;
use crate::delay::Delayed;
use crate::due::{Due, Timer};
use crate::effects::Effects;
use crate::entry::Entry;
use crate::exclusive::Exclusives;
use crate::interest::Interest;
use crate::limits::{MAX_DUE, MAX_MESSAGE};
use crate::message;
use crate::messages::Messages;
use crate::outbox::{Outbox, OutboxEntry};
use crate::peers::{Peers, Turn};
use crate::records::shard_command::Command;
use crate::records::shard_reply::Reply;
use crate::records::{
    Applied, Drained, Ignored, Message, Refusal, ShardBatch, ShardCommand, ShardReplies, ShardReply,
};
use crate::routes::Routes;
use crate::session::{Load, Queued, Session};

/// The state of a shard group. A clone is O(1) once the effects are taken.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// The last epoch given. One counter for all clients: an epoch never repeats, even when an entry is gone.
    pub(crate) epoch: u64,
    pub(crate) clients: OrdMap<Arc<str>, Arc<Entry>>,
    pub(crate) retained: RetainedIndex<Arc<Message>>,
    pub(crate) outbox: Outbox,
    pub(crate) peers: Peers,
    pub(crate) arrivals: Arrivals,
    pub(crate) due: Due,
    pub(crate) delayed: Delayed,
    pub(crate) exclusives: Exclusives,
    pub(crate) messages: Messages,
    /// Durable sessions by number.
    pub(crate) sessions: OrdMap<u64, Arc<Session>>,
    /// Sessions that ended and hold messages still.
    pub(crate) ended: OrdMap<u64, Arc<Session>>,
    pub(crate) interest: Interest,
    /// Of all queues but those of ended sessions.
    pub(crate) queued: Load,
    pub(crate) touched: Vec<Arc<str>>,
}

/// What a command did.
pub(crate) type Outcome = Result<Reply, Refusal>;

pub(crate) const APPLIED: Outcome = Ok(Reply::Applied(Applied {}));

impl Shard {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one entry of the log: one reply for each command, in order. A repeat of a producer's last batch
    /// gets the replies that it got first; an older one, or one of an older incarnation, gets none.
    pub fn apply_batch(&mut self, batch: &ShardBatch) -> ShardReplies {
        match self.peers.turn(batch) {
            Turn::Repeated(replies) => Arc::unwrap_or_clone(replies),
            Turn::Outdated => ShardReplies::default(),
            Turn::New => {
                let replies = batch.commands.iter().map(|command| self.apply(command)).collect();
                let replies = ShardReplies { replies };
                self.peers.note(batch, &replies);
                replies
            }
        }
    }

    /// Applies one command.
    pub fn apply(&mut self, command: &ShardCommand) -> ShardReply {
        let now_ms = command.at_ms;
        let outcome = match &command.command {
            None => Err(Refusal::UnknownCommand),
            Some(Command::Claim(claim)) => self.claim(claim, now_ms),
            Some(Command::Release(release)) => self.release(release, now_ms),
            Some(Command::OwnerLost(lost)) => self.owner_lost(lost, now_ms),
            Some(Command::Retain(retain)) => self.retain(retain, now_ms),
            Some(Command::Tick(_)) => self.tick(now_ms),
            Some(Command::Drained(drained)) => self.drained(drained),
            Some(Command::Subscribe(subscribe)) => self.subscribe(subscribe),
            Some(Command::Unsubscribe(unsubscribe)) => self.unsubscribe(unsubscribe),
            Some(Command::Enqueue(enqueue)) => self.enqueue(enqueue, now_ms),
            Some(Command::Deliver(deliver)) => self.deliver(deliver, now_ms),
            Some(Command::Receive(receive)) => self.receive(receive),
            Some(Command::Complete(complete)) => self.complete(complete),
            Some(Command::Acknowledge(acknowledge)) => self.acknowledge(acknowledge),
            Some(Command::EndReplay(end)) => self.end_replay(end),
            Some(Command::Delay(delay)) => self.delay(delay, now_ms),
            Some(Command::Exclude(exclude)) => self.exclude(exclude),
            Some(Command::Vacate(vacate)) => self.vacate(vacate),
            Some(Command::Holds(holds)) => self.holds(holds),
            Some(Command::Pick(pick)) => self.outbox.pick(pick).and(APPLIED),
        };
        let reply = outcome.unwrap_or_else(|reason| Reply::Ignored(Ignored { reason: reason.into() }));
        ShardReply { reply: Some(reply) }
    }

    /// Handles at most [`MAX_DUE`] timers; [`next_due_ms`](Self::next_due_ms) tells if more are left.
    fn tick(&mut self, now_ms: u64) -> Outcome {
        for _ in 0..MAX_DUE {
            match self.due.first(now_ms).cloned() {
                None => break,
                Some(Timer::Client(client)) => self.settle(&client, now_ms),
                Some(Timer::Retained(topic)) => {
                    self.set_retained(topic, None);
                }
            }
        }
        self.publish_delayed(now_ms);
        self.bury();
        APPLIED
    }

    fn drained(&mut self, drained: &Drained) -> Outcome {
        while let Some(message) = self.outbox.drain_one(drained.upto) {
            self.messages.release(message);
        }
        APPLIED
    }

    /// What is to be done outside since the last call; take it before a clone is published.
    pub fn take_effects(&mut self) -> Effects {
        let (stored, forgotten) = self.messages.take_effects();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        Effects { stored, forgotten, touched }
    }

    /// The durable session of a client.
    #[must_use]
    pub fn session(&self, client_id: &str) -> Option<&Session> {
        let number = self.clients.get(client_id)?.session?;
        self.sessions.get(&number).map(|session| &**session)
    }

    /// What waits in a client's queue behind a position, in order: neither done nor released. Starts in the
    /// middle at no cost.
    pub fn queue(&self, client_id: &str, after: u64) -> impl Iterator<Item = Queued> {
        self.session(client_id).into_iter().flat_map(move |session| session.queue.queued(after))
    }

    /// Filters that durable sessions want with QoS 1 or 2.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        self.interest.routes()
    }

    /// Grows with every change of the routes.
    #[must_use]
    pub fn routes_version(&self) -> u64 {
        self.interest.version()
    }

    /// Whether a queue, the outbox or a QoS 2 exchange still needs a message.
    #[must_use]
    pub fn names_message(&self, number: u64) -> bool {
        self.messages.is_named(number)
    }

    /// The numbers of all messages that the state names, from one on, rising.
    pub fn message_numbers(&self, from: u64) -> impl Iterator<Item = u64> {
        self.messages.numbers(from)
    }

    /// How many messages the state names.
    #[must_use]
    pub fn named_messages(&self) -> u64 {
        self.messages.len()
    }

    /// The number that the next message gets: greater ones, and it, are named by later states only.
    #[must_use]
    pub fn next_message(&self) -> u64 {
        self.messages.next()
    }

    /// Durable sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Messages in all queues; one counts in each queue that has it.
    #[must_use]
    pub fn queued_messages(&self) -> u64 {
        self.queued.messages
    }

    /// Bytes of payloads and topics in all queues; a message counts in each queue that has it.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued.bytes
    }

    /// The registry entry of a client.
    #[must_use]
    pub fn owner(&self, client_id: &str) -> Option<&Entry> {
        self.clients.get(client_id).map(|entry| &**entry)
    }

    /// All registry entries, by client id.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.clients.iter().map(|(client, entry)| (&**client, &**entry))
    }

    /// Registry entries: connected clients and durable sessions.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What the leader is to publish, in order of the sequence; it stays until `Drained`. No entry may be published
    /// that is [`OUTBOX_WINDOW`](crate::limits::OUTBOX_WINDOW) or more behind the first.
    pub fn outbox(&self) -> impl Iterator<Item = (u64, &OutboxEntry)> {
        self.outbox.iter()
    }

    /// Messages in the outbox.
    #[must_use]
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// When a `Tick` has something to do, in milliseconds since the epoch; 0 is at once.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        // What an ended session held may have to go through the outbox, so it waits for room there.
        let is_burying = !self.ended.is_empty() && !self.outbox.is_full();
        let delayed = self.delayed.next_ms().filter(|_| !self.outbox.is_full());
        if is_burying { Some(0) } else { self.due.next_ms().into_iter().chain(delayed).min() }
    }
}

/// The topic of a message that the state may take.
pub(crate) fn checked(message: &Message) -> Result<TopicName, Refusal> {
    let topic = message::check(message).map_err(|_| Refusal::Invalid)?;
    if message.encoded_len() > MAX_MESSAGE {
        return Err(Refusal::Limit);
    }
    Ok(topic)
}
