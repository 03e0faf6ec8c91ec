//! Nodes of two feature levels in one cluster, under load: what the older ones cannot is refused until they can, the level
//! rises by itself and never falls, and who cannot it is turned away with a reason.

use zwerm_cluster::level::NEWEST;
use zwerm_cluster::{Failure, LevelError, LevelTooLow, NodeId, ReplicasError, StartError};
use zwerm_machine::records::Claim;

use crate::fixture::{Seat, soon, until};
use crate::membership::{Load, Nodes, settled};

/// The levels that a node's cluster has in its eyes, and what each of its members can.
fn levels(world: &Nodes, node: NodeId) -> (u32, Vec<u32>) {
    let control = world.cluster(node).control.state();
    (control.level(), control.nodes().map(zwerm_cluster::Node::can).collect())
}

/// Starts a node anew with a program that can so much.
async fn restart(world: &mut Nodes, node: NodeId, max_level: Option<u32>) {
    world.kill(node).await;
    world.max_level = max_level;
    world.start(node).await;
    world.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_nodes_run_together_and_the_level_rises_when_the_last_is_new() {
    let mut world = Nodes::new(3);
    for (node, max_level) in [(1, Some(1)), (2, Some(1)), (3, None)] {
        world.max_level = max_level;
        world.start(node).await;
    }
    world.ready().await;
    let load = Load::begin(world.cluster(3));
    load.goes_on().await;
    assert_eq!(levels(&world, 1), (1, vec![1, 1, NEWEST]));
    let too_low = |names: &[&str]| {
        let held_back_by = names.iter().map(ToString::to_string).collect();
        ReplicasError::Level(LevelTooLow { needed: 2, level: 1, held_back_by })
    };
    for node in 1..=3 {
        let refused = soon("it is refused", world.cluster(node).set_replicas(1)).await;
        assert_eq!(refused, Err(too_low(&["n1", "n2"])), "asked of node {node}");
    }
    assert_eq!(soon("never", world.cluster(3).set_replicas(4)).await, Err(ReplicasError::Number(4)));

    restart(&mut world, 1, None).await;
    until("it is said", || levels(&world, 3).1 == [NEWEST, 1, NEWEST]).await;
    assert_eq!(soon("refused", world.cluster(1).set_replicas(1)).await, Err(too_low(&["n2"])));
    load.goes_on().await;
    // The last one holds the level back also while it is down: it may come back as it was.
    let incarnation = world.cluster(2).own.incarnation();
    world.kill(2).await;
    until("it is down", || !world.cluster(3).is_up(2, incarnation)).await;
    load.goes_on().await;
    assert_eq!(levels(&world, 3), (1, vec![NEWEST, 1, NEWEST]));
    world.start(2).await;
    until("the level rises", || (1..=3).all(|node| levels(&world, node).0 == NEWEST)).await;
    world.ready().await;

    soon("it is done", world.cluster(2).set_replicas(1)).await.unwrap();
    world.replicas = 1;
    settled(&world, &[1, 2, 3]).await;
    soon("it is done", world.cluster(1).set_replicas(3)).await.unwrap();
    world.replicas = 3;
    settled(&world, &[1, 2, 3]).await;
    load.goes_on().await;
    load.end().await;

    // Back to the old program: its own volume says no.
    world.kill(2).await;
    world.max_level = Some(1);
    let refused = world.try_start(2).await.unwrap_err();
    let too_old = LevelError::TooOld { cluster: NEWEST, newest: 1 };
    assert!(matches!(&refused, StartError::Level(error) if *error == too_old), "{refused}");
    // An empty one is told no by the members.
    world.seats.insert(9, Seat { name: "n9".to_owned(), address: "n9".to_owned(), resolves: true });
    world.start(9).await;
    until("it is turned away", || {
        let reasons = world.cluster(9).status().not_ready();
        reasons
            .iter()
            .any(|reason| reason.contains("the cluster is at feature level 2, and this node can no more"))
    })
    .await;
    assert!(world.cluster(1).control.state().node(9).is_none());
    let gone = world.nodes.remove(&9).unwrap();
    soon("it stops", gone.cluster.stop()).await;

    world.max_level = None;
    world.start(2).await;
    world.ready().await;
    settled(&world, &[1, 2, 3]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_volume_does_not_know_yet_is_stopped_by_what_the_others_say() {
    let mut world = Nodes::new(3);
    world.max_level = Some(1);
    for node in 1..=3 {
        world.start(node).await;
    }
    world.ready().await;
    // It says that it can more, and is gone before the level has risen.
    restart(&mut world, 3, None).await;
    world.kill(3).await;
    for node in [1, 2] {
        restart(&mut world, node, None).await;
    }
    until("the level rises without it", || [1, 2].iter().all(|node| levels(&world, *node).0 == NEWEST)).await;
    world.max_level = Some(1);
    world.start(3).await;
    let why = soon("it ends", world.cluster(3).failed()).await;
    assert_eq!(why, Failure::Level(LevelError::TooOld { cluster: NEWEST, newest: 1 }));
    assert!(!world.cluster(3).lease.is_valid());
    world.kill(3).await;
    world.max_level = None;
    world.start(3).await;
    world.ready().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_has_as_many_replicas_as_its_founders_say_and_the_level_that_they_all_can() {
    let mut world = Nodes::new(5);
    world.replicas = 5;
    world.max_level = Some(1);
    world.start(1).await;
    world.max_level = None;
    for node in 2..=5 {
        world.start(node).await;
    }
    // The smallest id forms it, and it cannot.
    until("it says why", || {
        let reasons = world.cluster(1).status().not_ready();
        reasons
            .iter()
            .any(|reason| reason.contains("cluster.replicas = 5 needs feature level 2, and node n1"))
    })
    .await;
    let old = world.nodes.remove(&1).unwrap();
    soon("it stops", old.cluster.stop()).await;
    world.start(1).await;
    world.ready().await;
    assert_eq!(levels(&world, 4), (NEWEST, vec![NEWEST; 5]));
    settled(&world, &[1, 2, 3, 4, 5]).await;
    let load = Load::begin(world.cluster(3));
    load.goes_on().await;
    // A majority of the nodes is one of every shard.
    world.isolate(4);
    world.isolate(5);
    for number in 0..16 {
        let client_id = format!("meanwhile-{number}");
        let cluster = world.cluster(1);
        let (node, incarnation) = (cluster.own.id, cluster.own.incarnation());
        let claim = Claim { client_id, node, incarnation, expiry_s: 3_600, ..Claim::default() };
        soon("a claim", cluster.claim(claim)).await.unwrap();
    }
    load.goes_on().await;
    world.rejoin(4);
    world.rejoin(5);
    load.end().await;
    world.stop().await;
}
