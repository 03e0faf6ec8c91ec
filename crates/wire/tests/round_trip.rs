//! Whatever is written is read back, in all versions and both directions, in any pieces.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod arbitrary;
mod cases;

use arbitrary::as_said_in;
use bytes::{Bytes, BytesMut};
use cases::Verdict;
use proptest::prelude::*;
use zwerm_wire::*;

fn decoder(role: Role, protocol: Protocol) -> Decoder {
    let mut decoder = Decoder::new(role, u32::MAX);
    decoder.set_protocol(protocol);
    decoder
}

fn encoded(packet: &Packet, protocol: Protocol) -> Result<BytesMut, EncodeError> {
    let mut out = BytesMut::new();
    encode(packet, protocol, &mut out).map(|()| out)
}

fn receiver() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

fn packets() -> impl Strategy<Value = (Role, Protocol, Vec<Packet>)> {
    (receiver(), arbitrary::protocol()).prop_flat_map(|(receiver, protocol)| {
        let sayable = arbitrary::packet(receiver)
            .prop_filter_map("cannot be said", move |packet| as_said_in(protocol, receiver, &packet));
        (Just(receiver), Just(protocol), proptest::collection::vec(sayable, 1..8))
    })
}

/// Everything that comes out when the pieces go in one after the other; ends with the first error.
fn decode_in_pieces<'a>(
    mut decoder: Decoder,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Option<DecodeError>) {
    let mut buf = BytesMut::new();
    let mut packets = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_a_version_can_say_is_read_back_and_the_rest_is_refused(
        (receiver, packet) in receiver().prop_flat_map(|role| (Just(role), arbitrary::packet(role))),
        protocol in arbitrary::protocol(),
    ) {
        let Some(said) = as_said_in(protocol, receiver, &packet) else {
            let from_3x_server = matches!(packet, Packet::Disconnect(_)) && receiver == Role::Client;
            prop_assert!(encoded(&packet, protocol).is_err() || from_3x_server);
            return Ok(());
        };
        let mut bytes = encoded(&packet, protocol).unwrap();
        prop_assert_eq!(bytes.len(), encoded_len(&packet, protocol).unwrap());
        let read = decoder(receiver, protocol).decode(&mut bytes);
        prop_assert_eq!(read, Ok(Some(said)));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn any_split_of_a_stream_gives_the_packets_of_the_whole(
        (receiver, protocol, packets) in packets(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut stream = BytesMut::new();
        for packet in &packets {
            encode(packet, protocol, &mut stream).unwrap();
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
        prop_assert_eq!(decode_in_pieces(decoder(receiver, protocol), pieces), (packets, None));
    }

    #[test]
    fn a_packet_over_the_limit_loses_only_what_explains_it(
        (receiver, packet) in receiver().prop_flat_map(|role| (Just(role), arbitrary::packet(role))),
        below in 0usize..60,
    ) {
        let Some(packet) = as_said_in(Protocol::V5, receiver, &packet) else { return Ok(()) };
        let size = encoded_len(&packet, Protocol::V5).unwrap();
        let limit = size.saturating_sub(below);
        let mut out = BytesMut::from(&b"before"[..]);
        match encode_within(&packet, Protocol::V5, u32::try_from(limit).unwrap(), &mut out) {
            Ok(()) => {
                let mut bytes = out.split_off(6);
                prop_assert!(bytes.len() <= limit);
                let read = decoder(receiver, Protocol::V5).decode(&mut bytes).unwrap().unwrap();
                prop_assert_eq!(read.packet_type(), packet.packet_type());
                prop_assert!(below > 0 || read == packet);
                prop_assert_eq!(explained_as(&packet, &read), packet);
            }
            Err(EncodeError::PacketTooLarge { size: least, limit: said }) => {
                prop_assert!(least > limit && said == limit);
            }
            Err(other) => prop_assert!(encoded(&packet, Protocol::V5) == Err(other)),
        }
        prop_assert_eq!(&out[..6], b"before");
    }
}

/// `lean` with the user properties and the reason string of `full` where they may be left out.
fn explained_as(full: &Packet, lean: &Packet) -> Packet {
    let mut lean = lean.clone();
    match (full, &mut lean) {
        (Packet::ConnAck(full), Packet::ConnAck(lean)) => {
            lean.properties.user.clone_from(&full.properties.user);
            lean.properties.reason_string.clone_from(&full.properties.reason_string);
        }
        (Packet::Disconnect(full), Packet::Disconnect(lean)) => {
            lean.user.clone_from(&full.user);
            lean.reason_string.clone_from(&full.reason_string);
        }
        (Packet::Auth(full), Packet::Auth(lean)) => {
            lean.user.clone_from(&full.user);
            lean.reason_string.clone_from(&full.reason_string);
        }
        (Packet::PubAck(full), Packet::PubAck(lean))
        | (Packet::PubRec(full), Packet::PubRec(lean))
        | (Packet::PubRel(full), Packet::PubRel(lean))
        | (Packet::PubComp(full), Packet::PubComp(lean)) => lean.properties.clone_from(&full.properties),
        (Packet::SubAck(full), Packet::SubAck(lean)) | (Packet::UnsubAck(full), Packet::UnsubAck(lean)) => {
            lean.properties.clone_from(&full.properties);
        }
        _ => {}
    }
    lean
}

#[test]
fn a_packet_that_comes_byte_by_byte_is_judged_as_the_whole() {
    for case in cases::all() {
        let whole = decode_in_pieces(case.decoder(), std::iter::once(&*case.bytes));
        let bytewise = decode_in_pieces(case.decoder(), case.bytes.chunks(1));
        assert_eq!(bytewise, whole, "line {}", case.line);
    }
}

#[test]
fn the_reason_string_outlives_the_user_properties() {
    let user = vec![("name".into(), "value".into())];
    let properties = Some(Box::new(ReasonProperties { reason_string: Some("why".into()), user }));
    let ack = Ack { packet_id: PacketId::MIN, reason: ReasonCode::QuotaExceeded, properties };
    let mut out = BytesMut::new();
    encode_within(&Packet::PubAck(ack), Protocol::V5, 12, &mut out).unwrap();
    assert_eq!(&out[..], b"\x40\x0a\x00\x01\x97\x06\x1f\x00\x03why");
}

#[test]
fn a_message_is_never_altered_to_fit() {
    let user = vec![("name".into(), "value".into())];
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: Some(TopicName::new("t").unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: Some(Box::new(MessageProperties { user, ..Default::default() })),
        payload: Bytes::new(),
    };
    let mut out = BytesMut::new();
    let result = encode_within(&Packet::Publish(publish), Protocol::V5, 10, &mut out);
    assert_eq!(result, Err(EncodeError::PacketTooLarge { size: 20, limit: 10 }));
    assert!(out.is_empty());
}

#[test]
fn lengths_are_never_cut() {
    let long = "x".repeat(65_536);
    let mut disconnect = Disconnect::because(ReasonCode::Success);
    disconnect.reason_string = Some(long.clone().into());
    let mut out = BytesMut::from(&b"before"[..]);
    let result = encode(&Packet::Disconnect(disconnect), Protocol::V5, &mut out);
    assert_eq!(result, Err(EncodeError::FieldTooLong { field: "reason string", len: 65_536 }));
    assert_eq!(&out[..], b"before");
    assert_eq!(TopicName::new(long), Err(TopicError::TooLong));
}

#[test]
fn the_table_has_packets_of_every_verdict() {
    let cases = cases::all();
    for verdict in [Verdict::Accepted, Verdict::NeedsMore] {
        assert!(cases.iter().any(|case| case.verdict == verdict));
    }
    for code in [0x81, 0x82, 0x84, 0x8f, 0x90, 0x94, 0x95] {
        assert!(cases.iter().any(|case| case.verdict == Verdict::Refused(code)), "{code:02x}");
    }
}

#[test]
fn an_illegal_packet_is_not_written() {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: Some(TopicName::new("t").unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::new(),
    };
    let id = Some(PacketId::MIN);
    let ack = |reason| Ack { packet_id: PacketId::MIN, reason, properties: None };
    let mut connack =
        ConnAck { session_present: false, reason: ReasonCode::Success, properties: Default::default() };
    connack.properties.maximum_qos = Some(QoS::ExactlyOnce);
    for packet in [
        Packet::Publish(Publish { qos: QoS::AtLeastOnce, ..publish.clone() }),
        Packet::Publish(Publish { packet_id: id, ..publish.clone() }),
        Packet::Publish(Publish { dup: true, ..publish.clone() }),
        Packet::Publish(Publish { topic: None, ..publish.clone() }),
        Packet::Publish(Publish { subscription_ids: vec![std::num::NonZeroU32::MAX], ..publish }),
        Packet::PubAck(ack(ReasonCode::PacketIdentifierNotFound)),
        Packet::PubRel(ack(ReasonCode::QuotaExceeded)),
        Packet::ConnAck(Box::new(connack)),
        Packet::SubAck(SubAck { packet_id: PacketId::MIN, reasons: Vec::new(), properties: None }),
        Packet::Unsubscribe(Unsubscribe { packet_id: PacketId::MIN, user: Vec::new(), filters: Vec::new() }),
        Packet::Disconnect(Disconnect::because(ReasonCode::ClientIdentifierNotValid)),
        Packet::Disconnect(Disconnect {
            reason_string: Some("\0".into()),
            ..Disconnect::because(ReasonCode::Success)
        }),
    ] {
        let mut out = BytesMut::new();
        assert!(encode(&packet, Protocol::V5, &mut out).is_err(), "{packet:?}");
        assert!(out.is_empty());
    }
}
