//! Retained messages (P5): what was acknowledged is what a new subscription gets, on any node.

use zwerm_broker::Config;
use zwerm_wire::{Publish, QoS, ReasonCode};

use crate::client::{Brokers, Client, line, publish};

fn retained(topic: &str, payload: &str, id: u16) -> Publish {
    Publish { retain: true, ..publish(topic, payload, QoS::AtLeastOnce, id) }
}

/// Subscribes with a new client and waits for the first message.
async fn first(client: &mut Client, filter: &str) -> (String, bool) {
    client.subscribe(vec![line(filter, QoS::AtLeastOnce)], 0).await;
    client.payloads(1).await;
    (client.taken_payloads().remove(0), client.taken[0].retain)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_right_after_the_acknowledgement_gets_the_value_on_any_node() {
    let world = Brokers::formed(Config::default()).await;
    let mut publisher = world.client(1, "publisher").await;
    for round in 0..60 {
        let (topic, value) = (format!("r/{}", round % 5), round.to_string());
        let reason = publisher.publish_accepted(retained(&topic, &value, round + 1)).await;
        assert_eq!(reason, ReasonCode::Success);
        let mut subscriber = world.client(u64::from(round) % 3 + 1, "subscriber").await;
        assert_eq!(first(&mut subscriber, &topic).await, (value, true), "round {round}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_values_never_goes_back_for_a_client_that_joins_in_the_middle() {
    let world = Brokers::formed(Config::default()).await;
    let mut publisher = world.client(1, "publisher").await;
    let mut value: u16 = 0;
    for round in 0..15 {
        let mut subscriber = world.client(round % 3 + 1, "subscriber").await;
        let subscribing = async {
            subscriber.subscribe(vec![line("s", QoS::AtLeastOnce)], 0).await;
            subscriber
        };
        let subscribing = tokio::spawn(subscribing);
        while !subscribing.is_finished() {
            value += 1;
            publisher.publish_accepted(retained("s", &value.to_string(), value)).await;
        }
        let mut subscriber = subscribing.await.unwrap();
        value += 1;
        publisher.publish_accepted(retained("s", &value.to_string(), value)).await;
        let last = value.to_string();
        subscriber.until("the last value", |client| client.taken_payloads().last() == Some(&last)).await;
        let seen: Vec<u16> = subscriber.taken_payloads().iter().map(|text| text.parse().unwrap()).collect();
        assert!(seen.is_sorted(), "{seen:?}");
        let live = subscriber.taken.iter().position(|delivery| !delivery.retain).unwrap_or(seen.len());
        assert!(
            seen[live..].windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "no live value is missing: {seen:?}"
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_and_other_messages_of_one_publisher_stay_in_order() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.client(2, "subscriber").await;
    subscriber.subscribe(vec![line("#", QoS::AtLeastOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    for number in 0..200_u16 {
        let publish =
            publish(&format!("o/{}", number % 3), &number.to_string(), QoS::AtLeastOnce, number + 1);
        publisher.offer(Publish { retain: number % 4 == 0, ..publish });
    }
    publisher.until("all are acknowledged", |client| client.accepted.len() == 200).await;
    assert_eq!(subscriber.payloads(200).await, crate::client::numbers(0..200));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_holds_only_so_many_replays() {
    const RETAINED: u16 = 1_200;
    let queue = zwerm_broker::QueueLimits { messages: 2, ..Config::default().queue };
    let world = Brokers::formed(Config { queue, ..Config::default() }).await;
    let mut publisher = world.client(1, "publisher").await;
    // More than comes with a SUBACK whatever the bounds of the queue.
    for number in 0..RETAINED {
        publisher.offer(retained(&format!("r/{number}"), "v", number + 1));
        if number % 200 == 199 {
            let accepted = |client: &Client| client.accepted.len() > usize::from(number);
            publisher.until("all are acknowledged", accepted).await;
        }
    }
    let mut subscriber = world.client(2, "subscriber").await;
    for _ in 0..4 {
        subscriber.subscribe(vec![line("r/#", QoS::AtLeastOnce)], 0).await;
    }
    let fifth = subscriber.attachment.subscribe(zwerm_wire::Subscribe {
        packet_id: 1.try_into().unwrap(),
        subscription_id: None,
        user: Vec::new(),
        filters: vec![line("r/#", QoS::AtLeastOnce)],
    });
    let fifth = tokio::spawn(fifth);
    // Its route holds already, so only the replays before it keep it.
    let permitted = world.cluster(2).routes.permit().await.unwrap();
    permitted
        .set(zwerm_wire::TopicFilter::new("marker").unwrap(), zwerm_routing::Interest::of(1))
        .await
        .unwrap();
    assert!(!fifth.is_finished());
    let everything = 5 * usize::from(RETAINED);
    subscriber.until("five times everything", |client| client.taken.len() == everything).await;
    fifth.await.unwrap();
    world.end().await;
}
