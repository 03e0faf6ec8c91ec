//! What a backup does to a replica: [`Gate`] holds proposals back for a moment, [`Pin`] keeps messages that are
//! forgotten until they are read.
//!
//! Knows no archive. The replica's task asks the pin ([`Pin::defer`]); the backup's task sets and releases it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore};

/// Numbers forgotten at a time when a pin is released: each may be a look at the disk, in the replica's task.
const AT_A_TIME: usize = 1_000;

/// Lets proposals for a shard through, or none: whoever closes it waits for those under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<RwLock<()>>);

impl Gate {
    /// Waits while the gate is closed; it cannot be closed while this lives.
    pub(crate) async fn pass(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.0).read_owned().await
    }

    /// Closed as long as this lives.
    pub(super) async fn close(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.0).write_owned().await
    }
}

/// Messages of one replica that are kept although its state names them no more.
#[derive(Debug)]
pub(crate) struct Pin {
    turn: Arc<Semaphore>,
    /// Smaller numbers are kept; 0: none.
    below: AtomicU64,
    /// Numbers that were forgotten and kept.
    deferred: Mutex<Vec<u64>>,
}

impl Default for Pin {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), below: AtomicU64::new(0), deferred: Mutex::default() }
    }
}

impl Pin {
    /// The right to set it, if nobody has that.
    pub(super) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).try_acquire_owned().ok()
    }

    /// Keeps messages with smaller numbers; 0 none.
    pub(super) fn keep_below(&self, number: u64) {
        self.below.store(number, Ordering::Release);
    }

    /// What is kept: all smaller numbers. The replica asks once per batch that it writes.
    pub(crate) fn below(&self) -> u64 {
        self.below.load(Ordering::Acquire)
    }

    /// Notes a number that is forgotten and kept.
    pub(crate) fn defer(&self, number: u64) {
        self.deferred.lock().push(number);
    }

    /// Some of the numbers that were kept, to be forgotten now; when nothing is pinned.
    pub(crate) fn release(&self) -> Vec<u64> {
        let mut deferred = self.deferred.lock();
        let left = deferred.len().saturating_sub(AT_A_TIME);
        deferred.split_off(left)
    }

    /// Numbers that were kept and not forgotten since.
    pub(super) fn deferred(&self) -> usize {
        self.deferred.lock().len()
    }
}
