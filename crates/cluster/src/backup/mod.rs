//! Backups: one consistent archive of the whole cluster, and a new cluster from it.
//!
//! The node that is asked ([`gather`]) has the leaders of all shards hold still, take their states, and go on
//! ([`serve`]); then it reads these states and what they name, shard by shard, and writes the archive ([`archive`]) to
//! whoever asked. `ARCHITECTURE.md` says why that is one cut. [`restore()`] writes the volume of one node from it, without a
//! cluster. Start at [`Cluster::backup`](crate::Cluster::backup), [`inspect`] and [`restore()`].

mod archive;
mod format;
mod gather;
mod pin;
mod restore;
mod serve;

pub use archive::{Summary, inspect};
pub use format::ArchiveError;
pub use gather::{Backup, BackupError};
pub(crate) use pin::{Gate, Pin};
pub use restore::{Seed, restore};
pub(crate) use serve::serve_backup;

/// The contract of the file, compiled from proto/archive.proto.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/archive.proto, documented there"
)]
pub(crate) mod proto {
    tonic::include_proto!("zwerm.archive.v1");
}

/// Bytes of a part of a state, and of a page of messages, about.
const PAGE_BYTES: usize = 1 << 20;
