//! The state machine that a group replicates, as its host sees it.

use std::ops::Range;

use bytes::Bytes;

/// A deterministic state machine: the same commands in the same order give the same state and the same
/// replies on every node. Owned by one task; no method may block on anything but its own computation.
pub trait Machine: Send + Sync + 'static {
    /// Executes the command of log entry `index` and returns the reply for its proposer.
    fn apply(&mut self, index: u64, command: Bytes) -> Bytes;

    /// Everything up to `index` is applied, entries without a command included. Called once per batch:
    /// publish views here, before the proposers of the batch get their replies.
    ///
    /// # Errors
    /// The machine cannot keep what it applied (its records cannot be written): the group stops on this node and
    /// answers nobody of the batch, whose outcome is unknown to them.
    fn applied(&mut self, index: u64) -> Result<(), String>;

    /// A cheap view of the present state; the returned function serialises it on another thread.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send>;

    /// The range of engine keys that holds what belongs to the state but is not in the snapshot: the machine's
    /// *records*. Asked once, when the group is opened. `None`: everything is in the snapshot.
    ///
    /// The machine commits its records to the host's engine, at the latest in [`applied`](Self::applied), and
    /// deletes them when nothing names them any more; it never syncs. A key always gets the same value on every
    /// node, whenever it is written. A snapshot that is sent to another node is sent with the records that
    /// the range then holds: every one that the snapshot names (and still lives at the sender), and newer ones.
    fn records(&self) -> Option<Range<Vec<u8>>> {
        None
    }

    /// Replaces the state by a snapshot that covers the log up to `index`. Its records are in the engine
    /// already; the machine deletes those of its range that the snapshot does not name.
    ///
    /// # Errors
    /// What is wrong with the bytes; the group stops on this node.
    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String>;
}
