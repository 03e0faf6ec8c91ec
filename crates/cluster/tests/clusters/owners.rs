//! One owner per client id, and what becomes of its will.

use std::time::Duration;

use zwerm_cluster::NodeId;
use zwerm_machine::records::{Claim, Claimed, Message, Release, Will};

use crate::fixture::{World, soon, until};
use crate::recorder::App;

fn claim_of(world: &World<App>, node: NodeId, client_id: &str, will: Option<&str>) -> Claim {
    let message =
        |topic: &str| Message { topic: topic.to_owned(), payload: "gone".into(), ..Message::default() };
    Claim {
        client_id: client_id.to_owned(),
        node,
        incarnation: world.cluster(node).own.incarnation(),
        clean_start: true,
        expiry_s: 0,
        will: will.map(|topic| Will { message: Some(message(topic)), ..Will::default() }),
        ..Claim::default()
    }
}

pub async fn claim(world: &World<App>, node: NodeId, client_id: &str, will: Option<&str>) -> Claimed {
    let claim = claim_of(world, node, client_id, will);
    soon("a claim", world.cluster(node).claim(claim)).await.unwrap()
}

async fn release(world: &World<App>, node: NodeId, client_id: &str, epoch: u64, fire_will: bool) {
    let release = Release { client_id: client_id.to_owned(), epoch, fire_will, ..Release::default() };
    soon("a release", world.cluster(node).release(release)).await.unwrap();
}

/// Takes wills off the outboxes of all nodes, confirms them and adds their topics.
pub fn take_wills(world: &World<App>, topics: &mut Vec<String>) {
    for node in world.nodes.values() {
        let mut outbox = node.app.outbox.lock();
        while let Ok(will) = outbox.try_recv() {
            topics.push(will.message.topic.clone());
            will.published.send(()).unwrap_or_default();
        }
    }
}

/// Nothing is left to publish in any shard.
pub fn outboxes_are_empty(world: &World<App>) -> bool {
    world
        .nodes
        .values()
        .all(|node| node.cluster.shard_views().values().all(|view| view.state().outbox_len() == 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_names_the_owner_before_it_whom_a_kick_reaches() {
    let world = World::formed().await;
    let first = claim(&world, 1, "c", None).await;
    assert_eq!((first.previous, first.session_present), (None, false));
    let second = claim(&world, 2, "c", None).await;
    assert!(second.epoch > first.epoch);
    let previous = second.previous.unwrap();
    assert_eq!((previous.node, previous.epoch, previous.connected), (1, first.epoch, true));

    drop(world.cluster(2).take_over((1, previous.incarnation), "c", second.epoch));
    let kicked = ("c".to_owned(), second.epoch);
    until("the kick arrives", || *world.recorder(1).kicks.lock() == [kicked.clone()]).await;

    // The owner before may have claimed as an incarnation that is not known everywhere yet.
    drop(world.cluster(3).take_over((1, previous.incarnation + 1), "d", 9));
    until("the kick arrives", || world.recorder(1).kicks.lock().contains(&("d".to_owned(), 9))).await;

    release(&world, 1, "c", first.epoch, true).await;
    let third = claim(&world, 3, "c", None).await;
    assert_eq!(
        third.previous.map(|owner| owner.node),
        Some(2),
        "a release of an older owner changes nothing"
    );
    release(&world, 3, "c", third.epoch, false).await;
    assert_eq!(claim(&world, 1, "c", None).await.previous, None);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_nobody_waits_for_any_more_is_given_back() {
    let world = World::formed().await;
    // With the other two out of reach it is proposed, but cannot be committed before it is given up.
    world.isolate(1);
    let given_up = claim_of(&world, 1, "c", Some("will/c"));
    let waited = tokio::time::timeout(Duration::from_millis(100), world.cluster(1).claim(given_up)).await;
    assert!(waited.is_err());
    world.rejoin(1);
    world.ready().await;
    // Behind it in the queue of the same shard.
    let next = claim(&world, 1, "c", None).await;
    let previous_is_live = next.previous.is_some_and(|owner| owner.connected);
    release(&world, 1, "c", next.epoch, false).await;
    let is_free = || {
        let views = world.cluster(2).shard_views();
        views.values().all(|view| view.state().owner("c").is_none())
    };
    until("nobody owns it", is_free).await;
    assert!(!previous_is_live, "the next client found an owner that never was connected");
    let mut topics = Vec::new();
    take_wills(&world, &mut topics);
    assert!(topics.is_empty(), "a client that was never connected has no will: {topics:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wills_fire_when_the_connection_ends_badly_and_only_then() {
    let world = World::formed().await;
    let mut topics = Vec::new();
    let good = claim(&world, 1, "good", Some("will/good")).await;
    let bad = claim(&world, 2, "bad", Some("will/bad")).await;
    release(&world, 1, "good", good.epoch, false).await;
    release(&world, 2, "bad", bad.epoch, true).await;
    until("a will", || {
        take_wills(&world, &mut topics);
        !topics.is_empty() && outboxes_are_empty(&world)
    })
    .await;
    assert_eq!(topics, ["will/bad"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wills_of_a_dead_node_fire_once_it_is_declared_down() {
    let mut world = World::formed().await;
    for number in 0..8 {
        claim(&world, 3, &format!("lost-{number}"), Some(&format!("will/{number}"))).await;
    }
    claim(&world, 1, "alive", Some("will/alive")).await;
    let incarnation = world.cluster(3).own.incarnation();
    world.kill(3).await;
    until("it is declared down", || !world.cluster(1).is_up(3, incarnation)).await;
    let mut topics = Vec::new();
    until("all wills", || {
        take_wills(&world, &mut topics);
        let mut all: Vec<_> = topics.clone();
        all.sort_unstable();
        all.dedup();
        all.len() == 8 && outboxes_are_empty(&world)
    })
    .await;
    topics.sort_unstable();
    let expected: Vec<_> = (0..8).map(|number| format!("will/{number}")).collect();
    // A leader that changes in between may publish one again; never one of a client that lives.
    topics.dedup();
    assert_eq!(topics, expected);
    world.stop().await;
}
