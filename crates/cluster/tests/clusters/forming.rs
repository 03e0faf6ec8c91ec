//! A cluster is formed once, and comes back as what it was.

use std::collections::BTreeSet;

use crate::fixture::{World, soon, until};
use crate::recorder::App;
use crate::retained::{keep, read};

type Cluster = World<App>;

async fn ids(world: &Cluster) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for node in world.nodes.values() {
        ids.insert(soon("a node is in a cluster", node.cluster.cluster_id()).await);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_once_in_any_order_and_come_back_after_a_power_cut_of_all() {
    let mut world = Cluster::new(3);
    world.start(3).await;
    until("the first waits", || world.cluster(3).status().not_ready() == waiting(1)).await;
    world.start(1).await;
    until("two wait", || world.cluster(3).status().not_ready() == waiting(2)).await;
    world.start(2).await;
    world.ready().await;
    let formed = ids(&world).await;
    assert_eq!(formed.len(), 1);
    keep(&world, 2, "kept", "value").await;

    for order in [[2, 1, 3], [3, 2, 1]] {
        world.kill_all().await;
        for node in order {
            world.start(node).await;
        }
        world.ready().await;
        assert_eq!(ids(&world).await, formed);
        for node in 1..=3 {
            assert_eq!(read(&world, node, "#").await, [("kept".to_owned(), "value".to_owned())]);
        }
    }
    world.stop().await;
}

fn waiting(here: usize) -> Vec<String> {
    vec![format!("waiting for nodes to form a cluster: {here} of 3 are here")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_keep_the_incarnation_they_started_with() {
    let world = Cluster::formed().await;
    for node in 1..=3 {
        let cluster = world.cluster(node);
        assert_eq!(cluster.own.incarnation(), cluster.own.boot_incarnation);
        assert_eq!(world.recorder(node).fenced.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
    world.stop().await;
}
