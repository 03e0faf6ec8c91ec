//! openraft's own storage suite on both engines, and what it does not ask: reading across memory and disk,
//! restarts, purges, failure, and the shared sync.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;
use zwerm_store::keyspace::{KeySpace, LogKey, RaftLog};
use zwerm_store::{MemoryEngine, SledEngine, SyncMode};

use super::*;
use crate::consensus::{Command, LeaderId};
use crate::replica::Replica;
use crate::snapshot::SnapshotStore;
use crate::{DiskWork, Machine};

/// A machine whose state is the sum of the lengths of its commands.
struct Sum(u64);

impl Machine for Sum {
    fn apply(&mut self, _index: u64, command: Bytes) -> Bytes {
        self.0 += command.len() as u64;
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }
    fn applied(&mut self, _index: u64) -> Result<(), String> {
        Ok(())
    }
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let sum = self.0;
        Box::new(move || sum.to_be_bytes().to_vec())
    }
    fn restore(&mut self, snapshot: Bytes, _index: u64) -> Result<(), String> {
        self.0 = u64::from_be_bytes(snapshot.as_ref().try_into().map_err(|_| "not eight bytes")?);
        Ok(())
    }
}

fn disk(engine: &Arc<dyn Engine>) -> Disk {
    Disk::new(Arc::clone(engine), DiskWork::Threads)
}

fn open_log(engine: &Arc<dyn Engine>, cache_bytes: usize) -> (LogStore, Arc<Writer>) {
    let writer = Arc::new(Writer::start(Arc::clone(engine), &DiskWork::Threads).unwrap());
    let store = LogStore::open(7, disk(engine), Arc::clone(&writer), cache_bytes, 1 << 20).unwrap();
    (store, writer)
}

/// Builds stores for the suite; a cache of 0 bytes makes it read the engine.
struct Builder<F> {
    engine: F,
    cache_bytes: usize,
}

impl<F> StoreBuilder<Types, LogStore, Replica, Option<TempDir>> for Builder<F>
where
    F: Fn() -> (Arc<dyn Engine>, Option<TempDir>) + Send + Sync,
{
    async fn build(&self) -> Result<(Option<TempDir>, LogStore, Replica), StorageError<Types>> {
        let (engine, dir) = (self.engine)();
        let (log, _) = open_log(&engine, self.cache_bytes);
        let snapshots = Arc::new(SnapshotStore::open(7, Arc::clone(&engine)).unwrap());
        Ok((dir, log, Replica::new(Box::new(Sum(0)), disk(&engine), snapshots, Arc::default())))
    }
}

fn memory() -> (Arc<dyn Engine>, Option<TempDir>) {
    (Arc::new(MemoryEngine::new()), None)
}

fn sled() -> (Arc<dyn Engine>, Option<TempDir>) {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(SledEngine::open(dir.path(), 8 << 20, SyncMode::Os).unwrap()), Some(dir))
}

#[tokio::test]
async fn openrafts_suite_passes_on_memory() {
    Suite::test_all(Builder { engine: memory, cache_bytes: 1 << 20 }).await.unwrap();
}

#[tokio::test]
async fn openrafts_suite_passes_on_memory_without_a_cache() {
    Suite::test_all(Builder { engine: memory, cache_bytes: 0 }).await.unwrap();
}

#[tokio::test]
async fn openrafts_suite_passes_on_sled() {
    Suite::test_all(Builder { engine: sled, cache_bytes: 1 << 20 }).await.unwrap();
}

#[tokio::test]
async fn openrafts_suite_passes_on_sled_without_a_cache() {
    Suite::test_all(Builder { engine: sled, cache_bytes: 0 }).await.unwrap();
}

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }
}

fn entry_of(index: u64, size: usize) -> Entry {
    let byte = u8::try_from(index % 251).unwrap();
    Entry { log_id: id(index), payload: EntryPayload::Normal(Command(vec![byte; size].into())) }
}

fn entries(range: Range<u64>, size: usize) -> Vec<Entry> {
    range.map(|index| entry_of(index, size)).collect()
}

#[tokio::test]
async fn a_large_entry_and_its_neighbours_are_read_back_from_the_engine_after_a_restart() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let (mut log, writer) = open_log(&engine, 0);
    let mut written = entries(0..5, 300);
    written.push(entry_of(5, 300_000));
    written.extend(entries(6..9, 40_000));
    log.blocking_append(written.clone()).await.unwrap();
    log.blocking_append(entries(9..12, 10)).await.unwrap();
    written.extend(entries(9..12, 10));
    writer.stop().await;

    let (mut log, _writer) = open_log(&engine, 1 << 20);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(11)));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), written);
    assert_eq!(log.try_get_log_entries(5..=5).await.unwrap(), written[5..6]);
    assert_eq!(log.try_get_log_entries(7..11).await.unwrap(), written[7..11]);
    let limited = log.read(2..12, 350_000).await.unwrap();
    assert_eq!(limited, written[2..2 + limited.len()]);
    assert!((4..=7).contains(&limited.len()), "{}", limited.len());
    assert_eq!(log.read(5..12, 1).await.unwrap(), written[5..6]);
}

#[tokio::test]
async fn reads_join_what_the_engine_and_what_memory_holds() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let (mut log, _writer) = open_log(&engine, 2_000);
    for first in (0..60).step_by(5) {
        log.blocking_append(entries(first..first + 5, 100)).await.unwrap();
    }
    let held_from = log.log.state.lock().tail.first();
    assert!((30..60).contains(&held_from), "{held_from}");
    assert_eq!(log.try_get_log_entries(3..60).await.unwrap(), entries(3..60, 100));
    log.purge(id(7)).await.unwrap();
    assert_eq!(log.try_get_log_entries(3..60).await.unwrap(), entries(8..60, 100));
}

#[tokio::test]
async fn truncation_in_the_middle_of_a_record_survives_a_restart() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let (mut log, writer) = open_log(&engine, 0);
    log.blocking_append(entries(0..10, 20)).await.unwrap();
    log.blocking_append(entries(10..20, 20)).await.unwrap();
    log.truncate_after(Some(id(4))).await.unwrap();
    log.blocking_append(entries(5..7, 99)).await.unwrap();
    let mut expected = entries(0..5, 20);
    expected.extend(entries(5..7, 99));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
    writer.stop().await;
    let (mut log, _writer) = open_log(&engine, 0);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
}

#[tokio::test]
async fn a_purge_removes_the_records_little_by_little_and_is_resumed_after_a_restart() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let records = |engine: &Arc<dyn Engine>| {
        let key = |first_index| RaftLog::key(LogKey { group: 7, first_index, chunk: 0 });
        engine.scan(&key(0), &key(u64::MAX), usize::MAX, false).unwrap().len()
    };
    let (mut log, writer) = open_log(&engine, 0);
    for first in (0..2_000).step_by(2) {
        let appended = log.append(entries(first..first + 2, 10), IOFlushed::noop());
        appended.await.unwrap();
    }
    log.blocking_append(vec![entry_of(2_000, 200_000)]).await.unwrap();
    log.blocking_append(entries(2_001..2_004, 10)).await.unwrap();
    assert_eq!(records(&engine), 1_000 + 4 + 1);
    log.purge(id(1_998)).await.unwrap();
    writer.stop().await;
    let left = records(&engine);
    assert!(left >= 6, "the record with 1998 and 1999, the large one, the last: {left}");

    let (mut log, writer) = open_log(&engine, 0);
    log.resume_purge().await.unwrap();
    log.blocking_append(entries(2_004..2_005, 10)).await.unwrap();
    while records(&engine) != 1 + 4 + 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.try_get_log_entries(..2_000).await.unwrap(), entries(1_999..2_000, 10));
    log.purge(id(2_004)).await.unwrap();
    while records(&engine) != 0 {
        tokio::task::yield_now().await;
    }
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(2_004)), Some(id(2_004))));
    writer.stop().await;
}

#[tokio::test]
async fn a_failed_sync_fails_the_append_and_every_later_one() {
    let memory = Arc::new(MemoryEngine::new());
    let engine: Arc<dyn Engine> = memory.clone();
    let (mut log, _writer) = open_log(&engine, 0);
    log.blocking_append(entries(0..1, 10)).await.unwrap();
    memory.fail_next_sync();
    assert!(log.blocking_append(entries(1..2, 10)).await.is_err());
    assert!(log.blocking_append(entries(2..3, 10)).await.is_err());
    let vote = Vote { leader_id: LeaderId { term: 2, node_id: 1 }, committed: false };
    assert!(log.save_vote(&vote).await.is_err());
    assert_eq!(log.read_vote().await.unwrap(), None, "a vote that is not durable was not given");
    memory.crash();
    let (mut log, _writer) = open_log(&engine, 0);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(0..1, 10));
}

/// An engine whose sync waits until it is let through.
struct Gated {
    engine: MemoryEngine,
    gate: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Engine for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.engine.get(key)
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.engine.scan(from, to, limit, reverse)
    }
    fn commit(&self, batch: zwerm_store::Batch) -> Result<(), StoreError> {
        self.engine.commit(batch)
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.gate.lock().recv().unwrap();
        self.engine.sync()
    }
    fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.engine.size_on_disk()
    }
}

#[tokio::test]
async fn appends_of_many_groups_that_wait_share_one_sync_and_none_is_answered_before_it() {
    let (open_gate, gate) = std::sync::mpsc::sync_channel(9);
    let engine: Arc<dyn Engine> = Arc::new(Gated { engine: MemoryEngine::new(), gate: Mutex::new(gate) });
    let writer = Arc::new(Writer::start(Arc::clone(&engine), &DiskWork::Threads).unwrap());
    let open = |group| LogStore::open(group, disk(&engine), Arc::clone(&writer), 1 << 20, 1 << 20).unwrap();

    let mut answers = Vec::new();
    let mut append = async |group: u32| {
        let (done, answer) = <Types as openraft::type_config::TypeConfigExt>::oneshot();
        let mut log = open(group);
        log.append(entries(0..3, 50), IOFlushed::signal(done)).await.unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 3, "readable before it is durable");
        answers.push(answer);
    };
    // The first occupies the writer; the others gather while its sync waits at the gate.
    append(0).await;
    while engine.get(&RaftLog::key(LogKey { group: 0, first_index: 0, chunk: 0 })).unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    for group in 1..=40 {
        append(group).await;
    }
    assert_eq!(writer.stats().requests, 0);
    open_gate.send(()).unwrap();
    open_gate.send(()).unwrap();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    let stats = writer.stats();
    assert_eq!((stats.syncs, stats.requests), (2, 41));
    writer.stop().await;
}

#[tokio::test]
async fn a_truncation_is_durable_when_it_returns() {
    let memory = Arc::new(MemoryEngine::new());
    let engine: Arc<dyn Engine> = memory.clone();
    let (mut log, _writer) = open_log(&engine, 0);
    log.blocking_append(entries(0..10, 20)).await.unwrap();
    log.truncate_after(Some(id(4))).await.unwrap();
    memory.crash();
    let (mut log, _writer) = open_log(&engine, 0);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(0..5, 20));
}

#[tokio::test(start_paused = true)]
async fn an_inline_writer_groups_what_waits_and_a_crash_while_the_disk_is_busy_takes_it_back() {
    let memory = Arc::new(MemoryEngine::new());
    let engine: Arc<dyn Engine> = memory.clone();
    let delay: crate::DiskDelay = Arc::new(|| Duration::from_millis(5));
    let writer = Arc::new(Writer::start(Arc::clone(&engine), &DiskWork::Inline(delay)).unwrap());
    let mut log = LogStore::open(7, disk(&engine), Arc::clone(&writer), 0, 1 << 20).unwrap();
    let start = tokio::time::Instant::now();
    log.blocking_append(entries(0..1, 10)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(5));

    let mut answers = Vec::new();
    let mut append = async |range: Range<u64>| {
        let (done, answer) = <Types as openraft::type_config::TypeConfigExt>::oneshot();
        log.clone().append(entries(range, 10), IOFlushed::signal(done)).await.unwrap();
        answers.push(answer);
    };
    for first in 1..4 {
        append(first..first + 1).await;
    }
    for answer in answers.drain(..) {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(start.elapsed(), Duration::from_millis(10), "one sync for all three");

    log.append(entries(4..5, 10), IOFlushed::noop()).await.unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    memory.crash();
    let (mut log, _writer) = open_log(&engine, 0);
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries(0..4, 10));
    writer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_written_behind_the_entries_that_are() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let delay: crate::DiskDelay = Arc::new(|| Duration::from_secs(1));
    let writer = Arc::new(Writer::start(Arc::clone(&engine), &DiskWork::Inline(delay)).unwrap());
    let open = |group| LogStore::open(group, disk(&engine), Arc::clone(&writer), 0, 1 << 20).unwrap();
    let (mut other, mut log) = (open(8), open(7));
    // It fills a batch of the writer: what comes behind it waits for the next.
    other.append(entries(0..6, 1 << 20), IOFlushed::noop()).await.unwrap();
    log.append(entries(0..3, 10), IOFlushed::noop()).await.unwrap();
    log.save_committed(Some(id(2))).await.unwrap();
    let on_disk = || {
        let restored = disk::restore(engine.as_ref(), 7).unwrap();
        (restored.last, restored.committed)
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(on_disk(), (None, None), "the first batch is on its way to the disk");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(on_disk(), (Some(id(2)), Some(id(2))));
    writer.stop().await;
}
