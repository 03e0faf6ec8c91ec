//! `$delayed/<seconds>/<topic>`: kept in a shard, published when the time has come.

use zwerm_broker::Config;
use zwerm_wire::{Publish, QoS, ReasonCode};

use crate::client::{Brokers, line, publish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delayed_comes_later_to_the_topic_from_any_publisher_on_any_node() {
    let world = Brokers::formed(Config::default()).await;
    let mut subscriber = world.client(3, "subscriber").await;
    subscriber.subscribe(vec![line("later/#", QoS::ExactlyOnce), line("now", QoS::AtLeastOnce)], 0).await;
    let mut transient = world.client(1, "transient").await;
    let mut durable = world.durable(2, "durable").await;
    transient.offer(publish("$delayed/1/later/0", "0", QoS::AtMostOnce, 0));
    let delayed = publish("$delayed/1/later/1", "1", QoS::AtLeastOnce, 1);
    assert_eq!(transient.publish_accepted(delayed).await, ReasonCode::Success);
    let delayed = publish("$delayed/1/later/2", "2", QoS::ExactlyOnce, 2);
    assert_eq!(transient.publish_accepted(delayed).await, ReasonCode::Success);
    let delayed = publish("$delayed/1/later/3", "3", QoS::ExactlyOnce, 3);
    assert_eq!(durable.publish_accepted(delayed).await, ReasonCode::Success);
    durable.attachment.complete(3.try_into().unwrap());
    transient.publish_accepted(publish("now", "now", QoS::AtLeastOnce, 4)).await;
    subscriber.payloads(5).await;
    let mut payloads = subscriber.taken_payloads();
    assert_eq!(payloads.remove(0), "now", "nothing comes before its time");
    payloads.sort();
    assert_eq!(payloads, ["0", "1", "2", "3"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_is_retained_when_its_time_has_come() {
    let world = Brokers::formed(Config::default()).await;
    let mut publisher = world.client(1, "publisher").await;
    let mut subscriber = world.client(2, "subscriber").await;
    subscriber.subscribe(vec![line("kept", QoS::AtLeastOnce)], 0).await;
    let delayed = Publish { retain: true, ..publish("$delayed/0/kept", "x", QoS::AtLeastOnce, 1) };
    assert_eq!(publisher.publish_accepted(delayed).await, ReasonCode::Success);
    subscriber.payloads(1).await;
    let mut late = world.client(3, "late").await;
    late.subscribe(vec![line("kept", QoS::AtLeastOnce)], 0).await;
    late.payloads(1).await;
    assert!(late.taken[0].retain && !subscriber.taken[0].retain);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_says_no_time_is_refused() {
    let world = Brokers::formed(Config::default()).await;
    let mut transient = world.client(1, "transient").await;
    let mut durable = world.durable(1, "durable").await;
    for client in [&mut transient, &mut durable] {
        for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
            let reason = client.publish_accepted(publish("$delayed/soon/a", "x", qos, id)).await;
            assert_eq!(reason, ReasonCode::TopicNameInvalid);
        }
    }
    world.end().await;
}
