//! Measures what a long queue costs on this machine:
//! `cargo run --release -p zwerm-store --example queue_cost -- DIR [MESSAGES] [PER_RECORD] [CACHE_MIB]`.
//!
//! Writes MESSAGES (5,000,000) messages of 256 B payload and 60 B around it in batches of 256, `PER_RECORD` of
//! them together in one record, each batch with a log record of the same bytes before it, which is purged as
//! Raft does; syncs after each batch. Then reads 100,000 consecutive messages, deletes all, and opens the
//! database again. Prints time, memory of the process and disk after each step.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use zwerm_store::keyspace::{KeySpace, LogKey, MessageKey, RaftLog, ShardMessage};
use zwerm_store::{Batch, Engine, SledEngine, SyncMode};

const GROUP: u32 = 1;
/// Messages of one Raft entry.
const BATCH: u64 = 256;
const MESSAGE_BYTES: usize = 256 + 60;
/// Log entries kept: 64 MiB, the default distance between two snapshots.
const LOG_ENTRIES: u64 = (64 << 20) / (BATCH * MESSAGE_BYTES as u64);

type Outcome = Result<(), Box<dyn Error>>;

struct Run {
    dir: PathBuf,
    messages: u64,
    per_record: u64,
    cache: u64,
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |given| given.parse());
    let dir = PathBuf::from(arguments.first().ok_or("which directory?")?).join("queue-cost");
    let run =
        Run { dir, messages: number(1, 5_000_000)?, per_record: number(2, 1)?, cache: number(3, 64)? << 20 };
    println!("{} messages, {} per record, cache of {} MiB", run.messages, run.per_record, run.cache >> 20);
    let engine = SledEngine::open(&run.dir, run.cache, SyncMode::Fsync)?;
    step(&run.dir, "write", || write(&run, &engine))?;
    step(&run.dir, "read 100,000", || read(&run, &engine))?;
    drop(engine);
    let mut engine = None;
    step(&run.dir, "restart", || {
        engine = Some(SledEngine::open(&run.dir, run.cache, SyncMode::Fsync)?);
        Ok(())
    })?;
    let engine = engine.ok_or("no engine")?;
    step(&run.dir, "delete all", || delete(&run, &engine))?;
    drop(engine);
    step(&run.dir, "restart", || {
        let engine = SledEngine::open(&run.dir, run.cache, SyncMode::Fsync)?;
        engine.sync()?;
        Ok(())
    })?;
    std::fs::remove_dir_all(&run.dir)?;
    Ok(())
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

fn message_key(number: u64) -> Vec<u8> {
    ShardMessage::key(MessageKey { group: GROUP, number, chunk: 0 })
}

fn write(run: &Run, engine: &SledEngine) -> Outcome {
    for first in (0..run.messages).step_by(BATCH as usize) {
        append(engine, first / BATCH)?;
        engine.sync()?;
        let mut batch = Batch::new();
        for number in (first..first + BATCH).step_by(run.per_record as usize) {
            let size = MESSAGE_BYTES * run.per_record.min(BATCH) as usize;
            batch.put(message_key(number), vec![number as u8; size]);
        }
        engine.commit(batch)?;
    }
    engine.sync()?;
    Ok(())
}

/// One entry of the log, and the purge of one that a snapshot has made superfluous.
fn append(engine: &SledEngine, index: u64) -> Outcome {
    let entry = Bytes::from(vec![index as u8; MESSAGE_BYTES * BATCH as usize]);
    let mut batch = Batch::new();
    for (chunk, start) in (0..).zip((0..entry.len()).step_by(Batch::MAX_VALUE)) {
        let end = entry.len().min(start + Batch::MAX_VALUE);
        batch.put(RaftLog::key(LogKey { group: GROUP, first_index: index, chunk }), entry.slice(start..end));
    }
    if let Some(first_index) = index.checked_sub(LOG_ENTRIES) {
        for chunk in 0..2 {
            batch.delete(RaftLog::key(LogKey { group: GROUP, first_index, chunk }));
        }
    }
    engine.commit(batch)?;
    Ok(())
}

fn read(run: &Run, engine: &SledEngine) -> Outcome {
    let start = run.messages / 2;
    let mut from = message_key(start);
    let end = message_key(start + 100_000);
    let mut bytes = 0;
    loop {
        let page = engine.scan(&from, &end, 64, false)?;
        let Some((last, _)) = page.last() else { break };
        from = [last.as_ref(), &[0]].concat();
        bytes += page.iter().map(|(_, value)| value.len()).sum::<usize>();
    }
    println!("{:>14}  {bytes} bytes", "");
    Ok(())
}

fn delete(run: &Run, engine: &SledEngine) -> Outcome {
    for first in (0..run.messages).step_by(BATCH as usize) {
        let mut batch = Batch::new();
        for number in (first..first + BATCH).step_by(run.per_record as usize) {
            batch.delete(message_key(number));
        }
        engine.commit(batch)?;
        if (first / BATCH).is_multiple_of(16) {
            engine.sync()?;
        }
    }
    engine.sync()?;
    Ok(())
}
