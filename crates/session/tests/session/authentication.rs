//! Enhanced authentication: the exchange before CONNACK and the one that renews it (section 4.12).

use std::time::Duration;

use bytes::Bytes;
use zwerm_session::{Attached, Cause, Input, Limits, Output};
use zwerm_wire::{Auth, Connect, Packet, Protocol, ReasonCode};

use crate::stage::{Stage, connect, disconnect};

const METHOD: &str = "SCRAM-SHA-256";

fn auth(reason: ReasonCode, method: Option<&str>, data: &'static [u8]) -> Packet {
    let data = Some(Bytes::from_static(data)).filter(|data| !data.is_empty());
    let method = method.map(Into::into);
    Packet::Auth(Auth { reason, method, data, reason_string: None, user: Vec::new() })
}

fn asked(method: Option<&str>, data: &'static [u8]) -> Output {
    Output::Authenticate { method: method.map(Into::into), data: Bytes::from_static(data) }
}

fn with_method() -> Connect {
    let mut connect = connect(Protocol::V5);
    connect.properties.authentication_method = Some(METHOD.into());
    connect.properties.authentication_data = Some(Bytes::from_static(b"first"));
    connect
}

fn begun() -> Stage {
    let mut stage = Stage::new(Limits::default());
    let outputs = stage.packet(Packet::Connect(Box::new(with_method())));
    assert_eq!(outputs, [asked(Some(METHOD), b"first")]);
    stage
}

fn proved(stage: &mut Stage) -> Vec<Output> {
    stage.feed(Input::Authenticated { name: "anna".into(), data: Bytes::from_static(b"proof") })
}

fn open() -> Stage {
    let mut stage = begun();
    let attach = proved(&mut stage);
    let [Output::Attach(connect)] = attach.as_slice() else { panic!("{attach:?}") };
    assert_eq!(connect.username.as_deref(), Some("anna"));
    let outputs = stage.feed(Input::Attached(Attached::default()));
    let [Output::Send(Packet::ConnAck(connack))] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(connack.properties.authentication_method.as_deref(), Some(METHOD));
    assert_eq!(connack.properties.authentication_data.as_deref(), Some(&b"proof"[..]));
    stage
}

#[test]
fn the_exchange_goes_both_ways_until_the_client_is_attached_mqtt_4_12_0_2_to_5() {
    let mut stage = begun();
    let outputs = stage.feed(Input::Challenge(Bytes::from_static(b"challenge")));
    let next = auth(ReasonCode::ContinueAuthentication, Some(METHOD), b"challenge");
    assert_eq!(outputs, [Output::Send(next)]);
    let answer = auth(ReasonCode::ContinueAuthentication, Some(METHOD), b"answer");
    assert_eq!(stage.packet(answer), [asked(None, b"answer")]);
    assert!(matches!(proved(&mut stage).as_slice(), [Output::Attach(_)]));
    open();
}

#[test]
fn who_does_not_prove_it_is_refused_with_a_connack_mqtt_4_12_0_1() {
    for reason in [ReasonCode::BadAuthenticationMethod, ReasonCode::NotAuthorized] {
        let mut stage = begun();
        let outputs = stage.feed(Input::Refused(reason));
        let [Output::Send(Packet::ConnAck(connack)), Output::Close] = outputs.as_slice() else {
            panic!("{outputs:?}")
        };
        assert_eq!(connack.reason, reason);
    }
}

#[test]
fn before_connack_nothing_but_auth_and_disconnect_may_come_mqtt_3_1_2_30() {
    let mut stage = begun();
    let outputs = stage.packet(Packet::PingReq);
    assert!(matches!(outputs.as_slice(), [Output::Send(Packet::ConnAck(_)), Output::Close]), "{outputs:?}");
    assert_eq!(stage.cause(), Some(Cause::Violation(ReasonCode::ProtocolError)));
    for wrong in [
        auth(ReasonCode::ReAuthenticate, Some(METHOD), b""),
        auth(ReasonCode::ContinueAuthentication, Some("PLAIN"), b""),
        auth(ReasonCode::Success, None, b""),
    ] {
        let mut stage = begun();
        stage.packet(wrong);
        assert_eq!(stage.cause(), Some(Cause::Violation(ReasonCode::ProtocolError)));
    }
}

#[test]
fn a_client_has_the_time_of_a_connect_however_often_it_speaks() {
    let mut stage = begun();
    let step = Limits::default().connect_timeout / 2;
    stage.after(step);
    stage.packet(auth(ReasonCode::ContinueAuthentication, Some(METHOD), b"more"));
    let outputs = stage.after(step);
    assert_eq!(outputs, [Output::Close]);
    assert!(matches!(stage.cause(), Some(Cause::TimedOut(_))));
}

#[test]
fn a_client_may_authenticate_again_while_it_goes_on_mqtt_4_12_1() {
    let mut stage = open();
    for _ in 0..2 {
        let again = auth(ReasonCode::ReAuthenticate, Some(METHOD), b"first");
        assert_eq!(stage.packet(again), [asked(Some(METHOD), b"first")]);
        stage.feed(Input::Challenge(Bytes::new()));
        assert_eq!(stage.packet(Packet::PingReq), [Output::Send(Packet::PingResp)]);
        let answer = auth(ReasonCode::ContinueAuthentication, Some(METHOD), b"answer");
        assert_eq!(stage.packet(answer), [asked(None, b"answer")]);
        let success = auth(ReasonCode::Success, Some(METHOD), b"proof");
        assert_eq!(proved(&mut stage), [Output::Send(success)]);
    }
    assert_eq!(stage.after(Duration::ZERO), []);
}

#[test]
fn who_fails_the_second_time_is_disconnected_mqtt_4_12_1_2() {
    let mut stage = open();
    stage.packet(auth(ReasonCode::ReAuthenticate, Some(METHOD), b"first"));
    let outputs = stage.feed(Input::Refused(ReasonCode::NotAuthorized));
    assert_eq!(outputs, [disconnect(ReasonCode::NotAuthorized), Output::Close]);
}

#[test]
fn auth_out_of_turn_is_a_protocol_error_mqtt_4_12_0_5_to_7() {
    let again = || auth(ReasonCode::ReAuthenticate, Some(METHOD), b"");
    let without_method = Stage::open(Protocol::V5, Limits::default());
    let mut twice = open();
    twice.packet(again());
    for (mut stage, packet) in [
        (without_method, again()),
        (twice, again()),
        (open(), auth(ReasonCode::ContinueAuthentication, Some(METHOD), b"")),
        (open(), auth(ReasonCode::ReAuthenticate, Some("SCRAM-SHA-512"), b"")),
        (open(), auth(ReasonCode::Success, None, b"")),
    ] {
        let outputs = stage.packet(packet);
        stage.assert_violation(&outputs, ReasonCode::ProtocolError);
    }
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut stage = open();
    assert_eq!(stage.feed(Input::Challenge(Bytes::new())), []);
    assert_eq!(proved(&mut stage), []);
    assert_eq!(stage.feed(Input::Refused(ReasonCode::NotAuthorized)), []);
    assert!(stage.session.is_open());
}
