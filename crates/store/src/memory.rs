//! [`MemoryEngine`]: the twin of the sled engine for tests and the simulation. It forgets on
//! [`crash`](MemoryEngine::crash) what was not synced, as a disk may in a power cut (and the whole of it, so
//! the worst case).

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
    /// What each key changed since the last sync held at that sync.
    unsynced: BTreeMap<Vec<u8>, Option<Bytes>>,
    syncs: u64,
    /// The next sync fails, once.
    fail_sync: bool,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops everything that was committed after the last sync.
    pub fn crash(&self) {
        let mut state = self.state.write();
        for (key, before) in std::mem::take(&mut state.unsynced) {
            match before {
                Some(value) => state.visible.insert(key, value),
                None => state.visible.remove(&key),
            };
        }
    }

    /// How often [`sync`](Engine::sync) succeeded.
    pub fn syncs(&self) -> u64 {
        self.state.read().syncs
    }

    /// Makes the next sync fail, as a dying disk does.
    pub fn fail_next_sync(&self) {
        self.state.write().fail_sync = true;
    }
}

impl State {
    fn apply(&mut self, write: Write) {
        let (key, value) = match write {
            Write::Put { key, value } => (key, Some(value)),
            Write::Delete { key } => (key, None),
        };
        let before = match value {
            Some(value) => self.visible.insert(key.clone(), value),
            None => self.visible.remove(&key),
        };
        self.unsynced.entry(key).or_insert(before);
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
        let mut state = self.state.write();
        batch.into_writes().into_iter().for_each(|write| state.apply(write));
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if std::mem::take(&mut state.fail_sync) {
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

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let engine = MemoryEngine::new();
        let mut batch = Batch::new();
        batch.put(*b"k", &b"v"[..]);
        engine.commit(batch).unwrap();
        engine.fail_next_sync();
        assert!(engine.sync().is_err());
        engine.crash();
        assert_eq!(engine.get(b"k").unwrap(), None);
        assert_eq!(engine.syncs(), 0);
    }
}
