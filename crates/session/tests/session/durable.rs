//! Durable sessions: the broker names the identifiers, and is asked before PUBREL and PUBCOMP are sent.

use zwerm_session::{Attached, Cause, Input, Limits, Output, Stage as Acknowledged};
use zwerm_wire::{Packet, Protocol, Publish, QoS, ReasonCode};

use crate::stage::{PROTOCOLS, Stage, ack, connect, disconnect, id, most, publish, success};

const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A durable session with a window of `inflight` that knows these identifiers from an earlier connection, and
/// what it put out behind CONNACK.
fn resumed(protocol: Protocol, inflight: u16, received: &[u16], released: &[u16]) -> (Stage, Vec<Output>) {
    let limits = Limits { max_inflight: most(inflight), receive_maximum: most(2), ..Limits::default() };
    let ids = |numbers: &[u16]| numbers.iter().copied().map(id).collect();
    let (received, released) = (ids(received), ids(released));
    Stage::attached(protocol, limits, Attached { durable: true, received, released, ..Attached::default() })
}

fn durable(protocol: Protocol) -> Stage {
    let (stage, outputs) = resumed(protocol, 2, &[], &[]);
    assert_eq!(outputs, []);
    stage
}

fn acknowledged(packet_id: u16, stage: Acknowledged) -> Output {
    Output::Acknowledged { packet_id: id(packet_id), stage }
}

fn done(packet_id: u16) -> Output {
    acknowledged(packet_id, Acknowledged::Done)
}

fn pubrec(packet_id: u16) -> Packet {
    Packet::PubRec(success(packet_id))
}

fn pubrel(packet_id: u16) -> Packet {
    Packet::PubRel(success(packet_id))
}

fn pubcomp(packet_id: u16) -> Packet {
    Packet::PubComp(success(packet_id))
}

fn qos2(packet_id: u16) -> Packet {
    Packet::Publish(publish(Q2, packet_id))
}

fn completed(stage: &mut Stage, packet_id: u16, reason: ReasonCode) -> Vec<Output> {
    stage.feed(Input::Completed { packet_id: id(packet_id), reason })
}

#[test]
fn the_broker_names_the_identifiers_of_a_durable_session_and_only_of_one() {
    let mut stage = durable(Protocol::V5);
    assert_eq!(stage.session.deliver(Q1), None, "an identifier of its own could be the broker's next");
    assert!(!stage.session.deliver_as(id(9), QoS::AtMostOnce));
    assert!(stage.session.deliver_as(id(9), Q1));
    assert!(!stage.session.deliver_as(id(9), Q2), "S2: it is under way");
    assert!(stage.session.deliver_as(id(4), Q2));
    assert!(!stage.session.deliver_as(id(5), Q1), "the window is closed");
    assert_eq!((stage.session.window(), stage.session.inflight()), (0, 2));

    let mut transient = Stage::open(Protocol::V5, Limits::default());
    assert!(!transient.session.deliver_as(id(9), Q1));
    assert_eq!(transient.session.window(), usize::from(Limits::default().max_inflight.get()));
}

#[test]
fn puback_frees_the_place_at_once_and_is_the_brokers_to_commit() {
    for (protocol, reason) in [
        (Protocol::V311, ReasonCode::Success),
        (Protocol::V5, ReasonCode::Success),
        (Protocol::V5, ReasonCode::QuotaExceeded),
    ] {
        let mut stage = durable(protocol);
        stage.session.deliver_as(id(7), Q1);
        assert_eq!(stage.packet(Packet::PubAck(ack(7, reason))), [done(7)]);
        assert_eq!(stage.session.window(), 2);
        assert_eq!(stage.packet(Packet::PubAck(ack(7, reason))), [], "said once");
    }
}

#[test]
fn pubrel_follows_the_commit_of_pubrec() {
    for protocol in PROTOCOLS {
        let mut stage = durable(protocol);
        stage.session.deliver_as(id(7), Q2);
        assert_eq!(stage.packet(pubrec(7)), [acknowledged(7, Acknowledged::Received)]);
        assert_eq!(stage.packet(pubrec(7)), [], "repeated before the commit: one PUBREL is on its way");
        assert_eq!(stage.session.window(), 1);
        let pubrel = [Output::Send(pubrel(7))];
        assert_eq!(stage.feed(Input::Received(id(7))), pubrel);
        assert_eq!(stage.feed(Input::Received(id(7))), [], "one PUBREL for one commit");
        assert_eq!(stage.packet(pubrec(7)), pubrel, "repeated after the commit");
        assert_eq!(stage.packet(pubcomp(7)), [done(7)]);
        assert_eq!(stage.session.window(), 2);
    }
}

#[test]
fn pubrec_with_an_error_is_the_end_of_the_message() {
    let mut stage = durable(Protocol::V5);
    stage.session.deliver_as(id(7), Q2);
    assert_eq!(stage.packet(Packet::PubRec(ack(7, ReasonCode::QuotaExceeded))), [done(7)]);
    assert_eq!((stage.session.window(), stage.session.inflight()), (2, 0));
}

#[test]
fn a_commit_of_what_is_not_awaited_says_nothing() {
    let mut stage = durable(Protocol::V5);
    stage.session.deliver_as(id(1), Q1);
    stage.session.deliver_as(id(2), Q2);
    for packet_id in 1..=3 {
        assert_eq!(stage.feed(Input::Received(id(packet_id))), []);
        assert_eq!(completed(&mut stage, packet_id, ReasonCode::Success), []);
    }
    assert_eq!(stage.session.inflight(), 2);
}

#[test]
fn an_answer_before_its_turn_is_a_protocol_error() {
    for (wrong, committed) in
        [(pubcomp(7), false), (Packet::PubAck(success(7)), false), (Packet::PubAck(success(7)), true)]
    {
        let mut stage = durable(Protocol::V5);
        stage.session.deliver_as(id(7), Q2);
        stage.packet(pubrec(7));
        if committed {
            stage.feed(Input::Received(id(7)));
        }
        let outputs = stage.packet(wrong);
        stage.assert_violation(&outputs, ReasonCode::ProtocolError);
    }
}

#[test]
fn pubrec_of_a_message_that_was_not_sent_again_yet_gets_no_pubrel() {
    for protocol in PROTOCOLS {
        let mut stage = durable(protocol);
        assert_eq!(stage.packet(pubrec(7)), []);
        assert!(stage.session.deliver_as(id(7), Q2));
        assert_eq!(stage.packet(pubrec(7)), [acknowledged(7, Acknowledged::Received)]);
    }
}

#[test]
fn released_identifiers_get_pubrel_again_after_connack_in_order_mqtt_4_4_0_1() {
    for protocol in PROTOCOLS {
        let (mut stage, outputs) = resumed(protocol, 4, &[], &[9, 65_535, 3, 9]);
        assert_eq!(outputs, [9, 65_535, 3].map(|packet_id| Output::Send(pubrel(packet_id))));
        assert_eq!((stage.session.window(), stage.session.inflight()), (1, 3));
        assert!(!stage.session.deliver_as(id(3), Q1), "S2: it is under way");
        assert_eq!(stage.packet(pubrec(3)), [Output::Send(pubrel(3))]);
        assert_eq!(stage.packet(pubcomp(3)), [done(3)]);
        let forgotten = Packet::PubComp(ack(9, ReasonCode::PacketIdentifierNotFound));
        assert_eq!(stage.packet(forgotten), [done(9)], "the client was done before");
        assert_eq!(stage.session.window(), 3);
    }
}

#[test]
fn more_released_identifiers_than_the_window_is_wide_close_it_until_they_are_done() {
    let all: Vec<u16> = (1..=u16::MAX).collect();
    let (mut stage, outputs) = resumed(Protocol::V5, 2, &[], &all);
    assert_eq!(outputs.len(), all.len());
    for packet_id in 1..u16::MAX {
        let left = usize::from(u16::MAX - packet_id);
        assert_eq!(stage.packet(pubcomp(packet_id)), [done(packet_id)]);
        assert_eq!(stage.session.window(), 2_usize.saturating_sub(left));
    }
    assert!(stage.session.deliver_as(id(1), Q1));
}

#[test]
fn an_end_before_the_released_identifiers_were_drained_is_the_last_word() {
    let mut stage = Stage::new(Limits::default());
    stage.packet(Packet::Connect(Box::new(connect(Protocol::V5))));
    let attached = Attached { durable: true, released: vec![id(1), id(2)], ..Attached::default() };
    stage.session.handle(Input::Attached(attached), stage.now);
    let outputs = stage.feed(Input::Kicked(ReasonCode::SessionTakenOver));
    assert_eq!(outputs.last(), Some(&Output::Close));
}

#[test]
fn pubcomp_follows_the_commit_of_pubrel() {
    for protocol in PROTOCOLS {
        let mut stage = durable(protocol);
        stage.packet(qos2(7));
        stage.accepted(7, ReasonCode::Success);
        assert_eq!(stage.packet(pubrel(7)), [Output::Complete(id(7))]);
        assert_eq!(stage.session.pending(), 1);
        assert_eq!(stage.packet(pubrel(7)), [], "repeated: answered once");
        let outputs = completed(&mut stage, 7, ReasonCode::Success);
        assert_eq!(outputs, [Output::Send(pubcomp(7))]);
        assert_eq!(stage.session.pending(), 0);
        assert_eq!(completed(&mut stage, 7, ReasonCode::Success), [], "one PUBCOMP for one commit");
        assert_eq!(stage.packet(qos2(7)).len(), 1, "a new message");
    }
}

#[test]
fn pubrel_for_a_message_that_nobody_knows_is_answered() {
    for (protocol, reason) in [
        (Protocol::V5, ReasonCode::PacketIdentifierNotFound),
        (Protocol::V311, ReasonCode::Success),
        (Protocol::V31, ReasonCode::Success),
    ] {
        let expected = [Output::Send(Packet::PubComp(ack(7, reason)))];
        assert_eq!(durable(protocol).packet(pubrel(7)), expected, "not by the session");

        let (mut stage, _) = resumed(protocol, 2, &[7], &[]);
        stage.packet(pubrel(7));
        let outputs = completed(&mut stage, 7, ReasonCode::PacketIdentifierNotFound);
        assert_eq!(outputs, expected, "nor by the broker");
    }
}

#[test]
fn a_message_that_cannot_be_completed_is_not_called_complete() {
    for protocol in PROTOCOLS {
        let (mut stage, _) = resumed(protocol, 2, &[7], &[]);
        stage.packet(pubrel(7));
        let outputs = completed(&mut stage, 7, ReasonCode::ServerUnavailable);
        match protocol {
            Protocol::V5 => assert_eq!(outputs, [disconnect(ReasonCode::ServerBusy), Output::Close]),
            _ => assert_eq!(outputs, [Output::Close]),
        }
        assert_eq!(stage.cause(), Some(Cause::Kicked(ReasonCode::ServerUnavailable)));
    }
}

#[test]
fn an_identifier_that_waits_for_its_pubcomp_names_no_other_message() {
    let mut stage = durable(Protocol::V5);
    stage.packet(qos2(7));
    stage.accepted(7, ReasonCode::Success);
    stage.packet(pubrel(7));
    let inuse = ack(7, ReasonCode::PacketIdentifierInUse);
    assert_eq!(stage.packet(qos2(7)), [Output::Send(Packet::PubRec(inuse))]);
    assert_eq!(completed(&mut stage, 7, ReasonCode::Success), [Output::Send(pubcomp(7))]);
}

#[test]
fn received_identifiers_of_an_earlier_connection_are_known_mqtt_4_3_3_10() {
    for protocol in PROTOCOLS {
        let (mut stage, outputs) = resumed(protocol, 2, &[7, 8], &[]);
        assert_eq!(outputs, []);
        let repeated = Packet::Publish(Publish { dup: true, ..publish(Q2, 7) });
        assert_eq!(stage.packet(repeated), [Output::Send(pubrec(7))], "not handed out again");
        assert_eq!(stage.packet(pubrel(7)), [Output::Complete(id(7))]);
        assert_eq!(stage.packet(pubrel(8)), [Output::Complete(id(8))], "without a repeated PUBLISH");
        assert_eq!(stage.session.pending(), 2);
    }
}

#[test]
fn a_new_connection_begins_with_its_whole_receive_maximum_section_4_9() {
    let (mut stage, _) = resumed(Protocol::V5, 2, &[7, 8, 9], &[]);
    for packet_id in [1, 2] {
        assert!(matches!(stage.packet(qos2(packet_id)).as_slice(), [Output::Publish(_)]));
    }
    assert_eq!(stage.packet(pubrel(7)), [Output::Complete(id(7))]);
    let outputs = stage.packet(qos2(3));
    stage.assert_violation(&outputs, ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn a_transient_session_ignores_what_only_a_durable_one_is_told() {
    let attached = Attached { received: vec![id(1)], released: vec![id(1)], ..Attached::default() };
    let (mut stage, outputs) = Stage::attached(Protocol::V5, Limits::default(), attached);
    assert_eq!((outputs.len(), stage.session.inflight()), (0, 0));
    assert_eq!(stage.session.deliver(Q2).map(|packet_id| packet_id.get()), Some(1));
    assert_eq!(stage.feed(Input::Received(id(1))), []);
    assert_eq!(stage.packet(pubrec(1)), [Output::Send(pubrel(1))], "nobody else is asked");
    assert_eq!(stage.packet(pubcomp(1)), []);
}
