//! Messages from the client: acknowledged when safe, once each, within the limits.

use std::num::{NonZeroU16, NonZeroU32};

use zwerm_session::{Input, Limits, Output};
use zwerm_wire::{Packet, Protocol, Publish, QoS, ReasonCode};

use crate::stage::{PROTOCOLS, Stage, ack, most, publish, subscribe, success, topic};

const INUSE: ReasonCode = ReasonCode::PacketIdentifierInUse;

fn qos1(packet_id: u16) -> Packet {
    Packet::Publish(publish(QoS::AtLeastOnce, packet_id))
}

fn qos2(packet_id: u16) -> Packet {
    Packet::Publish(publish(QoS::ExactlyOnce, packet_id))
}

#[test]
fn qos_0_is_routed_and_never_answered() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        let message = publish(QoS::AtMostOnce, 0);
        assert_eq!(stage.packet(Packet::Publish(message.clone())), [Output::Publish(message)]);
        assert_eq!(stage.session.pending(), 0);
    }
}

#[test]
fn puback_follows_accepted_and_not_before_s3_mqtt_4_3_2_4() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        assert_eq!(stage.packet(qos1(7)), [Output::Publish(publish(QoS::AtLeastOnce, 7))]);
        assert_eq!(stage.session.pending(), 1);
        let outputs = stage.accepted(7, ReasonCode::Success);
        assert_eq!(outputs, [Output::Send(Packet::PubAck(success(7)))]);
        assert_eq!(stage.session.pending(), 0);
        assert_eq!(stage.accepted(7, ReasonCode::Success), [], "one acknowledgement per message");
        assert_eq!(stage.packet(qos1(7)).len(), 1, "MQTT-4.3.2-5: the identifier is free again");
    }
}

#[test]
fn the_qos_2_handshake_delivers_once_mqtt_4_3_3_8_to_12() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        assert_eq!(stage.packet(qos2(7)), [Output::Publish(publish(QoS::ExactlyOnce, 7))]);
        assert_eq!(stage.packet(qos2(7)), [], "a duplicate that is not accepted yet");
        let pubrec = [Output::Send(Packet::PubRec(success(7)))];
        assert_eq!(stage.accepted(7, ReasonCode::Success), pubrec);
        assert_eq!(stage.packet(qos2(7)), pubrec, "a duplicate before PUBREL");
        let outputs = stage.packet(Packet::PubRel(success(7)));
        assert_eq!(outputs, [Output::Send(Packet::PubComp(success(7)))]);
        assert_eq!(stage.packet(qos2(7)), [Output::Publish(publish(QoS::ExactlyOnce, 7))], "a new message");
    }
}

#[test]
fn a_refused_qos_2_message_frees_its_identifier_mqtt_4_3_3_9() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.packet(qos2(7));
    let quota = ReasonCode::QuotaExceeded;
    assert_eq!(stage.accepted(7, quota), [Output::Send(Packet::PubRec(ack(7, quota)))]);
    assert_eq!(stage.packet(qos2(7)).len(), 1, "a new message");
}

#[test]
fn a_3_x_client_is_never_told_safe_what_is_not() {
    for protocol in [Protocol::V31, Protocol::V311] {
        let mut stage = Stage::open(protocol, Limits::default());
        stage.packet(qos1(1));
        let outputs = stage.accepted(1, ReasonCode::NotAuthorized);
        assert_eq!(outputs, [Output::Send(Packet::PubAck(success(1)))], "MQTT-3.3.5-2 of 3.1.1");
        stage.packet(qos1(2));
        assert_eq!(stage.accepted(2, ReasonCode::QuotaExceeded), [Output::Close]);
    }
}

#[test]
fn no_matching_subscribers_is_said_in_5_0_only() {
    let none = ReasonCode::NoMatchingSubscribers;
    for (protocol, said) in [(Protocol::V5, none), (Protocol::V311, ReasonCode::Success)] {
        let mut stage = Stage::open(protocol, Limits::default());
        stage.packet(qos1(1));
        assert_eq!(stage.accepted(1, none), [Output::Send(Packet::PubAck(ack(1, said)))]);
    }
}

#[test]
fn pubrel_for_an_unknown_identifier_is_answered() {
    for (protocol, reason) in [
        (Protocol::V5, ReasonCode::PacketIdentifierNotFound),
        (Protocol::V311, ReasonCode::Success),
        (Protocol::V31, ReasonCode::Success),
    ] {
        let mut stage = Stage::open(protocol, Limits::default());
        let outputs = stage.packet(Packet::PubRel(success(9)));
        assert_eq!(outputs, [Output::Send(Packet::PubComp(ack(9, reason)))]);
    }
}

#[test]
fn pubrel_before_pubrec_is_a_protocol_error() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.packet(qos2(9));
    let outputs = stage.packet(Packet::PubRel(success(9)));
    stage.assert_violation(&outputs, ReasonCode::ProtocolError);
}

#[test]
fn more_than_the_receive_maximum_ends_a_5_0_connection() {
    let limits = Limits { receive_maximum: most(2), ..Limits::default() };
    let mut stage = Stage::open(Protocol::V5, limits);
    stage.packet(qos1(1));
    stage.packet(qos2(2));
    stage.accepted(2, ReasonCode::Success);
    assert_eq!(stage.packet(qos2(2)).len(), 1, "a duplicate is not one more");
    stage.packet(Packet::Publish(publish(QoS::AtMostOnce, 0)));
    stage.accepted(1, ReasonCode::Success);
    stage.packet(qos1(3));
    let outputs = stage.packet(qos1(4));
    stage.assert_violation(&outputs, ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn a_3_x_client_knows_no_receive_maximum() {
    let mut stage = Stage::open(Protocol::V311, Limits { receive_maximum: most(1), ..Limits::default() });
    for packet_id in 1..=10 {
        assert_eq!(stage.packet(qos1(packet_id)).len(), 1);
    }
    assert_eq!(stage.session.pending(), 10);
}

#[test]
fn an_identifier_used_twice_is_refused() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.packet(qos1(1));
    assert_eq!(stage.packet(qos1(1)), [Output::Send(Packet::PubAck(ack(1, INUSE)))]);
    assert_eq!(stage.packet(qos2(1)), [Output::Send(Packet::PubRec(ack(1, INUSE)))]);
    stage.packet(Packet::Subscribe(subscribe(2, &[("a", Default::default())])));
    assert_eq!(stage.packet(qos1(2)), [Output::Send(Packet::PubAck(ack(2, INUSE)))]);

    let mut stage = Stage::open(Protocol::V311, Limits::default());
    stage.packet(qos1(1));
    let outputs = stage.packet(qos1(1));
    stage.assert_violation(&outputs, INUSE);
}

#[test]
fn a_repetition_of_an_unanswered_qos_1_message_is_the_same_message() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        stage.packet(qos1(1));
        let again = Publish { dup: true, ..publish(QoS::AtLeastOnce, 1) };
        assert_eq!(stage.packet(Packet::Publish(again)), []);
        assert_eq!(stage.accepted(1, ReasonCode::Success).len(), 1);
    }
}

#[test]
fn more_than_the_server_can_ends_the_connection() {
    let limits = Limits { max_qos: QoS::AtLeastOnce, retain_available: false, ..Limits::default() };
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, limits);
        let outputs = stage.packet(qos2(1));
        stage.assert_violation(&outputs, ReasonCode::QoSNotSupported);

        let mut stage = Stage::open(protocol, limits);
        let retained = Publish { retain: true, ..publish(QoS::AtMostOnce, 0) };
        let outputs = stage.packet(Packet::Publish(retained));
        stage.assert_violation(&outputs, ReasonCode::RetainNotSupported);
    }
}

#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error_mqtt_3_3_4_6() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    let message = Publish { subscription_ids: vec![NonZeroU32::MIN], ..publish(QoS::AtMostOnce, 0) };
    let outputs = stage.packet(Packet::Publish(message));
    stage.assert_violation(&outputs, ReasonCode::ProtocolError);
}

fn aliased(name: Option<&'static str>, alias: u16) -> Packet {
    let message = publish(QoS::AtMostOnce, 0);
    Packet::Publish(Publish { topic: name.map(topic), topic_alias: NonZeroU16::new(alias), ..message })
}

#[test]
fn aliases_stand_for_the_topic_last_given_mqtt_3_3_2_12() {
    let mut stage = Stage::open(Protocol::V5, Limits { topic_alias_maximum: 2, ..Limits::default() });
    for (name, alias, expected) in [
        (Some("one"), 1, "one"),
        (Some("two"), 2, "two"),
        (None, 1, "one"),
        (Some("three"), 1, "three"),
        (None, 1, "three"),
        (None, 2, "two"),
    ] {
        let outputs = stage.packet(aliased(name, alias));
        let message = Publish { topic: Some(topic(expected)), ..publish(QoS::AtMostOnce, 0) };
        assert_eq!(outputs, [Output::Publish(message)]);
    }
}

#[test]
fn a_bad_alias_ends_the_connection() {
    for (packet, reason) in [
        (aliased(Some("one"), 3), ReasonCode::TopicAliasInvalid),
        (aliased(None, 3), ReasonCode::TopicAliasInvalid),
        (aliased(None, 1), ReasonCode::ProtocolError),
        (aliased(None, 0), ReasonCode::ProtocolError),
    ] {
        let mut stage = Stage::open(Protocol::V5, Limits { topic_alias_maximum: 2, ..Limits::default() });
        let outputs = stage.packet(packet);
        stage.assert_violation(&outputs, reason);
    }
}

#[test]
fn an_answer_for_nothing_is_ignored() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.packet(Packet::Subscribe(subscribe(2, &[("a", Default::default())])));
    assert_eq!(stage.accepted(1, ReasonCode::Success), []);
    assert_eq!(stage.accepted(2, ReasonCode::Success), []);
    let unsubscribed = Input::Unsubscribed { packet_id: crate::stage::id(2), reasons: Vec::new() };
    assert_eq!(stage.feed(unsubscribed), []);
}
