//! [`MemoryEngine`]: the twin of the sled engine for tests and the simulation. It forgets in a
//! [`crash`](MemoryEngine::crash) what was not synced, as a disk may in a power cut: all of it, or the last
//! commits. It can be full, and its syncs can fail.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::batch::Write;
use crate::{Batch, Engine, StoreError};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// An ordered map in memory with the promises of [`Engine`]. Outlives the "process" of a test in an `Arc`.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What readers see.
    visible: Map,
    /// For each commit since the last sync, in order: what each write replaced.
    unsynced: Vec<Vec<(Vec<u8>, Option<Bytes>)>>,
    syncs: u64,
    /// The next sync fails.
    fail_sync: bool,
    /// A sync failed: no later one succeeds before a crash.
    failed: bool,
    /// Commits fail.
    full: bool,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops everything that was committed after the last sync: the worst that a power cut may do.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Drops what was committed after the last sync, except for the first `kept` commits, which the disk
    /// happened to have written: a simulation draws the number from `0..=unsynced()`. Afterwards the disk holds
    /// what is visible, and syncs succeed again: the next process has it.
    pub fn crash_keeping(&self, kept: usize) {
        let mut state = self.state.write();
        let lost = std::mem::take(&mut state.unsynced).into_iter().skip(kept);
        for (key, before) in
            lost.collect::<Vec<_>>().into_iter().rev().flat_map(|commit| commit.into_iter().rev())
        {
            match before {
                Some(value) => state.visible.insert(key, value),
                None => state.visible.remove(&key),
            };
        }
        (state.failed, state.fail_sync) = (false, false);
    }

    /// Commits since the last sync.
    pub fn unsynced(&self) -> usize {
        self.state.read().unsynced.len()
    }

    /// How often [`sync`](Engine::sync) succeeded.
    pub fn syncs(&self) -> u64 {
        self.state.read().syncs
    }

    /// Makes the next sync fail and all after it until a crash, as a dying disk does.
    pub fn fail_next_sync(&self) {
        self.state.write().fail_sync = true;
    }

    /// Fills the disk, or makes room on it again: while it is full, every commit fails.
    pub fn fill(&self, full: bool) {
        self.state.write().full = full;
    }
}

impl State {
    /// Does a write; returns its key and what it replaced.
    fn apply(&mut self, write: Write) -> (Vec<u8>, Option<Bytes>) {
        let (key, value) = match write {
            Write::Put { key, value } => (key, Some(value)),
            Write::Delete { key } => (key, None),
        };
        let before = match value {
            Some(value) => self.visible.insert(key.clone(), value),
            None => self.visible.remove(&key),
        };
        (key, before)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.state.read().visible.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let state = self.state.read();
        let range = state.visible.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let pair = |(key, value): (&Vec<u8>, &Bytes)| (Bytes::copy_from_slice(key), value.clone());
        Ok(if reverse {
            range.rev().take(limit).map(pair).collect()
        } else {
            range.take(limit).map(pair).collect()
        })
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.state.write();
        if state.full {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StoreError::io("commit to the memory engine")(full));
        }
        let replaced = batch.into_writes().into_iter().map(|write| state.apply(write)).collect();
        state.unsynced.push(replaced);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        state.failed |= std::mem::take(&mut state.fail_sync);
        if state.failed {
            return Err(StoreError::io("sync the memory engine")(std::io::Error::other("told to fail")));
        }
        state.unsynced.clear();
        state.syncs += 1;
        Ok(())
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        let state = self.state.read();
        Ok(state.visible.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::conformance::all(MemoryEngine::new);
    }

    #[test]
    fn a_crash_takes_back_exactly_what_was_not_synced() {
        let engine = MemoryEngine::new();
        let commit = |writes: &[(&'static [u8], Option<&'static [u8]>)]| {
            let mut batch = Batch::new();
            for (key, value) in writes {
                match value {
                    Some(value) => batch.put(*key, *value),
                    None => batch.delete(*key),
                }
            }
            engine.commit(batch).unwrap();
        };
        commit(&[(b"kept", Some(b"1")), (b"changed", Some(b"1")), (b"deleted", Some(b"1"))]);
        engine.sync().unwrap();
        commit(&[(b"changed", Some(b"2")), (b"deleted", None), (b"new", Some(b"2"))]);
        commit(&[(b"changed", Some(b"3"))]);
        engine.crash();
        let all = engine.scan(b"", b"z", 9, false).unwrap();
        let all: Vec<_> = all.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        let one: &[u8] = b"1";
        assert_eq!(all, [(&b"changed"[..], one), (b"deleted", one), (b"kept", one)]);
    }

    fn put(engine: &MemoryEngine, key: &'static [u8], value: &'static [u8]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(key, value);
        engine.commit(batch)
    }

    #[test]
    fn a_crash_may_keep_the_first_commits_and_then_holds_them() {
        let engine = MemoryEngine::new();
        put(&engine, b"k", b"0").unwrap();
        engine.sync().unwrap();
        for value in [&b"1"[..], b"2", b"3"] {
            put(&engine, b"k", value).unwrap();
        }
        assert_eq!(engine.unsynced(), 3);
        engine.crash_keeping(2);
        assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"2"[..]));
        engine.crash();
        assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_full_disk_refuses_commits_until_there_is_room() {
        let engine = MemoryEngine::new();
        engine.fill(true);
        let refused = put(&engine, b"k", b"1").unwrap_err();
        assert!(
            matches!(refused, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
        );
        assert_eq!(engine.get(b"k").unwrap(), None);
        engine.fill(false);
        put(&engine, b"k", b"1").unwrap();
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable_nor_does_a_later_one() {
        let engine = MemoryEngine::new();
        let mut batch = Batch::new();
        batch.put(*b"k", &b"v"[..]);
        engine.commit(batch).unwrap();
        engine.fail_next_sync();
        assert!(engine.sync().is_err());
        assert!(engine.sync().is_err());
        engine.crash();
        assert_eq!(engine.get(b"k").unwrap(), None);
        assert_eq!(engine.syncs(), 0);
        engine.sync().unwrap();
    }
}
