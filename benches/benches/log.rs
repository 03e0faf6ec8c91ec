//! Micro benchmarks of the replicated log on one node: proposals that are appended, synced and applied, alone and
//! many at a time (group commit).
//!
//! On disk under the system's temporary directory, with fsync. Three nodes: `src/bin/raft_cost.rs`.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use zwerm_benches::Nothing;
use zwerm_raft::{Config, Group, GroupId, Host, MemoryNetwork, Role};
use zwerm_store::{SledEngine, SyncMode};

/// Groups of one node, each led by it.
async fn lead(dir: &std::path::Path, groups: u32) -> (Host, Vec<Group>) {
    let engine = Arc::new(SledEngine::open(dir, 32 << 20, SyncMode::Fsync).expect("opens"));
    let network = MemoryNetwork::new();
    let host = Host::start(1, Config::default(), engine, network.socket(1)).await.expect("starts");
    network.attach(host.clone());
    let mut led = Vec::new();
    for id in (0..groups).map(GroupId) {
        let group = host.open(id, Box::new(Nothing)).await.expect("opens");
        group.initialize(BTreeSet::from([1])).await.expect("is formed");
        group.watch().wait_for(|status| status.state == Role::Leader).await.expect("is led");
        led.push(group);
    }
    (host, led)
}

fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let (host, groups) = runtime.block_on(lead(dir.path(), 16));
    let mut benches = criterion.benchmark_group("log: append, fsync and apply");
    benches.sample_size(20);
    for (proposals, spread) in [(1, 1), (64, 1), (1_024, 1), (1_024, 16)] {
        benches.throughput(Throughput::Elements(proposals as u64));
        let before = host.flush_stats();
        benches.bench_function(format!("{proposals} at a time in {spread} groups"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut proposed = JoinSet::new();
                    for number in 0..proposals {
                        let group = groups[number % spread].clone();
                        proposed.spawn(async move { group.propose(Bytes::from_static(&[7; 256])).await });
                    }
                    while let Some(done) = proposed.join_next().await {
                        done.expect("ends").expect("is committed");
                    }
                });
            });
        });
        let after = host.flush_stats();
        println!("{} syncs for {} requests", after.syncs - before.syncs, after.requests - before.requests);
    }
    benches.finish();
    runtime.block_on(host.shutdown());
}

criterion_group!(benches, append);
criterion_main!(benches);
