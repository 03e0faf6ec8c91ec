//! What an operator may tune of all groups of a host.

use std::time::Duration;

use crate::{DiskWork, HostError};

/// Timing and sizes of every Raft group of a [`Host`](crate::Host). The defaults elect a new leader within
/// about two seconds of a leader's death and tolerate a busy two-core machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest wait for a heartbeat before a follower stands for election.
    pub election_min: Duration,
    /// Longest such wait; also the leader's lease.
    pub election_max: Duration,
    /// A group snapshots after this many log entries since its last snapshot.
    pub snapshot_after_entries: u64,
    /// A group also snapshots after applying this many bytes of commands since.
    pub snapshot_after_bytes: u64,
    /// Entries kept behind a snapshot for followers that lag a little.
    pub keep_entries: u64,
    /// Bytes of recent log entries that each group keeps in memory for followers.
    pub log_cache_bytes: usize,
    /// Bytes of one request to a peer, about: appends are cut there and snapshots chunked.
    pub max_request_bytes: usize,
    /// Longest wait for a peer to take a chunk of a snapshot (and to install it, after the last one).
    pub snapshot_chunk_timeout: Duration,
    /// Longest wait for a proposal, a linearizable read or a change of leader or members.
    pub propose_timeout: Duration,
    /// Where the work that waits for the disk is done.
    pub disk_work: DiskWork,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1_000),
            snapshot_after_entries: 10_000,
            snapshot_after_bytes: 64 << 20,
            keep_entries: 1_000,
            log_cache_bytes: 4 << 20,
            max_request_bytes: 1 << 20,
            snapshot_chunk_timeout: Duration::from_secs(10),
            propose_timeout: Duration::from_secs(5),
            disk_work: DiskWork::Threads,
        }
    }
}

impl Config {
    /// The same in openraft's terms.
    ///
    /// # Errors
    /// [`HostError::Config`] when the timings contradict each other.
    pub(crate) fn to_openraft(&self) -> Result<openraft::Config, HostError> {
        let config = openraft::Config {
            cluster_name: "zwerm".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // The whole transfer; the chunks have a time limit of their own.
            install_snapshot_timeout: millis(self.snapshot_chunk_timeout.saturating_mul(60)),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // A follower that lags is served from the log as long as the log has what it lacks.
            replication_lag_threshold: self.snapshot_after_entries.saturating_add(self.keep_entries),
            purge_batch_size: (self.keep_entries / 4).max(1),
            // Requests are limited in bytes by the log reader.
            max_payload_entries: 4_096,
            // A returning or cut-off node must not depose a healthy leader.
            enable_pre_vote: Some(true),
            // A leader that restarts stands for election like everybody else. Restored as leader, it would not
            // know how far its log was committed (that is written a little later than it is true), and
            // openraft's read index would be the first entry of the old term: a linearizable read could miss
            // what was acknowledged last.
            enable_leader_restore: Some(false),
            // Room that openraft reserves for every group, whether it is used or not: callers wait before a shard
            // (the queues of `cluster`), so no more than these are ever under way.
            api_channel_size: Some(4_096),
            api_batch_capacity: 256,
            // A peer that comes back is found again within half a second.
            backoff: "50ms 100ms 200ms ...500ms".into(),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| HostError::Config(error.to_string()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
