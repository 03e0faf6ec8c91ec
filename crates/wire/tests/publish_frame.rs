//! A frame's bytes are those that `encode` would have written for each receiver.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use zwerm_wire::{
    Decoder, EncodeError, LARGE_PAYLOAD, MessageProperties, Packet, PacketId, Protocol, Publish,
    PublishFrame, QoS, Role, SolePublish, TopicName, encode,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::V31, Protocol::V311, Protocol::V5];

fn message(payload: usize) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: Some(TopicName::new("plant/4/temperature").unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(vec![b'x'; payload]),
    }
}

fn with_properties(mut publish: Publish) -> Publish {
    publish.properties = Some(Box::new(MessageProperties {
        payload_format: Some(true),
        message_expiry: Some(60),
        content_type: Some(ByteString::from_static("text/plain")),
        response_topic: Some(TopicName::new("answers/1").unwrap()),
        correlation_data: Some(Bytes::from_static(&[0, 255])),
        user: vec![(ByteString::from_static("a"), ByteString::from_static("b")); 2],
    }));
    publish
}

fn frame_of(publish: &Publish, protocol: Protocol, with_id: bool) -> PublishFrame {
    let topic = publish.topic.as_ref().unwrap();
    PublishFrame::encode(protocol, topic, publish.properties.as_deref(), &publish.payload, with_id).unwrap()
}

/// Everything the receiver would be sent, behind something that is already in the buffer.
fn written(frame: &PublishFrame, publish: &Publish) -> Vec<u8> {
    let mut out = BytesMut::from(&b"before"[..]);
    let tail = frame.write_to(&mut out, publish.dup, publish.qos, publish.retain, publish.packet_id);
    let mut bytes = out.strip_prefix(b"before").unwrap().to_vec();
    bytes.extend_from_slice(&tail.unwrap_or_default());
    bytes
}

fn measured(publish: &Publish, protocol: Protocol, with_id: bool) -> SolePublish<'_> {
    let topic = publish.topic.as_ref().unwrap();
    let properties = publish.properties.as_deref();
    SolePublish::measure(protocol, topic, properties, &publish.payload, with_id).unwrap()
}

/// The same for a message that has one receiver.
fn written_once(message: &Publish, receiver: &Publish, protocol: Protocol, with_id: bool) -> Vec<u8> {
    let mut out = BytesMut::from(&b"before"[..]);
    let sole = measured(message, protocol, with_id);
    let Publish { dup, qos, retain, packet_id, .. } = *receiver;
    let tail = sole.write_to(&mut out, dup, qos, retain, packet_id).unwrap();
    let mut bytes = out.strip_prefix(b"before").unwrap().to_vec();
    bytes.extend_from_slice(&tail.unwrap_or_default());
    bytes
}

fn encoded(publish: &Publish, protocol: Protocol) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(&Packet::Publish(publish.clone()), protocol, &mut out).unwrap();
    out.to_vec()
}

fn receivers(publish: &Publish) -> Vec<Publish> {
    let mut receivers = Vec::new();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for (dup, retain) in [(false, false), (false, true), (true, false), (true, true)] {
            let acknowledged = qos != QoS::AtMostOnce;
            let packet_id = acknowledged.then_some(PacketId::new(0x1234).unwrap());
            receivers.push(Publish { dup: dup && acknowledged, qos, retain, packet_id, ..publish.clone() });
        }
    }
    receivers
}

#[test]
fn every_receiver_gets_the_bytes_that_encode_writes() {
    for size in [0, 1, 100, 128, LARGE_PAYLOAD, LARGE_PAYLOAD + 1, 20_000] {
        for message in [message(size), with_properties(message(size))] {
            for protocol in PROTOCOLS {
                for receiver in receivers(&message) {
                    for with_id in [true, false] {
                        let frame = frame_of(&message, protocol, with_id);
                        assert_eq!(frame.has_id(), with_id);
                        let bytes = written(&frame, &receiver);
                        assert_eq!(bytes, encoded(&receiver, protocol), "{size} {protocol:?} {with_id}");
                        assert_eq!(bytes, written_once(&message, &receiver, protocol, with_id));
                        if with_id == (receiver.qos != QoS::AtMostOnce) {
                            let sole = measured(&message, protocol, with_id);
                            assert_eq!([frame.len(), sole.len()], [bytes.len(); 2]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_packet_without_an_identifier_goes_at_qos_0_whatever_was_asked_for() {
    let message = message(10);
    let frame = frame_of(&message, Protocol::V311, true);
    let asked = Publish { dup: true, qos: QoS::ExactlyOnce, retain: true, ..message.clone() };
    let sent = Publish { retain: true, ..message };
    assert_eq!(written(&frame, &asked), encoded(&sent, Protocol::V311));
}

#[test]
fn a_large_payload_is_handed_back_and_not_copied() {
    let message = message(LARGE_PAYLOAD + 1);
    let frame = frame_of(&message, Protocol::V5, false);
    let mut out = BytesMut::new();
    let tail = frame.write_to(&mut out, false, QoS::AtMostOnce, false, None).unwrap();
    assert_eq!(tail.as_ptr(), message.payload.as_ptr());
    assert!(out.len() < 64);
}

#[test]
fn a_decoded_frame_is_the_message() {
    let message = with_properties(message(300));
    let bytes = written(&frame_of(&message, Protocol::V5, false), &message);
    let mut decoder = Decoder::new(Role::Client, 1 << 20);
    decoder.set_protocol(Protocol::V5);
    let decoded = decoder.decode(&mut BytesMut::from(&*bytes)).unwrap();
    assert_eq!(decoded, Some(Packet::Publish(message)));
}

#[test]
fn a_property_that_does_not_fit_its_length_is_an_error() {
    let topic = TopicName::new("t").unwrap();
    let properties =
        MessageProperties { correlation_data: Some(Bytes::from(vec![0; 65_536])), ..Default::default() };
    let result = PublishFrame::encode(Protocol::V5, &topic, Some(&properties), &Bytes::new(), true);
    assert_eq!(result.err(), Some(EncodeError::FieldTooLong { field: "correlation data", len: 65_536 }));
}
