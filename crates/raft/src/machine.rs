//! The state machine that a group replicates, as its host sees it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// A deterministic state machine: the same commands in the same order give the same state and the same
/// replies on every node. Owned by one task; no method may block on anything but its own computation and, for
/// its records, on the engine.
///
/// A machine may keep a part of its state as *records* in the host's engine, beside the snapshot: see
/// [`Records`].
pub trait Machine: Send + Sync + 'static {
    /// Executes the command of log entry `index` and returns the reply for its proposer.
    fn apply(&mut self, index: u64, command: Bytes) -> Bytes;

    /// Everything up to `index` is applied, entries without a command included. Called once per batch: commit
    /// the batch's records here (no sync is needed), then publish views; the proposers of the batch get their
    /// replies after it.
    ///
    /// # Errors
    /// The machine cannot keep what it applied (its records cannot be written): the group stops on this node and
    /// answers nobody of the batch, whose outcome is unknown to them.
    fn applied(&mut self, index: u64) -> Result<(), String>;

    /// A cheap view of the present state; the returned function serialises it on another thread.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send>;

    /// Replaces the state by a snapshot that covers the log up to `index`. Records need no attention: those of
    /// the snapshot are in the engine, and the host asks [`names`](Self::names) which others to delete.
    ///
    /// # Errors
    /// What is wrong with the bytes; the group stops on this node.
    fn restore(&mut self, snapshot: Bytes, index: u64) -> Result<(), String>;

    /// Where the machine's records are; asked once, when the group is opened. `None`: it has none.
    fn records(&self) -> Option<Records> {
        None
    }

    /// Tells of a record (key, value) whether the present state names something in it, or a state after this
    /// one may because it is from a later log entry. Asked after a snapshot from another node was restored: the
    /// host deletes the records of the range for which it says no. Called on another thread.
    fn names(&self) -> Names {
        Box::new(|_, _| true)
    }
}

/// Whether a state names something in the record of this key and value.
pub type Names = Box<dyn Fn(&[u8], &[u8]) -> bool + Send>;

/// The range of engine keys in which a machine keeps records, and what a follower already has of it.
///
/// Before a snapshot is sent to another node, the records that the sender's range then holds are sent.
/// For that to be right although sender and receiver go on applying entries, records obey three rules:
///
/// 1. A record is made by exactly one log entry, under a key greater than those of all earlier entries, with
///    what is in that entry alone.
/// 2. From then on it only loses parts, and only those that no later state can name; it is deleted with the
///    last part.
/// 3. A reader whose state names a part that the record lacks takes it for *forgotten by an entry that is not
///    applied here yet*, and waits for that entry.
///
/// So any version of a record, written by whichever node at whatever time, holds all that is named in the
/// newest committed state, and one version may replace another. It also makes a crash harmless. The engine
/// keeps commits in order, and a machine commits its records only after their entries are committed in the
/// group; so after a restart from the last snapshot the engine holds records of entries that are applied again
/// (they are written again, the same) and lacks parts that such entries forget again (rule 3). Neither needs
/// the entry in this node's own log: openraft applies what a quorum has on its disks, and the leader that this
/// node will hear of has it.
#[derive(Clone)]
pub struct Records {
    /// All keys of the machine's records.
    pub keys: Range<Vec<u8>>,
    /// The least key that an entry after those applied here can make a record under; what is before it need not
    /// be sent to this node. Called at any time from any thread: read it from the published view.
    pub next: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("keys", &self.keys).finish_non_exhaustive()
    }
}
