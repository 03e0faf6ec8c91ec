//! The retained messages of a shard. Knows no subscribers. Start at [`Shard::retain`].

use std::sync::Arc;

use zwerm_wire::{TopicFilter, TopicName};

use crate::Shard;
use crate::arrivals::{self, Destination};
use crate::due::Timer;
use crate::message;
use crate::records::shard_reply::Reply;
use crate::records::{Message, Refusal, Retain, Retained};
use crate::shard::{Outcome, checked};

impl Shard {
    pub(crate) fn retain(&mut self, retain: &Retain, now_ms: u64) -> Outcome {
        let message = retain.message.as_ref().ok_or(Refusal::Invalid)?;
        let topic = checked(message)?;
        let origin = retain.origin.as_ref();
        arrivals::check(origin)?;
        if !self.arrivals.is_new(origin, Destination::Retained) {
            return Ok(Reply::Retained(Retained { replaced: false, repeated: true }));
        }
        // What a node sent that was cut off, or a connection before the publisher's present one, may come late: it was
        // sent again elsewhere, was acknowledged there, and must not replace what was published since.
        if retain.incarnation > 0 && self.peers.is_lost(retain.node, retain.incarnation) {
            return Err(Refusal::StaleIncarnation);
        }
        if self.is_outdated(&topic, message) {
            return Ok(Reply::Retained(Retained { replaced: false, repeated: true }));
        }
        // One that arrives dead still ends the life of the one before it.
        let kept = !message.payload.is_empty() && !message::is_expired(message, now_ms);
        let replaced = self.set_retained(topic, kept.then(|| Arc::new(message::detached(message))));
        Ok(Reply::Retained(Retained { replaced, repeated: false }))
    }

    /// A later connection of the same publisher has published to the topic.
    fn is_outdated(&self, topic: &TopicName, message: &Message) -> bool {
        let is_later = |kept: &Message| {
            kept.publisher == message.publisher && kept.publisher_epoch > message.publisher_epoch
        };
        message.publisher_epoch > 0 && self.retained.get(topic).is_some_and(|kept| is_later(kept))
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
}
