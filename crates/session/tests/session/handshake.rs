//! CONNECT to CONNACK: what is refused, what is negotiated, what is said.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use zwerm_session::{Attached, Cause, Deadline, Input, Limits, Output};
use zwerm_wire::{Connect, Disconnect, MessageProperties, Packet, Protocol, QoS, ReasonCode, Will};

use crate::stage::{PROTOCOLS, Stage, connack, connect, most, publish, will};

fn refused(connect: Connect, limits: Limits) -> Option<ReasonCode> {
    let mut stage = Stage::new(limits);
    let outputs = stage.packet(Packet::Connect(Box::new(connect)));
    match outputs.as_slice() {
        [Output::Attach(_)] => None,
        [Output::Send(Packet::ConnAck(connack)), Output::Close] => {
            assert!(!connack.session_present, "MQTT-3.2.2-6");
            assert_eq!(stage.cause(), Some(Cause::Refused(connack.reason)));
            Some(connack.reason)
        }
        other => panic!("neither attached nor refused: {other:?}"),
    }
}

#[test]
fn the_first_packet_is_connect_mqtt_3_1_0_1() {
    let mut stage = Stage::new(Limits::default());
    let outputs = stage.packet(Packet::PingReq);
    assert_eq!(outputs, [Output::Close]);
    assert_eq!(stage.cause(), Some(Cause::Violation(ReasonCode::ProtocolError)));
}

#[test]
fn a_second_connect_ends_the_connection_mqtt_3_1_0_2() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        let outputs = stage.packet(Packet::Connect(Box::new(connect(protocol))));
        stage.assert_violation(&outputs, ReasonCode::ProtocolError);
    }
}

#[test]
fn without_connect_the_link_is_closed_in_time() {
    let mut stage = Stage::new(Limits { connect_timeout: Duration::from_secs(3), ..Limits::default() });
    let expected = stage.now + Duration::from_secs(3);
    assert_eq!(stage.session.deadline(), Some((expected, Deadline::Connect)));
    assert_eq!(stage.after(Duration::from_millis(2999)), []);
    assert_eq!(stage.after(Duration::from_millis(1)), [Output::Close]);
    assert_eq!(stage.cause(), Some(Cause::TimedOut(Deadline::Connect)));
}

#[test]
fn nothing_times_out_while_the_broker_attaches() {
    let mut stage = Stage::new(Limits::default());
    stage.packet(Packet::Connect(Box::new(connect(Protocol::V5))));
    assert!(stage.session.is_attaching());
    assert_eq!(stage.session.deadline(), None);
    assert_eq!(stage.after(Duration::from_secs(3600)), []);
}

#[test]
fn who_may_come_without_a_client_id() {
    let nobody = |protocol, clean_start| Connect {
        client_id: "".into(),
        clean_start,
        properties: Default::default(),
        ..connect(protocol)
    };
    let strict = Limits { allow_zero_length_client_id: false, ..Limits::default() };
    let invalid = Some(ReasonCode::ClientIdentifierNotValid);
    for (protocol, clean_start, expected) in [
        (Protocol::V31, true, invalid),
        (Protocol::V31, false, invalid),
        (Protocol::V311, true, None),
        (Protocol::V311, false, invalid),
        (Protocol::V5, true, None),
        (Protocol::V5, false, None),
    ] {
        let found = refused(nobody(protocol, clean_start), Limits::default());
        assert_eq!(found, expected, "{protocol:?}, clean start {clean_start}");
        assert_eq!(refused(nobody(protocol, clean_start), strict), invalid, "{protocol:?}, not allowed");
    }
}

#[test]
fn a_3_1_client_id_longer_than_23_characters_is_taken() {
    let long = Connect { client_id: "x".repeat(100).into(), ..connect(Protocol::V31) };
    assert_eq!(refused(long, Limits::default()), None);
}

#[test]
fn a_will_beyond_the_limits_is_refused_mqtt_3_2_2_12_and_13() {
    let with_will = |qos, retain| Connect { will: Some(will(qos, retain)), ..connect(Protocol::V5) };
    let limits = Limits { max_qos: QoS::AtLeastOnce, retain_available: false, ..Limits::default() };
    assert_eq!(refused(with_will(QoS::ExactlyOnce, false), limits), Some(ReasonCode::QoSNotSupported));
    assert_eq!(refused(with_will(QoS::AtMostOnce, true), limits), Some(ReasonCode::RetainNotSupported));
    assert_eq!(refused(with_will(QoS::AtLeastOnce, false), limits), None);
}

#[test]
fn a_will_that_is_said_to_be_text_and_is_none_is_refused_where_that_is_asked_for() {
    let with_will = |format, payload: &'static [u8]| {
        let properties = MessageProperties { payload_format: format, ..MessageProperties::default() };
        let will = Will {
            payload: Bytes::from_static(payload),
            properties: Some(Box::new(properties)),
            ..will(QoS::AtLeastOnce, false)
        };
        Connect { will: Some(will), ..connect(Protocol::V5) }
    };
    let strict = Limits { validate_payload_format: true, ..Limits::default() };
    let invalid = Some(ReasonCode::PayloadFormatInvalid);
    for (format, payload, expected) in [
        (Some(true), &b"text"[..], None),
        (Some(true), b"\xff", invalid),
        (Some(false), b"\xff", None),
        (None, b"\xff", None),
    ] {
        assert_eq!(refused(with_will(format, payload), strict), expected, "{format:?}");
        assert_eq!(refused(with_will(format, payload), Limits::default()), None, "{format:?}");
    }
}

#[test]
fn the_broker_may_refuse_mqtt_3_2_2_7() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::new(Limits::default());
        stage.packet(Packet::Connect(Box::new(connect(protocol))));
        let outputs = stage.feed(Input::Refused(ReasonCode::NotAuthorized));
        assert_eq!(connack(&outputs).reason, ReasonCode::NotAuthorized);
        assert_eq!(outputs.last(), Some(&Output::Close));
    }
}

#[test]
fn a_code_that_connack_may_not_carry_is_translated_mqtt_3_2_2_8() {
    for (told, expected) in [
        (ReasonCode::ServerShuttingDown, ReasonCode::ServerUnavailable),
        (ReasonCode::SessionTakenOver, ReasonCode::ServerUnavailable),
        (ReasonCode::TopicFilterInvalid, ReasonCode::UnspecifiedError),
        (ReasonCode::ServerBusy, ReasonCode::ServerBusy),
    ] {
        let mut stage = Stage::new(Limits::default());
        stage.packet(Packet::Connect(Box::new(connect(Protocol::V5))));
        assert_eq!(connack(&stage.feed(Input::Kicked(told))).reason, expected, "{told:?}");
    }
}

#[test]
fn no_disconnect_is_sent_before_connack_mqtt_3_14_0_1() {
    let mut stage = Stage::new(Limits::default());
    assert_eq!(stage.feed(Input::Kicked(ReasonCode::ServerShuttingDown)), [Output::Close]);
}

#[test]
fn a_packet_while_attaching_is_a_fault_of_the_driver_and_ends_it() {
    let mut stage = Stage::new(Limits::default());
    stage.packet(Packet::Connect(Box::new(connect(Protocol::V5))));
    let outputs = stage.packet(Packet::Publish(publish(QoS::AtMostOnce, 0)));
    assert_eq!(connack(&outputs).reason, ReasonCode::ImplementationSpecificError);
    // the broker's answer comes too late and changes nothing
    assert_eq!(stage.feed(Input::Attached(Attached::default())), []);
}

#[test]
fn connack_says_nothing_that_the_specification_assumes() {
    let unlimited = Limits {
        receive_maximum: NonZeroU16::MAX,
        max_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        ..Limits::default()
    };
    let mut stage = Stage::new(unlimited);
    stage.packet(Packet::Connect(Box::new(connect(Protocol::V5))));
    let outputs = stage.feed(Input::Attached(Attached { session_present: true, ..Attached::default() }));
    insta::assert_debug_snapshot!(connack(&outputs));
}

#[test]
fn connack_says_everything_that_differs() {
    let limits = Limits {
        keep_alive_maximum: NonZeroU16::new(30),
        receive_maximum: most(10),
        topic_alias_maximum: 7,
        max_packet_size: 65_536,
        max_qos: QoS::AtLeastOnce,
        retain_available: false,
        wildcard_subscriptions: false,
        shared_subscriptions: false,
        subscription_identifiers: false,
        session_expiry_maximum: 3600,
        ..Limits::default()
    };
    let mut stage = Stage::new(limits);
    let mut asking = Connect { client_id: "".into(), ..connect(Protocol::V5) };
    asking.properties.session_expiry = Some(u32::MAX);
    let outputs = stage.packet(Packet::Connect(Box::new(asking)));
    let [Output::Attach(attach)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(attach.properties.session_expiry, Some(3600));
    let outputs = stage.feed(Input::Attached(Attached {
        session_present: false,
        assigned_client_id: Some("zwerm-1".into()),
        session_expiry: 3600,
        ..Attached::default()
    }));
    insta::assert_debug_snapshot!(connack(&outputs));
}

#[test]
fn a_3_x_connack_has_no_properties() {
    for protocol in [Protocol::V31, Protocol::V311] {
        let mut stage = Stage::new(Limits::default());
        stage.packet(Packet::Connect(Box::new(connect(protocol))));
        let outputs = stage.feed(Input::Attached(Attached { session_expiry: 9, ..Attached::default() }));
        assert_eq!(connack(&outputs).properties, Default::default());
    }
}

#[test]
fn clean_session_becomes_a_session_expiry() {
    let asked = |connect: Connect, limits: Limits| {
        let mut stage = Stage::new(limits);
        match stage.packet(Packet::Connect(Box::new(connect))).pop() {
            Some(Output::Attach(connect)) => connect.properties.session_expiry,
            other => panic!("{other:?}"),
        }
    };
    let keep = |protocol| Connect { clean_start: false, ..connect(protocol) };
    let hour = Limits { session_expiry_maximum: 3600, ..Limits::default() };
    for protocol in [Protocol::V31, Protocol::V311] {
        assert_eq!(asked(connect(protocol), hour), Some(0));
        assert_eq!(asked(keep(protocol), hour), Some(3600));
        assert_eq!(asked(keep(protocol), Limits::default()), Some(u32::MAX));
    }
    assert_eq!(asked(keep(Protocol::V5), hour), Some(0), "5.0 asks for itself");
}

#[test]
fn the_server_overrules_the_keep_alive_of_5_0_only_mqtt_3_2_2_21() {
    let limits = Limits { keep_alive_maximum: NonZeroU16::new(20), ..Limits::default() };
    for (protocol, asked, seconds) in [
        (Protocol::V5, 60, Some(30)),
        (Protocol::V5, 0, Some(30)),
        (Protocol::V5, 10, Some(15)),
        (Protocol::V311, 60, Some(90)),
        (Protocol::V311, 0, None),
    ] {
        let stage = Stage::open_with(Connect { keep_alive: asked, ..connect(protocol) }, limits);
        let expected = seconds.map(|seconds| (stage.now + Duration::from_secs(seconds), Deadline::KeepAlive));
        assert_eq!(stage.session.deadline(), expected, "{protocol:?} asked for {asked}");
    }
}

#[test]
fn a_5_0_connect_that_is_malformed_is_told_so() {
    let malformed = |reason, protocol| Input::Malformed { reason, text: "why".into(), protocol };
    let mut stage = Stage::new(Limits::default());
    let outputs = stage.feed(malformed(ReasonCode::TopicFilterInvalid, Some(Protocol::V5)));
    assert_eq!(connack(&outputs).reason, ReasonCode::UnspecifiedError);
    assert_eq!(connack(&outputs).properties.reason_string.as_deref(), Some("why"));

    let mut stage = Stage::new(Limits::default());
    let outputs = stage.feed(malformed(ReasonCode::MalformedPacket, Some(Protocol::V311)));
    assert_eq!(outputs, [Output::Close], "3.1.1 has no word for it");
}

#[test]
fn an_unknown_version_is_told_so_if_the_answer_is_understood_mqtt_3_1_2_2() {
    let reason = ReasonCode::UnsupportedProtocolVersion;
    for protocol in PROTOCOLS {
        let mut stage = Stage::new(Limits::default());
        let text = "level 6".to_owned();
        let outputs = stage.feed(Input::Malformed { reason, text, protocol: Some(protocol) });
        assert_eq!(connack(&outputs).reason, reason);
        assert_eq!(connack(&outputs).properties.reason_string.is_some(), protocol == Protocol::V5);
    }
    let mut stage = Stage::new(Limits::default());
    let outputs = stage.feed(Input::Malformed { reason, text: String::new(), protocol: None });
    assert_eq!(outputs, [Output::Close], "not MQTT");
}

#[test]
fn malformed_bytes_later_end_it_with_their_reason_mqtt_4_13_1_1() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        let (reason, text) = (ReasonCode::MalformedPacket, "why".to_owned());
        let outputs = stage.feed(Input::Malformed { reason, text, protocol: Some(protocol) });
        let expected = Disconnect { reason_string: Some("why".into()), ..Disconnect::because(reason) };
        match protocol {
            Protocol::V5 => {
                assert_eq!(outputs, [Output::Send(Packet::Disconnect(expected)), Output::Close]);
            }
            Protocol::V31 | Protocol::V311 => assert_eq!(outputs, [Output::Close]),
        }
    }
}

#[test]
fn a_3_x_client_is_refused_with_a_return_code_or_without_a_word() {
    for (reason, answers) in [(ReasonCode::ServerBusy, 2), (ReasonCode::ProtocolError, 1)] {
        let mut stage = Stage::new(Limits::default());
        stage.packet(Packet::Connect(Box::new(connect(Protocol::V311))));
        assert_eq!(stage.feed(Input::Refused(reason)).len(), answers, "{reason:?}");
        assert_eq!(stage.cause(), Some(Cause::Refused(reason)));
    }
}
