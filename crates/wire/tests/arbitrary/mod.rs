//! Any legal packet, and what of it each protocol version can say.
//!
//! Start at [`packet`] and [`as_said_in`].

#![allow(clippy::unwrap_used, reason = "a strategy that makes illegal values must fail its test")]
#![allow(dead_code, reason = "each test binary uses its own part of the strategies")]

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use zwerm_wire::*;

pub(crate) fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::V31), Just(Protocol::V311), Just(Protocol::V5)]
}

/// Characters of one to four bytes, without those that end a level.
fn level() -> impl Strategy<Value = String> {
    vec(prop_oneof![3 => proptest::char::range('a', 'z'), 1 => any::<char>()], 0..6)
        .prop_map(|chars| chars.into_iter().filter(|char| !matches!(char, '\0' | '/' | '+' | '#')).collect())
}

fn text() -> impl Strategy<Value = ByteString> {
    vec(any::<char>(), 0..10)
        .prop_map(|chars| chars.into_iter().filter(|char| *char != '\0').collect::<String>().into())
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

pub(crate) fn topic_name() -> impl Strategy<Value = TopicName> {
    vec(level(), 1..5).prop_map(|levels| {
        let text = levels.join("/");
        TopicName::new(if text.is_empty() { "/".to_owned() } else { text }).unwrap()
    })
}

pub(crate) fn topic_filter() -> impl Strategy<Value = TopicFilter> {
    let levels = vec(prop_oneof![4 => level(), 1 => Just("+".to_owned())], 0..5);
    let share = prop_oneof![4 => Just(None), 1 => level().prop_map(Some)];
    (levels, any::<bool>(), share).prop_map(|(mut levels, multi, share)| {
        if multi
            || levels.iter().all(String::is_empty)
            || levels.first().is_some_and(|first| ["$share", "$exclusive"].contains(&first.as_str()))
        {
            levels.push("#".to_owned());
        }
        let plain = levels.join("/");
        match share.filter(|name| !name.is_empty()) {
            Some(name) => TopicFilter::new(format!("$share/{name}/{plain}")).unwrap(),
            None => TopicFilter::new(plain).unwrap(),
        }
    })
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>()
}

fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1u32..300, 1..=MAX_REMAINING_LENGTH].prop_map(|id| NonZeroU32::new(id).unwrap())
}

fn user() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let listed: Vec<_> = ReasonCode::ALL.iter().copied().filter(|code| code.is_allowed_in(packet)).collect();
    proptest::sample::select(listed)
}

fn message_properties() -> impl Strategy<Value = Option<Box<MessageProperties>>> {
    let fields = (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic_name()),
        option::of(binary()),
        user(),
    );
    fields.prop_map(
        |(payload_format, message_expiry, content_type, response_topic, correlation_data, user)| {
            let found = MessageProperties {
                payload_format,
                message_expiry,
                content_type,
                response_topic,
                correlation_data,
                user,
            };
            (found != MessageProperties::default()).then(|| Box::new(found))
        },
    )
}

fn reason_properties() -> impl Strategy<Value = Option<Box<ReasonProperties>>> {
    (option::of(text()), user()).prop_map(|(reason_string, user)| {
        let found = ReasonProperties { reason_string, user };
        (found != ReasonProperties::default()).then(|| Box::new(found))
    })
}

fn will() -> impl Strategy<Value = Will> {
    (topic_name(), binary(), qos(), any::<bool>(), any::<u32>(), message_properties()).prop_map(
        |(topic, payload, qos, retain, delay, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay,
            properties,
        },
    )
}

/// Authentication data comes only with a method.
fn authentication() -> impl Strategy<Value = (Option<ByteString>, Option<Bytes>)> {
    option::of((text(), option::of(binary())))
        .prop_map(|pair| pair.map_or((None, None), |(method, data)| (Some(method), data)))
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    let limits = (
        option::of(any::<u32>()),
        option::of(any::<NonZeroU16>()),
        option::of(any::<NonZeroU32>()),
        option::of(any::<u16>()),
    );
    let wishes = (option::of(any::<bool>()), option::of(any::<bool>()));
    (limits, wishes, user(), authentication()).prop_map(|(limits, wishes, user, authentication)| {
        ConnectProperties {
            session_expiry: limits.0,
            receive_maximum: limits.1,
            maximum_packet_size: limits.2,
            topic_alias_maximum: limits.3,
            request_response_information: wishes.0,
            request_problem_information: wishes.1,
            user,
            authentication_method: authentication.0,
            authentication_data: authentication.1,
        }
    })
}

fn connect() -> impl Strategy<Value = Packet> {
    let head = (protocol(), any::<bool>(), any::<bool>(), any::<u16>(), text());
    let login = (option::of(text()), option::of(binary()));
    (head, option::of(will()), login, connect_properties()).prop_map(|(head, will, login, properties)| {
        let (protocol, bridge, clean_start, keep_alive, client_id) = head;
        let (username, password) = login;
        let connect = Connect {
            protocol,
            bridge,
            clean_start,
            keep_alive,
            client_id,
            will,
            username,
            password,
            properties,
        };
        Packet::Connect(Box::new(connect))
    })
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties> {
    let limits = (
        option::of(any::<u32>()),
        option::of(any::<NonZeroU16>()),
        option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
        option::of(any::<NonZeroU32>()),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
    );
    let flags = proptest::array::uniform4(option::of(any::<bool>()));
    let texts = proptest::array::uniform4(option::of(text()));
    (limits, flags, texts, user(), authentication()).prop_map(
        |(limits, flags, texts, user, authentication)| {
            let [retain_available, wildcard_subscriptions, subscription_identifiers, shared_subscriptions] =
                flags;
            let [assigned_client_id, reason_string, response_information, server_reference] = texts;
            ConnAckProperties {
                session_expiry: limits.0,
                receive_maximum: limits.1,
                maximum_qos: limits.2,
                retain_available,
                maximum_packet_size: limits.3,
                assigned_client_id,
                topic_alias_maximum: limits.4,
                reason_string,
                user,
                wildcard_subscriptions,
                subscription_identifiers,
                shared_subscriptions,
                server_keep_alive: limits.5,
                response_information,
                server_reference,
                authentication_method: authentication.0,
                authentication_data: authentication.1,
            }
        },
    )
}

fn connack() -> impl Strategy<Value = Packet> {
    (any::<bool>(), reason(PacketType::ConnAck), connack_properties()).prop_map(
        |(present, reason, properties)| {
            let session_present = present && reason == ReasonCode::Success;
            Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))
        },
    )
}

/// Subscription identifiers only from a server.
pub(crate) fn publish(receiver: Role) -> impl Strategy<Value = Publish> {
    let ids = match receiver {
        Role::Server => vec(subscription_id(), 0..1),
        Role::Client => vec(subscription_id(), 0..4),
    };
    let flags = (any::<bool>(), qos(), any::<bool>(), packet_id());
    let topic = (topic_name(), any::<bool>(), option::of(any::<NonZeroU16>()));
    (flags, topic, ids, message_properties(), binary()).prop_map(
        |((dup, qos, retain, id), (topic, aliased, topic_alias), subscription_ids, properties, payload)| {
            let acknowledged = qos != QoS::AtMostOnce;
            Publish {
                dup: dup && acknowledged,
                qos,
                retain,
                packet_id: acknowledged.then_some(id),
                topic: if aliased && topic_alias.is_some() { None } else { Some(topic) },
                topic_alias,
                subscription_ids,
                properties,
                payload,
            }
        },
    )
}

fn ack(packet: PacketType) -> impl Strategy<Value = Ack> {
    (packet_id(), reason(packet), reason_properties()).prop_map(|(packet_id, reason, properties)| Ack {
        packet_id,
        reason,
        properties,
    })
}

fn subscribe() -> impl Strategy<Value = Packet> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    let line = (topic_filter(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let no_local = no_local && !filter.is_shared();
            let options = SubscribeOptions { qos, no_local, retain_as_published, retain_handling };
            SubscribeFilter { filter, options }
        },
    );
    (packet_id(), option::of(subscription_id()), user(), vec(line, 1..4)).prop_map(
        |(packet_id, subscription_id, user, filters)| {
            Packet::Subscribe(Subscribe { packet_id, subscription_id, user, filters })
        },
    )
}

fn unsubscribe() -> impl Strategy<Value = Packet> {
    (packet_id(), user(), vec(topic_filter(), 1..4))
        .prop_map(|(packet_id, user, filters)| Packet::Unsubscribe(Unsubscribe { packet_id, user, filters }))
}

fn suback(packet: PacketType) -> impl Strategy<Value = SubAck> {
    (packet_id(), vec(reason(packet), 1..4), reason_properties())
        .prop_map(|(packet_id, reasons, properties)| SubAck { packet_id, reasons, properties })
}

fn disconnect(receiver: Role) -> impl Strategy<Value = Packet> {
    (reason(PacketType::Disconnect), option::of(any::<u32>()), option::of(text()), user(), option::of(text()))
        .prop_map(move |(reason, session_expiry, reason_string, user, server_reference)| {
            let (session_expiry, server_reference) = match receiver {
                Role::Server => (session_expiry, None),
                Role::Client => (None, server_reference),
            };
            Packet::Disconnect(Disconnect { reason, session_expiry, reason_string, user, server_reference })
        })
}

fn auth() -> impl Strategy<Value = Packet> {
    let full = (reason(PacketType::Auth), text(), option::of(binary()), option::of(text()), user()).prop_map(
        |(reason, method, data, reason_string, user)| Auth {
            reason,
            method: Some(method),
            data,
            reason_string,
            user,
        },
    );
    let bare =
        Auth { reason: ReasonCode::Success, method: None, data: None, reason_string: None, user: Vec::new() };
    prop_oneof![4 => full, 1 => Just(bare)].prop_map(Packet::Auth)
}

/// Any packet that `receiver` may be sent in 5.0.
pub(crate) fn packet(receiver: Role) -> BoxedStrategy<Packet> {
    let both = prop_oneof![
        4 => publish(receiver).prop_map(Packet::Publish),
        1 => ack(PacketType::PubAck).prop_map(Packet::PubAck),
        1 => ack(PacketType::PubRec).prop_map(Packet::PubRec),
        1 => ack(PacketType::PubRel).prop_map(Packet::PubRel),
        1 => ack(PacketType::PubComp).prop_map(Packet::PubComp),
        1 => disconnect(receiver),
        1 => auth(),
    ];
    match receiver {
        Role::Server => {
            prop_oneof![4 => both, 2 => connect(), 1 => subscribe(), 1 => unsubscribe(), 1 => Just(Packet::PingReq)]
                .boxed()
        }
        Role::Client => prop_oneof![
            4 => both,
            2 => connack(),
            1 => suback(PacketType::SubAck).prop_map(Packet::SubAck),
            1 => suback(PacketType::UnsubAck).prop_map(Packet::UnsubAck),
            1 => Just(Packet::PingResp),
        ]
        .boxed(),
    }
}

/// What is left of a packet when a version has said it; `None` if it cannot say it at all.
pub(crate) fn as_said_in(protocol: Protocol, receiver: Role, packet: &Packet) -> Option<Packet> {
    if let Packet::Connect(connect) = packet {
        return connect_as_said(connect);
    }
    if protocol == Protocol::V5 {
        return Some(packet.clone());
    }
    let bare = |ack: &Ack| Ack::success(ack.packet_id);
    Some(match packet.clone() {
        Packet::Publish(publish) => {
            publish.topic.as_ref()?;
            Packet::Publish(Publish {
                topic_alias: None,
                subscription_ids: Vec::new(),
                properties: None,
                ..publish
            })
        }
        Packet::ConnAck(connack) => {
            let reason = match connack.reason.connack_return_code()? {
                0 => ReasonCode::Success,
                1 => ReasonCode::UnsupportedProtocolVersion,
                2 => ReasonCode::ClientIdentifierNotValid,
                3 => ReasonCode::ServerUnavailable,
                4 => ReasonCode::BadUserNameOrPassword,
                _ => ReasonCode::NotAuthorized,
            };
            let session_present = connack.session_present && protocol == Protocol::V311;
            Packet::ConnAck(Box::new(ConnAck {
                session_present,
                reason,
                properties: ConnAckProperties::default(),
            }))
        }
        Packet::PubAck(ack) => Packet::PubAck(bare(&ack)),
        Packet::PubRec(ack) => Packet::PubRec(bare(&ack)),
        Packet::PubRel(ack) => Packet::PubRel(bare(&ack)),
        Packet::PubComp(ack) => Packet::PubComp(bare(&ack)),
        Packet::Subscribe(subscribe) => Packet::Subscribe(subscribe_as_said(subscribe)),
        Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe { user: Vec::new(), ..unsubscribe })
        }
        Packet::SubAck(suback) => Packet::SubAck(suback_as_said(suback)),
        Packet::UnsubAck(unsuback) => {
            Packet::UnsubAck(SubAck { reasons: Vec::new(), properties: None, ..unsuback })
        }
        Packet::Disconnect(disconnect) => {
            let can = disconnect.reason == ReasonCode::Success && receiver == Role::Server;
            Packet::Disconnect(can.then(|| Disconnect::because(ReasonCode::Success))?)
        }
        Packet::Auth(_) => return None,
        other => other,
    })
}

fn connect_as_said(connect: &Connect) -> Option<Packet> {
    let mut said = connect.clone();
    if said.protocol != Protocol::V5 {
        said.properties = ConnectProperties::default();
        if said.password.is_some() {
            said.username.as_ref()?;
        }
        if let Some(will) = &mut said.will {
            will.delay = 0;
            will.properties = None;
        }
    }
    Some(Packet::Connect(Box::new(said)))
}

fn subscribe_as_said(mut subscribe: Subscribe) -> Subscribe {
    for line in &mut subscribe.filters {
        line.options = SubscribeOptions { qos: line.options.qos, ..SubscribeOptions::default() };
    }
    Subscribe { subscription_id: None, user: Vec::new(), ..subscribe }
}

fn suback_as_said(mut suback: SubAck) -> SubAck {
    for reason in &mut suback.reasons {
        if reason.is_error() {
            *reason = ReasonCode::UnspecifiedError;
        }
    }
    SubAck { properties: None, ..suback }
}
