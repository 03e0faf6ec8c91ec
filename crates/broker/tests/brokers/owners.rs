//! One connection per client id in the whole cluster, and wills.

use zwerm_broker::{Config, Detach};
use zwerm_wire::{Connect, QoS, ReasonCode};

use crate::client::{Brokers, Client, connect, line, publish, will};
use crate::fixture::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_ends_the_older_one_wherever_it_is() {
    let world = Brokers::formed(Config::default()).await;
    let mut before = world.client(1, "c").await;
    for node in [2, 2, 3, 1] {
        let after = world.client(node, "c").await;
        assert_eq!(before.kicked().await, ReasonCode::SessionTakenOver);
        let gone = std::mem::replace(&mut before, after);
        soon("it detaches", gone.attachment.detach(Detach { fire_will: true, session_expiry: None })).await;
    }
    assert_eq!(before.attachment.kicked(), None);
    assert_eq!((1..=3).map(|node| world.app(node).connections()).sum::<usize>(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_with_one_id_at_once_leave_one_owner() {
    let world = Brokers::formed(Config::default()).await;
    let attaching: Vec<_> = (0..12_u64)
        .map(|number| {
            let broker = world.app(number % 3 + 1).clone();
            tokio::spawn(async move { broker.attach(&connect("c")).await })
        })
        .collect();
    let mut attached = Vec::new();
    for task in attaching {
        attached.extend(soon("an answer", task).await.unwrap().ok());
    }
    let owners = || attached.iter().filter(|one| one.attachment.kicked().is_none()).count();
    until("one owner is left", || owners() == 1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wills_come_for_connections_that_are_dropped_or_end_badly_and_no_others() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.client(3, "subscriber").await;
    subscriber.subscribe(vec![line("will/#", QoS::AtLeastOnce)], 0).await;
    let with_will = |id: &str| Connect { will: Some(will(&format!("will/{id}"))), ..connect(id) };
    let dropped = Client::attach(world.app(1), with_will("dropped")).await;
    let bad = Client::attach(world.app(2), with_will("bad")).await;
    let good = Client::attach(world.app(1), with_will("good")).await;
    let taken_over = Client::attach(world.app(2), with_will("taken-over")).await;
    let end = |fire_will| Detach { fire_will, session_expiry: None };
    soon("it detaches", good.attachment.detach(end(false))).await;
    drop(dropped);
    soon("it detaches", bad.attachment.detach(end(true))).await;
    let newer = world.client(1, "taken-over").await;
    drop((taken_over, newer));
    // Behind all wills that will ever come: they have been published when their shards' outboxes are empty.
    subscriber.until("three wills", |client| client.taken.len() == 3).await;
    let drained = || {
        let views =
            (1..=3).flat_map(|node| world.cluster(node).shard_views().values().cloned().collect::<Vec<_>>());
        views.into_iter().all(|view| view.state().outbox_len() == 0)
    };
    until("the outboxes are empty", drained).await;
    subscriber.take();
    let mut topics: Vec<_> = subscriber.taken.iter().map(|taken| taken.message.topic().to_string()).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["will/bad", "will/dropped", "will/taken-over"]);
    let mut publisher = world.client(2, "publisher").await;
    let reason = publisher.publish_accepted(publish("will/x", "x", QoS::AtLeastOnce, 1)).await;
    assert_eq!(reason, ReasonCode::Success);
    world.end().await;
}
