//! Machines with records: catching up, breaks, crashes, growth.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use zwerm_store::keyspace::{KeySpace, RaftLog};

use super::archive::{Archive, check_records, forget, store};
use super::fixture::{Cluster, Disk, GROUP, quick, soon};
use crate::{Config, DiskWork, NodeId};

fn small() -> Config {
    Config {
        snapshot_after_entries: 30,
        keep_entries: 5,
        max_request_bytes: 4_000,
        log_cache_bytes: 0,
        ..quick()
    }
}

async fn start(count: u64, config: Config) -> Cluster {
    Cluster::start_with(count, 1, config, Disk::memory, Archive::make).await
}

/// Stores five messages of about 300 bytes per round and forgets two of three of the older ones.
async fn rounds(cluster: &Cluster, rounds: std::ops::Range<u64>) -> u64 {
    let mut index = 0;
    for round in rounds {
        index = cluster.propose(&store(5, 300 + round % 7)).await.index;
        for number in [round * 3, round * 3 + 1] {
            if number % 3 != 2 {
                index = cluster.propose(&forget(number)).await.index;
            }
        }
    }
    index
}

/// All nodes that are up show the same at `index`, and have it on their disks.
async fn all_hold(cluster: &Cluster, index: u64) {
    let leader = cluster.leader().await;
    let expected = cluster.wait_applied(leader, index).await;
    for node in cluster.nodes.keys() {
        let view = cluster.wait_applied(*node, index).await;
        assert_eq!(view.commands.len(), expected.commands.len(), "node {node}");
        assert!(view.commands == expected.commands, "node {node} shows something else");
        check_records(cluster.engine(*node), GROUP, &view);
    }
}

/// A follower that is about to need a snapshot: it was away while the others made more than they keep.
async fn lagging(cluster: &mut Cluster) -> (NodeId, NodeId) {
    let leader = cluster.leader().await;
    let lagging = leader % 3 + 1;
    let index = rounds(cluster, 0..10).await;
    cluster.wait_applied(lagging, index).await;
    cluster.kill(lagging).await;
    let index = rounds(cluster, 10..50).await;
    cluster.wait_status(leader, "purges", |status| status.purged + 40 > index).await;
    (leader, lagging)
}

async fn page_waits(cluster: &Cluster, pages: usize) {
    let waits = async {
        while cluster.tolls.pages() <= pages {
            tokio::task::yield_now().await;
        }
    };
    soon("a page waits", waits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_a_purge_gets_the_records_while_the_group_goes_on() {
    let mut cluster = start(3, small()).await;
    let (_, lagging) = lagging(&mut cluster).await;
    cluster.tolls.limit(3);
    cluster.start_node(lagging).await;
    page_waits(&cluster, 3).await;
    // Forgets what was sent and what was not, stores more, and purges the log beyond the snapshot on its way.
    rounds(&cluster, 50..90).await;
    cluster.tolls.limit(usize::MAX >> 4);
    let index = rounds(&cluster, 90..95).await;
    all_hold(&cluster, index).await;

    cluster.kill(lagging).await;
    cluster.start_node(lagging).await;
    all_hold(&cluster, index).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_cut_by_a_power_cut_of_the_receiver_starts_again() {
    let mut cluster = start(3, small()).await;
    let (_, lagging) = lagging(&mut cluster).await;
    for pages in [2, 5] {
        let before = cluster.tolls.pages();
        cluster.tolls.limit(pages);
        cluster.start_node(lagging).await;
        page_waits(&cluster, before + pages).await;
        cluster.kill(lagging).await;
    }
    cluster.tolls.limit(usize::MAX >> 4);
    cluster.start_node(lagging).await;
    let index = rounds(&cluster, 50..55).await;
    all_hold(&cluster, index).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_cut_by_the_death_of_the_sender_is_ended_by_its_successor() {
    let mut cluster = start(3, small()).await;
    let (leader, lagging) = lagging(&mut cluster).await;
    cluster.tolls.limit(4);
    cluster.start_node(lagging).await;
    page_waits(&cluster, 4).await;
    cluster.kill(leader).await;
    cluster.tolls.limit(usize::MAX >> 4);
    let index = rounds(&cluster, 50..55).await;
    all_hold(&cluster, index).await;
    cluster.start_node(leader).await;
    all_hold(&cluster, index).await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_at_any_commit_all_that_was_answered_is_there_with_its_records() {
    let config = Config {
        disk_work: DiskWork::Inline(Arc::new(|| Duration::from_millis(1))),
        snapshot_after_entries: 17,
        ..small()
    };
    let mut cluster = start(1, config).await;
    let mut dice = 7_u64;
    for round in 0..60 {
        let index = rounds(&cluster, round * 3..round * 3 + 3).await;
        let before = cluster.wait_applied(1, index).await;
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cluster.kill_keeping(1, |unsynced| (dice >> 33) as usize % (unsynced + 1)).await;
        cluster.start_node(1).await;
        let after = cluster.wait_applied(1, index).await;
        assert!(after.commands == before.commands, "round {round}");
        check_records(cluster.engine(1), GROUP, &after);
    }
    cluster.shutdown().await;
}

/// What an engine holds: records of the machine, records of the log, bytes.
fn held(cluster: &Cluster) -> (usize, usize, u64) {
    let engine = cluster.engine(1);
    let count = |from: &[u8], to: &[u8]| engine.scan(from, to, usize::MAX, false).unwrap().len();
    let keys = zwerm_store::MessageLog::keys(GROUP.0);
    let log = count(&[RaftLog::PREFIX], &[RaftLog::PREFIX + 1]);
    (count(&keys.start, &keys.end), log, engine.size_on_disk().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_holds_follows_what_lives_and_not_what_was() {
    let config = Config { disk_work: DiskWork::Inline(Arc::new(|| Duration::ZERO)), ..small() };
    let cluster = start(1, config).await;
    let mut next = 0;
    for round in 1..=4_u64 {
        for _ in 0..200 {
            cluster.propose(&store(4, 200)).await;
            // Ten messages live at any time.
            for number in (next..next + 4).filter_map(|number: u64| number.checked_sub(10)) {
                cluster.propose(&forget(number)).await;
            }
            next += 4;
        }
        let last: Bytes = forget(u64::MAX);
        let index = cluster.propose(&last).await.index;
        cluster.wait_status(1, "purges", |status| status.purged + 40 > index).await;
        let purged = async {
            while held(&cluster).1 > 50 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("the log is short", purged).await;
        let (records, log, bytes) = held(&cluster);
        assert!(records <= 10, "{records} records after {round} rounds");
        assert!(bytes < 20_000, "{log} log records, {bytes} bytes after {round} rounds");
    }
    cluster.shutdown().await;
}
