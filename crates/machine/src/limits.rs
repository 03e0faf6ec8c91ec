//! How much one command may add to the replicated state. Knows no state.
//!
//! These are bounds against a broken or hostile proposer, not policy: they are part of the machine, so a new
//! value is a new version of it and all replicas must switch together.

/// Nodes of a cluster, dead ones included.
pub const MAX_NODES: usize = 4096;

/// Removed nodes that are remembered; the oldest is forgotten for a new one. A node that is forgotten cannot come back
/// either, for only an empty one joins and that has a new id: this only bars a repeated request to join.
pub const MAX_REMOVED: usize = 1024;

/// Shards of a cluster.
pub const MAX_SHARDS: u32 = 4096;

/// Routes in one command.
pub const MAX_ROUTES: usize = 1 << 20;

/// Bytes of a name, an address or a cluster id.
pub const MAX_TEXT: usize = 1024;

/// Bytes of a client id (MQTT 5.0 section 1.5.4).
pub const MAX_CLIENT_ID: usize = 65_535;

/// Bytes of a message as a record: the largest packet there is (MQTT 5.0 section 1.5.5).
pub const MAX_MESSAGE: usize = 268_435_455;

/// Bytes of a will as a record. Its payload has at most 65,535 (section 3.1.3.4); the rest is for properties.
pub const MAX_WILL: usize = 1 << 20;

/// Messages in the outbox from which on no more wills are taken. Those already taken still fire into it.
pub const MAX_OUTBOX: usize = 1 << 16;

/// Bytes in the outbox from which on no more wills are taken.
pub const MAX_OUTBOX_BYTES: usize = 64 << 20;

/// Messages of a shard that wait for their time.
pub const MAX_DELAYED: usize = 1 << 20;

/// Filters of a shard that have, or had, an exclusive subscriber.
pub const MAX_EXCLUSIVE: usize = 1 << 20;

/// Timers that one tick handles; the next tick goes on.
pub const MAX_DUE: usize = 10_000;

/// Filters in one command: subscriptions, shared subscriptions to deliver to; subscription identifiers.
pub const MAX_FILTERS: usize = 1 << 16;

/// Subscriptions of one session.
pub const MAX_SUBSCRIPTIONS: usize = 1 << 20;

/// Positions that may be under way to a client at once: packet identifiers (MQTT 5.0 section 2.2.1).
pub const MAX_WINDOW: u32 = 65_535;

/// Messages that give way to one message.
pub const MAX_DROPPED: usize = 1024;

/// Messages of ended sessions that one command lets go; the next tick goes on.
pub const MAX_BURIED: usize = 10_000;

/// Members of a shared subscription that are compared for one message.
pub const MAX_COMPARED: usize = 64;

/// Topics that a session notes while retained messages are queued for it.
pub const MAX_REPLAY_TOPICS: usize = 1 << 16;

/// Bytes of those topics.
pub const MAX_REPLAY_BYTES: usize = 4 << 20;

/// How far a shard's leader may be ahead of its outbox: it publishes no entry whose sequence is this much above the
/// first that is not drained. So far back a destination knows which entries came to it.
pub const OUTBOX_WINDOW: u64 = 1024;
