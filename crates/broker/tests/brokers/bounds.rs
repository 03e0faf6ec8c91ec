//! Queues are bounded, and who waits for whom.

use std::time::Duration;

use zwerm_broker::{Admission, Config, QueueLimits};
use zwerm_cluster::forward::LaneLimits;
use zwerm_wire::{QoS, ReasonCode};

use crate::client::{Brokers, line, numbers, publish};
use crate::fixture::until;

fn limited(messages: usize, patience: Duration) -> Config {
    Config { queue: QueueLimits { messages, patience, ..QueueLimits::default() }, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_its_bound_a_client_on_another_node_holds_acknowledgements_until_it_takes() {
    let world = Brokers::formed(limited(10, Duration::from_secs(60))).await;
    let mut slow = world.client(2, "slow").await;
    slow.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    for number in 0..15_u16 {
        publisher.offer(publish("t", &number.to_string(), QoS::AtLeastOnce, number + 1));
    }
    publisher.until("what fits", |client| client.accepted.len() == 10).await;
    until("the rest has arrived", || world.app(2).counters().queued.get() == 15).await;
    publisher.take();
    assert_eq!(publisher.accepted.len(), 10);
    assert_eq!(slow.payloads(15).await, numbers(0..15));
    publisher.until("all", |client| client.accepted.len() == 15).await;
    assert_eq!(slow.attachment.kicked(), None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_twice_its_bound_a_client_is_disconnected_and_holds_nobody_any_more() {
    let world = Brokers::formed(limited(10, Duration::from_secs(60))).await;
    let mut slow = world.client(2, "slow").await;
    slow.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    for number in 0..40_u16 {
        publisher.offer(publish("t", &number.to_string(), QoS::AtLeastOnce, number + 1));
    }
    until("it is told", || slow.attachment.kicked() == Some(ReasonCode::QuotaExceeded)).await;
    drop(slow);
    publisher.until("all are acknowledged", |client| client.accepted.len() == 40).await;
    assert_eq!(world.app(2).counters().kicked_slow.get(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stays_over_its_bound_is_disconnected_when_patience_ends() {
    let world = Brokers::formed(limited(5, Duration::from_millis(300))).await;
    let mut slow = world.client(1, "slow").await;
    slow.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    for number in 0..7_u16 {
        publisher.offer(publish("t", &number.to_string(), QoS::AtLeastOnce, number + 1));
    }
    until("it is told", || slow.attachment.kicked() == Some(ReasonCode::QuotaExceeded)).await;
    assert_eq!(world.app(1).counters().kicked_slow.get(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_0_over_the_bound_drops_the_oldest_and_holds_nobody() {
    let world = Brokers::formed(limited(10, Duration::from_secs(60))).await;
    let mut slow = world.client(1, "slow").await;
    slow.subscribe(vec![line("t", QoS::AtMostOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    for number in 0..50_u16 {
        assert_eq!(
            publisher.publish(publish("t", &number.to_string(), QoS::AtLeastOnce, number + 1)),
            Admission::Taken
        );
    }
    publisher.until("all are acknowledged", |client| client.accepted.len() == 50).await;
    assert_eq!(slow.payloads(10).await, numbers(40..50));
    assert_eq!(world.app(1).counters().dropped_queue_full.get(), 40);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_makes_the_publisher_busy_until_it_has_room() {
    let mut world = Brokers::new(3);
    world.lanes = LaneLimits { messages: 20, ..LaneLimits::default() };
    world.form(&limited(30, Duration::from_secs(60))).await;
    let mut slow = world.client(2, "slow").await;
    slow.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    // The receiver accepts 30 and holds back what the lane holds, 20 at most: fewer than the 60 at which it is told
    // to go, however fast it is.
    let mut sent: u16 = 0;
    while publisher.publish(publish("t", &sent.to_string(), QoS::AtLeastOnce, sent + 1)) == Admission::Taken {
        sent += 1;
        assert!(sent < 100, "the lane never fills");
    }
    sent += 1;
    assert_eq!(publisher.attachment.admits(), Admission::Busy);
    until("what was stalled goes on", || {
        publisher.take();
        slow.take();
        slow.taken.len() == usize::from(sent)
    })
    .await;
    assert_eq!(slow.taken_payloads(), numbers(0..sent));
    publisher.until("all are acknowledged", |client| client.accepted.len() == usize::from(sent)).await;
    assert_eq!(publisher.attachment.admits(), Admission::Taken);
    world.end().await;
}
