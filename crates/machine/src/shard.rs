//! A shard group's state: the registry of client ids, retained messages, the outbox. Knows no subscribers.
//!
//! Start at [`Shard::apply`]; the registry's rules are in `registry.rs` and `entry.rs`.

use std::sync::Arc;

use imbl::OrdMap;
use prost::Message as _;
use zwerm_routing::RetainedIndex;
use zwerm_wire::{TopicFilter, TopicName};

use crate::due::{Due, Timer};
use crate::effects::Effects;
use crate::entry::Entry;
use crate::limits::{MAX_DUE, MAX_MESSAGE};
use crate::message;
use crate::messages::Messages;
use crate::outbox::{Outbox, OutboxEntry};
use crate::peers::{Peers, Sequence};
use crate::records::shard_command::Command;
use crate::records::shard_reply::Reply;
use crate::records::{
    Applied, Drained, Ignored, Message, Refusal, Retain, Retained, ShardBatch, ShardCommand, ShardReplies,
    ShardReply,
};
use crate::routes::Routes;
use crate::session::{Load, Queued, Session};

/// The state of a shard group. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// The last epoch given. One counter for all clients: an epoch never repeats, even when an entry is gone.
    pub(crate) epoch: u64,
    pub(crate) clients: OrdMap<Arc<str>, Arc<Entry>>,
    pub(crate) retained: RetainedIndex<Arc<Message>>,
    pub(crate) outbox: Outbox,
    pub(crate) peers: Peers,
    pub(crate) due: Due,
    pub(crate) messages: Messages,
    pub(crate) sessions: OrdMap<u64, Arc<Session>>,
    pub(crate) routes: Routes,
    pub(crate) routes_version: u64,
    /// Of all queues.
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

    /// Applies one entry of the log: one reply for each command, in order.
    pub fn apply_batch(&mut self, batch: &ShardBatch) -> ShardReplies {
        ShardReplies { replies: batch.commands.iter().map(|command| self.apply(command)).collect() }
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
            Some(_) => Err(Refusal::UnknownCommand),
        };
        let reply = outcome.unwrap_or_else(|reason| Reply::Ignored(Ignored { reason: reason.into() }));
        ShardReply { reply: Some(reply) }
    }

    fn retain(&mut self, retain: &Retain, now_ms: u64) -> Outcome {
        let message = retain.message.as_ref().ok_or(Refusal::Invalid)?;
        let topic = message::check(message).map_err(|_| Refusal::Invalid)?;
        if message.encoded_len() > MAX_MESSAGE {
            return Err(Refusal::Limit);
        }
        let sequence =
            self.peers.produce(retain.producer_node, retain.producer_incarnation, retain.sequence)?;
        if sequence == Sequence::Repeated {
            return Ok(Reply::Retained(Retained { replaced: false, repeated: true }));
        }
        // One that arrives dead still ends the life of the one before it.
        let kept = !message.payload.is_empty() && !message::is_expired(message, now_ms);
        let replaced = self.set_retained(topic, kept.then(|| Arc::new(message::detached(message))));
        Ok(Reply::Retained(Retained { replaced, repeated: false }))
    }

    /// Sets or removes the message of a topic and its timer. True if there was one.
    pub(crate) fn set_retained(&mut self, topic: TopicName, message: Option<Arc<Message>>) -> bool {
        let expires = |message: &Arc<Message>| (message.expires_at_ms > 0).then_some(message.expires_at_ms);
        let new_ms = message.as_ref().and_then(expires);
        let old = match message {
            Some(message) => self.retained.insert(&topic, message),
            None => self.retained.remove(&topic),
        };
        self.due.reset(&Timer::Retained(topic), old.as_ref().and_then(expires), new_ms);
        old.is_some()
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
        APPLIED
    }

    fn drained(&mut self, drained: &Drained) -> Outcome {
        while let Some(message) = self.outbox.drain_one(drained.upto) {
            self.messages.release(message);
        }
        APPLIED
    }

    /// The retained messages that a filter matches and that live at `now_ms`, found as the iterator is driven,
    /// in the order of the topic tree.
    pub fn retained(
        &self,
        filter: &TopicFilter,
        now_ms: u64,
    ) -> impl Iterator<Item = (TopicName, &Arc<Message>)> {
        self.retained.matches(filter).filter(move |(_, message)| !message::is_expired(message, now_ms))
    }

    /// Retained messages, those included that are dead and wait for a tick.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.len()
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
        self.session(client_id).into_iter().flat_map(move |session| session.queue(after))
    }

    /// Filters that durable sessions want with QoS 1 or 2.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Grows with every change of the routes.
    #[must_use]
    pub fn routes_version(&self) -> u64 {
        self.routes_version
    }

    /// Whether a queue, the outbox or a QoS 2 exchange still needs a message.
    #[must_use]
    pub fn names_message(&self, number: u64) -> bool {
        self.messages.is_named(number)
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

    /// What the leader is to publish, in order of the sequence; it stays until `Drained`.
    pub fn outbox(&self) -> impl Iterator<Item = (u64, &OutboxEntry)> {
        self.outbox.iter()
    }

    /// Messages in the outbox.
    #[must_use]
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// When a `Tick` has something to do, in milliseconds since the epoch.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.next_ms()
    }
}
