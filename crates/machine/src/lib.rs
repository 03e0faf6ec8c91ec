//! The replicated state machines, control and shard: `apply(command) -> reply`. Pure.
//!
//! The same commands give the same state, the same replies and the same snapshot bytes on every node. A clone
//! is O(1): the cluster publishes one to its readers after each batch. Knows no Raft, no network, no clock.
//! Start at [`Control::apply`] and [`Shard::apply`]; what is on the wire and on disk is in `proto/records.proto`.

pub mod arrivals;
mod control;
mod control_snapshot;
mod delay;
mod due;
mod effects;
mod enqueue;
mod entry;
mod exchange;
mod exclusive;
mod group;
mod interest;
pub mod level;
pub mod limits;
mod membership;
pub mod message;
mod messages;
mod outbox;
mod peers;
mod registry;
mod reseed;
mod retain;
mod routes;
mod session;
mod sessions;
mod shard;
mod shard_snapshot;
mod snapshot;

pub use control::{Control, Published};
pub use effects::Effects;
pub use entry::Entry;
pub use membership::is_held_by;
pub use outbox::{OutboxEntry, Picked, Place, Target};
pub use routes::{Routes, ShardRoute};
pub use session::{Options, Queued, Session};
pub use shard::Shard;
pub use snapshot::SnapshotError;

/// The messages of `proto/records.proto`, as prost generates them.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code; its comments are in the proto")]
pub mod records {
    include!(concat!(env!("OUT_DIR"), "/zwerm.records.v1.rs"));
}
