//! What the broker is allowed to do. Knows no file and no flag: `node` reads those.

use std::time::Duration;

/// Limits and choices of one node's broker; the same on all nodes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bounds of each client's queue in memory.
    pub queue: QueueLimits,
    /// Bounds of each durable session's queue on disk.
    pub session_queue: SessionQueue,
    /// What a client with several matching subscriptions gets.
    pub overlapping: Overlapping,
    /// Refuse messages that say that they are text and are no UTF-8 (section 3.3.2.3.2).
    pub validate_payload_format: bool,
    /// Who of a shared subscription gets a message.
    pub shared_strategy: SharedStrategy,
    /// How long a CONNECT waits for the owner of its client id to be agreed on.
    pub attach_timeout: Duration,
    /// How long this node may be without a lease before it sends its clients elsewhere.
    pub lease_patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue: QueueLimits::default(),
            session_queue: SessionQueue::default(),
            overlapping: Overlapping::Each,
            validate_payload_format: false,
            shared_strategy: SharedStrategy::Local,
            attach_timeout: Duration::from_secs(10),
            lease_patience: Duration::from_secs(10),
        }
    }
}

/// Bounds of the queue in front of one client. Over them QoS 0 is dropped, and a QoS 1/2 publish is
/// accepted only once the client has caught up; at twice of them, or when it does not catch up for
/// `patience`, the client is disconnected (0x97).
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of their payloads and topics.
    pub bytes: usize,
    /// How long a client may stay over the bounds.
    pub patience: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 16 * 1024 * 1024, patience: Duration::from_secs(10) }
    }
}

/// Bounds of the queue of a durable session, on the disks of its shard's replicas.
#[derive(Debug, Clone, Copy)]
pub struct SessionQueue {
    /// Messages; 0 is no bound.
    pub messages: u64,
    /// Bytes of payloads and topics; 0 is no bound.
    pub bytes: u64,
    /// What gives way when a message finds the queue full.
    pub full: QueueFull,
}

impl Default for SessionQueue {
    fn default() -> Self {
        Self { messages: 1_000_000, bytes: 1 << 30, full: QueueFull::DropOldest }
    }
}

/// What gives way when a message finds a durable queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFull {
    /// The oldest messages.
    DropOldest,
    /// The message that comes.
    DropNewest,
}

/// What a client with several matching subscriptions gets (MQTT 5.0 section 3.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlapping {
    /// A copy per matching subscription.
    Each,
    /// One copy with the highest QoS and all subscription identifiers.
    Merged,
}

/// Who of a shared subscription gets a message (section 4.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedStrategy {
    /// Any member, by chance.
    Random,
    /// One after the other, as seen by each publisher.
    RoundRobin,
    /// The same member for a publisher as long as it stays.
    Sticky,
    /// A member on the publisher's node while there is one.
    Local,
    /// By the publisher's client id.
    HashClient,
    /// By the topic.
    HashTopic,
}
