//! Every line of `conformance.tsv`: what is accepted, what is refused, and with which reason code.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod cases;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use cases::{Case, Verdict};
use zwerm_wire::{
    CONNECT_LIMIT, Connect, ConnectProperties, DecodeError, Decoder, Packet, Protocol, Role, encode,
};

fn verdict_of(case: &Case) -> (Verdict, String) {
    let mut buf = BytesMut::from(&*case.bytes);
    match case.decoder().decode(&mut buf) {
        Ok(Some(packet)) => {
            assert!(buf.is_empty(), "line {}: {} bytes are left", case.line, buf.len());
            (Verdict::Accepted, format!("{packet:?}"))
        }
        Ok(None) => (Verdict::NeedsMore, String::new()),
        Err(error) => (Verdict::Refused(error.reason() as u8), error.to_string()),
    }
}

#[test]
fn the_decoder_says_of_each_packet_what_the_table_says() {
    let mut wrong = Vec::new();
    let cases = cases::all();
    for case in &cases {
        let (found, saying) = verdict_of(case);
        if found != case.verdict {
            wrong.push(format!(
                "line {}: {}: {:02x?}: {found:?} ({saying})",
                case.line, case.what, case.bytes
            ));
        }
    }
    assert!(cases.len() > 500, "only {} cases were read", cases.len());
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn whatever_the_table_accepts_is_written_back_as_the_same_packet() {
    for case in cases::all().iter().filter(|case| case.verdict == Verdict::Accepted) {
        let mut decoder = case.decoder();
        let packet = decoder.decode(&mut BytesMut::from(&*case.bytes)).unwrap().unwrap();
        let protocol = match &packet {
            Packet::Connect(connect) => connect.protocol,
            _ => case.protocol.unwrap(),
        };
        let mut out = BytesMut::new();
        encode(&packet, protocol, &mut out).unwrap();
        let again = case.decoder().decode(&mut out).unwrap();
        assert_eq!(again, Some(packet), "line {}", case.line);
    }
}

#[test]
fn an_error_says_in_which_packet_and_where() {
    let mut decoder = Decoder::new(Role::Server, 1024);
    decoder.set_protocol(Protocol::V311);
    let error = decoder.decode(&mut BytesMut::from(&b"\x82\x06\x00\x01\x00\x02a#\x00"[..])).unwrap_err();
    let expected = "SUBSCRIBE: topic filter has a wildcard that does not fill its level, or # before the end";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn after_an_error_there_is_nothing_but_the_error() {
    let mut decoder = Decoder::new(Role::Server, 1024);
    decoder.set_protocol(Protocol::V5);
    let error = decoder.decode(&mut BytesMut::from(&[0xc0, 1, 0][..])).unwrap_err();
    assert_eq!(decoder.decode(&mut BytesMut::from(&[0xc0, 0][..])), Err(error));
}

#[test]
fn a_refused_connect_names_the_protocol_to_answer_in() {
    for (bytes, answer_in) in [
        (&b"\x10\x0a\x00\x04MQTT\x09\x02\x00\x00"[..], Some(Protocol::V5)),
        (b"\x10\x0a\x00\x04MQTT\x02\x02\x00\x00", Some(Protocol::V311)),
        (b"\x10\x0a\x00\x04MQTX\x05\x02\x00\x00", None),
        (b"\x10\x0a\x00\x04MQTT\x05\x03\x00\x00", Some(Protocol::V5)),
        (b"\x10\x0a\x00\x04MQTT\x04\x03\x00\x00", Some(Protocol::V311)),
        (b"GET / HTTP/1.1\r\n", None),
    ] {
        let mut decoder = Decoder::new(Role::Server, 1024);
        assert!(decoder.decode(&mut BytesMut::from(bytes)).is_err());
        assert_eq!(decoder.protocol(), answer_in);
    }
}

#[test]
fn a_connect_may_fill_every_field() {
    let full = ByteString::from("x".repeat(65_535));
    let connect = Connect {
        protocol: Protocol::V5,
        bridge: false,
        clean_start: true,
        keep_alive: 1,
        client_id: full.clone(),
        will: Some(zwerm_wire::Will {
            topic: zwerm_wire::TopicName::new(full.clone()).unwrap(),
            payload: Bytes::from(vec![0; 65_535]),
            qos: zwerm_wire::QoS::ExactlyOnce,
            retain: true,
            delay: 1,
            properties: None,
        }),
        username: Some(full),
        password: Some(Bytes::from(vec![0; 65_535])),
        properties: ConnectProperties::default(),
    };
    let mut out = BytesMut::new();
    encode(&Packet::Connect(Box::new(connect)), Protocol::V5, &mut out).unwrap();
    assert!(out.len() < CONNECT_LIMIT as usize);
    let size = out.len();
    assert!(Decoder::new(Role::Server, u32::MAX).decode(&mut out.clone()).unwrap().is_some());
    let refused = Decoder::new(Role::Server, 1 << 16).decode(&mut out);
    assert_eq!(refused, Err(DecodeError::TooLarge { size, limit: 1 << 16 }));
}

#[test]
fn a_client_that_set_no_protocol_accepts_nothing() {
    let mut decoder = Decoder::new(Role::Client, 1024);
    assert!(decoder.decode(&mut BytesMut::from(&[0x20, 2, 0, 0][..])).is_err());
}

#[test]
fn strict_strings_hold_no_control_characters_and_no_non_characters() {
    for text in
        ["\u{1}", "\u{1f}", "\u{7f}", "\u{9f}", "\u{fdd0}", "\u{fdef}", "\u{fffe}", "\u{ffff}", "\u{10ffff}"]
    {
        assert_eq!(publishes_to(text, true), Err(0x81), "{text:?}");
        assert_eq!(publishes_to(text, false), Ok(()), "{text:?}");
    }
    for text in [" ", "~", "\u{a0}", "é", "\u{fdcf}", "\u{fdf0}", "\u{fffd}", "\u{feff}", "\u{10fffd}"] {
        assert_eq!(publishes_to(text, true), Ok(()), "{text:?}");
    }
}

fn publishes_to(topic: &str, strict: bool) -> Result<(), u8> {
    let mut decoder = Decoder::new(Role::Server, 1024).strict_utf8(strict);
    decoder.set_protocol(Protocol::V311);
    let length = u8::try_from(topic.len()).unwrap();
    let bytes = [&[0x30, length + 2, 0, length], topic.as_bytes()].concat();
    decoder.decode(&mut BytesMut::from(&*bytes)).map(|_| ()).map_err(|error| error.reason() as u8)
}
