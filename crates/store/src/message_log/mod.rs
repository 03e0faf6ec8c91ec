//! [`MessageLog`]: the messages that the queues of one shard name, on disk.
//!
//! Knows numbers and bytes; which numbers are still named is the caller's knowledge. Does not know what a
//! message is, nor Raft. Start at [`MessageLog::store`] and [`MessageReader::read`].
//!
//! Messages of one log entry share records (*runs* of about [`RUN_BYTES`]): an engine with millions of small
//! records spends its time in its own book-keeping (`examples/queue_cost.rs` has the figures). A run is made
//! by exactly one log entry, from what is in that entry alone, so that every replica makes the same runs. From
//! then on it only loses messages, and is deleted with the last one. So of two versions of a run, written by
//! whichever replica at whatever time, both hold everything that is still named by the newest committed
//! state, and either may replace the other: what makes it safe to copy runs from one replica to another while
//! both go on (`zwerm-raft`'s snapshots), and to apply the log again after a crash.

mod run;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use self::run::Run;
use crate::keyspace::{KeySpace, MessageKey, ShardMessage};
use crate::{Batch, Engine, StoreError};

/// Bytes of messages after which a run ends. sled keeps 16 values in a page and gives a page 1/256 of its
/// cache: with these a page still fits when the cache has 32 MiB.
const RUN_BYTES: usize = 8 << 10;

/// The messages of one shard. Owned by the shard's state machine; everybody else has a [`MessageReader`].
///
/// Nothing is written before [`commit`](Self::commit).
pub struct MessageLog {
    engine: Arc<dyn Engine>,
    group: u32,
    /// Stored since the last commit, by first number.
    stored: BTreeMap<u64, Run>,
    /// Forgotten since the last commit.
    forgotten: Vec<u64>,
}

impl std::fmt::Debug for MessageLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageLog").field("group", &self.group).finish_non_exhaustive()
    }
}

impl MessageLog {
    /// The log of a shard's Raft group. Reads nothing.
    pub fn new(group: u32, engine: Arc<dyn Engine>) -> Self {
        Self { engine, group, stored: BTreeMap::new(), forgotten: Vec::new() }
    }

    /// Reads what is committed.
    pub fn reader(&self) -> MessageReader {
        MessageReader { engine: Arc::clone(&self.engine), group: self.group }
    }

    /// Adds all messages that *one* log entry stores, in the order of their numbers. Numbers grow from entry to
    /// entry.
    pub fn store(&mut self, messages: impl IntoIterator<Item = (u64, Bytes)>) {
        let mut open: Option<(usize, Run)> = None;
        for (number, message) in messages {
            let size = message.len();
            match &mut open {
                Some((bytes, run)) if *bytes + size <= RUN_BYTES => {
                    *bytes += size;
                    run.messages.push((number, message));
                }
                _ => {
                    let new = Run { first: number, messages: vec![(number, message)] };
                    self.seal(open.replace((size, new)));
                }
            }
        }
        self.seal(open);
    }

    fn seal(&mut self, open: Option<(usize, Run)>) {
        self.stored.extend(open.map(|(_, run)| (run.first, run)));
    }

    /// Nothing names this message any more.
    pub fn forget(&mut self, number: u64) {
        self.forgotten.push(number);
    }

    /// Writes what was stored and forgotten since the last commit in one batch; does not sync. `named` says
    /// whether the present state names a number, and must say so of every message that is still needed.
    ///
    /// # Errors
    /// When the disk refuses. Nothing was written then, and the replica must stop.
    pub fn commit(&mut self, named: impl Fn(u64) -> bool) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        let mut forgotten = std::mem::take(&mut self.forgotten);
        forgotten.sort_unstable();
        let stored = std::mem::take(&mut self.stored);
        let mut shrunk = None;
        for number in forgotten {
            let holds = |run: &Run| run.find(number).is_some();
            if shrunk.as_ref().is_some_and(holds) || holds_number(&stored, number) {
                continue;
            }
            if let Some(run) = shrunk.take() {
                shrink(&mut batch, self.group, &run, &named);
            }
            shrunk = Run::load(self.engine.as_ref(), self.group, number)?.filter(holds);
        }
        if let Some(run) = shrunk {
            shrink(&mut batch, self.group, &run, &named);
        }
        for run in stored.into_values() {
            let left = run.left(&named);
            if !left.messages.is_empty() {
                left.put(&mut batch, self.group);
            } else if self.engine.get(&Self::key_from(self.group, run.first))?.is_some() {
                // It was here before a restart, or was copied.
                run.delete(&mut batch, self.group);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.engine.commit(batch) }
    }

    /// The keys of all records of a group.
    pub fn keys(group: u32) -> Range<Vec<u8>> {
        ShardMessage::of_group(group)
    }

    /// The first key that messages from `number` on can have.
    pub fn key_from(group: u32, number: u64) -> Vec<u8> {
        ShardMessage::key(MessageKey { group, number, chunk: 0 })
    }

    /// The numbers of the messages in a record of which this is a key and its value.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is none.
    pub fn numbers(key: &[u8], value: &[u8]) -> Result<Vec<u64>, StoreError> {
        run::numbers(key, value)
    }
}

fn holds_number(stored: &BTreeMap<u64, Run>, number: u64) -> bool {
    stored.range(..=number).next_back().is_some_and(|(_, run)| run.find(number).is_some())
}

/// Deletes a run of which nothing is named, and rewrites one of which half is not: a record is never larger
/// than twice what is named of it, for at most as many bytes written again as were written first.
fn shrink(batch: &mut Batch, group: u32, run: &Run, named: &impl Fn(u64) -> bool) {
    let left = run.left(named);
    if left.messages.is_empty() {
        run.delete(batch, group);
    } else if left.bytes() * 2 <= run.bytes() {
        left.put(batch, group);
    }
}

/// Reads the messages of one shard; clones are cheap.
#[derive(Clone)]
pub struct MessageReader {
    engine: Arc<dyn Engine>,
    group: u32,
}

impl std::fmt::Debug for MessageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageReader").field("group", &self.group).finish_non_exhaustive()
    }
}

impl MessageReader {
    /// The messages with these numbers, in the same order; cheapest when the numbers grow. `None`: it was
    /// forgotten already, by a log entry that this replica may not have applied yet (it was copied from one
    /// that had, or wrote this itself before it restarted), so a caller whose state names it waits for the
    /// next state. Blocks for the disk.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub fn read(&self, numbers: &[u64]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut found = Vec::with_capacity(numbers.len());
        let mut run: Option<Run> = None;
        for number in numbers {
            if run.as_ref().and_then(|run| run.find(*number)).is_none() {
                run = Run::load(self.engine.as_ref(), self.group, *number)?;
            }
            let message = run.as_ref().and_then(|run| run.find(*number));
            // A copy: a message that somebody keeps does not keep its run.
            found.push(message.map(|message| Bytes::copy_from_slice(message)));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
