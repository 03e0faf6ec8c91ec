//! What an operator may tune of all groups of a host.

use std::time::Duration;

/// Timing and sizes of every Raft group of a [`Host`](crate::Host). The defaults elect a new leader within
/// about two seconds of a leader's death and tolerate a busy two-core machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest wait for a heartbeat before a follower stands for election.
    pub election_min: Duration,
    /// Longest such wait; also the leader's lease.
    pub election_max: Duration,
    /// A group snapshots after this many log entries since its last snapshot.
    pub snapshot_after_entries: u64,
    /// Entries kept behind a snapshot for followers that lag a little.
    pub keep_entries: u64,
    /// Bytes of recent log entries that each group keeps in memory for followers.
    pub log_cache_bytes: usize,
    /// Bytes of one request to a peer, about: appends are cut there and snapshots chunked.
    pub max_request_bytes: usize,
    /// Longest wait for a peer to take a chunk of a snapshot.
    pub snapshot_chunk_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1_000),
            snapshot_after_entries: 10_000,
            keep_entries: 1_000,
            log_cache_bytes: 8 << 20,
            max_request_bytes: 1 << 20,
            snapshot_chunk_timeout: Duration::from_secs(10),
        }
    }
}
