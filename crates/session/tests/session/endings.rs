//! How a connection ends, what the client is told, and what becomes of its will.

use std::time::Duration;

use zwerm_session::{Cause, Deadline, Ending, Input, Limits, Output, Session};
use zwerm_wire::{Connect, Disconnect, Packet, PacketType, Protocol, QoS, ReasonCode};

use crate::stage::{PROTOCOLS, Stage, connack, connect, disconnect, publish};

fn goodbye(reason: ReasonCode, session_expiry: Option<u32>) -> Packet {
    Packet::Disconnect(Disconnect { session_expiry, ..Disconnect::because(reason) })
}

#[test]
fn a_normal_disconnect_drops_the_will_mqtt_3_14_4_3() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        assert_eq!(stage.packet(goodbye(ReasonCode::Success, None)), [Output::Close]);
        let cause = Cause::Disconnected(ReasonCode::Success);
        let expected = Ending { fire_will: false, session_expiry: None, cause };
        assert_eq!(stage.session.ending(), Some(expected));
    }
}

#[test]
fn every_other_end_fires_the_will_mqtt_3_1_2_8() {
    let with_will = Input::Packet(goodbye(ReasonCode::DisconnectWithWill, None));
    let with_error = Input::Packet(goodbye(ReasonCode::UnspecifiedError, None));
    let violation = Input::Packet(Packet::PingResp);
    let inputs =
        [with_will, with_error, violation, Input::LinkClosed, Input::Kicked(ReasonCode::SessionTakenOver)];
    for input in inputs {
        let mut stage = Stage::open(Protocol::V5, Limits::default());
        let said = format!("{input:?}");
        assert_eq!(stage.feed(input).last(), Some(&Output::Close));
        assert!(stage.session.ending().unwrap().fire_will, "{said}");
    }
}

#[test]
fn disconnect_may_change_the_session_expiry_but_not_from_zero() {
    let limits = Limits { session_expiry_maximum: 1000, ..Limits::default() };
    for (asked, said, expected) in [
        (Some(100), Some(200), Ok(Some(200))),
        (Some(100), Some(0), Ok(Some(0))),
        (Some(100), None, Ok(None)),
        (Some(100), Some(5000), Ok(Some(1000))),
        (Some(0), Some(0), Ok(Some(0))),
        (Some(0), Some(1), Err(ReasonCode::ProtocolError)),
        (None, Some(1), Err(ReasonCode::ProtocolError)),
    ] {
        let mut asking = connect(Protocol::V5);
        asking.properties.session_expiry = asked;
        let mut stage = Stage::open_with(asking, limits);
        let outputs = stage.packet(goodbye(ReasonCode::Success, said));
        match expected {
            Ok(expiry) => assert_eq!(stage.session.ending().unwrap().session_expiry, expiry),
            Err(reason) => {
                stage.assert_violation(&outputs, reason);
                assert!(stage.session.ending().unwrap().fire_will, "it was no normal disconnection");
            }
        }
    }
}

#[test]
fn silence_for_one_and_a_half_keep_alives_ends_it_mqtt_3_1_2_22() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open_with(Connect { keep_alive: 10, ..connect(protocol) }, Limits::default());
        stage.now += Duration::from_secs(14);
        assert_eq!(stage.packet(Packet::PingReq), [Output::Send(Packet::PingResp)], "MQTT-3.12.4-1");
        assert_eq!(stage.after(Duration::from_millis(14_999)), []);
        let outputs = stage.after(Duration::from_millis(1));
        match protocol {
            Protocol::V5 => {
                assert_eq!(outputs, [disconnect(ReasonCode::KeepAliveTimeout), Output::Close]);
            }
            Protocol::V31 | Protocol::V311 => assert_eq!(outputs, [Output::Close]),
        }
        assert_eq!(stage.cause(), Some(Cause::TimedOut(Deadline::KeepAlive)));
    }
}

#[test]
fn a_sign_of_life_counts_like_a_packet() {
    let asking = Connect { keep_alive: 10, ..connect(Protocol::V311) };
    let mut stage = Stage::open_with(asking, Limits::default());
    stage.now += Duration::from_secs(15);
    stage.feed(Input::Alive);
    assert_eq!(stage.feed(Input::Tick), []);
    assert_eq!(stage.after(Duration::from_secs(15)), [Output::Close]);
}

#[test]
fn without_keep_alive_there_is_no_deadline() {
    let asking = Connect { keep_alive: 0, ..connect(Protocol::V311) };
    let stage = Stage::open_with(asking, Limits::default());
    assert_eq!(stage.session.deadline(), None);
}

#[test]
fn a_5_0_client_is_told_why_it_is_kicked_and_a_3_x_client_is_cut_off_mqtt_3_1_4_3() {
    for reason in [ReasonCode::SessionTakenOver, ReasonCode::ServerShuttingDown, ReasonCode::QuotaExceeded] {
        let mut stage = Stage::open(Protocol::V5, Limits::default());
        assert_eq!(stage.feed(Input::Kicked(reason)), [disconnect(reason), Output::Close]);
        let mut stage = Stage::open(Protocol::V311, Limits::default());
        assert_eq!(stage.feed(Input::Kicked(reason)), [Output::Close]);
        assert_eq!(stage.cause(), Some(Cause::Kicked(reason)));
    }
}

#[test]
fn a_code_that_disconnect_may_not_carry_is_translated_mqtt_3_14_2_1() {
    for (kicked, told) in [
        (ReasonCode::ServerUnavailable, ReasonCode::ServerBusy),
        (ReasonCode::Banned, ReasonCode::AdministrativeAction),
        (ReasonCode::BadUserNameOrPassword, ReasonCode::UnspecifiedError),
    ] {
        let mut stage = Stage::open(Protocol::V5, Limits::default());
        assert_eq!(stage.feed(Input::Kicked(kicked)), [disconnect(told), Output::Close]);
    }
}

#[test]
fn nothing_happens_after_the_end_mqtt_3_14_4_1() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.feed(Input::LinkClosed);
    let ending = stage.session.ending();
    assert_eq!(stage.packet(Packet::PingReq), []);
    assert_eq!(stage.packet(Packet::Publish(publish(QoS::AtMostOnce, 0))), []);
    assert_eq!(stage.feed(Input::Kicked(ReasonCode::ServerShuttingDown)), []);
    assert_eq!(stage.after(Duration::from_secs(9999)), []);
    assert_eq!((stage.session.window(), stage.session.deadline()), (0, None));
    assert_eq!(stage.session.ending(), ending, "the first word counts");
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 640, "{} bytes", size_of::<Session>());
}

#[test]
fn what_the_client_takes_no_answer_of_ends_with_a_word_that_may_come_mqtt_3_14_0_1() {
    let reason = ReasonCode::PacketTooLarge;
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        let outputs = stage.feed(Input::Unsendable(PacketType::SubAck));
        match protocol {
            Protocol::V5 => assert_eq!(outputs, [disconnect(reason), Output::Close]),
            _ => assert_eq!(outputs, [Output::Close]),
        }
        assert_eq!(stage.cause(), Some(Cause::Kicked(reason)));
    }
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    let outputs = stage.feed(Input::Unsendable(PacketType::ConnAck));
    let refusal = connack(&outputs);
    assert_eq!((refusal.reason, refusal.session_present), (reason, false));
    assert_eq!(outputs[1..], [Output::Close]);
}
