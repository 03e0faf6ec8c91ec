//! One group's snapshot in the engine: chunks of at most 64 KiB under a number of their own, and one record
//! that names the current number. Writing that record is the switch; a node that stops before it has the old
//! snapshot and some chunks that nobody names, which the next opening removes. Blocking.

use std::sync::Arc;

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
        let store = Self { group, engine, current: Mutex::new(current) };
        store.remove_chunks(|number| Some(number) != keep)?;
        Ok(store)
    }

    /// Description of the current snapshot.
    pub(crate) fn meta(&self) -> Option<SnapshotMeta> {
        self.current.lock().as_ref().map(|current| current.meta.clone())
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

    /// Makes a snapshot the current one, durably, unless the present one covers as much or more.
    pub(crate) fn save(&self, meta: &SnapshotMeta, data: Bytes) -> Result<(), StoreError> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| current.meta.last_log_id >= meta.last_log_id) {
            return Ok(());
        }
        let number = current.as_ref().map_or(1, |current| current.number + 1);
        let bytes = data.len() as u64;
        let chunks = self.write_chunks(number, data)?;
        let new = Current { number, bytes, chunks, meta: meta.clone() };
        // The chunks first, then their name: the disk may keep commits in order only across a sync.
        self.engine.sync()?;
        let mut batch = Batch::new();
        batch.put(RaftSnapshot::key(self.group), record::encode(&proto::SnapshotRecord::from(&new)));
        self.engine.commit(batch)?;
        self.engine.sync()?;
        *current = Some(new);
        self.remove_chunks(|other| other != number)
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
