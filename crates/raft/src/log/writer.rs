//! The log writer: one thread (or task, see [`DiskWork`]) that makes the appends, votes and truncations of all
//! groups of a node durable.
//!
//! It collects every request that waits, commits them to the engine as one batch, syncs once, and answers
//! them all (group commit): while one sync runs, the requests for the next gather. Requests of one group
//! take effect in the order they were submitted. Knows nothing of Raft's rules.
//!
//! The queue is bounded ([`QUEUE`] requests); a full queue makes the submitting group wait. After a failed
//! commit or sync nothing is promised any more: that request and all later ones fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use zwerm_store::{Batch, Engine, StoreError};

use super::disk;
use super::store::GroupLog;
use crate::consensus::{Entry, LogId, Types, Vote};
use crate::{DiskDelay, DiskWork, FlushStats};

/// Requests that may wait.
const QUEUE: usize = 1_024;
/// Bytes after which a batch is closed, about.
const BATCH_BYTES: usize = 4 << 20;
/// Log chunks that one round deletes, so that a long purge delays no append for long.
const PURGE_SLICE: usize = 128;
/// Committed ids are written this long after the last other write, at the latest. When all are, nothing is done until
/// there is a new one.
const IDLE: Duration = Duration::from_millis(250);

/// What the writer does for a group.
pub(crate) enum Work {
    /// Adds entries at the end of the log.
    Append { log: Arc<GroupLog>, entries: Vec<Entry>, generation: u64, done: IOFlushed<Types> },
    /// Sets the vote.
    Vote { group: u32, vote: Vote, done: oneshot::Sender<io::Result<()>> },
    /// Removes the entries from index `next` on. Durable when answered: a snapshot that replaces them may be on
    /// the disk before the next append is, and openraft refuses to start from a log that contradicts it.
    Truncate { group: u32, next: u64, done: oneshot::Sender<io::Result<()>> },
    /// Removes the entries up to an id, little by little.
    Purge { group: u32, upto: LogId },
    /// Forgets a group that is closed: what was submitted for it is written when this is answered, and nothing
    /// more is written by itself.
    Forget { group: u32, done: oneshot::Sender<io::Result<()>> },
    /// Ends the writer after what was submitted before.
    Stop,
}

impl Work {
    fn group(&self) -> Option<u32> {
        match self {
            Self::Append { log, .. } => Some(log.group()),
            Self::Vote { group, .. } | Self::Truncate { group, .. } | Self::Purge { group, .. } => {
                Some(*group)
            }
            Self::Forget { .. } | Self::Stop => None,
        }
    }
}

/// How far a group's log is committed, not yet written; it needs no sync and no answer.
#[derive(Debug, Default)]
struct Committed {
    /// Requests that the group has submitted.
    submitted: u64,
    /// The id, and how many had been submitted then: the entries up to it are among them. Written before those
    /// are, a node that stops in between would apply at its next start what its log does not hold yet, or holds
    /// of an older term.
    id: Option<(LogId, u64)>,
}

/// A request and its place in the queue.
struct Request {
    work: Work,
    _slot: Option<OwnedSemaphorePermit>,
}

/// The committed ids of all groups.
#[derive(Debug, Default)]
struct CommittedIds {
    groups: Mutex<BTreeMap<u32, Committed>>,
    /// Told when there is one to write, while the worker rests.
    news: Notify,
    resting: AtomicBool,
}

/// The handle of the writer, shared by all groups.
pub(crate) struct Writer {
    requests: mpsc::Sender<Request>,
    slots: Arc<Semaphore>,
    committed: Arc<CommittedIds>,
    counters: Arc<Counters>,
    running: Mutex<Option<Running>>,
}

/// What runs the [`Worker`].
enum Running {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Counters {
    syncs: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
    busy_us: AtomicU64,
}

impl Writer {
    /// Starts the thread or the task; in a runtime.
    pub(crate) fn start(engine: Arc<dyn Engine>, work: &DiskWork) -> io::Result<Self> {
        // One place more than there are slots, for Stop.
        let (requests, queue) = mpsc::channel(QUEUE + 1);
        let committed = Arc::<CommittedIds>::default();
        let counters = Arc::default();
        let worker = Worker {
            engine,
            queue,
            committed: Arc::clone(&committed),
            taken: BTreeMap::new(),
            counters: Arc::clone(&counters),
            purges: BTreeMap::new(),
            failed: None,
            delay: match work {
                DiskWork::Threads => None,
                DiskWork::Inline(delay) => Some(Arc::clone(delay)),
            },
        };
        let running = match work {
            DiskWork::Threads => Running::Thread(spawn_thread(worker)?),
            DiskWork::Inline(_) => Running::Task(tokio::spawn(worker.run())),
        };
        let slots = Arc::new(Semaphore::new(QUEUE));
        Ok(Self { requests, slots, committed, counters, running: Mutex::new(Some(running)) })
    }

    /// Queues work; waits while the queue is full.
    pub(crate) async fn submit(&self, work: Work) -> io::Result<()> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
        if let Some(group) = work.group() {
            self.committed.groups.lock().entry(group).or_default().submitted += 1;
        }
        self.send(Request { work, _slot: Some(slot) })
    }

    fn send(&self, request: Request) -> io::Result<()> {
        self.requests.try_send(request).map_err(|_| io::Error::other("the log writer has stopped"))
    }

    /// Forgets a group that is closed; all that was submitted for it is on the disk then.
    pub(crate) async fn forget(&self, group: u32) -> io::Result<()> {
        let (done, forgotten) = oneshot::channel();
        self.submit(Work::Forget { group, done }).await?;
        forgotten.await.unwrap_or_else(|_| Err(io::Error::other("the log writer has stopped")))
    }

    /// Has the committed id of a group written with the first batch behind what the group has submitted.
    pub(crate) fn save_committed(&self, group: u32, id: LogId) {
        {
            let mut groups = self.committed.groups.lock();
            let committed = groups.entry(group).or_default();
            committed.id = Some((id, committed.submitted));
        }
        if self.committed.resting.swap(false, Ordering::AcqRel) {
            self.committed.news.notify_one();
        }
    }

    /// What was done since the start.
    pub(crate) fn stats(&self) -> FlushStats {
        FlushStats {
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            requests: self.counters.requests.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            busy_us: self.counters.busy_us.load(Ordering::Relaxed),
        }
    }

    /// Ends the writer after everything submitted before; returns when it has ended.
    pub(crate) async fn stop(&self) {
        let Some(running) = self.running.lock().take() else { return };
        if self.send(Request { work: Work::Stop, _slot: None }).is_err() {
            tracing::debug!("the log writer had stopped already");
        }
        let ended = match running {
            Running::Thread(thread) => tokio::task::spawn_blocking(|| thread.join().is_ok()).await,
            Running::Task(task) => task.await.map(|()| true),
        };
        if !matches!(ended, Ok(true)) {
            tracing::error!("the log writer panicked");
        }
    }
}

/// A thread that runs nothing but the worker, which may block it.
fn spawn_thread(worker: Worker) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("raft-log".into()).spawn(move || runtime.block_on(worker.run()))
}

/// The side of the thread or task.
struct Worker {
    engine: Arc<dyn Engine>,
    queue: mpsc::Receiver<Request>,
    committed: Arc<CommittedIds>,
    /// Requests taken of each group.
    taken: BTreeMap<u32, u64>,
    counters: Arc<Counters>,
    /// Groups whose purged records are not all deleted yet, and up to where.
    purges: BTreeMap<u32, u64>,
    /// Why nothing is promised any more.
    failed: Option<String>,
    /// How long the next sync of a simulated disk takes.
    delay: Option<DiskDelay>,
}

/// Who waits for the sync.
enum Waiting {
    Append { log: Arc<GroupLog>, generation: u64, next: u64, done: IOFlushed<Types> },
    Reply(oneshot::Sender<io::Result<()>>),
}

impl Worker {
    async fn run(mut self) {
        let mut open = true;
        while open {
            let first = if !self.purges.is_empty() {
                // A purge goes on between the requests.
                tokio::task::yield_now().await;
                self.queue.try_recv().ok().map(Some)
            } else if self.may_rest() {
                // Cancel safe.
                tokio::select! {
                    biased;
                    request = self.queue.recv() => Some(request),
                    () = self.committed.news.notified() => continue,
                }
            } else {
                tokio::time::timeout(IDLE, self.queue.recv()).await.ok()
            };
            open = match first {
                Some(Some(request)) => self.round(request).await,
                Some(None) => false,
                None => {
                    self.flush(Batch::new(), Vec::new()).await;
                    true
                }
            };
        }
        // The last committed ids, so that the state machines are as far after a restart as before.
        self.flush(Batch::new(), Vec::new()).await;
    }

    /// Whether there is no committed id to write. Then whoever has one says so: it is said before the look that from
    /// now on somebody waits for that, and the word is kept until somebody does.
    fn may_rest(&self) -> bool {
        self.committed.resting.store(true, Ordering::Release);
        let is_written = self.committed.groups.lock().values().all(|committed| committed.id.is_none());
        if !is_written {
            self.committed.resting.store(false, Ordering::Release);
        }
        is_written
    }

    /// Collects what waits and makes it durable. False after a Stop.
    async fn round(&mut self, first: Request) -> bool {
        let mut batch = Batch::new();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        let mut open = true;
        while let Some(Request { work, _slot }) = next {
            if matches!(work, Work::Stop) {
                open = false;
                break;
            }
            if let Err(error) = self.add(work, &mut batch, &mut waiting) {
                self.fail(&error);
            }
            next = if batch.bytes() < BATCH_BYTES { self.queue.try_recv().ok() } else { None };
        }
        self.flush(batch, waiting).await;
        open
    }

    fn add(&mut self, work: Work, batch: &mut Batch, waiting: &mut Vec<Waiting>) -> Result<(), StoreError> {
        if let Some(group) = work.group() {
            *self.taken.entry(group).or_default() += 1;
        }
        match work {
            Work::Append { log, entries, generation, done } => {
                let next = entries.last().map_or(0, |entry| entry.log_id.index + 1);
                disk::append(batch, log.group(), entries);
                waiting.push(Waiting::Append { log, generation, next, done });
            }
            Work::Vote { group, vote, done } => {
                disk::put_vote(batch, group, vote);
                waiting.push(Waiting::Reply(done));
            }
            Work::Truncate { group, next, done } => {
                waiting.push(Waiting::Reply(done));
                // Reads the log as the requests before left it.
                self.commit(std::mem::take(batch))?;
                disk::truncate(self.engine.as_ref(), batch, group, next)?;
            }
            Work::Purge { group, upto } => {
                disk::put_purged(batch, group, upto);
                self.purges.insert(group, upto.index);
            }
            Work::Forget { group, done } => {
                self.purges.remove(&group);
                self.taken.remove(&group);
                self.committed.groups.lock().remove(&group);
                waiting.push(Waiting::Reply(done));
            }
            Work::Stop => {}
        }
        Ok(())
    }

    /// Commits the batch (and what may go with any batch), syncs if somebody waits for it, and answers.
    async fn flush(&mut self, mut batch: Batch, waiting: Vec<Waiting>) {
        for (group, committed) in self.committed.groups.lock().iter_mut() {
            let taken = self.taken.get(group).copied().unwrap_or_default();
            if let Some((id, _)) = committed.id.take_if(|(_, submitted)| *submitted <= taken) {
                disk::put_committed(&mut batch, *group, id);
            }
        }
        if let Err(error) = self.write(batch, !waiting.is_empty()).await {
            self.fail(&error);
        }
        self.counters.requests.fetch_add(waiting.len() as u64, Ordering::Relaxed);
        waiting.into_iter().for_each(|waiting| waiting.answer(self.failed.as_deref()));
        if let Err(error) = self.purge_slice() {
            self.fail(&error);
        }
    }

    async fn write(&mut self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        let start = Instant::now();
        self.commit(batch)?;
        if sync && self.failed.is_none() {
            if let Some(delay) = &self.delay {
                tokio::time::sleep(delay()).await;
            }
            self.engine.sync()?;
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.busy_us.fetch_add(micros, Ordering::Relaxed);
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() || self.failed.is_some() {
            return Ok(());
        }
        self.counters.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        self.engine.commit(batch)
    }

    fn purge_slice(&mut self) -> Result<(), StoreError> {
        let Some((&group, &upto)) = self.purges.first_key_value() else { return Ok(()) };
        let mut batch = Batch::new();
        let finished = disk::purge(self.engine.as_ref(), &mut batch, group, upto, PURGE_SLICE)?;
        if finished {
            self.purges.remove(&group);
        }
        self.commit(batch)
    }

    fn fail(&mut self, error: &StoreError) {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "the log cannot be written: this node stops"
        );
        self.failed.get_or_insert_with(|| error.to_string());
        self.purges.clear();
    }
}

impl Waiting {
    fn answer(self, failed: Option<&str>) {
        let result = failed.map_or(Ok(()), |reason| Err(io::Error::other(reason.to_owned())));
        match self {
            Self::Append { log, generation, next, done } => {
                if result.is_ok() {
                    log.written(generation, next);
                }
                done.io_completed(result);
            }
            Self::Reply(done) => {
                if done.send(result).is_err() {
                    tracing::debug!("the group that asked is gone");
                }
            }
        }
    }
}
