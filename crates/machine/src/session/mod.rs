//! One durable session: what it subscribed to, what waits for it, what it sent with QoS 2. Knows no other session
//! and no bytes of a message: it names messages by their numbers.
//!
//! Start at [`Session`]; its queue is in `queue.rs`, packed in `chunk.rs`.

mod chunk;
mod queue;
mod record;
mod replay;

use std::sync::Arc;

use imbl::OrdMap;
use smallvec::SmallVec;
use zwerm_wire::{QoS, TopicFilter};

pub(crate) use chunk::{Removed, Terms};
pub(crate) use queue::Queue;
pub(crate) use replay::Replay;

use crate::limits::{MAX_DROPPED, MAX_WINDOW};
use crate::records::{Claim, QueueFull, QueueLimit, Resumed, Subscription};

/// A durable session. A clone is O(1).
#[derive(Debug, Clone)]
pub struct Session {
    /// The epoch of the claim that began it.
    number: u64,
    client: Arc<str>,
    limit: QueueLimit,
    /// How many positions that are not done the present owner may have sent.
    window: u32,
    /// Up to this position something may have been sent by an earlier owner.
    maybe_sent: u64,
    pub(crate) subscriptions: OrdMap<TopicFilter, Options>,
    pub(crate) queue: Queue,
    /// QoS 2 messages whose PUBREL is awaited, by packet identifier.
    pub(crate) received: OrdMap<u16, Received>,
    pub(crate) replay: Replay,
}

/// How much waits in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    /// Payloads and topics.
    pub(crate) bytes: u64,
}

/// A QoS 2 message from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its number.
    pub(crate) message: u64,
    /// What it counts with.
    pub(crate) bytes: u32,
}

/// The options of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Granted.
    pub qos: QoS,
    /// Of 5.0: not what the client itself published.
    pub no_local: bool,
    /// Of 5.0: with the retain flag of the publisher.
    pub retain_as_published: bool,
    /// Of 5.0; 0 is none.
    pub identifier: u32,
}

/// A message in the queue of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its place in the session's queue, from 1.
    pub position: u64,
    /// The number of the message.
    pub message: u64,
    /// 1 or 2.
    pub qos: QoS,
    /// The retain flag to send.
    pub retain: bool,
    /// Of the subscriptions that it is for, rising.
    pub identifiers: SmallVec<[u32; 1]>,
    /// It came for a member of a shared subscription.
    pub group: bool,
}

/// What became of a message that was offered to a queue.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    pub(crate) queued: bool,
    /// Messages that gave way.
    pub(crate) dropped: SmallVec<[u64; 1]>,
}

impl Session {
    /// A new session, named by the epoch of its first claim.
    pub(crate) fn new(number: u64, client: Arc<str>, claim: &Claim) -> Self {
        let mut session = Self {
            number,
            client,
            limit: QueueLimit::default(),
            window: 0,
            maybe_sent: 0,
            subscriptions: OrdMap::new(),
            queue: Queue::default(),
            received: OrdMap::new(),
            replay: Replay::default(),
        };
        session.claimed(claim);
        session
    }

    /// It has a new owner.
    pub(crate) fn claimed(&mut self, claim: &Claim) {
        self.limit = claim.queue.unwrap_or_default();
        self.window = if claim.window == 0 { MAX_WINDOW } else { claim.window.min(MAX_WINDOW) };
        self.replay = Replay::default();
    }

    /// The owner is gone and said how far it had sent.
    pub(crate) fn sent(&mut self, position: u64) {
        self.maybe_sent = self.maybe_sent.max(position.min(self.queue.last()));
    }

    /// The owner is gone and said nothing: it had sent no more than its window from the first position that is
    /// not done.
    pub(crate) fn abandoned(&mut self) {
        self.sent(self.queue.reach(self.window));
    }

    /// The last position that an owner before may have sent.
    pub(crate) fn maybe_sent(&self) -> u64 {
        self.maybe_sent
    }

    /// What the next owner needs to know; `since` is how old the route of a filter is.
    pub(crate) fn resumed(&self, since: impl Fn(&TopicFilter) -> u64) -> Resumed {
        let subscription = |(filter, options): (&TopicFilter, &Options)| Subscription {
            since: if options.is_queued() { since(filter) } else { 0 },
            ..options.record(filter)
        };
        Resumed {
            subscriptions: self.subscriptions.iter().map(subscription).collect(),
            received: self.received.keys().map(|packet_id| u32::from(*packet_id)).collect(),
            released: self.queue.released().collect(),
            maybe_sent: self.maybe_sent,
        }
    }

    /// Queues a message within the limits.
    pub(crate) fn offer(&mut self, message: u64, bytes: u32, terms: Terms) -> Offered {
        let mut offered = Offered::default();
        if self.is_full(bytes) {
            let too_large = self.limit.bytes > 0 && u64::from(bytes) > self.limit.bytes;
            if too_large || self.limit.full() == QueueFull::DropNewest {
                return offered;
            }
            // Bounded, since a new claim may have made a long queue's limit small.
            while self.is_full(bytes) && offered.dropped.len() < MAX_DROPPED {
                let Some(removed) = self.queue.drop_oldest() else { break };
                offered.dropped.push(removed.message);
            }
        }
        self.queue.push(message, bytes, terms);
        offered.queued = true;
        offered
    }

    fn is_full(&self, bytes: u32) -> bool {
        let (limit, load) = (&self.limit, self.queue.load());
        (limit.messages > 0 && load.messages >= limit.messages)
            || (limit.bytes > 0 && load.bytes + u64::from(bytes) > limit.bytes)
    }

    pub(crate) fn client(&self) -> &Arc<str> {
        &self.client
    }

    /// Whose it is.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client
    }

    /// The epoch of the claim that began it; the next session of the client has another.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it subscribed to, by filter.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&TopicFilter, &Options)> {
        self.subscriptions.iter()
    }

    /// Messages in its queue: neither done nor released.
    #[must_use]
    pub fn queued_messages(&self) -> u64 {
        self.queue.load().messages
    }

    /// Bytes of their payloads and topics.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queue.load().bytes
    }

    /// The last position given; 0 is none.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        self.queue.last()
    }
}

impl Load {
    fn of(bytes: u32) -> Self {
        Self { messages: 1, bytes: u64::from(bytes) }
    }

    pub(crate) fn put(&mut self, load: Self) {
        self.messages += load.messages;
        self.bytes += load.bytes;
    }

    pub(crate) fn take(&mut self, load: Self) {
        self.messages -= load.messages;
        self.bytes -= load.bytes;
    }
}

impl Options {
    /// Messages are queued for it.
    pub(crate) fn is_queued(self) -> bool {
        self.qos != QoS::AtMostOnce
    }

    pub(crate) fn record(self, filter: &TopicFilter) -> Subscription {
        Subscription {
            filter: filter.as_str().to_owned(),
            qos: u32::from(self.qos as u8),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            identifier: self.identifier,
            since: 0,
        }
    }

    /// `None` if no SUBSCRIBE could have made it.
    pub(crate) fn restore(record: &Subscription) -> Option<(TopicFilter, Self)> {
        let filter = TopicFilter::new(record.filter.as_str()).ok()?;
        let options = Self {
            qos: crate::message::qos_of(record.qos).ok()?,
            no_local: record.no_local,
            retain_as_published: record.retain_as_published,
            identifier: record.identifier,
        };
        Some((filter, options))
    }
}
