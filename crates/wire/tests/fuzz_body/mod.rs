//! What must hold for any bytes at all: run by libFuzzer (`fuzz/fuzz_targets/decode.rs`) and by
//! `tests/fuzz.rs`, which needs neither nightly nor libFuzzer.
//!
//! Start at [`run`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a fuzz target speaks")]

use bytes::BytesMut;
use zwerm_wire::{DecodeError, Decoder, Packet, Protocol, Role, encode, encoded_len};

const MAX_PACKET_SIZE: u32 = 1 << 20;

/// The first byte chooses the connection, the rest is what came over it. Gives the number of packets in it.
pub(crate) fn run(input: &[u8]) -> usize {
    let Some((&choice, stream)) = input.split_first() else { return 0 };
    let whole = decode_all(decoder(choice), &[stream]);
    let (left, right) = stream.split_at(stream.len() * usize::from(choice) / 255);
    let halves = decode_all(decoder(choice), &[left, right]);
    assert_eq!(whole, halves, "a split changes what is decoded");
    for packet in &whole.0 {
        reads_back(choice, packet);
    }
    whole.0.len()
}

/// The first byte of an input for this connection; bits 0 and 1 are the protocol, bit 2 is the role, bit 3
/// says that strings are strict.
pub(crate) fn choice(protocol: Option<Protocol>, role: Role) -> u8 {
    let protocol = match protocol {
        None => 0,
        Some(Protocol::V31) => 1,
        Some(Protocol::V311) => 2,
        Some(Protocol::V5) => 3,
    };
    protocol | if role == Role::Client { 4 } else { 0 }
}

fn decoder(choice: u8) -> Decoder {
    let role = if choice & 4 == 0 { Role::Server } else { Role::Client };
    let mut decoder = Decoder::new(role, MAX_PACKET_SIZE).strict_utf8(choice & 8 != 0);
    match choice & 3 {
        1 => decoder.set_protocol(Protocol::V31),
        2 => decoder.set_protocol(Protocol::V311),
        3 => decoder.set_protocol(Protocol::V5),
        _ => {}
    }
    decoder
}

type Decoded = (Vec<(Protocol, Packet)>, Option<DecodeError>);

fn decode_all(mut decoder: Decoder, pieces: &[&[u8]]) -> Decoded {
    let mut buf = BytesMut::new();
    let mut packets = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let before = buf.len();
            match decoder.decode(&mut buf) {
                Ok(Some(packet)) => {
                    assert!(before - buf.len() >= 2, "a packet has at least two bytes");
                    packets.push((decoder.protocol().unwrap(), packet));
                }
                Ok(None) => {
                    assert_eq!(buf.len(), before, "bytes of an unfinished packet are gone");
                    break;
                }
                Err(error) => {
                    assert!(error.reason().is_error());
                    return (packets, Some(error));
                }
            }
        }
    }
    (packets, None)
}

fn reads_back(choice: u8, (protocol, packet): &(Protocol, Packet)) {
    let mut out = BytesMut::new();
    encode(packet, *protocol, &mut out).unwrap_or_else(|error| panic!("{packet:?}: {error}"));
    assert_eq!(out.len(), encoded_len(packet, *protocol).unwrap());
    let mut decoder = decoder(choice);
    decoder.set_protocol(*protocol);
    assert_eq!(decoder.decode(&mut out).as_ref(), Ok(&Some(packet.clone())));
    assert!(out.is_empty());
}
