//! A node without a lease acknowledges nothing, and sends its clients away when it was given up.

use std::time::Duration;

use zwerm_broker::{AttachError, Config};
use zwerm_wire::{QoS, ReasonCode};

use crate::client::{Brokers, connect, line, publish};
use crate::fixture::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_nothing_is_delivered_or_acknowledged_not_even_afterwards() {
    let config = Config { lease_patience: Duration::from_secs(600), ..Config::default() };
    let world = Brokers::formed(config).await;
    let mut subscriber = world.client(3, "subscriber").await;
    subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(3, "publisher").await;
    publisher.publish_accepted(publish("t", "before", QoS::AtLeastOnce, 1)).await;
    assert_eq!(subscriber.payloads(1).await, ["before"]);

    let incarnation = world.cluster(3).own.incarnation();
    world.isolate(3);
    until("the lease is lost", || !world.cluster(3).lease.is_valid()).await;
    publisher.offer(publish("t", "during", QoS::AtLeastOnce, 2));
    subscriber.take();
    assert_eq!(subscriber.taken_payloads(), ["before"], "the client may have another owner by now");
    // Somebody subscribes elsewhere, which does not wait for a node that is down.
    let mut elsewhere = world.client(1, "elsewhere").await;
    elsewhere.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    // The leader of control, who answered; the other one hears it a moment later.
    assert!([1, 2].into_iter().any(|node| !world.cluster(node).is_up(3, incarnation)));
    publisher.offer(publish("t", "missed", QoS::AtLeastOnce, 3));
    publisher.take();
    assert_eq!(publisher.accepted.len(), 1);

    world.rejoin(3);
    assert_eq!(publisher.kicked().await, ReasonCode::UseAnotherServer);
    assert_eq!(subscriber.kicked().await, ReasonCode::UseAnotherServer);
    until("the node is back", || world.cluster(3).lease.is_valid()).await;
    until("it routes", || world.cluster(3).lease.routing().is_some()).await;
    publisher.take();
    assert_eq!(publisher.accepted.len(), 1, "what was routed by old routes must not be acknowledged");

    // Routed now it would overtake what it followed, which the client sends again from elsewhere (P9).
    publisher.offer(publish("t", "overtaking", QoS::AtLeastOnce, 4));
    publisher.take();
    assert_eq!(publisher.accepted.len(), 1);

    let mut next = world.client(3, "next").await;
    assert_eq!(next.publish_accepted(publish("t", "after", QoS::AtLeastOnce, 1)).await, ReasonCode::Success);
    assert_eq!(elsewhere.payloads(1).await, ["after"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_for_too_long_a_node_sends_its_clients_elsewhere() {
    let config = Config { lease_patience: Duration::from_millis(500), ..Config::default() };
    let world = Brokers::formed(config).await;
    let mut client = world.client(2, "c").await;
    world.isolate(2);
    assert_eq!(client.kicked().await, ReasonCode::UseAnotherServer);
    let refused = soon("an answer without delay", world.app(2).attach(&connect("c"))).await.unwrap_err();
    assert_eq!((refused, refused.reason()), (AttachError::CutOff, ReasonCode::ServerUnavailable));
    world.rejoin(2);
    world.ready().await;
    let accepted = async {
        while world.app(2).attach(&connect("c")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    soon("clients are accepted again", accepted).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_cut_off_holds_acknowledgements_until_it_is_declared_down() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.client(3, "subscriber").await;
    subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    world.isolate(3);
    publisher.offer(publish("t", "x", QoS::AtLeastOnce, 1));
    publisher.until("the acknowledgement", |client| !client.accepted.is_empty()).await;
    assert!(world.cluster(1).lanes.to(3).is_none(), "acknowledged while a subscriber waits");
    world.rejoin(3);
    world.ready().await;
    world.end().await;
}
