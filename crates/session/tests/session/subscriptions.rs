//! SUBSCRIBE and UNSUBSCRIBE: what passes, what is refused and how, and the acknowledgements.

use std::num::NonZeroU32;

use zwerm_session::{Input, Limits, Output};
use zwerm_wire::{
    Connect, Packet, Protocol, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeOptions,
};

use crate::stage::{PROTOCOLS, Stage, connect, id, subscribe, unsubscribe};

const PLAIN: SubscribeOptions = SubscribeOptions {
    qos: QoS::ExactlyOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: RetainHandling::Send,
};

fn subacked(packet_id: u16, reasons: &[ReasonCode]) -> Output {
    let reasons = reasons.to_vec();
    Output::Send(Packet::SubAck(SubAck { packet_id: id(packet_id), reasons, properties: None }))
}

fn unsubacked(packet_id: u16, reasons: &[ReasonCode]) -> Output {
    let reasons = reasons.to_vec();
    Output::Send(Packet::UnsubAck(SubAck { packet_id: id(packet_id), reasons, properties: None }))
}

fn subscribed(packet_id: u16, reasons: &[ReasonCode]) -> Input {
    Input::Subscribed { packet_id: id(packet_id), reasons: reasons.to_vec() }
}

#[test]
fn suback_answers_with_the_same_identifier_mqtt_3_8_4_1_and_2() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        let options = SubscribeOptions {
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::SendIfNew,
            ..PLAIN
        };
        let asked = subscribe(5, &[("a/+", options), ("$share/g/b", PLAIN)]);
        assert_eq!(stage.packet(Packet::Subscribe(asked.clone())), [Output::Subscribe(asked)]);
        assert_eq!(stage.session.pending(), 1);
        let reasons = [ReasonCode::GrantedQoS2, ReasonCode::GrantedQoS1];
        assert_eq!(stage.feed(subscribed(5, &reasons)), [subacked(5, &reasons)]);
        assert_eq!(stage.feed(subscribed(5, &reasons)), [], "once");
        assert_eq!(stage.session.pending(), 0);
    }
}

#[test]
fn unsuback_answers_with_the_same_identifier_mqtt_3_10_4_5() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::open(protocol, Limits::default());
        let asked = unsubscribe(5, "a");
        assert_eq!(stage.packet(Packet::Unsubscribe(asked.clone())), [Output::Unsubscribe(asked)]);
        let reasons = vec![ReasonCode::NoSubscriptionExisted];
        let outputs = stage.feed(Input::Unsubscribed { packet_id: id(5), reasons: reasons.clone() });
        assert_eq!(outputs, [unsubacked(5, &reasons)]);
    }
}

#[test]
fn a_code_that_suback_may_not_carry_is_translated_mqtt_3_9_3_2() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.packet(Packet::Subscribe(subscribe(5, &[("a", PLAIN), ("b", PLAIN)])));
    let outputs = stage.feed(subscribed(5, &[ReasonCode::ServerBusy, ReasonCode::NotAuthorized]));
    assert_eq!(outputs, [subacked(5, &[ReasonCode::UnspecifiedError, ReasonCode::NotAuthorized])]);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error_mqtt_3_8_3_4() {
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    let options = SubscribeOptions { no_local: true, ..PLAIN };
    let outputs = stage.packet(Packet::Subscribe(subscribe(5, &[("$share/g/a", options)])));
    stage.assert_violation(&outputs, ReasonCode::ProtocolError);
}

#[test]
fn what_connack_denied_ends_a_5_0_connection() {
    let limits = Limits {
        wildcard_subscriptions: false,
        shared_subscriptions: false,
        subscription_identifiers: false,
        ..Limits::default()
    };
    let with_id = Subscribe { subscription_id: Some(NonZeroU32::MIN), ..subscribe(5, &[("a", PLAIN)]) };
    for (asked, reason) in [
        (subscribe(5, &[("a", PLAIN), ("#", PLAIN)]), ReasonCode::WildcardSubscriptionsNotSupported),
        (subscribe(5, &[("$share/g/a", PLAIN)]), ReasonCode::SharedSubscriptionsNotSupported),
        (with_id, ReasonCode::SubscriptionIdentifiersNotSupported),
    ] {
        let mut stage = Stage::open(Protocol::V5, limits);
        let outputs = stage.packet(Packet::Subscribe(asked));
        stage.assert_violation(&outputs, reason);
    }
}

#[test]
fn what_is_not_available_fails_line_by_line_in_3_x() {
    let limits = Limits { wildcard_subscriptions: false, shared_subscriptions: false, ..Limits::default() };
    let no_wildcard = ReasonCode::WildcardSubscriptionsNotSupported;
    let no_share = ReasonCode::SharedSubscriptionsNotSupported;
    let mut stage = Stage::open(Protocol::V311, limits);
    let asked = subscribe(5, &[("a/#", PLAIN), ("a", PLAIN), ("$share/g/a", PLAIN), ("b", PLAIN)]);
    let passed = subscribe(5, &[("a", PLAIN), ("b", PLAIN)]);
    assert_eq!(stage.packet(Packet::Subscribe(asked)), [Output::Subscribe(passed)]);
    let outputs = stage.feed(subscribed(5, &[ReasonCode::GrantedQoS1, ReasonCode::GrantedQoS2]));
    let expected = [no_wildcard, ReasonCode::GrantedQoS1, no_share, ReasonCode::GrantedQoS2];
    assert_eq!(outputs, [subacked(5, &expected)], "MQTT-3.9.3-1: in order");

    let outputs = stage.packet(Packet::Subscribe(subscribe(6, &[("+", PLAIN)])));
    assert_eq!(outputs, [subacked(6, &[no_wildcard])], "nothing left to ask the broker");
    assert_eq!(stage.session.pending(), 0);
}

#[test]
fn exclusive_subscriptions_that_are_not_served_fail_line_by_line() {
    let limits = Limits { exclusive_subscriptions: false, ..Limits::default() };
    for protocol in [Protocol::V311, Protocol::V5] {
        let mut stage = Stage::open(protocol, limits);
        let asked = subscribe(5, &[("$exclusive/a", PLAIN), ("a", PLAIN)]);
        let passed = subscribe(5, &[("a", PLAIN)]);
        assert_eq!(stage.packet(Packet::Subscribe(asked)), [Output::Subscribe(passed)]);
        let outputs = stage.feed(subscribed(5, &[ReasonCode::GrantedQoS1]));
        assert_eq!(outputs, [subacked(5, &[ReasonCode::TopicFilterInvalid, ReasonCode::GrantedQoS1])]);
    }
}

#[test]
fn the_granted_qos_is_within_the_maximum_mqtt_3_2_2_10() {
    let mut stage = Stage::open(Protocol::V5, Limits { max_qos: QoS::AtLeastOnce, ..Limits::default() });
    let outputs = stage.packet(Packet::Subscribe(subscribe(5, &[("a", PLAIN)])));
    let lowered = SubscribeOptions { qos: QoS::AtLeastOnce, ..PLAIN };
    assert_eq!(outputs, [Output::Subscribe(subscribe(5, &[("a", lowered)]))]);
}

#[test]
fn a_bridge_gets_no_echo_and_the_retain_flags() {
    let bridge = Connect { bridge: true, ..connect(Protocol::V311) };
    let mut stage = Stage::open_with(bridge, Limits::default());
    let outputs = stage.packet(Packet::Subscribe(subscribe(5, &[("a", PLAIN), ("$share/g/a", PLAIN)])));
    let kept = SubscribeOptions { retain_as_published: true, ..PLAIN };
    let no_echo = SubscribeOptions { no_local: true, ..kept };
    assert_eq!(outputs, [Output::Subscribe(subscribe(5, &[("a", no_echo), ("$share/g/a", kept)]))]);
}

#[test]
fn an_identifier_under_way_is_refused() {
    let in_use = ReasonCode::PacketIdentifierInUse;
    let mut stage = Stage::open(Protocol::V5, Limits::default());
    stage.packet(Packet::Subscribe(subscribe(5, &[("a", PLAIN)])));
    let outputs = stage.packet(Packet::Subscribe(subscribe(5, &[("b", PLAIN), ("c", PLAIN)])));
    assert_eq!(outputs, [subacked(5, &[in_use, in_use])]);
    assert_eq!(stage.packet(Packet::Unsubscribe(unsubscribe(5, "a"))), [unsubacked(5, &[in_use])]);
}
