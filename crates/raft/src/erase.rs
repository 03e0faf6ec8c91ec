//! Deletes what a group has on the disk. Blocking; the group is closed and the log writer knows it no more.

use std::ops::Range;

use zwerm_store::keyspace::{
    ChunkKey, KeySpace, LogKey, RaftCommitted, RaftLog, RaftPurged, RaftSnapshot, RaftSnapshotChunk, RaftVote,
};
use zwerm_store::{Batch, Engine, StoreError};

/// Keys deleted at a time, so that no commit of a log waits long.
const PAGE: usize = 256;

/// Deletes the records of a group's machine and all that Raft kept for it, durably. Interrupted, it may be done
/// again; the group must not be opened before it is done.
pub(crate) fn erase(engine: &dyn Engine, group: u32, records: &Range<Vec<u8>>) -> Result<(), StoreError> {
    delete(engine, records.start.clone(), &records.end)?;
    let chunk = |snapshot, chunk| RaftSnapshotChunk::key(ChunkKey { group, snapshot, chunk });
    delete(engine, chunk(0, 0), &behind(chunk(u64::MAX, u32::MAX)))?;
    let entry = |first_index, chunk| RaftLog::key(LogKey { group, first_index, chunk });
    delete(engine, entry(0, 0), &behind(entry(u64::MAX, u32::MAX)))?;
    let mut batch = Batch::new();
    for key in
        [RaftSnapshot::key(group), RaftCommitted::key(group), RaftPurged::key(group), RaftVote::key(group)]
    {
        batch.delete(key);
    }
    engine.commit(batch)?;
    engine.sync()
}

/// The least key behind a key.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn delete(engine: &dyn Engine, mut from: Vec<u8>, end: &[u8]) -> Result<(), StoreError> {
    loop {
        let page = engine.scan(&from, end, PAGE, false)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = behind(last.to_vec());
        let mut batch = Batch::new();
        page.into_iter().for_each(|(key, _)| batch.delete(key));
        engine.commit(batch)?;
        // An engine must not be given gigabytes between two syncs.
        engine.sync()?;
    }
}
