//! Cuts a byte stream into packets and has each one read: the only way in.
//!
//! A packet that cannot be is refused at its fixed header, before its body is waited for. Nothing is
//! allocated by what a length says, only by what came. Knows no time and no socket.
//! Start at [`Decoder::decode`].

use bytes::{Buf, Bytes, BytesMut};

use crate::packet_type::PacketType;
use crate::read::{Context, Reader};
use crate::{Ack, DecodeError, Packet, Protocol, ReasonCode};
use crate::{auth, connack, connect, disconnect, publish, suback, subscribe, varint};

/// The largest first packet that is taken, in bytes: five fields of 64 KiB (client identifier, will topic,
/// will payload, user name, password) and 64 KiB of properties. Who sends it is not yet known.
pub const CONNECT_LIMIT: u32 = 6 * 64 * 1024;

/// Which side of the connection decodes, and so whose packets are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A server: it takes what clients send.
    Server,
    /// A client: it takes what servers send.
    Client,
}

/// The reading half of one connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    role: Role,
    max_packet_size: usize,
    strict_utf8: bool,
    protocol: Option<Protocol>,
    answer_limit: u32,
    /// Boxed: few connections ever fail.
    failed: Option<Box<DecodeError>>,
}

/// Bytes of a CONNACK that says only why it refuses.
const SHORTEST_REFUSAL: u32 = 5;

impl Decoder {
    /// A decoder for a new connection that takes packets of at most `max_packet_size` bytes, fixed header
    /// included. A server learns the protocol from CONNECT; a client must say it
    /// with [`set_protocol`](Self::set_protocol).
    #[must_use]
    pub fn new(role: Role, max_packet_size: u32) -> Self {
        let max_packet_size = max_packet_size as usize;
        Self {
            role,
            max_packet_size,
            strict_utf8: false,
            protocol: None,
            answer_limit: SHORTEST_REFUSAL,
            failed: None,
        }
    }

    /// Whether strings with control characters or non-characters are refused, which section 1.5.4 allows.
    /// Off unless switched on.
    #[must_use]
    pub fn strict_utf8(mut self, strict: bool) -> Self {
        self.strict_utf8 = strict;
        self
    }

    /// Fixes the protocol; from then on the next packet need not be CONNECT.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = Some(protocol);
    }

    /// The protocol, once known. After a CONNECT that was refused, it is the one to answer in, if any:
    /// a CONNACK may say so in it. `None` then means that what came is not MQTT: close and say nothing.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// The largest packet in bytes that a CONNECT may be answered with, as far as it could be read: until all of
    /// its properties are, no more than a refusal without words (MQTT-3.2.2-19, -20).
    #[must_use]
    pub fn answer_limit(&self) -> u32 {
        self.answer_limit
    }

    /// Takes one whole packet off the front of `buf`; `None` if more bytes are needed.
    /// Strings and payload stay slices of the buffer.
    ///
    /// # Errors
    /// Bytes that are no packet of the other side. Every later call gives the same error: where the next
    /// packet would start is not known.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(**error);
        }
        self.take_packet(buf).inspect_err(|error| self.failed = Some(Box::new(*error)))
    }

    fn take_packet(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some((&first, rest)) = buf.split_first() else { return Ok(None) };
        let packet = self.admit(first)?;
        let malformed = |fault| header_error(ReasonCode::MalformedPacket, first, fault);
        let Some(remaining) =
            varint::read(rest).map_err(|_| malformed("its remaining length is no variable byte integer"))?
        else {
            return Ok(None);
        };
        let head = 1 + remaining.width;
        let size = head + remaining.value as usize;
        let limit = self.limit();
        if size > limit {
            return Err(DecodeError::TooLarge { size, limit });
        }
        if buf.len() < size {
            return Ok(None);
        }
        let mut body = buf.split_to(size).freeze();
        body.advance(head);
        self.read_body(packet, first & 0x0f, body).map(Some)
    }

    /// What may be said of a packet by its first byte alone.
    fn admit(&self, first: u8) -> Result<PacketType, DecodeError> {
        let malformed = |fault| header_error(ReasonCode::MalformedPacket, first, fault);
        let protocol_error = |fault| header_error(ReasonCode::ProtocolError, first, fault);
        let packet =
            PacketType::of_first_byte(first).ok_or_else(|| malformed("packet type 0 is reserved"))?;
        match (self.role, self.protocol) {
            (Role::Client, None) => return Err(protocol_error("the protocol was not set")),
            // MQTT-3.1.0-1
            (Role::Server, None) if packet != PacketType::Connect => {
                return Err(protocol_error("the first packet is not CONNECT"));
            }
            (_, Some(Protocol::V31 | Protocol::V311)) if packet == PacketType::Auth => {
                return Err(malformed("packet type 15 is reserved before 5.0"));
            }
            _ => {}
        }
        if !self.is_sent_by_peer(packet) {
            return Err(protocol_error("only the other side sends this packet type"));
        }
        if packet == PacketType::Publish {
            publish::check_flags(first & 0x0f).map_err(malformed)?;
        } else if !packet.admits_flags(first & 0x0f, self.protocol) {
            return Err(malformed("its flags are not those of the packet type"));
        }
        Ok(packet)
    }

    fn is_sent_by_peer(&self, packet: PacketType) -> bool {
        use PacketType as P;
        match self.role {
            Role::Server => !matches!(packet, P::ConnAck | P::SubAck | P::UnsubAck | P::PingResp),
            Role::Client => match packet {
                P::Connect | P::Subscribe | P::Unsubscribe | P::PingReq => false,
                P::Disconnect => self.protocol == Some(Protocol::V5),
                _ => true,
            },
        }
    }

    fn limit(&self) -> usize {
        if self.protocol.is_none() {
            self.max_packet_size.min(CONNECT_LIMIT as usize)
        } else {
            self.max_packet_size
        }
    }

    fn read_body(&mut self, packet: PacketType, flags: u8, body: Bytes) -> Result<Packet, DecodeError> {
        let protocol = self.protocol.unwrap_or(Protocol::V5);
        let context = Context { packet, protocol, role: self.role, strict_utf8: self.strict_utf8 };
        let reader = Reader::new(body, context);
        Ok(match packet {
            PacketType::Connect => return self.read_connect(reader),
            PacketType::ConnAck => Packet::ConnAck(Box::new(connack::read(reader)?)),
            PacketType::Publish => Packet::Publish(publish::read(reader, flags)?),
            PacketType::PubAck => Packet::PubAck(Ack::read(reader)?),
            PacketType::PubRec => Packet::PubRec(Ack::read(reader)?),
            PacketType::PubRel => Packet::PubRel(Ack::read(reader)?),
            PacketType::PubComp => Packet::PubComp(Ack::read(reader)?),
            PacketType::Subscribe => Packet::Subscribe(subscribe::read_subscribe(reader)?),
            PacketType::SubAck => Packet::SubAck(suback::read(reader)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(subscribe::read_unsubscribe(reader)?),
            PacketType::UnsubAck => Packet::UnsubAck(suback::read(reader)?),
            PacketType::PingReq => reader.finish().map(|()| Packet::PingReq)?,
            PacketType::PingResp => reader.finish().map(|()| Packet::PingResp)?,
            PacketType::Disconnect => Packet::Disconnect(disconnect::read(reader)?),
            PacketType::Auth => Packet::Auth(auth::read(reader)?),
        })
    }

    /// A second CONNECT is read like the first one and changes nothing here: that it is a protocol error
    /// (MQTT-3.1.0-2) is for the session to say.
    fn read_connect(&mut self, mut reader: Reader) -> Result<Packet, DecodeError> {
        let (level, answer_in) = connect::sniff(&mut reader)?;
        let is_first = self.protocol.is_none();
        self.protocol = self.protocol.or(answer_in);
        let (protocol, bridge) = level?;
        let mut limit = SHORTEST_REFUSAL;
        let connect = connect::read(reader, protocol, bridge, &mut limit);
        if is_first {
            self.answer_limit = limit;
        }
        connect.map(|connect| Packet::Connect(Box::new(connect)))
    }
}

fn header_error(reason: ReasonCode, first: u8, fault: &'static str) -> DecodeError {
    DecodeError::Header { reason, first, fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header of a CONNECT of 5.0 with these flags and properties, and a payload.
    fn connect(flags: u8, properties: &[u8], payload: &[u8]) -> BytesMut {
        let head = [&b"\x00\x04MQTT\x05"[..], &[flags, 0, 60, properties.len() as u8], properties, payload];
        let body = head.concat();
        BytesMut::from(&[&[0x10, body.len() as u8], &body[..]].concat()[..])
    }

    #[test]
    fn an_answer_keeps_to_the_maximum_packet_size_as_far_as_it_was_read_mqtt_3_2_2_19() {
        const SIZE: &[u8] = &[0x27, 0, 0, 0, 99];
        const ID: &[u8] = &[0, 1, b'a'];
        for (bytes, ok, limit) in [
            (connect(0x02, SIZE, ID), true, 99),
            (connect(0x02, &[], ID), true, u32::MAX),
            (connect(0x06, SIZE, ID), false, 99), // the will is missing
            (connect(0x06, &[], ID), false, u32::MAX),
            (connect(0x02, &[SIZE, &[0x21, 0, 0]].concat(), ID), false, SHORTEST_REFUSAL),
            (connect(0x03, SIZE, ID), false, SHORTEST_REFUSAL),
        ] {
            let mut decoder = Decoder::new(Role::Server, 1_000);
            assert_eq!(decoder.decode(&mut bytes.clone()).is_ok(), ok, "{bytes:x?}");
            assert_eq!(decoder.answer_limit(), limit, "{bytes:x?}");
        }
    }

    #[test]
    fn a_second_connect_changes_no_limit() {
        let mut decoder = Decoder::new(Role::Server, 1_000);
        decoder.decode(&mut connect(0x02, &[0x27, 0, 0, 0, 99], &[0, 0])).unwrap();
        assert!(decoder.decode(&mut connect(0x03, &[], &[0, 0])).is_err());
        assert_eq!(decoder.answer_limit(), 99);
    }
}
