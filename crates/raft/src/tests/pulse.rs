//! What groups do while nothing happens, and that they find out when something does. Idle minutes take no time: the
//! clock is moved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};

use super::fixture::{Cluster, Disk, command, quick, soon};
use crate::{Config, DiskDelay, DiskWork, FlushStats, GroupId, NodeId};

const GROUPS: u32 = 5;
/// Hundreds of heartbeats, and dozens of times what makes a follower stand for election.
const LONG: Duration = Duration::from_secs(30);

fn config() -> Config {
    let delay: DiskDelay = Arc::new(|| Duration::from_millis(1));
    Config { disk_work: DiskWork::Inline(delay), ..quick() }
}

/// Waits until these nodes agree on one of theirs as leader of each group: those, and their terms.
async fn agreed(cluster: &Cluster, nodes: &[NodeId]) -> Vec<(NodeId, u64)> {
    let mut leaders = Vec::new();
    for group in (0..GROUPS).map(GroupId) {
        let agreed = async {
            loop {
                let seen = nodes.iter().map(|node| {
                    let status = cluster.nodes[node].groups[&group].0.watch();
                    let status = status.borrow();
                    (status.leader, status.term)
                });
                let seen: BTreeSet<_> = seen.collect();
                if let (1, Some((Some(leader), term))) = (seen.len(), seen.first())
                    && nodes.contains(leader)
                {
                    return (*leader, *term);
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        leaders.push(soon("one leader", agreed).await);
    }
    leaders
}

/// Three nodes that had something to do, some time ago.
async fn idle() -> (Cluster, Vec<(NodeId, u64)>) {
    let cluster = Cluster::start(3, GROUPS, config(), Disk::memory).await;
    agreed(&cluster, &[1, 2, 3]).await;
    let index = cluster.propose(&command(0, 10)).await.index;
    for node in 1..=3 {
        cluster.wait_applied(node, index).await;
    }
    sleep(LONG).await;
    let leaders = agreed(&cluster, &[1, 2, 3]).await;
    (cluster, leaders)
}

fn written(cluster: &Cluster) -> Vec<FlushStats> {
    cluster.nodes.values().map(|node| node.host.flush_stats()).collect()
}

/// Counts how often openraft does anything for the group on a node.
fn count_rounds(cluster: &Cluster, node: NodeId) -> Arc<AtomicU64> {
    let rounds = Arc::<AtomicU64>::default();
    let counting = Arc::clone(&rounds);
    let mut metrics = cluster.group(node).raft().metrics();
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    rounds
}

#[tokio::test(start_paused = true)]
async fn idle_groups_exchange_heartbeats_and_do_nothing_else() {
    let (cluster, leaders) = idle().await;
    let follower = leaders[0].0 % 3 + 1;
    let (rounds, bytes, calls) =
        (count_rounds(&cluster, follower), written(&cluster), cluster.network.calls());
    sleep(LONG).await;
    assert_eq!(agreed(&cluster, &[1, 2, 3]).await, leaders, "nobody stood for election");
    assert_eq!(written(&cluster), bytes, "nothing was written");
    let beats = LONG.as_millis() as u64 / quick().heartbeat.as_millis() as u64;
    let (calls, due) = (cluster.network.calls() - calls, u64::from(GROUPS) * 2 * beats);
    assert!(calls.abs_diff(due) <= due / 10, "{calls} calls, {due} heartbeats are due");
    let rounds = rounds.load(Ordering::Relaxed);
    assert!(rounds >= beats / 2 && rounds <= 2 * beats, "{rounds} rounds of a follower, {beats} heartbeats");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn idle_groups_elect_when_the_node_of_their_leader_dies() {
    let (mut cluster, leaders) = idle().await;
    let died = leaders[0].0;
    let rest: Vec<NodeId> = (1..=3).filter(|node| *node != died).collect();
    let start = Instant::now();
    cluster.kill(died).await;
    let next = agreed(&cluster, &rest).await;
    // Silence is noticed after the lease and the wait of one election; votes may be split some times.
    assert!(start.elapsed() <= 6 * quick().election_max, "after {:?}", start.elapsed());
    for ((before, term), (after, newer)) in leaders.iter().zip(&next) {
        assert_eq!(*before == died, newer > term, "led by {before} in {term}, then by {after} in {newer}");
    }
    let index = cluster.propose(&command(1, 10)).await.index;
    cluster.wait_applied(rest[0], index).await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_hears_is_replaced_and_follows() {
    let (cluster, leaders) = idle().await;
    let mute = leaders[0].0;
    let others = (1..=3).filter(|node| *node != mute);
    others.for_each(|other| cluster.network.cut(mute, other));
    let replaced = async {
        while cluster.group(mute).leader() == Some(mute) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("it follows", replaced).await;
    let next = agreed(&cluster, &[1, 2, 3]).await;
    assert!(next[0].0 != mute && next[0].1 > leaders[0].1, "{next:?}");
    cluster.network.heal();
    let index = cluster.propose(&command(1, 10)).await.index;
    cluster.wait_applied(mute, index).await;
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_follower_that_hears_no_leader_does_not_depose_it() {
    let (cluster, leaders) = idle().await;
    let leader = leaders[0].0;
    let (deaf, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.network.cut(leader, deaf);
    sleep(LONG).await;
    let held = agreed(&cluster, &[leader, other]).await;
    assert_eq!(held[0], leaders[0]);
    assert_eq!(cluster.group(deaf).watch().borrow().term, leaders[0].1, "it asked first, in vain");
    cluster.network.heal();
    let index = cluster.propose(&command(1, 10)).await.index;
    cluster.wait_applied(deaf, index).await;
    assert_eq!(agreed(&cluster, &[1, 2, 3]).await[0], leaders[0]);
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_answers_are_lost_changes_nothing() {
    let (cluster, leaders) = idle().await;
    let leader = leaders[0].0;
    cluster.network.cut(leader % 3 + 1, leader);
    sleep(LONG).await;
    assert_eq!(agreed(&cluster, &[1, 2, 3]).await[0], leaders[0]);
    assert!(cluster.propose(&command(1, 10)).await.index > 0);
    cluster.shutdown().await;
}

/// What is on the disks of all nodes, as sled has written it.
fn on_disk(cluster: &Cluster) -> Vec<Vec<u8>> {
    let file = |node: &NodeId| std::fs::read(cluster.directory(*node).join("db")).unwrap();
    cluster.nodes.keys().map(file).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_on_the_disk_of_an_idle_node_changes() {
    let cluster = Cluster::start(3, GROUPS, quick(), Disk::sled).await;
    agreed(&cluster, &[1, 2, 3]).await;
    cluster.propose(&command(0, 1_000)).await;
    let rests = async {
        loop {
            let (bytes, calls) = (on_disk(&cluster), cluster.network.calls());
            // A second and more, however busy the machine is.
            while cluster.network.calls() < calls + 200 {
                sleep(quick().heartbeat).await;
            }
            if on_disk(&cluster) == bytes {
                return;
            }
        }
    };
    soon("nothing more is written", rests).await;
    cluster.shutdown().await;
}
