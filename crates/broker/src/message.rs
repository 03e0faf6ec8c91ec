//! One published message, shared by all that receive it, encoded once per variant.
//!
//! Knows no receivers. Start at [`Message::published`].

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::{Duration, Instant};
use zwerm_cluster::NodeId;
use zwerm_cluster::forward::{Body, Origin, Outgoing, Record, Target};
use zwerm_machine::message::{self, Header, MessageError};
use zwerm_machine::records::{self, Delay, Enqueue, Retain};
use zwerm_wire::{MessageProperties, Protocol, Publish, PublishFrame, QoS, SolePublish, TopicName};

use crate::delayed::Delayed;

/// Longer than any connection is behind with reading its clock.
const LONG_DEAD: Duration = Duration::from_secs(60);

/// What a message has left to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It does not expire.
    Never,
    /// So many seconds, at least one.
    Left(u32),
    /// It must not be delivered any more (section 3.3.2.3.3).
    Expired,
}

/// What a message is encoded as, for several that share it.
#[derive(Debug, Default)]
struct Encoded {
    /// By protocol family and presence of a packet id; `None` when it cannot be encoded.
    frames: [OnceLock<Option<PublishFrame>>; 4],
    /// For other nodes.
    body: OnceLock<Body>,
}

impl Encoded {
    fn has_frame(&self) -> bool {
        self.frames.iter().any(|frame| frame.get().is_some())
    }
}

/// What few messages have.
#[derive(Debug, Clone, Copy, Default)]
struct Rare {
    expires_at: Option<Instant>,
    origin: Option<Origin>,
}

/// A message on its way to its receivers. One thread makes it and another reads it, so it is small: each line of memory
/// of it is one that a processor's cache does not have.
#[derive(Debug)]
pub struct Message {
    publisher: ByteString,
    topic: TopicName,
    qos: QoS,
    retain: bool,
    payload: Bytes,
    properties: Option<Box<MessageProperties>>,
    rare: Option<Box<Rare>>,
    /// Most messages have one receiver, and no use for it.
    encoded: OnceLock<Box<Encoded>>,
}

impl Message {
    /// From a client's PUBLISH; the session has resolved the topic alias. `None` without a topic.
    pub fn published(publish: Publish, publisher: ByteString, now: Instant) -> Option<Self> {
        let Publish { qos, retain, topic, properties, payload, .. } = publish;
        let expiry = properties.as_ref().and_then(|properties| properties.message_expiry);
        let expires_at = expiry.and_then(|seconds| now.checked_add(Duration::from_secs(u64::from(seconds))));
        Some(Self::new(publisher, topic?, (qos, retain), payload, properties, expires_at))
    }

    /// From another node.
    #[must_use]
    pub fn forwarded(record: Record, now: Instant) -> Self {
        let Record { publisher, topic, qos, retain, origin, expires_in_ms, properties, payload, .. } = record;
        let expires_at = expires_in_ms.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
        // The record has the milliseconds only; receivers are told seconds (MQTT 5.0 section 3.3.2.3.3).
        let properties = match expires_in_ms {
            None => properties,
            Some(ms) => {
                let mut properties = properties.unwrap_or_default();
                properties.message_expiry = Some(u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX));
                Some(properties)
            }
        };
        let message = Self::new(publisher, topic, (qos, retain), payload, properties, expires_at);
        match origin {
            None => message,
            Some(origin) => message.of_outbox(origin),
        }
    }

    /// From what a shard keeps: a retained message or a will that fired.
    ///
    /// # Errors
    /// When the record is not one that a PUBLISH could have made.
    pub fn recorded(record: &records::Message, now_ms: u64, now: Instant) -> Result<Self, MessageError> {
        let properties = message::properties(record, now_ms)?;
        let left = (record.expires_at_ms > 0).then(|| record.expires_at_ms.saturating_sub(now_ms));
        let expires_at = left.and_then(|ms| match ms {
            // Dead for a connection, too, that looked at its clock before it took the message.
            0 => now.checked_sub(LONG_DEAD).or(Some(now)),
            _ => now.checked_add(Duration::from_millis(ms)),
        });
        let (topic, qos) = (message::topic(record)?, message::qos(record)?);
        let publisher = record.publisher.as_str().into();
        Ok(Self::new(publisher, topic, (qos, record.retain), record.payload.clone(), properties, expires_at))
    }

    fn new(
        publisher: ByteString,
        topic: TopicName,
        (qos, retain): (QoS, bool),
        payload: Bytes,
        properties: Option<Box<MessageProperties>>,
        expires_at: Option<Instant>,
    ) -> Self {
        Self {
            publisher,
            topic,
            qos,
            retain,
            payload,
            properties,
            rare: expires_at.map(|at| Box::new(Rare { expires_at: Some(at), origin: None })),
            encoded: OnceLock::new(),
        }
    }

    /// The same message as a shard's outbox publishes it.
    pub(crate) fn of_outbox(self, origin: Origin) -> Self {
        let expires_at = self.expires_at();
        Self { rare: Some(Box::new(Rare { expires_at, origin: Some(origin) })), ..self }
    }

    /// The same message for another member of a shared subscription: whoever it is given to now gets it from here only,
    /// and those that know it by its place in an outbox may be given it as well.
    pub(crate) fn left_behind(self: &Arc<Self>) -> Arc<Self> {
        if self.origin().is_none() {
            return Arc::clone(self);
        }
        let (publisher, topic) = (self.publisher.clone(), self.topic.clone());
        let (payload, properties) = (self.payload.clone(), self.properties.clone());
        Arc::new(Self::new(publisher, topic, (self.qos, self.retain), payload, properties, self.expires_at()))
    }

    /// `Some` if a shard published it.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.rare.as_ref()?.origin
    }

    fn expires_at(&self) -> Option<Instant> {
        self.rare.as_ref()?.expires_at
    }

    /// Client id of the publisher.
    #[must_use]
    pub fn publisher(&self) -> &ByteString {
        &self.publisher
    }

    /// Topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// As published.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// As published.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What travels with it; its `message_expiry` is as published, see [`expiry`](Self::expiry).
    #[must_use]
    pub fn properties(&self) -> Option<&MessageProperties> {
        self.properties.as_deref()
    }

    /// Bytes it counts for in a queue.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.payload.len() + self.topic.len()
    }

    /// What it has left to live, rounded up to seconds.
    #[must_use]
    pub fn expiry(&self, now: Instant) -> Expiry {
        let Some(at) = self.expires_at() else { return Expiry::Never };
        match at.checked_duration_since(now) {
            Some(left) if !left.is_zero() => {
                let seconds = left.as_millis().div_ceil(1_000);
                Expiry::Left(u32::try_from(seconds).unwrap_or(u32::MAX))
            }
            _ => Expiry::Expired,
        }
    }

    /// It dies at some time.
    pub(crate) fn expires(&self) -> bool {
        self.expires_at().is_some()
    }

    /// It must not be delivered any more. The clock is read only for a message that expires.
    pub(crate) fn has_expired(&self, now: impl FnOnce() -> Instant) -> bool {
        self.expires() && self.expiry(now()) == Expiry::Expired
    }

    /// The PUBLISH for all receivers of a protocol family, encoded at the first call. `None` when it cannot
    /// be encoded (it is larger than any packet may be). Not for receivers with subscription identifiers,
    /// an alias, or a message that expires.
    #[must_use]
    pub fn frame(&self, protocol: Protocol, with_id: bool) -> Option<&PublishFrame> {
        let variant = usize::from(protocol == Protocol::V5) * 2 + usize::from(with_id);
        let encode = || {
            PublishFrame::encode(protocol, &self.topic, self.properties.as_deref(), &self.payload, with_id)
                .ok()
        };
        let encoded = self.encoded.get_or_init(Box::default);
        encoded.frames.get(variant)?.get_or_init(encode).as_ref()
    }

    /// The same for the last of its receivers, when there was none before that shares a frame: to be written once.
    /// `None`: others may want it too.
    #[must_use]
    pub fn sole(self: &Arc<Self>, protocol: Protocol, with_id: bool) -> Option<SolePublish<'_>> {
        let has_frame = self.encoded.get().is_some_and(|encoded| encoded.has_frame());
        let is_sole = !has_frame && Arc::strong_count(self) == 1;
        let measure = || {
            SolePublish::measure(protocol, &self.topic, self.properties.as_deref(), &self.payload, with_id)
        };
        is_sole.then(measure)?.ok()
    }

    /// What goes to other nodes. The clock is read only for a message that expires.
    pub(crate) fn outgoing(&self, now: impl FnOnce() -> Instant) -> Outgoing<'_> {
        let left = |at: Instant| {
            let left = at.saturating_duration_since(now()).as_millis();
            u64::try_from(left).unwrap_or(u64::MAX)
        };
        Outgoing {
            publisher: &self.publisher,
            topic: &self.topic,
            qos: self.qos,
            retain: self.retain,
            origin: self.origin(),
            expires_in_ms: self.expires_at().map(left),
            properties: self.properties.as_deref(),
            payload: &self.payload,
        }
    }

    /// The same, encoded at the first call; what only one node gets is not kept here (`is_sole`).
    pub(crate) fn body(&self, is_sole: bool, now: impl FnOnce() -> Instant) -> Body {
        let encode = || Body::encode(&self.outgoing(now));
        match self.encoded.get() {
            None if is_sole => encode(),
            _ => self.encoded.get_or_init(Box::default).body.get_or_init(encode).clone(),
        }
    }

    /// What a shard is asked to queue for its durable sessions.
    pub(crate) fn enqueue(&self, target: &Target, now_ms: u64) -> Enqueue {
        Enqueue {
            message: Some(self.record(now_ms)),
            plain: target.plain,
            groups: target.groups.iter().map(ToString::to_string).collect(),
            origin: self.origin_record(),
        }
    }

    /// What the shard of its topic is asked to keep.
    pub(crate) fn retained(&self, now_ms: u64, through: Through) -> Retain {
        let Through { node, incarnation, epoch } = through;
        let message = records::Message { publisher_epoch: epoch, ..self.record(now_ms) };
        Retain { message: Some(message), origin: self.origin_record(), node, incarnation }
    }

    /// What the shard of a topic is asked to publish there later; it expires so much later, too.
    pub(crate) fn delayed(&self, delayed: &Delayed, now_ms: u64) -> Delay {
        let Delayed { seconds, topic } = delayed;
        let mut record = self.record(now_ms);
        record.topic = topic.to_string();
        if record.expires_at_ms > 0 {
            record.expires_at_ms = record.expires_at_ms.saturating_add(u64::from(*seconds) * 1_000);
        }
        Delay { message: Some(record), delay_s: *seconds, origin: self.origin_record() }
    }

    fn origin_record(&self) -> Option<records::Origin> {
        self.origin().map(|Origin { shard, sequence }| records::Origin { shard, sequence })
    }

    /// What a shard keeps of it.
    pub(crate) fn record(&self, now_ms: u64) -> records::Message {
        let header = Header {
            publisher: &self.publisher,
            qos: self.qos,
            retain: self.retain,
            properties: self.properties.as_deref(),
        };
        message::record(&self.topic, self.payload.clone(), header, now_ms)
    }
}

/// What a message was published through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Through {
    /// This node.
    pub(crate) node: NodeId,
    /// As which incarnation; 0: not known.
    pub(crate) incarnation: u64,
    /// The publisher's connection; 0: none.
    pub(crate) epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_died_while_it_waited_is_expired_also_by_a_clock_that_was_read_before() {
        let before = Instant::now();
        let record = records::Message { topic: "t".to_owned(), expires_at_ms: 1_000, ..Default::default() };
        let expiry = |now_ms| Message::recorded(&record, now_ms, Instant::now()).unwrap().expiry(before);
        assert!(matches!(expiry(1_000), Expiry::Expired));
        assert!(matches!(expiry(9_000), Expiry::Expired));
        assert!(matches!(expiry(999), Expiry::Left(1)));
    }
}
