//! Durable sessions over several connections.

use std::num::NonZeroU32;

use zwerm_wire::{Ack, MessageProperties, Packet, Protocol, Publish, QoS, ReasonCode};

use crate::client::{Client, Server, ack, durable, id, publish, transient};

const PROTOCOLS: [Protocol; 2] = [Protocol::V311, Protocol::V5];

fn text(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.payload).unwrap()
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_with_dup_under_its_identifier() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        let (mut subscriber, connack) = Client::connect(&server, durable(protocol, "s")).await;
        assert!(!connack.session_present);
        subscriber.subscribe("t", QoS::AtLeastOnce).await;
        let (mut publisher, _) = Client::connect(&server, transient(protocol, "p")).await;
        let mut sent = Vec::new();
        for number in ["0", "1", "2"] {
            publisher.publish("t", number).await;
            let message = subscriber.next_publish().await;
            assert_eq!((text(&message), message.dup), (number, false));
            sent.push(message.packet_id.unwrap());
        }
        subscriber.send(Packet::PubAck(ack(sent[1]))).await;
        subscriber.assert_silence().await;
        subscriber.cut();
        server.left_with(1).await;
        publisher.publish("t", "3").await;

        let (mut subscriber, connack) = Client::connect(&server, durable(protocol, "s")).await;
        assert!(connack.session_present);
        for (number, packet_id) in [("0", sent[0]), ("2", sent[2])] {
            let message = subscriber.next_publish().await;
            assert_eq!((text(&message), message.dup, message.packet_id), (number, true, Some(packet_id)));
            subscriber.send(Packet::PubAck(ack(packet_id))).await;
        }
        let new = subscriber.next_publish().await;
        assert_eq!((text(&new), new.dup), ("3", false), "it was never sent before");
        // the queue is emptied for the next protocol
        let clean = transient(protocol, "s");
        let (subscriber, _) = Client::connect(&server, clean).await;
        subscriber.cut();
        publisher.cut();
        server.left_with(0).await;
    }
    server.end().await;
}

#[tokio::test]
async fn after_pubrec_only_pubrel_comes_again_and_right_after_connack() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        let name = if protocol == Protocol::V5 { "s5" } else { "s3" };
        let (mut subscriber, _) = Client::connect(&server, durable(protocol, name)).await;
        subscriber.subscribe("t", QoS::ExactlyOnce).await;
        let (mut publisher, _) = Client::connect(&server, transient(protocol, "p")).await;
        for payload in ["a", "b"] {
            publisher.send(Packet::Publish(publish("t", payload, QoS::ExactlyOnce, 9))).await;
            assert_eq!(publisher.next().await, Packet::PubRec(ack(id(9))));
            publisher.send(Packet::PubRel(ack(id(9)))).await;
            assert_eq!(publisher.next().await, Packet::PubComp(ack(id(9))));
        }
        let mut ids = Vec::new();
        for _ in 0..2 {
            ids.push(subscriber.next_publish().await.packet_id.unwrap());
        }
        subscriber.send(Packet::PubRec(ack(ids[0]))).await;
        assert_eq!(subscriber.next().await, Packet::PubRel(ack(ids[0])));
        subscriber.cut();

        // taken over, whether the server has noticed the end or not
        let (mut subscriber, connack) = Client::connect(&server, durable(protocol, name)).await;
        assert!(connack.session_present);
        assert_eq!(subscriber.next().await, Packet::PubRel(ack(ids[0])));
        let again = subscriber.next_publish().await;
        assert_eq!((text(&again), again.dup, again.packet_id), ("b", true, Some(ids[1])));
        subscriber.send(Packet::PubComp(ack(ids[0]))).await;
        subscriber.send(Packet::PubRec(ack(ids[1]))).await;
        assert_eq!(subscriber.next().await, Packet::PubRel(ack(ids[1])));
        subscriber.send(Packet::PubComp(ack(ids[1]))).await;
        subscriber.assert_silence().await;
        subscriber.cut();
        server.left_with(1).await;

        let (mut subscriber, _) = Client::connect(&server, durable(protocol, name)).await;
        subscriber.assert_silence().await;
        publisher.publish("t", "c").await;
        assert_eq!(text(&subscriber.next_publish().await), "c", "nothing came before it");
        subscriber.cut();
        publisher.cut();
        server.left_with(0).await;
    }
    server.end().await;
}

#[tokio::test]
async fn a_repeated_qos_2_message_of_a_durable_publisher_is_published_once() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        let (mut subscriber, _) = Client::connect(&server, transient(protocol, "s")).await;
        subscriber.subscribe("t", QoS::AtMostOnce).await;
        let (mut publisher, _) = Client::connect(&server, durable(protocol, "p")).await;
        let message = publish("t", "once", QoS::ExactlyOnce, 9);
        publisher.send(Packet::Publish(message.clone())).await;
        assert_eq!(publisher.next().await, Packet::PubRec(ack(id(9))));
        publisher.cut();

        let (mut publisher, connack) = Client::connect(&server, durable(protocol, "p")).await;
        assert!(connack.session_present);
        publisher.send(Packet::Publish(Publish { dup: true, ..message })).await;
        assert_eq!(publisher.next().await, Packet::PubRec(ack(id(9))));
        subscriber.assert_silence().await;
        publisher.send(Packet::PubRel(ack(id(9)))).await;
        assert_eq!(publisher.next().await, Packet::PubComp(ack(id(9))));
        assert_eq!(text(&subscriber.next_publish().await), "once");
        publisher.cut();

        let (mut publisher, _) = Client::connect(&server, durable(protocol, "p")).await;
        publisher.send(Packet::PubRel(ack(id(9)))).await;
        let v5 = protocol == Protocol::V5;
        let reason = if v5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
        assert_eq!(publisher.next().await, Packet::PubComp(Ack { reason, ..ack(id(9)) }));
        publisher.publish("t", "next").await;
        assert_eq!(text(&subscriber.next_publish().await), "next", "nothing came before it");
        let (publisher, _) = Client::connect(&server, transient(protocol, "p")).await;
        publisher.cut();
        subscriber.cut();
        server.left_with(0).await;
    }
    server.end().await;
}

#[tokio::test]
async fn what_a_durable_client_cannot_be_sent_does_not_stay_in_its_queue() {
    let server = Server::start().await;
    let mut small = durable(Protocol::V5, "s");
    small.properties.maximum_packet_size = NonZeroU32::new(100);
    let (mut subscriber, _) = Client::connect(&server, small).await;
    subscriber.subscribe("t", QoS::AtLeastOnce).await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "p")).await;
    publisher.publish("t", &"x".repeat(100)).await;
    publisher.publish("t", "small").await;
    let message = subscriber.next_publish().await;
    assert_eq!(text(&message), "small");
    subscriber.send(Packet::PubAck(ack(message.packet_id.unwrap()))).await;
    subscriber.assert_silence().await;
    assert_eq!(server.connections.counters().messages_dropped_too_large_total.get(), 1);
    subscriber.cut();
    server.left_with(1).await;

    let (mut subscriber, connack) = Client::connect(&server, durable(Protocol::V5, "s")).await;
    assert!(connack.session_present);
    publisher.publish("t", "next").await;
    assert_eq!(text(&subscriber.next_publish().await), "next", "the large one did not come now that it may");
    server.end().await;
}

#[tokio::test]
async fn a_message_with_properties_of_its_own_comes_again_as_a_duplicate_too() {
    let server = Server::start().await;
    let (mut subscriber, _) = Client::connect(&server, durable(Protocol::V5, "s")).await;
    subscriber.subscribe("t", QoS::AtLeastOnce).await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "p")).await;
    let properties = MessageProperties { message_expiry: Some(1000), ..MessageProperties::default() };
    let message = publish("t", "expires", QoS::AtLeastOnce, 1);
    publisher.send(Packet::Publish(Publish { properties: Some(Box::new(properties)), ..message })).await;
    let first = subscriber.next_publish().await;
    subscriber.cut();
    let mut aliasing = durable(Protocol::V5, "s");
    aliasing.properties.topic_alias_maximum = Some(5);
    let (mut subscriber, _) = Client::connect(&server, aliasing).await;
    let again = subscriber.next_publish().await;
    assert_eq!((first.dup, again.dup), (false, true));
    assert_eq!(again.packet_id, first.packet_id);
    assert!(again.topic.is_some() && again.topic_alias.is_some(), "an alias of this connection");
    server.end().await;
}
