//! One durable session: what it subscribed to and what waits for it. Knows no other session and no bytes of a
//! message. Start at [`Session`].

use std::sync::Arc;

use imbl::OrdMap;
use smallvec::SmallVec;
use zwerm_wire::{QoS, TopicFilter};

/// A durable session. A clone is O(1).
#[derive(Debug, Clone)]
pub struct Session {
    /// The epoch of the claim that began it: names it for ever.
    pub(crate) number: u64,
    pub(crate) client: Arc<str>,
    pub(crate) subscriptions: OrdMap<TopicFilter, Options>,
}

/// How much waits in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    /// Payloads and topics.
    pub(crate) bytes: u64,
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

impl Session {
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

    /// What waits behind a position.
    pub(crate) fn queue(&self, _after: u64) -> impl Iterator<Item = Queued> {
        std::iter::empty()
    }

    /// Messages in its queue: neither done nor released.
    #[must_use]
    pub fn queued_messages(&self) -> u64 {
        0
    }

    /// Bytes of their payloads and topics.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        0
    }

    /// The last position given; 0 is none.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        0
    }
}
