//! Measures what a long queue costs on this machine:
//! `cargo run --release -p zwerm-store --example queue_cost -- DIR [MESSAGES] [PER_ENTRY] [CACHE_MIB]`.
//!
//! Stores MESSAGES (5,000,000) messages of 256 B payload and 60 B around it as a shard does: `PER_ENTRY` (256) of
//! them by one log entry, a log record of the same bytes before each, synced, and purged behind a window as Raft
//! does. Then reads 100,000 consecutive messages, forgets all, opens the database again, and lets the log go on
//! for a while, which is when sled gives space back. Prints time, memory of the process and disk after each step.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use zwerm_store::keyspace::{KeySpace, LogKey, RaftLog};
use zwerm_store::{Batch, Engine, MessageLog, SledEngine, SyncMode};

const GROUP: u32 = 1;
const MESSAGE_BYTES: usize = 256 + 60;
/// Bytes of log kept: the default distance between two snapshots.
const LOG_BYTES: u64 = 64 << 20;
/// Log entries after all is forgotten.
const AFTERWARDS: u64 = 20_000;

type Outcome = Result<(), Box<dyn Error>>;

struct Run {
    dir: PathBuf,
    messages: u64,
    per_entry: u64,
    cache: u64,
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |given| given.parse());
    let dir = PathBuf::from(arguments.first().ok_or("which directory?")?).join("queue-cost");
    let run =
        Run { dir, messages: number(1, 5_000_000)?, per_entry: number(2, 256)?, cache: number(3, 64)? << 20 };
    println!("{} messages, {} per entry, cache of {} MiB", run.messages, run.per_entry, run.cache >> 20);
    let engine = run.open()?;
    step(&run.dir, "store", || run.store(&engine))?;
    step(&run.dir, "read 100,000", || run.read(&engine))?;
    drop(engine);
    let engine = reopened(&run)?;
    step(&run.dir, "forget all", || run.forget(&engine))?;
    drop(engine);
    let engine = reopened(&run)?;
    let entries = run.messages / run.per_entry;
    step(&run.dir, "log goes on", || {
        (entries..entries + AFTERWARDS).try_for_each(|index| run.append(engine.as_ref(), index, 1_000))
    })?;
    drop(engine);
    std::fs::remove_dir_all(&run.dir)?;
    Ok(())
}

fn reopened(run: &Run) -> Result<Arc<SledEngine>, Box<dyn Error>> {
    let mut engine = None;
    step(&run.dir, "restart", || {
        engine = Some(run.open()?);
        Ok(())
    })?;
    Ok(engine.ok_or("no engine")?)
}

fn step(dir: &Path, name: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    let start = Instant::now();
    work()?;
    let seconds = start.elapsed().as_secs_f64();
    let [now, peak] = [memory("VmRSS:")?, memory("VmHWM:")?];
    let file = std::fs::metadata(dir.join("db"))?.len() >> 20;
    println!("{name:>14}: {seconds:6.1} s, memory {now} MiB (peak {peak}), disk {file} MiB");
    Ok(())
}

/// A field of this process's status, in MiB.
fn memory(field: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}

impl Run {
    fn open(&self) -> Result<Arc<SledEngine>, Box<dyn Error>> {
        Ok(Arc::new(SledEngine::open(&self.dir, self.cache, SyncMode::Fsync)?))
    }

    fn store(&self, engine: &Arc<SledEngine>) -> Outcome {
        let mut log = MessageLog::new(GROUP, engine.clone());
        for first in (0..self.messages).step_by(self.per_entry as usize) {
            self.append(engine.as_ref(), first / self.per_entry, self.per_entry as usize * MESSAGE_BYTES)?;
            let numbers = first..first + self.per_entry;
            log.store(numbers.map(|number| (number, vec![number as u8; MESSAGE_BYTES].into())));
            log.commit(|_| true)?;
        }
        engine.sync()?;
        Ok(())
    }

    /// One entry of the log, synced, and the purge of one that a snapshot has made superfluous.
    fn append(&self, engine: &SledEngine, index: u64, bytes: usize) -> Outcome {
        let entry = Bytes::from(vec![index as u8; bytes]);
        let mut batch = Batch::new();
        let key = |first_index, chunk| RaftLog::key(LogKey { group: GROUP, first_index, chunk });
        for (chunk, start) in (0..).zip((0..entry.len()).step_by(Batch::MAX_VALUE)) {
            let end = entry.len().min(start + Batch::MAX_VALUE);
            batch.put(key(index, chunk), entry.slice(start..end));
        }
        let window = LOG_BYTES / (self.per_entry * MESSAGE_BYTES as u64);
        if let Some(purged) = index.checked_sub(window) {
            let chunks = (self.per_entry as usize * MESSAGE_BYTES).div_ceil(Batch::MAX_VALUE);
            (0..).take(chunks).for_each(|chunk| batch.delete(key(purged, chunk)));
        }
        engine.commit(batch)?;
        engine.sync()?;
        Ok(())
    }

    fn read(&self, engine: &Arc<SledEngine>) -> Outcome {
        let reader = MessageLog::new(GROUP, engine.clone()).reader();
        let start = self.messages / 2;
        for first in (start..start + 100_000).step_by(128) {
            let numbers: Vec<u64> = (first..first + 128).collect();
            if reader.read(&numbers)?.iter().any(Option::is_none) {
                return Err("a message is missing".into());
            }
        }
        Ok(())
    }

    fn forget(&self, engine: &Arc<SledEngine>) -> Outcome {
        let mut log = MessageLog::new(GROUP, engine.clone());
        for first in (0..self.messages).step_by(64) {
            (first..first + 64).for_each(|number| log.forget(number));
            log.commit(|number| number >= first + 64)?;
            if first.is_multiple_of(1_024) {
                engine.sync()?;
            }
        }
        engine.sync()?;
        Ok(())
    }
}
