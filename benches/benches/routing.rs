//! Micro benchmarks of the lookup: who wants this topic, in tables of 100,000 and a million filters, and what the
//! large one takes in memory.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use zwerm_routing::{FilterTrie, Matches, RetainedIndex};
use zwerm_wire::{TopicFilter, TopicName};

const DEVICES: u64 = 100_000;
const MILLION: u64 = 1_000_000;

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a valid topic")
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).expect("a valid filter")
}

fn device(number: u64) -> String {
    format!("site/{}/device/{number}/state", number % 100)
}

/// A filter of its own for each of so many devices.
fn filters(devices: u64) -> FilterTrie<u64, u8> {
    let mut trie = FilterTrie::new();
    for number in 0..devices {
        trie.insert(&filter(&device(number)), number, 1);
    }
    trie
}

/// A filter of its own for each device, and some with wildcards over all.
fn table() -> FilterTrie<u64, u8> {
    let mut trie = filters(DEVICES);
    for (key, text) in ["site/+/device/+/state", "site/7/#", "#", "other/+/device"].into_iter().enumerate() {
        trie.insert(&filter(text), DEVICES + key as u64, 1);
    }
    trie
}

/// A million filters: their memory is what this process grows by.
fn million(criterion: &mut Criterion) {
    let resident = || zwerm_bench::resident_bytes(std::process::id()).expect("this process has memory");
    let before = resident();
    let trie = filters(MILLION);
    println!("{MILLION} filters take {} MiB", (resident() - before) >> 20);
    let mut found = Matches::default();
    let mut group = criterion.benchmark_group("match one topic against 1,000,000 filters");
    // Each topic another place in memory, as messages of many devices have it.
    let topics: Vec<TopicName> = (0..4_096).map(|number| name(&device(number * 7_919 % MILLION))).collect();
    let mut next = 0;
    group.bench_function("one match, each time another topic", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % topics.len();
            found.clear();
            trie.matches(black_box(&topics[next]), &mut found);
            black_box(found.plain.len())
        });
    });
    let nobodys = name("site/9/nobody/asks");
    group.bench_function("no match", |bencher| {
        bencher.iter(|| {
            found.clear();
            trie.matches(black_box(&nobodys), &mut found);
            black_box(found.plain.len())
        });
    });
    group.finish();
}

fn matches(criterion: &mut Criterion) {
    let trie = table();
    let mut found = Matches::default();
    let mut group = criterion.benchmark_group("match one topic against 100,000 filters");
    for (what, topic) in [("four matches", device(107)), ("two matches", "site/9/nobody/asks".to_owned())] {
        let topic = name(&topic);
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                found.clear();
                trie.matches(black_box(&topic), &mut found);
                black_box(found.plain.len())
            });
        });
    }
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let mut trie = table();
    let added = filter("site/5/device/new/state");
    criterion.bench_function("insert and remove a filter while a snapshot is held", |bencher| {
        bencher.iter(|| {
            let snapshot = trie.clone();
            trie.insert(&added, 1, 1);
            trie.remove(&added, &1);
            black_box(snapshot.len())
        });
    });
}

fn retained(criterion: &mut Criterion) {
    let mut index = RetainedIndex::new();
    for number in 0..DEVICES {
        index.insert(&name(&device(number)), number);
    }
    let mut group = criterion.benchmark_group("retained messages of 100,000 topics");
    for (what, text) in
        [("one topic", device(107)), ("1,000 by wildcard", "site/7/device/+/state".to_owned())]
    {
        let wanted = filter(&text);
        group.bench_function(what, |bencher| bencher.iter(|| index.matches(black_box(&wanted)).count()));
    }
    group.finish();
}

criterion_group!(benches, million, matches, changes, retained);
criterion_main!(benches);
