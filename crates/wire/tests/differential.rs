//! Against an implementation that is not ours: mqttbytes 0.6 reads what we write as the same packet, and we
//! read what it writes.
//!
//! Left out is what it is known to get wrong: MQTT 3.1, AUTH, 5.0 DISCONNECT and UNSUBSCRIBE, passwords that
//! are not UTF-8, empty user names, several subscription identifiers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod arbitrary;

use arbitrary::as_said_in;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mqttbytes::{v4, v5};
use proptest::prelude::*;
use zwerm_wire::*;

const LIMIT: usize = 1 << 20;

fn text(text: &str) -> String {
    text.to_owned()
}

fn optional(text: Option<&ByteString>) -> Option<String> {
    text.map(|text| text.to_string())
}

fn pairs(user: &UserProperties) -> Vec<(String, String)> {
    user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn qos(qos: QoS) -> mqttbytes::QoS {
    mqttbytes::qos(qos as u8).unwrap()
}

fn pkid(id: Option<PacketId>) -> u16 {
    id.map_or(0, PacketId::get)
}

/// User name and password as mqttbytes can say them, `None` if it cannot.
fn login(connect: &Connect) -> Option<(String, String)> {
    let username = connect.username.as_ref().map(|name| name.to_string());
    let password = connect.password.as_ref().map(|word| String::from_utf8(word.to_vec()));
    let password = password.transpose().ok()?;
    let empty = |field: &Option<String>| field.as_ref().is_some_and(String::is_empty);
    if empty(&username) || empty(&password) {
        return None;
    }
    Some((username.unwrap_or_default(), password.unwrap_or_default()))
}

/// A 3.1.1 packet in their words; `None` if it is left out.
fn in_v4(packet: &Packet) -> Option<v4::Packet> {
    Some(match packet {
        Packet::Connect(connect) => {
            if connect.protocol != Protocol::V311 || connect.bridge {
                return None;
            }
            let (username, password) = login(connect)?;
            let login = !(username.is_empty() && password.is_empty());
            v4::Packet::Connect(v4::Connect {
                protocol: mqttbytes::Protocol::V4,
                keep_alive: connect.keep_alive,
                client_id: text(&connect.client_id),
                clean_session: connect.clean_start,
                last_will: connect.will.as_ref().map(|will| v4::LastWill {
                    topic: text(&will.topic),
                    message: will.payload.clone(),
                    qos: qos(will.qos),
                    retain: will.retain,
                }),
                login: login.then_some(v4::Login { username, password }),
            })
        }
        Packet::ConnAck(connack) => {
            use v4::ConnectReturnCode as Code;
            let code = match connack.reason.connack_return_code()? {
                0 => Code::Success,
                1 => Code::RefusedProtocolVersion,
                2 => Code::BadClientId,
                3 => Code::ServiceUnavailable,
                4 => Code::BadUserNamePassword,
                _ => Code::NotAuthorized,
            };
            v4::Packet::ConnAck(v4::ConnAck::new(code, connack.session_present))
        }
        Packet::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: qos(publish.qos),
            retain: publish.retain,
            topic: text(publish.topic.as_ref()?),
            pkid: pkid(publish.packet_id),
            payload: publish.payload.clone(),
        }),
        Packet::PubAck(ack) => v4::Packet::PubAck(v4::PubAck::new(ack.packet_id.get())),
        Packet::PubRec(ack) => v4::Packet::PubRec(v4::PubRec::new(ack.packet_id.get())),
        Packet::PubRel(ack) => v4::Packet::PubRel(v4::PubRel::new(ack.packet_id.get())),
        Packet::PubComp(ack) => v4::Packet::PubComp(v4::PubComp::new(ack.packet_id.get())),
        Packet::Subscribe(subscribe) => {
            let line = |line: &SubscribeFilter| {
                v4::SubscribeFilter::new(text(line.filter.as_str()), qos(line.options.qos))
            };
            let filters = subscribe.filters.iter().map(line).collect();
            v4::Packet::Subscribe(v4::Subscribe { pkid: subscribe.packet_id.get(), filters })
        }
        Packet::SubAck(suback) => {
            let code = |code: &ReasonCode| v4::SubscribeReasonCode::try_from(*code as u8).unwrap();
            let codes = suback.reasons.iter().map(code).collect();
            v4::Packet::SubAck(v4::SubAck::new(suback.packet_id.get(), codes))
        }
        Packet::Unsubscribe(unsubscribe) => v4::Packet::Unsubscribe(v4::Unsubscribe {
            pkid: unsubscribe.packet_id.get(),
            topics: unsubscribe.filters.iter().map(|filter| text(filter.as_str())).collect(),
        }),
        Packet::UnsubAck(unsuback) => v4::Packet::UnsubAck(v4::UnsubAck::new(unsuback.packet_id.get())),
        Packet::PingReq => v4::Packet::PingReq,
        Packet::PingResp => v4::Packet::PingResp,
        Packet::Disconnect(_) => v4::Packet::Disconnect,
        Packet::Auth(_) => return None,
    })
}

fn write_v4(packet: &v4::Packet) -> BytesMut {
    let mut out = BytesMut::new();
    match packet {
        v4::Packet::Connect(packet) => packet.write(&mut out),
        v4::Packet::ConnAck(packet) => packet.write(&mut out),
        v4::Packet::Publish(packet) => packet.write(&mut out),
        v4::Packet::PubAck(packet) => packet.write(&mut out),
        v4::Packet::PubRec(packet) => packet.write(&mut out),
        v4::Packet::PubRel(packet) => packet.write(&mut out),
        v4::Packet::PubComp(packet) => packet.write(&mut out),
        v4::Packet::Subscribe(packet) => packet.write(&mut out),
        v4::Packet::SubAck(packet) => packet.write(&mut out),
        v4::Packet::Unsubscribe(packet) => packet.write(&mut out),
        v4::Packet::UnsubAck(packet) => packet.write(&mut out),
        v4::Packet::PingReq => v4::PingReq.write(&mut out),
        v4::Packet::PingResp => v4::PingResp.write(&mut out),
        v4::Packet::Disconnect => v4::Disconnect.write(&mut out),
    }
    .unwrap();
    out
}

fn will_in_v5(will: &Will) -> v5::LastWill {
    let none = MessageProperties::default();
    let found = will.properties.as_deref().unwrap_or(&none);
    let properties = v5::WillProperties {
        delay_interval: (will.delay > 0).then_some(will.delay),
        payload_format_indicator: found.payload_format.map(u8::from),
        message_expiry_interval: found.message_expiry,
        content_type: optional(found.content_type.as_ref()),
        response_topic: optional(found.response_topic.as_ref().map(TopicName::as_byte_string)),
        correlation_data: found.correlation_data.clone(),
        user_properties: pairs(&found.user),
    };
    v5::LastWill {
        topic: text(&will.topic),
        message: will.payload.clone(),
        qos: qos(will.qos),
        retain: will.retain,
        properties: Some(properties),
    }
}

fn connect_in_v5(connect: &Connect) -> Option<v5::Connect> {
    let found = &connect.properties;
    let bare = *found == ConnectProperties::default();
    let no_will_properties =
        connect.will.as_ref().is_some_and(|will| will.delay == 0 && will.properties.is_none());
    // It writes no length of will properties if there are none.
    if connect.protocol != Protocol::V5 || connect.bridge || no_will_properties {
        return None;
    }
    let (username, password) = login(connect)?;
    let properties = v5::ConnectProperties {
        session_expiry_interval: found.session_expiry,
        receive_maximum: found.receive_maximum.map(Into::into),
        max_packet_size: found.maximum_packet_size.map(Into::into),
        topic_alias_max: found.topic_alias_maximum,
        request_response_info: found.request_response_information.map(u8::from),
        request_problem_info: found.request_problem_information.map(u8::from),
        user_properties: pairs(&found.user),
        authentication_method: optional(found.authentication_method.as_ref()),
        authentication_data: found.authentication_data.clone(),
    };
    let login = !(username.is_empty() && password.is_empty());
    Some(v5::Connect {
        protocol: mqttbytes::Protocol::V5,
        keep_alive: connect.keep_alive,
        client_id: text(&connect.client_id),
        clean_session: connect.clean_start,
        last_will: connect.will.as_ref().map(will_in_v5),
        login: login.then_some(v5::Login { username, password }),
        properties: (!bare).then_some(properties),
    })
}

fn publish_in_v5(publish: &Publish) -> v5::Publish {
    let none = MessageProperties::default();
    let found = publish.properties.as_deref().unwrap_or(&none);
    let properties = v5::PublishProperties {
        payload_format_indicator: found.payload_format.map(u8::from),
        message_expiry_interval: found.message_expiry,
        topic_alias: publish.topic_alias.map(Into::into),
        response_topic: optional(found.response_topic.as_ref().map(TopicName::as_byte_string)),
        correlation_data: found.correlation_data.clone(),
        user_properties: pairs(&found.user),
        subscription_identifiers: Vec::new(),
        content_type: optional(found.content_type.as_ref()),
    };
    let bare = publish.properties.is_none() && publish.topic_alias.is_none();
    v5::Publish {
        dup: publish.dup,
        qos: qos(publish.qos),
        retain: publish.retain,
        topic: publish.topic.as_deref().map(text).unwrap_or_default(),
        pkid: pkid(publish.packet_id),
        properties: (!bare).then_some(properties),
        payload: publish.payload.clone(),
    }
}

fn subscribe_in_v5(subscribe: &Subscribe) -> v5::Subscribe {
    let line = |line: &SubscribeFilter| v5::SubscribeFilter {
        path: text(line.filter.as_str()),
        qos: qos(line.options.qos),
        nolocal: line.options.no_local,
        preserve_retain: line.options.retain_as_published,
        retain_forward_rule: match line.options.retain_handling {
            RetainHandling::Send => v5::RetainForwardRule::OnEverySubscribe,
            RetainHandling::SendIfNew => v5::RetainForwardRule::OnNewSubscribe,
            RetainHandling::DoNotSend => v5::RetainForwardRule::Never,
        },
    };
    let bare = subscribe.subscription_id.is_none() && subscribe.user.is_empty();
    let id = subscribe.subscription_id.map(|id| id.get() as usize);
    let properties = v5::SubscribeProperties { id, user_properties: pairs(&subscribe.user) };
    v5::Subscribe {
        pkid: subscribe.packet_id.get(),
        filters: subscribe.filters.iter().map(line).collect(),
        properties: (!bare).then_some(properties),
    }
}

fn puback_in_v5(ack: &Ack) -> v5::PubAck {
    use v5::PubAckReason as Reason;
    v5::PubAck {
        pkid: ack.packet_id.get(),
        reason: match ack.reason {
            ReasonCode::NoMatchingSubscribers => Reason::NoMatchingSubscribers,
            ReasonCode::UnspecifiedError => Reason::UnspecifiedError,
            ReasonCode::ImplementationSpecificError => Reason::ImplementationSpecificError,
            ReasonCode::NotAuthorized => Reason::NotAuthorized,
            ReasonCode::TopicNameInvalid => Reason::TopicNameInvalid,
            ReasonCode::PacketIdentifierInUse => Reason::PacketIdentifierInUse,
            ReasonCode::QuotaExceeded => Reason::QuotaExceeded,
            ReasonCode::PayloadFormatInvalid => Reason::PayloadFormatInvalid,
            _ => Reason::Success,
        },
        properties: ack.properties.as_deref().map(|found| v5::PubAckProperties {
            reason_string: optional(found.reason_string.as_ref()),
            user_properties: pairs(&found.user),
        }),
    }
}

fn suback_in_v5(suback: &SubAck) -> v5::SubAck {
    let code = |code: &ReasonCode| v5::SubscribeReasonCode::try_from(*code as u8).unwrap();
    v5::SubAck {
        pkid: suback.packet_id.get(),
        return_codes: suback.reasons.iter().map(code).collect(),
        properties: suback.properties.as_deref().map(|found| v5::SubAckProperties {
            reason_string: optional(found.reason_string.as_ref()),
            user_properties: pairs(&found.user),
        }),
    }
}

/// A successful 5.0 CONNACK with any properties; without any it writes no length for them.
fn connack_in_v5(connack: &ConnAck) -> Option<v5::ConnAck> {
    let found = &connack.properties;
    if connack.reason != ReasonCode::Success || *found == ConnAckProperties::default() {
        return None;
    }
    let properties = v5::ConnAckProperties {
        session_expiry_interval: found.session_expiry,
        receive_max: found.receive_maximum.map(Into::into),
        max_qos: found.maximum_qos.map(|qos| qos as u8),
        retain_available: found.retain_available.map(u8::from),
        max_packet_size: found.maximum_packet_size.map(Into::into),
        assigned_client_identifier: optional(found.assigned_client_id.as_ref()),
        topic_alias_max: found.topic_alias_maximum,
        reason_string: optional(found.reason_string.as_ref()),
        user_properties: pairs(&found.user),
        wildcard_subscription_available: found.wildcard_subscriptions.map(u8::from),
        subscription_identifiers_available: found.subscription_identifiers.map(u8::from),
        shared_subscription_available: found.shared_subscriptions.map(u8::from),
        server_keep_alive: found.server_keep_alive,
        response_information: optional(found.response_information.as_ref()),
        server_reference: optional(found.server_reference.as_ref()),
        authentication_method: optional(found.authentication_method.as_ref()),
        authentication_data: found.authentication_data.clone(),
    };
    let mut theirs = v5::ConnAck::new(v5::ConnectReturnCode::Success, connack.session_present);
    theirs.properties = Some(properties);
    Some(theirs)
}

/// A 5.0 packet in their words, and the bytes they write for it; `None` if it is left out.
fn in_v5(packet: &Packet) -> Option<(v5::Packet, BytesMut)> {
    let mut out = BytesMut::new();
    let (theirs, written) = match packet {
        Packet::Connect(connect) => {
            let theirs = connect_in_v5(connect)?;
            let written = theirs.write(&mut out);
            (v5::Packet::Connect(theirs), written)
        }
        Packet::ConnAck(connack) => {
            let theirs = connack_in_v5(connack)?;
            let written = theirs.write(&mut out);
            (v5::Packet::ConnAck(theirs), written)
        }
        Packet::Publish(publish) if publish.subscription_ids.is_empty() => {
            let theirs = publish_in_v5(publish);
            let written = theirs.write(&mut out);
            (v5::Packet::Publish(theirs), written)
        }
        Packet::Subscribe(subscribe) => {
            let theirs = subscribe_in_v5(subscribe);
            let written = theirs.write(&mut out);
            (v5::Packet::Subscribe(theirs), written)
        }
        Packet::PubAck(ack) => {
            let theirs = puback_in_v5(ack);
            let written = theirs.write(&mut out);
            (v5::Packet::PubAck(theirs), written)
        }
        Packet::SubAck(suback) => {
            let theirs = suback_in_v5(suback);
            let written = theirs.write(&mut out);
            (v5::Packet::SubAck(theirs), written)
        }
        _ => return None,
    };
    written.unwrap();
    Some((theirs, out))
}

fn ours(receiver: Role, protocol: Protocol, mut bytes: BytesMut) -> Packet {
    let mut decoder = Decoder::new(receiver, u32::MAX);
    decoder.set_protocol(protocol);
    decoder.decode(&mut bytes).unwrap().unwrap()
}

fn encoded(packet: &Packet, protocol: Protocol) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, protocol, &mut out).unwrap();
    out
}

/// The login fields and the will's payload have bytes that mqttbytes can say, more often than by chance.
fn plain(packet: Packet) -> Packet {
    let Packet::Connect(mut connect) = packet else { return packet };
    connect.bridge = false;
    connect.username = connect.username.filter(|name| !name.is_empty());
    connect.password = connect.username.is_some().then(|| Bytes::from_static("wörd".as_bytes()));
    Packet::Connect(connect)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn the_3_1_1_packets_are_those_of_mqttbytes(
        (receiver, packet) in prop_oneof![Just(Role::Server), Just(Role::Client)]
            .prop_flat_map(|role| (Just(role), arbitrary::packet(role))),
    ) {
        let Some(packet) = as_said_in(Protocol::V311, receiver, &plain(packet)) else { return Ok(()) };
        let Some(theirs) = in_v4(&packet) else { return Ok(()) };
        let bytes = encoded(&packet, Protocol::V311);
        prop_assert_eq!(&bytes, &write_v4(&theirs));
        prop_assert_eq!(v4::read(&mut bytes.clone(), LIMIT).unwrap(), theirs);
        prop_assert_eq!(ours(receiver, Protocol::V311, bytes), packet);
    }

    #[test]
    fn the_5_0_packets_are_those_of_mqttbytes(
        (receiver, packet) in prop_oneof![Just(Role::Server), Just(Role::Client)]
            .prop_flat_map(|role| (Just(role), arbitrary::packet(role))),
    ) {
        let Some(packet) = as_said_in(Protocol::V5, receiver, &plain(packet)) else { return Ok(()) };
        let Some((theirs, written)) = in_v5(&packet) else { return Ok(()) };
        prop_assert_eq!(v5::read(&mut encoded(&packet, Protocol::V5), LIMIT).unwrap(), theirs);
        // The order of properties is free: their bytes may differ, what they say may not.
        prop_assert_eq!(ours(receiver, Protocol::V5, written), packet);
    }
}
