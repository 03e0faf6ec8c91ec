//! What decoding and encoding allocate: nothing on the way of a plain PUBLISH, and never by a length that a
//! stranger claims.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod arbitrary;
mod cases;

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use zwerm_wire::*;

/// Two packets in a buffer whose first one is already taken: only then the buffer is a shared one.
fn decodes_second(protocol: Protocol, packet: &Packet) -> u64 {
    let mut buf = BytesMut::new();
    encode(&Packet::PingReq, protocol, &mut buf).unwrap();
    encode(packet, protocol, &mut buf).unwrap();
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    decoder.set_protocol(protocol);
    assert_eq!(decoder.decode(&mut buf), Ok(Some(Packet::PingReq)));
    let mut decoded = None;
    let measured = measure(|| decoded = decoder.decode(&mut buf).unwrap());
    assert_eq!(decoded.as_ref(), Some(packet));
    measured.count_total
}

fn message() -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        packet_id: PacketId::new(7),
        topic: Some(TopicName::new("plant/4/line/2/temperature").unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(vec![b'x'; 256]),
    }
}

#[test]
fn a_publish_without_properties_is_decoded_without_an_allocation() {
    for protocol in [Protocol::V31, Protocol::V311, Protocol::V5] {
        assert_eq!(decodes_second(protocol, &Packet::Publish(message())), 0, "{protocol:?}");
    }
}

#[test]
fn a_publish_with_properties_is_decoded_with_one_allocation() {
    let properties = MessageProperties {
        message_expiry: Some(1),
        content_type: Some("text/plain".into()),
        response_topic: Some(TopicName::new("r").unwrap()),
        ..Default::default()
    };
    let publish = Publish { properties: Some(Box::new(properties)), ..message() };
    assert_eq!(decodes_second(Protocol::V5, &Packet::Publish(publish)), 1);
}

#[test]
fn a_frame_is_one_allocation_and_its_copies_are_none() {
    let Publish { topic, payload, .. } = message();
    let topic = topic.unwrap();
    let mut frame = None;
    let encoded = measure(|| {
        frame = Some(PublishFrame::encode(Protocol::V5, &topic, None, &payload, true).unwrap());
    });
    assert_eq!(encoded.count_total, 1);
    let frame = frame.unwrap();
    let mut out = BytesMut::with_capacity(10 * frame.len());
    let written = measure(|| {
        for _ in 0..10 {
            let id = PacketId::new(1);
            assert_eq!(frame.write_to(&mut out, false, QoS::AtLeastOnce, false, id), None);
        }
    });
    assert_eq!(written.count_total, 0);
}

/// A user property of five bytes becomes two strings of four words each, and a list doubles when it grows.
const WORST_FACTOR: u64 = 48;

/// Packets of fixed size.
const FIXED: u64 = 2_048;

fn costs_in_proportion(mut decoder: Decoder, bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut buf = BytesMut::from(bytes);
    let measured = measure(|| while let Ok(Some(_)) = decoder.decode(&mut buf) {});
    let limit = FIXED + WORST_FACTOR * bytes.len() as u64;
    prop_assert!(measured.bytes_max <= limit, "{} bytes for {}", measured.bytes_max, bytes.len());
    Ok(())
}

#[test]
fn a_claimed_length_allocates_nothing() {
    for case in cases::all().iter().filter(|case| case.verdict == cases::Verdict::NeedsMore) {
        let mut buf = BytesMut::from(&*case.bytes);
        let mut decoder = case.decoder();
        let measured = measure(|| assert_eq!(decoder.decode(&mut buf), Ok(None)));
        assert_eq!(measured.count_total, 0, "line {}", case.line);
    }
}

#[test]
fn many_small_fields_cost_in_proportion_to_their_bytes() {
    let many = [0x26, 0, 0, 0, 0].repeat(100_000);
    let length = [0xa0, 0xc2, 0x1e];
    let body = [&[0, 1][..], &length, &many, &[0, 1, b'a', 0]].concat();
    let mut subscribe = vec![0x82, 0xa9, 0xc2, 0x1e];
    subscribe.extend_from_slice(&body);
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    decoder.set_protocol(Protocol::V5);
    let mut check = decoder.clone();
    let Packet::Subscribe(read) = check.decode(&mut BytesMut::from(&*subscribe)).unwrap().unwrap() else {
        unreachable!("0x82 is SUBSCRIBE")
    };
    assert_eq!(read.user.len(), 100_000);
    costs_in_proportion(decoder, &subscribe).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_bytes_cost_in_proportion(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        protocol in arbitrary::protocol(),
    ) {
        let mut decoder = Decoder::new(Role::Server, u32::MAX);
        decoder.set_protocol(protocol);
        costs_in_proportion(decoder, &bytes)?;
        costs_in_proportion(Decoder::new(Role::Server, u32::MAX), &bytes)?;
    }
}
