//! Shared subscriptions: what one member leaves behind another gets.

use zwerm_wire::{Ack, Packet, Protocol, QoS, ReasonCode};

use crate::client::{Client, Server, ack, id, publish, transient};

const FILTER: &str = "$share/g/t";

async fn member(server: &Server, name: &'static str) -> Client {
    let (mut member, _) = Client::connect(server, transient(Protocol::V5, name)).await;
    member.subscribe(FILTER, QoS::ExactlyOnce).await;
    member
}

#[tokio::test]
async fn what_a_member_did_not_acknowledge_goes_to_another_in_order() {
    let server = Server::start().await;
    let mut first = member(&server, "first").await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "p")).await;
    let mut ids = Vec::new();
    for text in ["a", "b", "c", "d"] {
        publisher.publish("t", text).await;
        ids.push(first.next_publish().await.packet_id.unwrap());
    }
    // whatever it says of a message, it is the one that got it
    first.send(Packet::PubAck(Ack { reason: ReasonCode::QuotaExceeded, ..ack(ids[0]) })).await;
    first.send(Packet::PubAck(ack(ids[2]))).await;
    first.assert_silence().await;
    let mut second = member(&server, "second").await;
    first.cut();
    for text in ["b", "d"] {
        let message = second.next_publish().await;
        assert_eq!(message.payload, text);
        second.send(Packet::PubAck(ack(message.packet_id.unwrap()))).await;
    }
    second.assert_silence().await;
    server.end().await;
}

/// MQTT-4.8.2-5: whether it has answered or not.
#[tokio::test]
async fn a_qos_2_message_belongs_to_the_member_that_was_sent_it() {
    let server = Server::start().await;
    let mut first = member(&server, "first").await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "p")).await;
    let mut ids = Vec::new();
    for (number, text) in [(11, "answered"), (12, "not answered")] {
        publisher.send(Packet::Publish(publish("t", text, QoS::ExactlyOnce, number))).await;
        assert_eq!(publisher.next().await, Packet::PubRec(ack(id(number))));
        ids.push(first.next_publish().await.packet_id.unwrap());
    }
    publisher.publish("t", "left").await;
    first.next_publish().await;
    first.send(Packet::PubRec(ack(ids[0]))).await;
    assert_eq!(first.next().await, Packet::PubRel(ack(ids[0])));
    let mut second = member(&server, "second").await;
    first.cut();
    assert_eq!(second.next_publish().await.payload, "left");
    second.assert_silence().await;
    server.end().await;
}
