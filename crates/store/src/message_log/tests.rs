//! Tests of the message log: what is read back, what stays on disk, and that versions of a run may replace
//! each other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::MemoryEngine;

fn log() -> (MessageLog, Arc<MemoryEngine>) {
    let engine = Arc::new(MemoryEngine::new());
    (MessageLog::new(7, engine.clone()), engine)
}

fn message(number: u64, size: usize) -> (u64, Bytes) {
    (number, vec![number as u8; size].into())
}

fn records(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    let Range { start, end } = MessageLog::keys(7);
    engine.scan(&start, &end, usize::MAX, false).unwrap()
}

#[test]
fn messages_of_one_entry_share_records_and_those_of_two_do_not() {
    let (mut log, engine) = log();
    log.store((1..=100).map(|number| message(number, 300)));
    log.store([message(101, 10)]);
    log.store([message(102, 10)]);
    log.commit(|_| true).unwrap();
    assert_eq!(records(engine.as_ref()).len(), 100_usize.div_ceil(RUN_BYTES / 300) + 2);
    let read = log.reader().read(&[1, 50, 51, 101, 102, 103, 0]).unwrap();
    let expected = [(1, 300), (50, 300), (51, 300), (101, 10), (102, 10)];
    let mut expected: Vec<_> = expected.map(|(number, size)| Some(message(number, size).1)).into();
    expected.extend([None, None]);
    assert_eq!(read, expected);
}

#[test]
fn a_message_larger_than_a_value_is_cut_and_goes_as_a_whole() {
    let (mut log, engine) = log();
    log.store([message(1, 10), message(2, 200_000), message(3, Batch::MAX_VALUE), message(4, 10)]);
    log.commit(|_| true).unwrap();
    let sizes = |found: Vec<Option<Bytes>>| found.into_iter().map(|m| m.map(|m| m.len())).collect::<Vec<_>>();
    let read = || sizes(log.reader().read(&[1, 2, 3, 4, 5]).unwrap());
    assert_eq!(read(), [Some(10), Some(200_000), Some(Batch::MAX_VALUE), Some(10), None]);
    for (key, value) in records(engine.as_ref()) {
        let number = ShardMessage::parse(&key).unwrap().number;
        assert_eq!(MessageLog::numbers(&key, &value).unwrap(), [number]);
    }
    let (mut log, reader) = (MessageLog::new(7, engine.clone()), log.reader());
    log.forget(2);
    log.commit(|number| number != 2).unwrap();
    assert_eq!(
        sizes(reader.read(&[1, 2, 3, 4]).unwrap()),
        [Some(10), None, Some(Batch::MAX_VALUE), Some(10)]
    );
    assert_eq!(records(engine.as_ref()).len(), 1 + 2 + 1);
}

#[test]
fn what_is_stored_and_forgotten_between_two_commits_is_never_written() {
    let (mut log, engine) = log();
    log.store([message(1, 10)]);
    log.forget(1);
    log.store([message(2, 10)]);
    log.commit(|number| number == 2).unwrap();
    assert_eq!(records(engine.as_ref()).len(), 1);
    assert_eq!(log.reader().read(&[1]).unwrap(), [None]);
}

#[test]
fn a_run_of_which_half_is_forgotten_is_written_again_and_deleted_with_its_last_message() {
    let (mut log, engine) = log();
    log.store((1..=20).map(|number| message(number, 100)));
    log.commit(|_| true).unwrap();
    let full = engine.size_on_disk().unwrap();
    for number in 1..=20 {
        log.forget(number);
        log.commit(|other| other > number).unwrap();
        let live = 20 - number;
        let size = engine.size_on_disk().unwrap();
        assert!(size <= full * 2 * live / 20 + 100, "{size} bytes for {live} messages");
        assert_eq!(log.reader().read(&[20]).unwrap()[0].is_some(), live > 0);
    }
    assert!(records(engine.as_ref()).is_empty());
}

#[test]
fn bytes_that_are_no_run_are_damage_and_never_a_panic() {
    let (mut log, engine) = log();
    log.store([message(1, 30), message(2, 30)]);
    log.commit(|_| true).unwrap();
    let (key, value) = records(engine.as_ref()).pop().unwrap();
    for broken in 0..value.len() {
        let mut bytes = value.to_vec();
        bytes.truncate(broken);
        let mut batch = Batch::new();
        batch.put(key.to_vec(), bytes);
        engine.commit(batch).unwrap();
        assert!(matches!(log.reader().read(&[1]), Err(StoreError::Damaged(_)) | Ok(_)), "cut at {broken}");
        let mut bytes = value.to_vec();
        bytes[broken] ^= 0xff;
        let mut batch = Batch::new();
        batch.put(key.to_vec(), bytes);
        engine.commit(batch).unwrap();
        drop(log.reader().read(&[1, 2]));
    }
    let mut batch = Batch::new();
    batch.put(key.to_vec(), &[2, 0, 0, 0, 0][..]);
    engine.commit(batch).unwrap();
    assert!(log.reader().read(&[1]).is_err(), "a version of a later release is not guessed at");
}

#[test]
fn the_bytes_of_a_run_are_frozen() {
    let (mut log, engine) = log();
    log.store([(300, Bytes::from_static(b"ab")), (500, Bytes::from_static(b""))]);
    log.commit(|_| true).unwrap();
    let [(key, value)] = records(engine.as_ref()).try_into().unwrap();
    assert_eq!(key.as_ref(), MessageLog::key_from(7, 300));
    assert_eq!(value.as_ref(), [1, 0, 0, 0, 7, 0, 2, b'a', b'b', 0xc8, 0x01, 0]);
}

/// One log entry: sizes of the messages it stores, and which of those named it forgets.
type Entry = (Vec<usize>, Vec<prop::sample::Index>);

/// The log of a replica, as a function of the entries: named numbers with their bytes after each entry.
fn states(entries: &[Entry]) -> Vec<BTreeMap<u64, Bytes>> {
    let (mut named, mut next, mut states) = (BTreeMap::new(), 1, vec![BTreeMap::new()]);
    for (sizes, forgets) in entries {
        for size in sizes {
            named.insert(next, message(next, *size).1);
            next += 1;
        }
        for forget in forgets {
            let numbers: Vec<u64> = named.keys().copied().collect();
            if !numbers.is_empty() {
                named.remove(forget.get(&numbers));
            }
        }
        states.push(named.clone());
    }
    states
}

/// Applies entries `range` (of which `states` is the outcome), a commit after each group of `step`.
fn apply(
    engine: &Arc<MemoryEngine>,
    entries: &[Entry],
    states: &[BTreeMap<u64, Bytes>],
    range: Range<usize>,
    step: usize,
) {
    let mut log = MessageLog::new(7, engine.clone());
    let mut next: u64 = 1 + entries[..range.start].iter().map(|(sizes, _)| sizes.len() as u64).sum::<u64>();
    for at in range.clone() {
        let (sizes, _) = &entries[at];
        let stored: Vec<_> = (next..).zip(sizes).map(|(number, size)| message(number, *size)).collect();
        next += sizes.len() as u64;
        let numbers: BTreeSet<u64> =
            states[at].keys().copied().chain(stored.iter().map(|(number, _)| *number)).collect();
        log.store(stored);
        numbers.iter().filter(|number| !states[at + 1].contains_key(number)).for_each(|n| log.forget(*n));
        if (at + 1) % step == 0 || at + 1 == range.end {
            log.commit(|number| states[at + 1].contains_key(&number)).unwrap();
        }
    }
}

fn check(engine: &Arc<MemoryEngine>, named: &BTreeMap<u64, Bytes>) {
    let reader = MessageLog::new(7, engine.clone()).reader();
    let numbers: Vec<u64> = named.keys().copied().collect();
    let found: Vec<_> = reader.read(&numbers).unwrap().into_iter().map(Option::unwrap).collect();
    assert!(found.iter().eq(named.values()));
    let held: BTreeSet<u64> = records(engine.as_ref())
        .iter()
        .flat_map(|(key, value)| {
            let numbers = MessageLog::numbers(key, value).unwrap();
            assert!(numbers.iter().any(|number| named.contains_key(number)), "a record nobody names");
            numbers
        })
        .collect();
    assert!(numbers.iter().all(|number| held.contains(number)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// A replica stops anywhere with any prefix of its commits, goes back to an older state and applies the
    /// log again; and takes over the records of another one that is further, in any order.
    #[test]
    fn whatever_is_applied_again_or_copied_from_a_replica_that_is_further_all_that_is_named_is_there(
        entries in prop::collection::vec(
            (
                prop::collection::vec(prop_oneof![4 => 0_usize..3_000, 1 => 60_000..140_000_usize], 0..6),
                prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            ),
            1..12,
        ),
        step in 1_usize..4,
        back in any::<prop::sample::Index>(),
        crash in any::<prop::sample::Index>(),
    ) {
        let states = states(&entries);
        let all = entries.len();
        let leader = Arc::new(MemoryEngine::new());
        apply(&leader, &entries, &states, 0..all, 1);
        check(&leader, &states[all]);

        let follower = Arc::new(MemoryEngine::new());
        let reached = crash.index(all + 1);
        apply(&follower, &entries, &states, 0..reached, step);
        let restored = back.index(reached + 1);
        apply(&follower, &entries, &states, restored..all, step);
        check(&follower, &states[all]);

        let follower = Arc::new(MemoryEngine::new());
        apply(&follower, &entries, &states, 0..reached, step);
        let mut batch = Batch::new();
        records(leader.as_ref()).into_iter().for_each(|(key, value)| batch.put(key, value));
        follower.commit(batch).unwrap();
        apply(&follower, &entries, &states, reached..all, step);
        check(&follower, &states[all]);
    }
}
