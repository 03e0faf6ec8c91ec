//! What the broker counts. Each drop has a reason of its own. Start at [`Counters`].

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count since the start of the process.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections attached.
    pub attached: Counter,
    /// CONNECTs refused because no owner could be agreed on in time.
    pub attach_failed: Counter,
    /// Messages published here by clients.
    pub published: Counter,
    /// Messages of clients that were refused for their topic or payload.
    pub refused: Counter,
    /// Messages with no match anywhere.
    pub unmatched: Counter,
    /// Messages that other nodes forwarded here.
    pub forwarded_in: Counter,
    /// Copies put into queues of clients.
    pub queued: Counter,
    /// QoS 0 copies dropped because the client's queue was full.
    pub dropped_queue_full: Counter,
    /// Messages dropped because their time was over before they could be queued.
    pub dropped_expired: Counter,
    /// Clients disconnected because they were too slow.
    pub kicked_slow: Counter,
    /// Clients disconnected because a newer connection took their id over.
    pub kicked_taken_over: Counter,
    /// Clients told to go to another node because this one drains.
    pub kicked_draining: Counter,
    /// Retained messages stored or deleted.
    pub retained: Counter,
    /// Messages kept to be published later.
    pub delayed: Counter,
    /// Retained messages sent to new subscriptions.
    pub replayed: Counter,
    /// Retained replays given up because a shard had no leader.
    pub replays_failed: Counter,
    /// Messages of shards' outboxes published here: wills, and QoS 2 messages of durable sessions.
    pub outbox: Counter,
    /// Messages that a member of a shared subscription left behind and another was to get.
    pub redispatched: Counter,
    /// Messages of shared subscriptions whose members all went at once, too many to be given to others.
    pub dropped_no_member: Counter,
}
