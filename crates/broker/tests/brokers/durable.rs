//! Durable sessions: what they are promised while their client, or the node that owns them, is away.

use zwerm_broker::{Config, Delivery, Stage};
use zwerm_wire::{PacketId, QoS, ReasonCode};

use crate::client::{Brokers, Client, connect, line, numbers, publish};
use crate::fixture::until;

fn ids(deliveries: &[Delivery]) -> Vec<Option<u16>> {
    deliveries.iter().map(|delivery| delivery.packet_id.map(PacketId::get)).collect()
}

async fn publish_numbers(publisher: &mut Client, topic: &str, range: std::ops::Range<u16>, qos: QoS) {
    for number in range {
        let publish = publish(topic, &number.to_string(), qos, number + 1);
        assert_eq!(publisher.publish_accepted(publish).await, ReasonCode::Success);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_a_client_is_away_waits_and_comes_in_order_on_another_node() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.durable(1, "s").await;
    assert!(!subscriber.session_present);
    assert_eq!(subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 7).await, [ReasonCode::GrantedQoS1]);
    subscriber.leave().await;
    let mut publisher = world.client(2, "p").await;
    publish_numbers(&mut publisher, "t", 0..30, QoS::AtLeastOnce).await;

    let mut subscriber = world.durable(3, "s").await;
    assert!(subscriber.session_present);
    assert_eq!(subscriber.payloads(30).await, numbers(0..30));
    let first = &subscriber.taken[0];
    assert_eq!((first.dup, first.qos, first.subscription_ids[0].get()), (false, QoS::AtLeastOnce, 7));
    subscriber.acknowledge(30);
    publish_numbers(&mut publisher, "t", 30..33, QoS::AtLeastOnce).await;
    assert_eq!(subscriber.payloads(33).await, numbers(0..33));
    subscriber.acknowledge(33);
    subscriber.leave().await;
    let mut subscriber = world.durable(2, "s").await;
    publish_numbers(&mut publisher, "t", 33..34, QoS::AtLeastOnce).await;
    assert_eq!(subscriber.payloads(1).await, ["33"], "what was acknowledged never comes again");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acknowledged_comes_again_as_a_duplicate_under_the_same_identifier() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.durable(1, "s").await;
    subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(2, "p").await;
    publish_numbers(&mut publisher, "t", 0..10, QoS::AtLeastOnce).await;
    subscriber.payloads(10).await;
    let sent = ids(&subscriber.taken);
    subscriber.acknowledge(4);
    until("the acknowledgements are committed", || {
        world.cluster(1).shard_views().values().map(|view| view.state().queued_messages()).sum::<u64>() == 6
    })
    .await;

    // Taken over while the first connection still lives.
    let mut next = world.durable(3, "s").await;
    assert_eq!(subscriber.kicked().await, ReasonCode::SessionTakenOver);
    next.payloads(6).await;
    assert_eq!(ids(&next.taken), sent[4..]);
    assert!(next.taken.iter().all(|delivery| delivery.dup));
    publish_numbers(&mut publisher, "t", 10..11, QoS::AtLeastOnce).await;
    next.payloads(7).await;
    assert!(!next.taken[6].dup, "it was never sent before");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_after_the_owners_death_is_bounded_however_fast_the_client_is() {
    const STEP: usize = 10;
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.durable(1, "s").await;
    subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    subscriber.leave().await;
    let mut publisher = world.client(2, "p").await;
    for number in 0..900 {
        publisher.offer(publish("t", &number.to_string(), QoS::AtLeastOnce, number + 1));
    }
    publisher.until("all are acknowledged", |client| client.accepted.len() == 900).await;

    let mut subscriber = world.durable(1, "s").await;
    // From here on nothing is committed that the client acknowledges; until its lease ends, node 1 delivers.
    world.isolate(1);
    while world.cluster(1).lease.is_valid() {
        let before = subscriber.taken.len();
        subscriber.attachment.take(STEP, &mut subscriber.taken);
        for delivery in &subscriber.taken[before..] {
            subscriber.attachment.acknowledged(delivery.packet_id.unwrap(), Stage::Done);
        }
        assert_eq!(subscriber.attachment.next_received(), None);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let ahead = subscriber.taken.len();
    assert!(ahead <= 256 + STEP, "{ahead} messages would come again");

    let mut next = world.durable(2, "s").await;
    assert_eq!(next.payloads(ahead).await[..ahead], subscriber.taken_payloads()[..]);
    world.rejoin(1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_whose_pubrec_is_safe_is_never_sent_again() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.durable(1, "s").await;
    subscriber.subscribe(vec![line("t", QoS::ExactlyOnce)], 0).await;
    let mut publisher = world.client(2, "p").await;
    publish_numbers(&mut publisher, "t", 0..3, QoS::ExactlyOnce).await;
    subscriber.payloads(3).await;
    let sent: Vec<PacketId> = subscriber.taken.iter().filter_map(|delivery| delivery.packet_id).collect();
    for packet_id in &sent[..2] {
        subscriber.attachment.acknowledged(*packet_id, Stage::Received);
    }
    let mut safe = Vec::new();
    while safe.len() < 2 {
        match subscriber.attachment.next_received() {
            Some(packet_id) => safe.push(packet_id),
            None => subscriber.attachment.wait().await,
        }
    }
    assert_eq!(safe, sent[..2]);
    subscriber.attachment.acknowledged(sent[0], Stage::Done);
    subscriber.leave().await;

    let mut subscriber = world.durable(3, "s").await;
    assert_eq!(subscriber.released, sent[1..2], "PUBREL is to be sent again");
    assert_eq!(subscriber.payloads(1).await, ["2"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_message_is_published_once_by_the_pubrel_whichever_node_it_comes_to() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.client(2, "s").await;
    subscriber.subscribe(vec![line("t", QoS::ExactlyOnce)], 0).await;
    let mut kept = world.durable(2, "kept").await;
    kept.subscribe(vec![line("#", QoS::ExactlyOnce)], 0).await;
    let mut publisher = world.durable(1, "p").await;
    publish_numbers(&mut publisher, "t", 0..3, QoS::ExactlyOnce).await;
    publisher.leave().await;

    let mut publisher = world.durable(3, "p").await;
    assert_eq!(publisher.received.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 2, 3]);
    for packet_id in publisher.received.clone() {
        publisher.attachment.complete(packet_id);
        publisher.attachment.complete(packet_id);
        let mut answers = Vec::new();
        while answers.len() < 2 {
            match publisher.attachment.next_completed() {
                Some(answer) => answers.push(answer),
                None => publisher.attachment.wait().await,
            }
        }
        let again = ReasonCode::PacketIdentifierNotFound;
        assert_eq!(answers, [(packet_id, ReasonCode::Success), (packet_id, again)]);
    }
    assert_eq!(subscriber.payloads(3).await, numbers(0..3));
    assert_eq!(kept.payloads(3).await, numbers(0..3));
    publish_numbers(&mut world.client(1, "last").await, "t", 3..4, QoS::AtLeastOnce).await;
    assert_eq!(subscriber.payloads(4).await, numbers(0..4), "and nothing twice before it");
    assert_eq!(kept.payloads(4).await, numbers(0..4));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_0_goes_to_a_durable_client_that_is_there_and_to_no_other() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.durable(1, "s").await;
    subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(2, "p").await;
    publisher.offer(publish("t", "fast", QoS::AtMostOnce, 0));
    assert_eq!(subscriber.payloads(1).await, ["fast"]);
    assert_eq!(subscriber.taken[0].packet_id, None);
    subscriber.leave().await;
    publisher.offer(publish("t", "nobody", QoS::AtMostOnce, 0));
    publish_numbers(&mut publisher, "t", 0..1, QoS::AtLeastOnce).await;
    let mut subscriber = world.durable(2, "s").await;
    assert_eq!(subscriber.payloads(1).await, ["0"]);
    publisher.offer(publish("t", "fast again", QoS::AtMostOnce, 0));
    assert_eq!(subscriber.payloads(2).await, ["0", "fast again"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_are_in_the_queue_when_a_durable_subscription_is_answered() {
    let world = Brokers::formed(Config::default()).await;
    let mut publisher = world.client(2, "p").await;
    for (topic, qos) in [("r/0", QoS::AtMostOnce), ("r/1", QoS::AtLeastOnce), ("r/2", QoS::ExactlyOnce)] {
        let mut retained = publish(topic, topic, qos, 1);
        retained.retain = true;
        publisher.offer(retained);
    }
    publisher.until("both are stored", |client| client.accepted.len() == 2).await;
    let mut subscriber = world.durable(3, "s").await;
    subscriber.subscribe(vec![line("r/+", QoS::AtLeastOnce)], 0).await;
    subscriber.leave().await;
    let mut subscriber = world.durable(1, "s").await;
    let mut found = subscriber.payloads(2).await;
    found.sort_unstable();
    assert_eq!(found, ["r/1", "r/2"], "what was for QoS 1 waited in the queue");
    assert!(subscriber.taken.iter().all(|delivery| delivery.retain && delivery.qos == QoS::AtLeastOnce));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_start_forgets_the_session_and_its_routes() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.durable(1, "s").await;
    subscriber.subscribe(vec![line("t", QoS::AtLeastOnce)], 0).await;
    subscriber.leave().await;
    let mut publisher = world.client(2, "p").await;
    publish_numbers(&mut publisher, "t", 0..1, QoS::AtLeastOnce).await;
    Client::attach(world.app(3), connect("s")).await.leave().await;
    let subscriber = world.durable(1, "s").await;
    assert!(!subscriber.session_present);
    let mut number = 1;
    loop {
        number += 1;
        if publisher.publish_accepted(publish("t", "x", QoS::AtLeastOnce, number)).await
            == ReasonCode::NoMatchingSubscribers
        {
            break;
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_subscription_gives_to_those_who_are_there_and_else_to_a_durable_member() {
    let world = Brokers::formed(Config::default()).await;
    let group = || vec![line("$share/g/t", QoS::AtLeastOnce)];
    let mut away = world.durable(1, "away").await;
    away.subscribe(group(), 0).await;
    away.leave().await;
    let mut there = world.client(2, "there").await;
    there.subscribe(group(), 0).await;
    until("the group's routes know who is there", || {
        let routes = world.cluster(3).control.routes();
        let filter = zwerm_wire::TopicFilter::new("$share/g/t").unwrap();
        let shards = routes.destinations().map(|destination| routes.interest(destination, &filter));
        shards.into_iter().filter(|interest| interest.since > 0).all(|interest| interest.online == 0)
    })
    .await;
    let mut publisher = world.client(3, "p").await;
    publish_numbers(&mut publisher, "t", 0..5, QoS::AtLeastOnce).await;
    assert_eq!(there.payloads(5).await, numbers(0..5));
    there.leave().await;
    publish_numbers(&mut publisher, "t", 5..10, QoS::AtLeastOnce).await;
    let mut away = world.durable(3, "away").await;
    // The first may have gone to the node of the member that left, and from there to this one: a shared
    // subscription promises no order.
    let mut found = away.payloads(5).await;
    found.sort_unstable();
    assert_eq!(found, numbers(5..10));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_did_not_acknowledge_goes_to_another() {
    let world = Brokers::formed(Config::default()).await;
    let group = || vec![line("$share/g/t", QoS::AtLeastOnce)];
    let mut first = world.client(1, "first").await;
    first.subscribe(group(), 0).await;
    let mut publisher = world.client(1, "p").await;
    publish_numbers(&mut publisher, "t", 0..6, QoS::AtLeastOnce).await;
    // It has three of them, and acknowledges one; three are still in its queue.
    first.attachment.take(3, &mut first.taken);
    let mut second = world.client(3, "second").await;
    second.subscribe(group(), 0).await;
    let unacknowledged = first.taken.split_off(1);
    assert!(unacknowledged.iter().all(|delivery| delivery.group.is_some()));
    first.attachment.unacknowledged(unacknowledged);
    first.leave().await;
    let mut found = second.payloads(5).await;
    found.sort_unstable();
    assert_eq!(found, numbers(1..6));
    world.end().await;
}
