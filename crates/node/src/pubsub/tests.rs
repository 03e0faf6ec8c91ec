//! Both clients against a scripted broker in the same process, byte by byte through `wire`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use zwerm_wire::*;

use super::client::Client;
use super::publish::{Template, send};
use super::source::Source;
use super::subscribe::{Print, Subscriber, Wish};

/// The broker's end of a connection.
struct Broker {
    stream: DuplexStream,
    decoder: Decoder,
    input: BytesMut,
}

impl Broker {
    async fn take(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn give(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        encode(&packet, self.decoder.protocol().unwrap(), &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    /// Takes CONNECT and answers it.
    async fn welcome(&mut self, properties: ConnAckProperties) -> Connect {
        let Some(Packet::Connect(connect)) = self.take().await else { panic!("no CONNECT") };
        let answer = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
        self.give(Packet::ConnAck(Box::new(answer))).await;
        *connect
    }

    async fn expect(&mut self, wanted: Packet) {
        assert_eq!(self.take().await, Some(wanted));
    }

    async fn expect_end(mut self) {
        self.expect(Packet::Disconnect(Disconnect::because(ReasonCode::Success))).await;
        assert_eq!(self.take().await, None);
    }
}

fn connection() -> (DuplexStream, Broker) {
    let (ours, stream) = duplex(1 << 20);
    (ours, Broker { stream, decoder: Decoder::new(Role::Server, 1 << 20), input: BytesMut::new() })
}

fn connect(protocol: Protocol) -> Connect {
    Connect {
        protocol,
        bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: "tester".into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn template(qos: QoS) -> Template {
    Template { topic: TopicName::new("a/b").unwrap(), qos, retain: false, properties: None }
}

fn publish(qos: QoS, id: u16, payload: &'static str) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(id),
        topic: Some(TopicName::new("a/b").unwrap()),
        topic_alias: None,
        subscription_ids: vec![],
        properties: None,
        payload: Bytes::from_static(payload.as_bytes()),
    })
}

fn ack(id: u16) -> Ack {
    Ack::success(PacketId::new(id).unwrap())
}

async fn publish_lines(
    stream: DuplexStream,
    protocol: Protocol,
    qos: QoS,
    lines: &'static str,
) -> anyhow::Result<()> {
    let (client, consent) = Client::connect(stream, connect(protocol)).await?;
    send(client, &consent, &template(qos), &mut Source::lines(lines.as_bytes())).await
}

const ALL: [Protocol; 3] = [Protocol::V31, Protocol::V311, Protocol::V5];

#[tokio::test]
async fn qos_0_is_sent_in_full_before_the_connection_ends() {
    for protocol in ALL {
        let (stream, mut broker) = connection();
        let script = async {
            assert_eq!(broker.welcome(ConnAckProperties::default()).await.protocol, protocol);
            broker.expect(publish(QoS::AtMostOnce, 0, "one")).await;
            broker.expect(publish(QoS::AtMostOnce, 0, "two")).await;
            broker.expect_end().await;
        };
        let (done, ()) = tokio::join!(publish_lines(stream, protocol, QoS::AtMostOnce, "one\ntwo\n"), script);
        done.unwrap();
    }
}

#[tokio::test]
async fn qos_1_waits_for_every_puback() {
    for protocol in ALL {
        let (stream, mut broker) = connection();
        let script = async {
            broker.welcome(ConnAckProperties::default()).await;
            broker.expect(publish(QoS::AtLeastOnce, 1, "one")).await;
            broker.expect(publish(QoS::AtLeastOnce, 2, "two")).await;
            broker.give(Packet::PubAck(ack(1))).await;
            broker.give(Packet::PubAck(ack(2))).await;
            broker.expect_end().await;
        };
        let (done, ()) =
            tokio::join!(publish_lines(stream, protocol, QoS::AtLeastOnce, "one\ntwo\n"), script);
        done.unwrap();
    }
}

#[tokio::test]
async fn qos_2_goes_through_all_four_packets() {
    for protocol in ALL {
        let (stream, mut broker) = connection();
        let script = async {
            broker.welcome(ConnAckProperties::default()).await;
            broker.expect(publish(QoS::ExactlyOnce, 1, "one")).await;
            broker.give(Packet::PubRec(ack(1))).await;
            broker.expect(Packet::PubRel(ack(1))).await;
            broker.give(Packet::PubComp(ack(1))).await;
            broker.expect_end().await;
        };
        let (done, ()) = tokio::join!(publish_lines(stream, protocol, QoS::ExactlyOnce, "one"), script);
        done.unwrap();
    }
}

#[tokio::test]
async fn the_brokers_receive_maximum_is_kept_and_ids_are_used_again() {
    let (stream, mut broker) = connection();
    let script = async {
        let properties = ConnAckProperties {
            receive_maximum: std::num::NonZeroU16::new(1),
            ..ConnAckProperties::default()
        };
        broker.welcome(properties).await;
        for (id, payload) in [(1, "one"), (2, "two"), (3, "three")] {
            broker.expect(publish(QoS::AtLeastOnce, id, payload)).await;
            // with room for one, the next must not be on its way
            assert!(broker.input.is_empty());
            broker.give(Packet::PubAck(ack(id))).await;
        }
        broker.expect_end().await;
    };
    let (done, ()) =
        tokio::join!(publish_lines(stream, Protocol::V5, QoS::AtLeastOnce, "one\ntwo\nthree"), script);
    done.unwrap();
}

#[tokio::test]
async fn a_refused_message_fails_with_its_code_and_the_brokers_words() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        let words = ReasonProperties { reason_string: Some("not yours".into()), user: vec![] };
        let refusal = Ack { reason: ReasonCode::NotAuthorized, properties: Some(Box::new(words)), ..ack(1) };
        broker.give(Packet::PubAck(refusal)).await;
    };
    let (done, ()) = tokio::join!(publish_lines(stream, Protocol::V5, QoS::AtLeastOnce, "one"), script);
    assert_eq!(
        done.unwrap_err().to_string(),
        "the broker refused the message: not authorized (0x87): not yours"
    );
}

#[tokio::test]
async fn no_matching_subscribers_is_success() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        broker.give(Packet::PubAck(Ack { reason: ReasonCode::NoMatchingSubscribers, ..ack(1) })).await;
        broker.expect_end().await;
    };
    let (done, ()) = tokio::join!(publish_lines(stream, Protocol::V5, QoS::AtLeastOnce, "one"), script);
    done.unwrap();
}

#[tokio::test]
async fn a_connection_that_ends_before_the_acknowledgement_is_a_failure() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        drop(broker);
    };
    let (done, ()) = tokio::join!(publish_lines(stream, Protocol::V5, QoS::AtLeastOnce, "one"), script);
    assert_eq!(done.unwrap_err().to_string(), "the broker closed the connection");
}

#[tokio::test]
async fn a_disconnect_of_the_broker_is_explained() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        broker.give(Packet::Disconnect(Disconnect::because(ReasonCode::ServerShuttingDown))).await;
    };
    let (done, ()) = tokio::join!(publish_lines(stream, Protocol::V5, QoS::AtLeastOnce, "one"), script);
    assert_eq!(done.unwrap_err().to_string(), "the broker ended the connection: server shutting down (0x8b)");
}

#[tokio::test]
async fn a_refused_connection_is_explained_for_every_version() {
    for protocol in ALL {
        let (stream, mut broker) = connection();
        let script = async {
            broker.take().await;
            let answer = ConnAck {
                session_present: false,
                reason: ReasonCode::NotAuthorized,
                properties: ConnAckProperties::default(),
            };
            broker.give(Packet::ConnAck(Box::new(answer))).await;
        };
        let (done, ()) = tokio::join!(Client::connect(stream, connect(protocol)), script);
        assert_eq!(done.unwrap_err().to_string(), "the broker refused the connection: not authorized (0x87)");
    }
}

#[tokio::test]
async fn what_the_broker_said_it_does_not_take_is_not_sent() {
    let cases = [
        (
            ConnAckProperties { maximum_qos: Some(QoS::AtLeastOnce), ..ConnAckProperties::default() },
            "the broker takes messages up to QoS 1; use a lower -q",
        ),
        (
            ConnAckProperties {
                maximum_packet_size: std::num::NonZeroU32::new(16),
                ..ConnAckProperties::default()
            },
            "a packet of 24 bytes is more than the 16 that the broker takes",
        ),
    ];
    for (properties, wanted) in cases {
        let (stream, mut broker) = connection();
        let work = publish_lines(stream, Protocol::V5, QoS::ExactlyOnce, "fourteen bytes");
        let (done, _) = tokio::join!(work, broker.welcome(properties));
        assert_eq!(done.unwrap_err().to_string(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_are_given_and_a_silent_broker_is_given_up() {
    let (stream, mut broker) = connection();
    let script = async {
        let properties = ConnAckProperties { server_keep_alive: Some(10), ..ConnAckProperties::default() };
        broker.welcome(properties).await;
        broker.expect(Packet::PingReq).await;
        broker.give(Packet::PingResp).await;
        broker.expect(Packet::PingReq).await;
        tokio::time::timeout(Duration::from_secs(60), broker.take()).await.unwrap()
    };
    let work = async {
        let (mut client, _) = Client::connect(stream, connect(Protocol::V5)).await.unwrap();
        let error = client.receive().await.unwrap_err();
        error.to_string()
    };
    let (error, last) = tokio::join!(work, script);
    assert_eq!(error, "the broker gave no sign of life for 10s");
    assert_eq!(last, None);
}

fn wish(count: u64) -> Wish {
    Wish {
        subscribe: Subscribe {
            packet_id: PacketId::MIN,
            subscription_id: None,
            user: vec![],
            filters: vec![SubscribeFilter {
                filter: TopicFilter::new("a/#").unwrap(),
                options: SubscribeOptions { qos: QoS::ExactlyOnce, ..SubscribeOptions::default() },
            }],
        },
        filter_out: vec![],
        count: Some(count),
        end_when_subscribed: false,
        no_retained: false,
        retained_only: false,
    }
}

/// Subscribes, and gives what was printed when the subscriber had enough.
async fn printed(stream: DuplexStream, protocol: Protocol, wish: Wish) -> anyhow::Result<String> {
    let (client, _) = Client::connect(stream, connect(protocol)).await?;
    let print = Print { out: Vec::new(), verbose: true, line_feed: true };
    let mut subscriber = Subscriber::new(client, wish, print)?;
    subscriber.receive().await?;
    let out = String::from_utf8(subscriber.print.out.clone())?;
    subscriber.client.finish().await?;
    Ok(out)
}

fn suback(reason: ReasonCode) -> Packet {
    Packet::SubAck(SubAck { packet_id: PacketId::MIN, reasons: vec![reason], properties: None })
}

#[tokio::test]
async fn a_subscriber_acknowledges_every_qos_and_prints_qos_2_once_at_its_release() {
    for protocol in ALL {
        let (stream, mut broker) = connection();
        let script = async {
            broker.welcome(ConnAckProperties::default()).await;
            broker.expect(Packet::Subscribe(wish(3).subscribe)).await;
            broker.give(suback(ReasonCode::GrantedQoS2)).await;
            broker.give(publish(QoS::AtMostOnce, 0, "zero")).await;
            broker.give(publish(QoS::ExactlyOnce, 7, "two")).await;
            broker.expect(Packet::PubRec(ack(7))).await;
            let Packet::Publish(again) = publish(QoS::ExactlyOnce, 7, "two") else { unreachable!() };
            broker.give(Packet::Publish(Publish { dup: true, ..again })).await;
            broker.expect(Packet::PubRec(ack(7))).await;
            broker.give(publish(QoS::AtLeastOnce, 8, "one")).await;
            broker.expect(Packet::PubAck(ack(8))).await;
            broker.give(Packet::PubRel(ack(7))).await;
            broker.expect(Packet::PubComp(ack(7))).await;
            broker.expect_end().await;
        };
        let (out, ()) = tokio::join!(printed(stream, protocol, wish(3)), script);
        assert_eq!(out.unwrap(), "a/b zero\na/b one\na/b two\n");
    }
}

#[tokio::test]
async fn an_unknown_release_is_completed_so_that_the_broker_can_go_on() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        broker.give(Packet::PubRel(ack(9))).await;
        broker.expect(Packet::PubComp(Ack { reason: ReasonCode::PacketIdentifierNotFound, ..ack(9) })).await;
        broker.give(publish(QoS::AtMostOnce, 0, "last")).await;
        broker.expect_end().await;
    };
    let (out, ()) = tokio::join!(printed(stream, Protocol::V5, wish(1)), script);
    assert_eq!(out.unwrap(), "a/b last\n");
}

#[tokio::test]
async fn retained_and_filtered_messages_are_left_out_as_asked() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        for (topic, retain, payload) in
            [("a/old", true, "1"), ("a/noise/x", false, "2"), ("a/new", false, "3")]
        {
            let Packet::Publish(message) = publish(QoS::AtMostOnce, 0, payload) else { unreachable!() };
            let topic = Some(TopicName::new(topic).unwrap());
            broker.give(Packet::Publish(Publish { topic, retain, ..message })).await;
        }
        broker.expect_end().await;
    };
    let wish =
        Wish { no_retained: true, filter_out: vec![TopicFilter::new("a/noise/#").unwrap()], ..wish(1) };
    let (out, ()) = tokio::join!(printed(stream, Protocol::V5, wish), script);
    assert_eq!(out.unwrap(), "a/new 3\n");
}

#[tokio::test]
async fn a_topic_alias_stands_for_its_topic() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        let Packet::Publish(first) = publish(QoS::AtMostOnce, 0, "1") else { unreachable!() };
        let alias = std::num::NonZeroU16::new(3);
        broker.give(Packet::Publish(Publish { topic_alias: alias, ..first.clone() })).await;
        broker.give(Packet::Publish(Publish { topic_alias: alias, topic: None, ..first })).await;
        broker.expect_end().await;
    };
    let (out, ()) = tokio::join!(printed(stream, Protocol::V5, wish(2)), script);
    assert_eq!(out.unwrap(), "a/b 1\na/b 1\n");
}

#[tokio::test]
async fn a_refused_subscription_is_a_failure_that_names_the_filter() {
    let (stream, mut broker) = connection();
    let script = async {
        broker.welcome(ConnAckProperties::default()).await;
        broker.take().await;
        broker.give(suback(ReasonCode::QuotaExceeded)).await;
    };
    let (out, ()) = tokio::join!(printed(stream, Protocol::V5, wish(1)), script);
    let wanted = "the broker refused the subscription to a/#: quota exceeded (0x97)";
    assert_eq!(out.unwrap_err().to_string(), wanted);
}
