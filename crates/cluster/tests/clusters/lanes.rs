//! Messages between nodes: in order, accepted by the receiver before their tickets go.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use zwerm_cluster::NodeId;
use zwerm_cluster::forward::{Body, Record, Target};
use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_wire::{QoS, TopicFilter, TopicName};

use crate::fixture::{World, until};
use crate::recorder::App;

/// Forwards one message with QoS 1; its receipt.
fn forward(world: &World<App>, from: NodeId, to: NodeId, payload: &str) -> Receipt {
    hand(world, (from, to), payload, (QoS::AtLeastOnce, Vec::new()))
}

/// Forwards one message, for shared subscriptions or for plain ones if there are none; its receipt.
fn hand(
    world: &World<App>,
    (from, to): (NodeId, NodeId),
    payload: &str,
    (qos, groups): (QoS, Vec<TopicFilter>),
) -> Receipt {
    let target = Target { plain: groups.is_empty(), groups };
    let record = Record {
        target: target.clone(),
        publisher: "p".into(),
        topic: TopicName::new("t").unwrap(),
        qos,
        retain: false,
        origin: None,
        expires_in_ms: None,
        properties: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    };
    let receipt = Receipt::new(Bell::new());
    let lane = world.cluster(from).lanes.to(to).unwrap();
    lane.push(qos, &target, Body::encode(&record.outgoing()), || Some(receipt.ticket())).unwrap();
    receipt
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_keeps_the_order_and_its_tickets_until_the_receiver_accepts() {
    let world = World::formed().await;
    let receiver = world.recorder(2);
    receiver.withholds.store(true, Ordering::SeqCst);
    let receipts: Vec<_> = numbers(0..2_000).iter().map(|payload| forward(&world, 1, 2, payload)).collect();
    until("all arrive", || receiver.payloads() == numbers(0..2_000)).await;
    assert!(receipts.iter().all(|receipt| !receipt.is_complete()));

    // Not in order: the last ones first.
    let mut withheld = std::mem::take(&mut *receiver.withheld.lock());
    drop(withheld.split_off(1_000));
    until("half are accepted", || receipts[1_000..].iter().all(Receipt::is_complete)).await;
    assert!(receipts[..1_000].iter().all(|receipt| !receipt.is_complete()));
    drop(withheld);
    until("all are accepted", || receipts.iter().all(Receipt::is_complete)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_breaks_delivers_each_message_once_and_in_order() {
    let world = World::formed().await;
    let mut receipts = Vec::new();
    for round in 0..6 {
        for number in 0..500 {
            receipts.push(forward(&world, 1, 2, &(round * 500 + number).to_string()));
        }
        world.net.cut("n1", "n2");
        world.net.heal("n1", "n2");
    }
    until("all are accepted", || receipts.iter().all(Receipt::is_complete)).await;
    assert_eq!(world.recorder(2).payloads(), numbers(0..3_000));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_cut_off_holds_its_tickets_until_it_is_declared_down_and_gets_new_ones_when_it_is_back()
 {
    let world = World::formed().await;
    let receiver = world.cluster(3);
    for payload in numbers(0..100) {
        forward(&world, 1, 3, &payload);
    }
    until("all arrive", || world.recorder(3).payloads() == numbers(0..100)).await;

    let before = receiver.own.incarnation();
    world.isolate(3);
    let lost = forward(&world, 1, 3, "lost");
    until("it is released", || lost.is_complete()).await;
    assert!(world.cluster(1).lanes.to(3).is_none(), "released although the peer is up");

    world.rejoin(3);
    until("it rises", || receiver.own.incarnation() > before).await;
    world.ready().await;
    until("there is a lane", || world.cluster(1).lanes.to(3).is_some()).await;
    world.recorder(3).delivered.lock().clear();
    // Numbered from the beginning again, these must not be taken for repeats.
    let receipts: Vec<_> = numbers(0..100).iter().map(|payload| forward(&world, 1, 3, payload)).collect();
    until("all are accepted", || receipts.iter().all(Receipt::is_complete)).await;
    assert_eq!(world.recorder(3).payloads(), numbers(0..100));
    world.stop().await;
}

fn once(world: &World<App>, to: NodeId, payload: &str) -> Receipt {
    let group = TopicFilter::new("$share/g/t").unwrap();
    hand(world, (1, to), payload, (QoS::ExactlyOnce, vec![group]))
}

fn returned(world: &World<App>, node: NodeId) -> Vec<String> {
    let returned = world.recorder(node).returned.lock();
    returned.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_took_with_qos_2_before_it_was_declared_down_is_its_own_and_what_it_did_not_comes_back() {
    let world = World::formed().await;
    world.recorder(3).withholds.store(true, Ordering::SeqCst);
    let taken = once(&world, 3, "taken");
    until("it arrives", || world.recorder(3).payloads() == ["taken"]).await;
    let before = world.cluster(3).own.incarnation();
    world.isolate(3);
    let untaken = once(&world, 3, "untaken");
    until("both are released", || taken.is_complete() && untaken.is_complete()).await;
    assert!(!taken.has_failed(), "it may have been given to a member");
    assert!(!untaken.has_failed(), "it was sent, and nobody knows yet that it did not arrive");
    assert_eq!(world.cluster(1).doubts(), (2, 0));

    world.rejoin(3);
    until("it rises", || world.cluster(3).own.incarnation() > before).await;
    until("all is settled", || world.cluster(1).doubts() == (0, 0)).await;
    // What was under way all the time may have been taken as soon as it could be, or not; but not both.
    let everywhere = || [world.recorder(3).payloads(), returned(&world, 1)].concat();
    until("what did not arrive comes back", || everywhere() == ["taken", "untaken"]).await;
    assert_eq!(world.recorder(3).payloads()[0], "taken");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_that_died_may_have_given_to_a_member_with_qos_2_goes_to_nobody_else() {
    let mut world = World::formed().await;
    world.recorder(3).withholds.store(true, Ordering::SeqCst);
    let taken = once(&world, 3, "taken");
    until("it arrives", || world.recorder(3).payloads() == ["taken"]).await;
    world.kill(3).await;
    until("it is released", || taken.is_complete()).await;
    assert!(!taken.has_failed());
    world.start(3).await;
    until("it is given up", || world.cluster(1).doubts() == (0, 1)).await;
    assert!(returned(&world, 1).is_empty());
    world.stop().await;
}
