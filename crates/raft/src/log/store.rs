//! [`LogStore`]: one group's log and vote, as openraft asks for them.
//!
//! Truth is in [`GroupLog`] (memory) the moment a call returns; the [`Writer`] follows. A reader never waits
//! for a write.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use zwerm_store::{Engine, StoreError};

use super::disk::{self, Restored};
use super::tail::Tail;
use super::writer::{Work, Writer};
use crate::consensus::{Entry, LogId, Types, Vote};
use crate::disk::Disk;

/// What is true of a group's log now.
#[derive(Debug)]
pub(crate) struct GroupLog {
    group: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Index of the first entry; of the next one if there is none.
    first: u64,
    tail: Tail,
}

impl GroupLog {
    /// Which group.
    pub(crate) fn group(&self) -> u32 {
        self.group
    }

    /// The engine holds the entries below `next` that were appended in `generation`.
    pub(crate) fn written(&self, generation: u64, next: u64) {
        self.state.lock().tail.written(generation, next);
    }
}

/// Handle of one group's log; clones share it (openraft has one for the core and one per reader).
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<GroupLog>,
    disk: Disk,
    writer: Arc<Writer>,
    max_read_bytes: usize,
}

impl LogStore {
    /// Restores a group's log. Blocks.
    pub(crate) fn open(
        group: u32,
        disk: Disk,
        writer: Arc<Writer>,
        cache_bytes: usize,
        max_read_bytes: usize,
    ) -> Result<Self, StoreError> {
        let Restored { vote, committed, purged, last, first } = disk::restore(disk.engine().as_ref(), group)?;
        let tail = Tail::new(last.map_or(0, |id| id.index + 1), cache_bytes);
        let first = first.unwrap_or_else(|| tail.next());
        let state = Mutex::new(State { vote, committed, purged, last, first, tail });
        Ok(Self { log: Arc::new(GroupLog { group, state }), disk, writer, max_read_bytes })
    }

    /// Deletes the purged records that the node had not deleted when it stopped.
    pub(crate) async fn resume_purge(&self) -> io::Result<()> {
        let Some(upto) = self.log.state.lock().purged else { return Ok(()) };
        self.writer.submit(Work::Purge { group: self.log.group, upto }).await
    }

    /// Has the writer do something and waits until it is durable.
    async fn durably(&self, work: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Work) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.writer.submit(work(done)).await?;
        answer.await.map_err(|_| io::Error::other("the log writer has stopped"))?
    }

    /// Reads entries up to about `max_bytes`, but at least one if there is one.
    async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let (range, held, held_from) = {
            let state = self.log.state.lock();
            let start = range.start.max(state.first);
            let end = range.end.min(state.tail.next());
            let held_from = state.tail.first();
            (start..end, state.tail.read(start..end, max_bytes), held_from)
        };
        if range.start >= range.end || range.start >= held_from {
            return Ok(held);
        }
        let upper = range.end.min(held_from);
        let older = self.read_disk(range.start..upper, max_bytes).await?;
        // A limited read may have stopped before it reached what memory holds.
        let stopped = older.last().is_some_and(|last| last.log_id.index + 1 < upper);
        let held = if stopped { Vec::new() } else { held };
        self.join(range.start, older, held)
    }

    async fn read_disk(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let group = self.log.group;
        let read = move |engine: &dyn Engine| disk::entries(engine, group, range, max_bytes);
        self.disk.run(read).await.map_err(io::Error::other)
    }

    /// Puts what the disk and what memory gave together, without a hole; a purge in the meantime may have
    /// taken entries at the beginning.
    fn join(&self, start: u64, older: Vec<Entry>, held: Vec<Entry>) -> io::Result<Vec<Entry>> {
        let start = start.max(self.log.state.lock().first);
        let entries = older.into_iter().chain(held).skip_while(|entry| entry.log_id.index < start);
        let mut found = Vec::new();
        for (entry, due) in entries.zip(start..) {
            if entry.log_id.index != due {
                let reason = format!("the log of group {} lacks entry {due}", self.log.group);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            found.push(entry);
        }
        Ok(found)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, self.max_read_bytes).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.state.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.log.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let group = self.log.group;
        self.durably(|done| Work::Vote { group, vote: *vote, done }).await?;
        self.log.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        self.log.state.lock().committed = Some(id);
        self.writer.save_committed(self.log.group, id);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let generation = {
            let mut state = self.log.state.lock();
            if state.first == state.tail.next() {
                state.first = entries.first().map_or(state.first, |entry| entry.log_id.index);
            }
            entries.iter().cloned().for_each(|entry| state.tail.push(entry));
            state.last = state.tail.last_id().or(state.last);
            state.tail.generation()
        };
        self.writer.submit(Work::Append { log: Arc::clone(&self.log), entries, generation, done }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let next = last.map_or(0, |id| id.index + 1);
        {
            let mut state = self.log.state.lock();
            if next >= state.tail.next() {
                return Ok(());
            }
            state.tail.truncate(next);
            state.last = last.max(state.purged);
            state.first = state.first.min(next);
        }
        let group = self.log.group;
        self.durably(|done| Work::Truncate { group, next, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.log.state.lock();
            if state.purged >= Some(upto) {
                return Ok(());
            }
            state.purged = Some(upto);
            state.tail.purge(upto.index + 1);
            state.first = state.first.max(upto.index + 1);
            state.last = state.last.max(Some(upto));
        }
        self.writer.submit(Work::Purge { group: self.log.group, upto }).await
    }
}

#[cfg(test)]
mod tests;
