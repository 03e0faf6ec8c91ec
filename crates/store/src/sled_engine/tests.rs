//! Tests of the sled engine: the conformance suite, the three rules, and a process that is killed.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::*;

const CACHE: u64 = 16 << 20;

/// Waits for the lock: a child that another test is about to start has a copy of every handle for a moment.
fn open(dir: &Path) -> SledEngine {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match SledEngine::open(dir, CACHE, SyncMode::Fsync) {
            Err(StoreError::Locked(_)) if Instant::now() < deadline => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

fn put(engine: &SledEngine, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
    let mut batch = Batch::new();
    batch.put(key, value);
    engine.commit(batch).unwrap();
}

#[test]
fn conforms() {
    // The directories outlive the engines in them.
    let dirs = RefCell::new(Vec::new());
    crate::conformance::all(|| {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        dirs.borrow_mut().push(dir);
        engine
    });
}

#[test]
fn a_second_process_gets_a_clear_error_while_the_database_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = SledEngine::open(dir.path(), CACHE, SyncMode::Fsync).unwrap_err();
    assert!(matches!(&error, StoreError::Locked(path) if path == dir.path()), "{error:?}");
}

#[test]
fn data_survives_closing_and_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    put(&engine, *b"k", &b"v"[..]);
    engine.sync().unwrap();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    put(&engine, [0], 9_u32.to_be_bytes().to_vec());
    engine.sync().unwrap();
    drop(engine);
    let error = SledEngine::open(dir.path(), CACHE, SyncMode::Fsync).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 9, supported: 1 }));
}

#[test]
fn a_snapshot_that_a_full_disk_cut_short_keeps_nobody_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let keys = 0..2_000_u32;
    for round in keys.clone().step_by(500) {
        let engine = open(dir.path());
        (round..round + 500).for_each(|key| put(&engine, key.to_be_bytes(), vec![7; 1_000]));
        engine.sync().unwrap();
    }
    for missing in [1, 12, 100, usize::MAX] {
        let mut names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let snapshot = names.find(|name| name.display().to_string().contains("snap.")).unwrap();
        let unfinished = PathBuf::from(format!("{}.generating", snapshot.display()));
        let whole = std::fs::read(&snapshot).unwrap();
        std::fs::write(&unfinished, &whole[..whole.len().saturating_sub(missing)]).unwrap();
        let opened = open_with(SEGMENT_BYTES, dir.path(), CACHE);
        assert!(matches!(opened, Err(sled::Error::Corruption { .. })), "sled copes with it by itself now");
        let engine = open(dir.path());
        for key in keys.clone() {
            assert_eq!(engine.get(&key.to_be_bytes()).unwrap().as_deref(), Some(&[7; 1_000][..]), "{key}");
        }
        assert!(!unfinished.exists());
    }
}

#[test]
fn a_damaged_snapshot_that_is_finished_is_reported_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let snapshot = dir.path().join("snap.FFFFFFFFFFFFFFFF");
    std::fs::write(&snapshot, b"no snapshot of this database").unwrap();
    let error = SledEngine::open(dir.path(), CACHE, SyncMode::Fsync).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error:?}");
    assert!(snapshot.exists());
}

/// Counts calls, and fails from the given one on.
struct Probe {
    calls: AtomicU32,
    fail_at: u32,
}

impl DataSync for Arc<Probe> {
    fn sync_data(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call == self.fail_at { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }
}

fn probed(dir: &Path, mode: SyncMode, fail_at: u32) -> (SledEngine, Arc<Probe>) {
    let probe = Arc::new(Probe { calls: AtomicU32::new(0), fail_at });
    let engine = SledEngine { data: Box::new(Arc::clone(&probe)), mode, ..open(dir) };
    (engine, probe)
}

#[test]
fn sync_calls_fdatasync_each_time_unless_told_to_leave_it_to_the_operating_system() {
    for (mode, expected) in [(SyncMode::Fsync, 3), (SyncMode::Os, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let (engine, probe) = probed(dir.path(), mode, u32::MAX);
        assert_eq!(engine.sync_mode(), mode);
        for round in 0..3_u8 {
            put(&engine, [1, round], &b"v"[..]);
            engine.sync().unwrap();
        }
        assert_eq!(probe.calls.load(Ordering::Relaxed), expected, "{mode:?}");
    }
}

#[test]
fn after_a_failed_sync_no_later_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, probe) = probed(dir.path(), SyncMode::Fsync, 1);
    put(&engine, *b"a", &b"1"[..]);
    engine.sync().unwrap();
    put(&engine, *b"b", &b"1"[..]);
    assert!(matches!(engine.sync(), Err(StoreError::Io { action: "sync the data file", .. })));
    assert!(engine.sync().is_err(), "the kernel reports a lost page once; we remember");
    assert_eq!(probe.calls.load(Ordering::Relaxed), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn the_handle_that_is_synced_is_sleds_data_file_and_holds_the_bytes() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let marker = b"a marker that is found in the file";
    put(&engine, *b"k", &marker[..]);
    engine.sync().unwrap();
    let bytes = std::fs::read(dir.path().join(DATA_FILE)).unwrap();
    assert!(bytes.windows(marker.len()).any(|window| window == marker));
    // sled's own descriptor (the one that is not ours) names the same file: nothing was renamed over it.
    let inode = std::fs::metadata(dir.path().join(DATA_FILE)).unwrap().ino();
    let open_here = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let same = open_here.filter(|fd| std::fs::metadata(fd.path()).is_ok_and(|file| file.ino() == inode));
    assert!(same.count() >= 2, "sled and we have it open");
}

#[test]
fn no_value_goes_to_the_blob_files_that_are_never_synced() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    // Neighbouring keys share pages, so that many values of the largest size meet in one page; overwriting and
    // deleting make sled consolidate and split them.
    for round in 0..6_u8 {
        for key in 0..48_u8 {
            put(&engine, [1, key], vec![round ^ key; Batch::MAX_VALUE]);
        }
        for key in (0..48_u8).step_by(3) {
            let mut batch = Batch::new();
            batch.delete([1, key]);
            engine.commit(batch).unwrap();
        }
        engine.sync().unwrap();
    }
    let blobs = std::fs::read_dir(dir.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}

#[test]
fn a_database_with_the_former_segments_is_opened_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let former = open_with(FORMER_SEGMENT_BYTES, dir.path(), 64 << 20).unwrap();
    former.insert(b"k", b"v").unwrap();
    former.flush().unwrap();
    drop(former);
    let engine = open(dir.path());
    assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
}

/// Deletes the keys of a range as those do who purge: they look for what they delete.
fn purge(engine: &SledEngine, from: &[u8], to: &[u8]) {
    loop {
        let found = engine.scan(from, to, 8, false).unwrap();
        if found.is_empty() {
            return;
        }
        let mut batch = Batch::new();
        found.into_iter().for_each(|(key, _)| batch.delete(key));
        engine.commit(batch).unwrap();
    }
}

#[test]
fn the_disk_is_given_back_when_what_it_held_is_deleted_and_a_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let key = |space: u8, number: u32| [&[space][..], &number.to_be_bytes()].concat();
    for number in 0..5_000 {
        put(&engine, key(1, number), vec![number as u8; 16 << 10]);
    }
    engine.sync().unwrap();
    let full = engine.size_on_disk().unwrap();
    assert!(full > 5_000 * (16 << 10), "{full}");
    purge(&engine, &key(1, 0), &key(2, 0));
    let start = Instant::now();
    for number in 100.. {
        let held = engine.size_on_disk().unwrap();
        if held <= full / 2 {
            break;
        }
        assert!(start.elapsed().as_secs() < 60, "{held} of {full} bytes");
        put(&engine, key(2, number), vec![1; 10_000]);
        purge(&engine, &key(2, 0), &key(2, number - 100));
        engine.sync().unwrap();
    }
}

const CHILD: &str = "ZWERM_STORE_TEST_CHILD";

/// The process that is killed: commits and syncs a growing number and tells of each on stdout.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let engine = open(Path::new(&dir));
    for number in 0_u32.. {
        let mut batch = Batch::new();
        batch.put(*b"left", number.to_be_bytes().to_vec());
        batch.put([&b"n"[..], &number.to_be_bytes()].concat(), vec![1; 300]);
        batch.put(*b"right", number.to_be_bytes().to_vec());
        engine.commit(batch).unwrap();
        engine.sync().unwrap();
        println!("synced {number}");
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_synced_and_no_half_batch_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    for kill_after in [7, 40] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let synced = lines.filter_map(|line| line.split("synced ").nth(1)?.parse::<u32>().ok());
        let last = synced.take(kill_after).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let engine = open(dir.path());
        let number = |key: &[u8]| engine.get(key).unwrap().map(|value| value.to_vec());
        assert_eq!(number(b"left"), number(b"right"));
        let found = u32::from_be_bytes(number(b"left").unwrap().try_into().unwrap());
        assert!(found >= last, "number {last} was synced, {found} is there");
        for number in 0..=last {
            let key = [&b"n"[..], &number.to_be_bytes()].concat();
            assert_eq!(engine.get(&key).unwrap().unwrap().len(), 300);
        }
    }
}
