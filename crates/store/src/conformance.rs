//! What every [`Engine`] must do, run on each of them. A new engine calls [`all`] in its tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::{Batch, Engine, StoreError};

/// Runs the whole suite; `make` gives an empty engine.
pub(crate) fn all<E: Engine>(make: impl Fn() -> E) {
    reads_what_was_committed(&make());
    later_writes_of_a_batch_win(&make());
    scans_in_both_directions(&make());
    refuses_large_values_as_a_whole(&make());
    batches_are_atomic_for_readers(&Arc::new(make()));
    behaves_like_a_map(&make);
}

fn put(engine: &dyn Engine, pairs: &[(&[u8], &'static [u8])]) {
    let mut batch = Batch::new();
    pairs.iter().for_each(|(key, value)| batch.put(*key, *value));
    engine.commit(batch).unwrap();
}

fn reads_what_was_committed(engine: &dyn Engine) {
    assert_eq!(engine.get(b"k").unwrap(), None);
    put(engine, &[(b"k", b"v"), (b"empty", b"")]);
    assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(engine.get(b"empty").unwrap().as_deref(), Some(&b""[..]));
    engine.commit(Batch::new()).unwrap();
    engine.sync().unwrap();
    assert!(engine.size_on_disk().unwrap() > 0);
}

fn later_writes_of_a_batch_win(engine: &dyn Engine) {
    let mut batch = Batch::new();
    batch.put(*b"a", &b"1"[..]);
    batch.delete(*b"a");
    batch.put(*b"b", &b"1"[..]);
    batch.put(*b"b", &b"2"[..]);
    batch.delete(*b"never there");
    engine.commit(batch).unwrap();
    assert_eq!(engine.get(b"a").unwrap(), None);
    assert_eq!(engine.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
}

fn scans_in_both_directions(engine: &dyn Engine) {
    put(engine, &[(b"a", b"1"), (b"b", b"2"), (b"b\0", b"3"), (b"c", b"4")]);
    let scan = |from: &[u8], to: &[u8], limit, reverse| -> Vec<u8> {
        let found = engine.scan(from, to, limit, reverse).unwrap();
        found.iter().flat_map(|(_, value)| value.to_vec()).collect()
    };
    assert_eq!(scan(b"a", b"c", 9, false), b"123", "the end is exclusive");
    assert_eq!(scan(b"b", b"d", 2, false), b"23");
    assert_eq!(scan(b"", b"d", 2, true), b"43");
    assert_eq!(scan(b"b\0", b"b\0", 9, false), b"");
    assert_eq!(scan(b"d", b"a", 9, false), b"", "an inverted range is empty");
}

fn refuses_large_values_as_a_whole(engine: &dyn Engine) {
    let mut batch = Batch::new();
    batch.put(*b"small", &b"1"[..]);
    batch.put(*b"large", vec![0; Batch::MAX_VALUE + 1]);
    let size = Batch::MAX_VALUE + 1;
    assert!(matches!(engine.commit(batch), Err(StoreError::ValueTooLarge(found)) if found == size));
    assert_eq!(engine.get(b"small").unwrap(), None);
    put(engine, &[(b"largest", &[7; Batch::MAX_VALUE])]);
    assert_eq!(engine.get(b"largest").unwrap().unwrap().len(), Batch::MAX_VALUE);
}

fn batches_are_atomic_for_readers<E: Engine>(engine: &Arc<E>) {
    let writer = {
        let engine = Arc::clone(engine);
        std::thread::spawn(move || {
            for round in 0..500_u32 {
                let mut batch = Batch::new();
                batch.put(*b"x", round.to_be_bytes().to_vec());
                batch.put(*b"y", round.to_be_bytes().to_vec());
                engine.commit(batch).unwrap();
            }
        })
    };
    // Read in the order of writing: whoever sees the new x must see the new y (or a newer one).
    while !writer.is_finished() {
        let x = engine.get(b"x").unwrap();
        let y = engine.get(b"y").unwrap();
        assert!(y >= x, "a reader saw half of a batch: {x:?} {y:?}");
    }
    writer.join().unwrap();
}

fn behaves_like_a_map<E: Engine>(make: &impl Fn() -> E) {
    // A key space of the suite's own: the format's key is in every engine that was opened.
    let key = prop::collection::vec(0_u8..4, 0..3).prop_map(|key| [&b"k"[..], &key].concat());
    let write = (key.clone(), prop::option::of(prop::collection::vec(any::<u8>(), 0..8)));
    let batches = prop::collection::vec(prop::collection::vec(write, 1..6), 1..12);
    let strategy = (batches, key.clone(), key, 0_usize..6, any::<bool>());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..Default::default()
    });
    runner
        .run(&strategy, |(batches, from, to, limit, reverse)| {
            let (engine, mut model) = (make(), BTreeMap::new());
            for writes in batches {
                let mut batch = Batch::new();
                for (key, value) in writes {
                    match value {
                        Some(value) => {
                            batch.put(key.clone(), value.clone());
                            model.insert(key, Bytes::from(value));
                        }
                        None => {
                            batch.delete(key.clone());
                            model.remove(&key);
                        }
                    }
                }
                engine.commit(batch).unwrap();
            }
            let mut expected: Vec<_> =
                model.into_iter().filter(|(key, _)| *key >= from && *key < to).collect();
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit);
            let found = engine.scan(&from, &to, limit, reverse).unwrap();
            let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_vec(), value)).collect();
            prop_assert_eq!(found, expected);
            Ok(())
        })
        .unwrap();
}
