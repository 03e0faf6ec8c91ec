//! How much one command may add to the replicated state. Knows no state.
//!
//! These are bounds against a broken or hostile proposer, not policy: they are part of the machine, so a new
//! value is a new version of it and all replicas must switch together.

/// Nodes of a cluster, dead ones included.
pub const MAX_NODES: usize = 4096;

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

/// Timers that one tick handles; the next tick goes on.
pub const MAX_DUE: usize = 10_000;
