//! Messages from one node's clients to another's.

use std::num::NonZeroU32;

use bytes::Bytes;
use zwerm_broker::{Config, Expiry, Overlapping};
use zwerm_wire::{MessageProperties, Publish, QoS, ReasonCode, SubscribeFilter};

use crate::client::{Brokers, line, numbers, publish};

const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_quality_of_service_crosses_nodes_in_order_and_is_acknowledged_in_order() {
    let world = Brokers::formed(Config::default()).await;
    let mut publisher = world.client(1, "publisher").await;
    let mut subscribers = Vec::new();
    for (node, qos) in (1..).zip(ALL) {
        let mut subscriber = world.client(node, &format!("subscriber-{node}")).await;
        let granted = subscriber.subscribe(vec![line("t/+", qos)], 0).await;
        assert_eq!(granted, [ReasonCode::from_byte(qos as u8).unwrap()]);
        subscribers.push((subscriber, qos));
    }
    for (sent, qos) in ALL.into_iter().enumerate() {
        let sent = u16::try_from(sent).unwrap() * 300;
        for number in sent..sent + 300 {
            publisher.offer(publish("t/x", &number.to_string(), qos, number + 1));
        }
    }
    publisher.until("all are acknowledged", |client| client.accepted.len() == 600).await;
    let ids: Vec<u16> = publisher.accepted.iter().map(|accepted| accepted.packet_id.get()).collect();
    assert_eq!(ids, (301..=900).collect::<Vec<u16>>());
    assert!(publisher.accepted.iter().all(|accepted| accepted.reason == ReasonCode::Success));
    for (subscriber, qos) in &mut subscribers {
        assert_eq!(subscriber.payloads(900).await, numbers(0..900));
        for (delivery, published) in subscriber.taken.iter().zip(ALL.iter().flat_map(|qos| [*qos; 300])) {
            assert_eq!(delivery.qos, published.min(*qos));
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_subscribed_is_said_and_no_local_is_kept_across_nodes() {
    let world = Brokers::formed(Config::default()).await;
    let mut here = world.client(1, "here").await;
    let mut there = world.client(2, "there").await;
    let alone = here.publish_accepted(publish("t", "0", QoS::AtLeastOnce, 1)).await;
    assert_eq!(alone, ReasonCode::NoMatchingSubscribers);
    for client in [&mut here, &mut there] {
        let mut own = line("t", QoS::AtLeastOnce);
        own.options.no_local = true;
        client.subscribe(vec![own], 0).await;
    }
    assert_eq!(here.publish_accepted(publish("t", "here", QoS::AtLeastOnce, 2)).await, ReasonCode::Success);
    assert_eq!(there.publish_accepted(publish("t", "there", QoS::AtLeastOnce, 2)).await, ReasonCode::Success);
    assert_eq!(here.payloads(1).await, ["there"]);
    assert_eq!(there.payloads(1).await, ["here"]);
    there.unsubscribe("t").await;
    world.end().await;
}

async fn overlapping(overlapping: Overlapping) -> Vec<(QoS, Vec<u32>)> {
    let world = Brokers::formed(Config { overlapping, ..Config::default() }).await;
    let mut subscriber = world.client(2, "subscriber").await;
    let filters: [(SubscribeFilter, u32); 2] =
        [(line("a/#", QoS::AtMostOnce), 7), (line("a/+", QoS::AtLeastOnce), 8)];
    for (filter, id) in filters {
        subscriber.subscribe(vec![filter], id).await;
    }
    let mut publisher = world.client(1, "publisher").await;
    publisher.publish_accepted(publish("a/b", "x", QoS::AtLeastOnce, 1)).await;
    // The next one is behind everything that the first one brings.
    subscriber.subscribe(vec![line("end", QoS::AtLeastOnce)], 9).await;
    publisher.publish_accepted(publish("end", "end", QoS::AtLeastOnce, 2)).await;
    subscriber.until("the end", |client| client.taken_payloads().contains(&"end".to_owned())).await;
    let ids = |ids: &[NonZeroU32]| ids.iter().map(|id| id.get()).collect();
    let mut copies: Vec<(QoS, Vec<u32>)> = subscriber.taken[..subscriber.taken.len() - 1]
        .iter()
        .map(|delivery| (delivery.qos, ids(&delivery.subscription_ids)))
        .collect();
    copies.iter_mut().for_each(|(_, ids)| ids.sort_unstable());
    copies.sort_unstable_by_key(|(_, ids)| ids.clone());
    world.end().await;
    copies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_subscriptions_bring_a_copy_each_or_one_for_all() {
    let each = overlapping(Overlapping::Each).await;
    assert_eq!(each, [(QoS::AtMostOnce, vec![7]), (QoS::AtLeastOnce, vec![8])]);
    let merged = overlapping(Overlapping::Merged).await;
    assert_eq!(merged, [(QoS::AtLeastOnce, vec![7, 8])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_crosses_nodes_also_when_it_is_the_only_property() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.client(2, "subscriber").await;
    subscriber.subscribe(vec![line("t", QoS::AtMostOnce)], 0).await;
    let mut publisher = world.client(1, "publisher").await;
    publisher.publish_expiring(publish("t", "x", QoS::AtMostOnce, 1), 100);
    subscriber.payloads(1).await;
    let message = &subscriber.taken[0].message;
    let expiry = message.properties().and_then(|properties| properties.message_expiry).unwrap();
    assert!((50..=100).contains(&expiry), "{expiry}");
    assert!(matches!(message.expiry(tokio::time::Instant::now()), Expiry::Left(50..=100)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_said_to_be_text_and_is_none_is_refused_where_that_is_asked_for() {
    let world = Brokers::formed(Config { validate_payload_format: true, ..Config::default() }).await;
    let mut subscriber = world.client(2, "subscriber").await;
    subscriber.subscribe(vec![line("t", QoS::ExactlyOnce)], 0).await;
    let mut transient = world.client(1, "transient").await;
    let mut durable = world.durable(3, "durable").await;
    let said = |payload: &'static [u8], qos, id| {
        let properties = MessageProperties { payload_format: Some(true), ..MessageProperties::default() };
        let properties = Some(Box::new(properties));
        Publish { payload: Bytes::from_static(payload), properties, ..publish("t", "", qos, id) }
    };
    for client in [&mut transient, &mut durable] {
        client.offer(said(b"\xff", QoS::AtMostOnce, 0));
        for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
            let reason = client.publish_accepted(said(b"\xff", qos, id)).await;
            assert_eq!(reason, ReasonCode::PayloadFormatInvalid);
        }
    }
    let reason = transient.publish_accepted(said("gr\u{fc}n".as_bytes(), QoS::AtLeastOnce, 3)).await;
    assert_eq!(reason, ReasonCode::Success);
    subscriber.payloads(1).await;
    assert_eq!(subscriber.taken_payloads(), ["gr\u{fc}n"]);
    world.end().await;
}
