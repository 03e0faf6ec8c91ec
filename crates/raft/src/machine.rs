//! The state machine that a group replicates, as its host sees it.

use bytes::Bytes;

/// A deterministic state machine: the same commands in the same order give the same state and the same
/// replies on every node. Owned by one task; no method may block on anything but its own computation.
pub trait Machine: Send + Sync + 'static {
    /// Executes the command of log entry `index` and returns the reply for its proposer.
    fn apply(&mut self, index: u64, command: Bytes) -> Bytes;

    /// Everything up to `index` is applied, entries without a command included. Called once per batch:
    /// publish views here, before the proposers of the batch get their replies.
    fn applied(&mut self, index: u64);

    /// A cheap view of the present state; the returned function serialises it on another thread.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send>;

    /// Replaces the state by a snapshot that covers the log up to `index`.
    ///
    /// # Errors
    /// What is wrong with the bytes; the group stops on this node.
    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String>;
}
