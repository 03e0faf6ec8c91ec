//! The end of one group's log in memory: every entry that the engine does not hold yet, and as many of the
//! ones before as a byte budget allows. Followers and the state machine read here; only a node that lags
//! reads the disk.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::EntryPayload;

use crate::consensus::{Entry, LogId};

/// Bytes that an entry costs besides its command.
const ENTRY_OVERHEAD: usize = 96;

/// The last entries of a log, without a hole.
#[derive(Debug)]
pub(crate) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    budget: usize,
    /// Index of the front entry; of the next one if there is none.
    first: u64,
    /// Entries below this index are in the engine.
    written: u64,
    /// Grows at each truncation, so that news of an older write is not taken for the new entries'.
    generation: u64,
}

impl Tail {
    /// An empty tail of a log whose next entry has index `next`.
    pub(crate) fn new(next: u64, budget: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, budget, first: next, written: next, generation: 0 }
    }

    /// Index of the first entry held here; what is before it is read from the engine.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index after the last entry.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Names the present truncation epoch for [`Self::written`].
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds the next entry. An empty tail starts wherever it says.
    pub(crate) fn push(&mut self, entry: Entry) {
        if self.entries.is_empty() {
            self.first = entry.log_id.index;
            self.written = self.written.min(self.first);
        }
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    /// The engine holds all entries below `index`, if nothing was truncated since `generation`.
    pub(crate) fn written(&mut self, generation: u64, index: u64) {
        if generation == self.generation {
            self.written = self.written.max(index);
        }
        self.evict();
    }

    /// Entries of `range` that are held here, up to about `max_bytes` but at least one.
    pub(crate) fn read(&self, range: Range<u64>, max_bytes: usize) -> Vec<Entry> {
        let skip = usize::try_from(range.start.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let count = range.end.saturating_sub(range.start.max(self.first));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let within = |entry: &&Entry| {
            let fits = bytes == 0 || bytes < max_bytes;
            bytes += cost(entry);
            fits
        };
        self.entries.iter().skip(skip).take(count).take_while(within).cloned().collect()
    }

    /// Id of the last entry, if it is held here.
    pub(crate) fn last_id(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id)
    }

    /// Drops the entries from index `next` on.
    pub(crate) fn truncate(&mut self, next: u64) {
        while self.next() > next && self.pop_back() {}
        self.first = self.first.min(next);
        self.written = self.written.min(next);
        self.generation += 1;
    }

    /// Drops the entries below `first`.
    pub(crate) fn purge(&mut self, first: u64) {
        while self.first < first && self.pop_front() {}
        self.first = self.first.max(first);
        self.written = self.written.max(first);
    }

    fn evict(&mut self) {
        while self.bytes > self.budget && self.first < self.written && self.pop_front() {}
    }

    fn pop_front(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        self.bytes -= cost(&entry);
        self.first += 1;
        true
    }

    fn pop_back(&mut self) -> bool {
        let Some(entry) = self.entries.pop_back() else { return false };
        self.bytes -= cost(&entry);
        true
    }
}

fn cost(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => command.0.len() + ENTRY_OVERHEAD,
        EntryPayload::Blank | EntryPayload::Membership(_) => ENTRY_OVERHEAD,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::consensus::{Command, LeaderId};

    fn entry(index: u64) -> Entry {
        let payload = EntryPayload::Normal(Command(Bytes::from_static(&[0; 4])));
        Entry { log_id: LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }, payload }
    }

    fn tail(range: Range<u64>, budget_entries: usize) -> Tail {
        let mut tail = Tail::new(range.start, budget_entries * (ENTRY_OVERHEAD + 4));
        range.for_each(|index| tail.push(entry(index)));
        tail
    }

    fn indexes(tail: &Tail, range: Range<u64>) -> Vec<u64> {
        tail.read(range, usize::MAX).iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn entries_stay_until_the_engine_holds_them_and_then_as_long_as_the_budget_allows() {
        let mut tail = tail(5..15, 3);
        assert_eq!(tail.first(), 5);
        tail.written(0, 10);
        assert_eq!(tail.first(), 10, "unwritten entries stay although the budget is exceeded");
        tail.written(0, 15);
        assert_eq!((tail.first(), tail.next()), (12, 15));
        assert_eq!(indexes(&tail, 0..100), [12, 13, 14]);
        assert_eq!(indexes(&tail, 13..14), [13]);
        assert!(indexes(&tail, 15..20).is_empty());
    }

    #[test]
    fn a_read_is_limited_in_bytes_but_gives_at_least_one_entry() {
        let tail = tail(0..10, 100);
        assert_eq!(tail.read(2..9, 1).len(), 1);
        assert_eq!(tail.read(2..9, 2 * (ENTRY_OVERHEAD + 4)).len(), 2);
    }

    #[test]
    fn news_of_a_write_before_a_truncation_is_not_taken_for_the_new_entries() {
        let mut tail = tail(0..10, 0);
        let before = tail.generation();
        tail.truncate(5);
        (5..8).for_each(|index| tail.push(entry(index)));
        tail.written(before, 10);
        assert_eq!(tail.first(), 0);
        tail.written(tail.generation(), 8);
        assert_eq!(tail.first(), 8);
    }

    #[test]
    fn truncation_below_what_is_held_leaves_an_empty_tail_that_goes_on_there() {
        let mut tail = tail(0..10, 0);
        tail.written(0, 10);
        tail.truncate(4);
        assert_eq!((tail.first(), tail.next()), (4, 4));
        tail.push(entry(4));
        assert_eq!(tail.last_id().map(|id| id.index), Some(4));
    }

    #[test]
    fn a_purge_beyond_the_end_leaves_an_empty_tail_that_goes_on_after_it() {
        let mut tail = tail(0..10, 100);
        tail.purge(3);
        assert_eq!((tail.first(), tail.next()), (3, 10));
        tail.purge(20);
        assert_eq!((tail.first(), tail.next(), tail.last_id()), (20, 20, None));
    }
}
