//! Hosts many Raft groups on one store and one network.
//!
//! Knows openraft, log records and snapshots. Does not know MQTT, gRPC, what a command means ([`Machine`]) or
//! how bytes reach another node ([`Network`]).
//!
//! Start at [`Host`]: it opens a [`Group`] per state machine; a `Group` proposes commands and shows its
//! [`GroupStatus`]. All groups of a host share one log writer thread, so that appends which wait at the same
//! time share one `fdatasync`, and one timer (`pulse.rs`), so that a group that has nothing to do costs little.

mod config;
mod consensus;
mod disk;
mod erase;
mod error;
mod group;
mod host;
mod log;
mod machine;
mod network;
mod peer;
mod proto;
mod pulse;
mod record;
mod records;
mod replica;
mod seed;
mod serve;
mod snapshot;
mod status;

pub use config::Config;
pub use disk::{DiskDelay, DiskWork};
pub use error::{HandleError, HostError, MembersError, ProposeError};
pub use group::{Group, GroupId, Proposed};
pub use host::{FlushStats, Host};
pub use machine::{Machine, Names, Records};
pub use network::{MemoryNetwork, Network, NetworkError};
pub use seed::seed;
pub use status::{GroupStatus, Role};

/// Random identity of a node, never used again after its volume is lost.
pub type NodeId = u64;

#[cfg(test)]
mod tests;
