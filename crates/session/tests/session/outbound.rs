//! Messages to the client: identifiers, window, acknowledgements, aliases.

use std::num::NonZeroU16;

use zwerm_session::{AliasUse, Limits, Output};
use zwerm_wire::{Connect, Packet, Protocol, QoS, ReasonCode};

use crate::stage::{PROTOCOLS, Stage, ack, connect, most, success, topic};

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn number(stage: &mut Stage, qos: QoS) -> u16 {
    stage.session.deliver(qos).unwrap().get()
}

fn small(protocol: Protocol, inflight: u16) -> Stage {
    Stage::open(protocol, Limits { max_inflight: most(inflight), ..Limits::default() })
}

#[test]
fn the_window_is_the_smaller_of_both_sides_mqtt_3_3_4_9() {
    for (client, server, window) in [(Some(5), 10, 5), (Some(50), 10, 10), (None, 10, 10)] {
        let mut asking = connect(Protocol::V5);
        asking.properties.receive_maximum = client.and_then(NonZeroU16::new);
        let limits = Limits { max_inflight: most(server), ..Limits::default() };
        assert_eq!(Stage::open_with(asking, limits).session.window(), window);
    }
}

#[test]
fn there_is_no_window_before_connack() {
    let mut stage = Stage::new(Limits::default());
    assert_eq!(stage.session.window(), 0);
    assert_eq!(stage.session.deliver(Q1), None);
    stage.packet(Packet::Connect(Box::new(connect(Protocol::V5))));
    assert_eq!(stage.session.window(), 0);
}

#[test]
fn qos_0_takes_no_identifier_and_no_place() {
    let mut stage = small(Protocol::V5, 1);
    assert_eq!(stage.session.deliver(QoS::AtMostOnce), None);
    assert_eq!(stage.session.window(), 1);
}

#[test]
fn identifiers_go_round_and_skip_those_under_way_mqtt_2_2_1_4() {
    let mut stage = small(Protocol::V311, 2);
    assert_eq!(number(&mut stage, Q1), 1);
    for expected in 2..=u16::MAX {
        assert_eq!(number(&mut stage, Q1), expected);
        stage.packet(Packet::PubAck(success(expected)));
    }
    assert_eq!(number(&mut stage, Q1), 2, "1 is still under way");
    assert_eq!(stage.session.window(), 0);
    assert_eq!(stage.session.deliver(Q1), None);
}

#[test]
fn the_widest_window_has_an_identifier_for_every_place() {
    let mut stage = small(Protocol::V311, u16::MAX);
    for expected in 1..=u16::MAX {
        assert_eq!(number(&mut stage, Q1), expected);
    }
    assert_eq!(stage.session.deliver(Q1), None);
    stage.packet(Packet::PubAck(success(777)));
    assert_eq!(number(&mut stage, Q1), 777);
}

#[test]
fn puback_frees_the_place_whatever_it_says_mqtt_4_4_0_2() {
    for reason in [ReasonCode::Success, ReasonCode::NoMatchingSubscribers, ReasonCode::QuotaExceeded] {
        let mut stage = small(Protocol::V5, 1);
        let packet_id = number(&mut stage, Q1);
        assert_eq!(stage.packet(Packet::PubAck(ack(packet_id, reason))), []);
        assert_eq!(stage.session.window(), 1);
    }
}

#[test]
fn the_qos_2_handshake_holds_its_place_to_the_end_mqtt_4_3_3_3_to_6() {
    for protocol in PROTOCOLS {
        let mut stage = small(protocol, 1);
        let packet_id = number(&mut stage, Q2);
        let pubrel = [Output::Send(Packet::PubRel(success(packet_id)))];
        assert_eq!(stage.packet(Packet::PubRec(success(packet_id))), pubrel);
        assert_eq!(stage.packet(Packet::PubRec(success(packet_id))), pubrel, "repeated");
        assert_eq!(stage.session.window(), 0);
        assert_eq!(stage.packet(Packet::PubComp(success(packet_id))), []);
        assert_eq!((stage.session.window(), stage.session.inflight()), (1, 0));
    }
}

#[test]
fn pubrec_with_an_error_frees_the_place_without_pubrel_mqtt_4_3_3_4() {
    let mut stage = small(Protocol::V5, 1);
    let packet_id = number(&mut stage, Q2);
    assert_eq!(stage.packet(Packet::PubRec(ack(packet_id, ReasonCode::QuotaExceeded))), []);
    assert_eq!(stage.session.window(), 1);
}

#[test]
fn answers_to_unknown_identifiers_are_survived() {
    for (protocol, reason) in [
        (Protocol::V5, ReasonCode::PacketIdentifierNotFound),
        (Protocol::V311, ReasonCode::Success),
        (Protocol::V31, ReasonCode::Success),
    ] {
        let mut stage = Stage::open(protocol, Limits::default());
        assert_eq!(stage.packet(Packet::PubAck(success(5))), []);
        assert_eq!(stage.packet(Packet::PubComp(success(5))), []);
        let outputs = stage.packet(Packet::PubRec(success(5)));
        assert_eq!(outputs, [Output::Send(Packet::PubRel(ack(5, reason)))]);
        assert!(stage.session.is_open());
    }
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    assert_eq!(stage.packet(Packet::PubRec(ack(5, ReasonCode::PacketIdentifierNotFound))), []);
}

#[test]
fn an_answer_of_the_wrong_kind_is_a_protocol_error() {
    let wrong = |packet_id| {
        let answer = success(packet_id);
        [
            (Q1, Packet::PubRec(answer.clone())),
            (Q1, Packet::PubComp(answer.clone())),
            (Q2, Packet::PubAck(answer.clone())),
            (Q2, Packet::PubComp(answer)),
        ]
    };
    for protocol in PROTOCOLS {
        for (qos, answer) in wrong(1) {
            let mut stage = Stage::open(protocol, Limits::default());
            assert_eq!(number(&mut stage, qos), 1);
            let outputs = stage.packet(answer);
            stage.assert_violation(&outputs, ReasonCode::ProtocolError);
        }
    }
}

#[test]
fn aliases_stay_within_both_maxima_mqtt_3_1_2_26_and_27() {
    let alias = |number| NonZeroU16::new(number).unwrap();
    let mut asking: Connect = connect(Protocol::V5);
    asking.properties.topic_alias_maximum = Some(2);
    let mut stage = Stage::open_with(asking.clone(), Limits::default());
    assert_eq!(stage.session.alias(&topic("a")), AliasUse::New(alias(1)));
    assert_eq!(stage.session.alias(&topic("b")), AliasUse::New(alias(2)));
    assert_eq!(stage.session.alias(&topic("c")), AliasUse::None);
    assert_eq!(stage.session.alias(&topic("a")), AliasUse::Known(alias(1)));

    let one = Limits { topic_alias_out_maximum: 1, ..Limits::default() };
    let mut stage = Stage::open_with(asking, one);
    assert_eq!(stage.session.alias(&topic("a")), AliasUse::New(alias(1)));
    assert_eq!(stage.session.alias(&topic("b")), AliasUse::None);

    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        assert_eq!(stage.session.alias(&topic("a")), AliasUse::None, "{protocol:?} did not offer any");
    }
}
