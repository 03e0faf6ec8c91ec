//! One group's snapshot in the engine: chunks of at most 64 KiB under a number of their own, and one record
//! that names the current number. Writing that record is the switch; a node that stops before it has the old
//! snapshot and some chunks that nobody names, which the next opening removes. Blocking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use zwerm_store::keyspace::{ChunkKey, KeySpace, RaftSnapshot, RaftSnapshotChunk};
use zwerm_store::{Batch, Engine, StoreError};

use crate::consensus::{Snapshot, SnapshotMeta};
use crate::log::disk::damaged;
use crate::proto;
use crate::record;

/// Chunks written, read or deleted at a time: 1 MiB, so that no commit of a log waits long.
const SLICE: usize = 16;

/// A group's snapshots on disk: the current one, or none.
pub(crate) struct SnapshotStore {
    group: u32,
    engine: Arc<dyn Engine>,
    /// Held while a snapshot is written: building and installing may meet.
    current: Mutex<Option<Current>>,
    /// The group is closed: a snapshot that is still being built comes too late.
    closed: AtomicBool,
}

#[derive(Debug, Clone)]
struct Current {
    number: u64,
    bytes: u64,
    chunks: u32,
    meta: SnapshotMeta,
}

impl SnapshotStore {
    /// Finds the current snapshot and removes the remains of an unfinished one.
    pub(crate) fn open(group: u32, engine: Arc<dyn Engine>) -> Result<Self, StoreError> {
        let current = engine.get(&RaftSnapshot::key(group))?.map(parse).transpose()?;
        let keep = current.as_ref().map(|current| current.number);
        let store = Self { group, engine, current: Mutex::new(current), closed: AtomicBool::new(false) };
        store.remove_chunks(|number| Some(number) != keep)?;
        Ok(store)
    }

    /// Reads the current snapshot.
    pub(crate) fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let current = self.current.lock();
        let Some(Current { number, bytes, chunks, meta }) = current.as_ref() else { return Ok(None) };
        let mut data = BytesMut::with_capacity(usize::try_from(*bytes).unwrap_or(0));
        for chunk in 0..*chunks {
            let key = RaftSnapshotChunk::key(ChunkKey { group: self.group, snapshot: *number, chunk });
            let value = self.engine.get(&key)?;
            let value =
                value.ok_or_else(|| StoreError::Damaged(format!("snapshot chunk {chunk} is missing")))?;
            data.extend_from_slice(&value);
        }
        if data.len() as u64 != *bytes {
            return Err(StoreError::Damaged(format!("snapshot of {} bytes, {bytes} expected", data.len())));
        }
        Ok(Some(Snapshot { meta: meta.clone(), snapshot: data.freeze() }))
    }

    /// Whether the current snapshot covers as much as another one.
    pub(crate) fn covers(&self, meta: &SnapshotMeta) -> bool {
        self.current.lock().as_ref().is_some_and(|current| current.meta.last_log_id >= meta.last_log_id)
    }

    /// Makes a snapshot the current one, durably, unless the present one covers as much or more.
    pub(crate) fn save(&self, meta: &SnapshotMeta, data: Bytes) -> Result<(), StoreError> {
        let mut current = self.current.lock();
        if self.closed.load(Ordering::Acquire)
            || current.as_ref().is_some_and(|current| current.meta.last_log_id >= meta.last_log_id)
        {
            return Ok(());
        }
        let number = current.as_ref().map_or(1, |current| current.number + 1);
        let bytes = data.len() as u64;
        let chunks = self.write_chunks(number, data)?;
        let new = Current { number, bytes, chunks, meta: meta.clone() };
        // The chunks first, then their name: the disk may keep commits in order only across a sync. The records
        // that the snapshot names were committed before its first chunk, so they are on the disk now, too.
        self.engine.sync()?;
        let mut batch = Batch::new();
        batch.put(RaftSnapshot::key(self.group), record::encode(&proto::SnapshotRecord::from(&new)));
        self.engine.commit(batch)?;
        self.engine.sync()?;
        *current = Some(new);
        self.remove_chunks(|other| other != number)
    }

    /// Saves nothing any more; waits for what is being saved.
    pub(crate) fn close(&self) {
        let _saved = self.current.lock();
        self.closed.store(true, Ordering::Release);
    }

    fn write_chunks(&self, snapshot: u64, data: Bytes) -> Result<u32, StoreError> {
        let values = record::chunks_of(data);
        let count = u32::try_from(values.len()).map_err(|_| StoreError::ValueTooLarge(usize::MAX))?;
        let mut chunk = 0;
        for slice in values.chunks(SLICE) {
            let mut batch = Batch::new();
            for value in slice {
                let key = RaftSnapshotChunk::key(ChunkKey { group: self.group, snapshot, chunk });
                batch.put(key, value.clone());
                chunk += 1;
            }
            self.engine.commit(batch)?;
        }
        Ok(count)
    }

    /// Deletes the chunks of the snapshots whose number is `unwanted`.
    fn remove_chunks(&self, unwanted: impl Fn(u64) -> bool) -> Result<(), StoreError> {
        let mut from = RaftSnapshotChunk::key(ChunkKey { group: self.group, snapshot: 0, chunk: 0 });
        let end = RaftSnapshotChunk::key(ChunkKey { group: self.group, snapshot: u64::MAX, chunk: u32::MAX });
        loop {
            let page = self.engine.scan(&from, &end, SLICE, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = [last.as_ref(), &[0]].concat();
            let mut batch = Batch::new();
            for (key, _) in page {
                if RaftSnapshotChunk::parse(&key).is_some_and(|key| unwanted(key.snapshot)) {
                    batch.delete(key);
                }
            }
            if !batch.is_empty() {
                self.engine.commit(batch)?;
            }
        }
    }
}

impl From<&Current> for proto::SnapshotRecord {
    fn from(current: &Current) -> Self {
        let Current { number, bytes, chunks, ref meta } = *current;
        Self { number, meta: Some(meta.into()), bytes, chunks }
    }
}

fn parse(value: Bytes) -> Result<Current, StoreError> {
    let record: proto::SnapshotRecord = record::decode(value).map_err(damaged)?;
    let proto::SnapshotRecord { number, meta, bytes, chunks } = record;
    let meta = proto::required(meta, "snapshot meta").and_then(TryInto::try_into).map_err(damaged)?;
    Ok(Current { number, bytes, chunks, meta })
}

#[cfg(test)]
mod tests {
    use zwerm_store::MemoryEngine;

    use super::*;
    use crate::consensus::{LeaderId, LogId, StoredMembership};

    fn meta(index: u64) -> SnapshotMeta {
        let last_log_id = Some(LogId { leader_id: LeaderId { term: 3, node_id: 7 }, index });
        let membership = openraft::Membership::new_with_defaults(vec![[7].into()], []);
        SnapshotMeta { last_log_id, last_membership: StoredMembership::new(last_log_id, membership) }
    }

    fn chunks(engine: &dyn Engine) -> usize {
        let (from, to) = ([RaftSnapshotChunk::PREFIX], [RaftSnapshotChunk::PREFIX + 1]);
        engine.scan(&from, &to, usize::MAX, false).unwrap().len()
    }

    #[test]
    fn a_newer_snapshot_replaces_the_older_one_durably_and_an_older_one_nothing() {
        let engine = Arc::new(MemoryEngine::new());
        let store = SnapshotStore::open(7, engine.clone()).unwrap();
        assert!(store.load().unwrap().is_none());
        store.save(&meta(10), vec![1; 200_000].into()).unwrap();
        store.save(&meta(20), vec![2; 70_000].into()).unwrap();
        store.save(&meta(15), vec![3; 10].into()).unwrap();
        assert_eq!(chunks(engine.as_ref()), 2);
        engine.crash();
        let found = SnapshotStore::open(7, engine).unwrap().load().unwrap().unwrap();
        assert_eq!((found.meta, found.snapshot), (meta(20), Bytes::from(vec![2; 70_000])));
    }

    #[test]
    fn the_remains_of_an_unfinished_snapshot_are_removed_and_the_last_one_is_there() {
        let engine = Arc::new(MemoryEngine::new());
        let store = SnapshotStore::open(7, engine.clone()).unwrap();
        store.save(&meta(10), Bytes::new()).unwrap();
        store.write_chunks(2, vec![9; 300_000].into()).unwrap();
        assert_eq!(chunks(engine.as_ref()), 1 + 5);
        let store = SnapshotStore::open(7, engine.clone()).unwrap();
        assert_eq!(chunks(engine.as_ref()), 1);
        assert_eq!(store.load().unwrap().unwrap().snapshot, Bytes::new());
    }

    #[test]
    fn a_missing_chunk_is_damage() {
        let engine = Arc::new(MemoryEngine::new());
        let store = SnapshotStore::open(7, engine.clone()).unwrap();
        store.save(&meta(10), vec![1; 200_000].into()).unwrap();
        let mut batch = Batch::new();
        batch.delete(RaftSnapshotChunk::key(ChunkKey { group: 7, snapshot: 1, chunk: 2 }));
        engine.commit(batch).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn the_bytes_of_a_snapshot_record_are_frozen() {
        let current = Current { number: 2, bytes: 300, chunks: 1, meta: meta(20) };
        let record = record::encode(&proto::SnapshotRecord::from(&current));
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "01080212380a0d080311070000000000000018141227\
             0a0d080311070000000000000018141216\
             0a0a0a080700000000000000120807000000000000001\
             8ac022001"
        );
        assert_eq!(parse(record).unwrap().meta, current.meta);
    }
}
