//! Everything that involves another node: members, leases, routes, forwarding lanes, shard clients.
//!
//! It replicates what the machines say through Raft and carries messages between nodes. It knows
//! topics, but no sessions and no sockets of clients: the broker sits on top and is called through
//! [`Local`]. Start at [`Cluster`].

mod backup;
mod barrier;
mod batches;
mod cluster;
mod commands;
mod config;
mod error;
mod exclusive;
mod formation;
pub mod forward;
mod holding;
mod joining;
mod keeper;
mod lanes;
mod leadership;
mod lease;
mod leaving;
mod ledger;
mod levels;
mod members;
mod moving;
mod outbox;
mod overseer;
mod own;
mod placement;
mod queue;
pub mod receipt;
mod replica;
mod retained;
mod routes;
mod settled;
mod shard_routes;
mod shards;
mod status;
mod takeover;
mod transport;

pub use backup::{ArchiveError, Backup, BackupError, Seed, Summary, inspect, restore};
pub use cluster::{Cluster, Local};
pub use config::{Config, WallClock};
pub use error::StartError;
pub use lanes::Lanes;
pub use lease::{Lease, LeaseConfig};
pub use leaving::LeaveError;
pub use levels::{Failure, LevelError, LevelTooLow, ReplicasError};
pub use outbox::{OutboxMessage, OutboxTarget};
pub use own::Own;
pub use queue::{QueueReader, QueuedMessage};
pub use replica::{ControlView, ShardView};
pub use retained::RetainedMessages;
pub use routes::{RouteClient, RoutePermit, Routed};
pub use shards::{ShardCounters, ShardError};
pub use status::{ClusterStatus, Formed};
pub use transport::{
    CallError, Dial, Incoming, Io, MemoryDial, MemoryNet, PeerStream, TcpDial, tcp_incoming,
};

pub use zwerm_machine::level;
pub use zwerm_machine::records::Node;
pub use zwerm_raft::{Config as RaftConfig, GroupId, GroupStatus, NodeId, Role};
