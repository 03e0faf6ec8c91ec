//! Packets to bytes: the way out, for both sides and all versions.
//!
//! An illegal packet is an error and nothing is written; what 3.x has no room for (properties, reasons of
//! acknowledgements) is left out. Knows no socket. Start at [`encode`].

use bytes::BytesMut;

use crate::subscribe::{SubscribeBody, UnsubscribeBody};
use crate::write::{self, Count, Encode, Sink};
use crate::{EncodeError, Packet, Protocol, ReasonProperties, UserProperties};
use crate::{ack, auth, connack, disconnect, publish, suback, varint};

/// Appends a packet to `out`. A CONNECT is written in the version that it names itself.
///
/// # Errors
/// The packet breaks a rule, is too large, or cannot be said in `protocol`; nothing is written then.
pub fn encode(packet: &Packet, protocol: Protocol, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_within(packet, protocol, u32::MAX, out)
}

/// Appends a packet of at most `limit` bytes, fixed header included, to `out`. User properties and then the
/// reason string of an answer (CONNACK, acknowledgements, DISCONNECT, AUTH) are left out if it does not fit
/// with them (MQTT-3.2.2-19, -20, 3.4.2-2, -3, ...); a message is never altered.
///
/// # Errors
/// As [`encode`]; [`EncodeError::PacketTooLarge`] if it does not fit even so.
pub fn encode_within(
    packet: &Packet,
    protocol: Protocol,
    limit: u32,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let limit = limit as usize;
    let body = measure_body(packet, protocol)?;
    let size = whole(body)?;
    if size <= limit {
        return append(packet, protocol, body, out);
    }
    let mut lean = packet.clone();
    let mut size = size;
    for leave_out in [leave_out_user_properties, leave_out_reason_string] {
        leave_out(&mut lean);
        let body = measure_body(&lean, protocol)?;
        size = whole(body)?;
        if size <= limit {
            return append(&lean, protocol, body, out);
        }
    }
    Err(EncodeError::PacketTooLarge { size, limit })
}

/// How many bytes the whole packet takes.
///
/// # Errors
/// As [`encode`].
pub fn encoded_len(packet: &Packet, protocol: Protocol) -> Result<usize, EncodeError> {
    whole(measure_body(packet, protocol)?)
}

fn append(packet: &Packet, protocol: Protocol, body: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    out.reserve(whole(body)?);
    write::u8(out, first_byte(packet));
    write::length(out, body)?;
    put_body(packet, protocol, out)
}

/// Bytes of a whole packet with a body of so many.
pub(crate) fn whole(body: usize) -> Result<usize, EncodeError> {
    match u32::try_from(body) {
        Ok(remaining) if remaining <= varint::MAX => Ok(1 + varint::width_of(remaining) + body),
        _ => Err(EncodeError::PacketTooLarge { size: body, limit: varint::MAX as usize }),
    }
}

fn first_byte(packet: &Packet) -> u8 {
    if let Packet::Publish(publish) = packet {
        return publish::first_byte(publish.dup, publish.qos, publish.retain);
    }
    let packet = packet.packet_type();
    (packet as u8) << 4 | packet.fixed_flags()
}

fn measure_body(packet: &Packet, protocol: Protocol) -> Result<usize, EncodeError> {
    let mut count = Count::default();
    put_body(packet, protocol, &mut count)?;
    Ok(count.total())
}

fn put_body<S: Sink>(packet: &Packet, protocol: Protocol, sink: &mut S) -> Result<(), EncodeError> {
    let kind = packet.packet_type();
    match packet {
        Packet::Connect(connect) => connect.put(sink),
        Packet::ConnAck(connack) => connack::Body(connack, protocol).put(sink),
        Packet::Publish(publish) => publish::Body(publish, protocol).put(sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack::Body(ack, kind, protocol).put(sink)
        }
        Packet::Subscribe(subscribe) => SubscribeBody(subscribe, protocol).put(sink),
        Packet::Unsubscribe(unsubscribe) => UnsubscribeBody(unsubscribe, protocol).put(sink),
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => suback::Body(suback, kind, protocol).put(sink),
        Packet::PingReq | Packet::PingResp => Ok(()),
        Packet::Disconnect(disconnect) => disconnect::Body(disconnect, protocol).put(sink),
        Packet::Auth(auth) => auth::Body(auth, protocol).put(sink),
    }
}

fn leave_out_user_properties(packet: &mut Packet) {
    match packet {
        Packet::ConnAck(connack) => connack.properties.user.clear(),
        Packet::Disconnect(disconnect) => disconnect.user.clear(),
        Packet::Auth(auth) => auth.user.clear(),
        other => {
            let properties = reason_properties(other);
            if let Some(found) = properties {
                found.user = UserProperties::new();
            }
        }
    }
}

/// Comes after the user properties: then nothing is left of [`ReasonProperties`].
fn leave_out_reason_string(packet: &mut Packet) {
    match packet {
        Packet::ConnAck(connack) => connack.properties.reason_string = None,
        Packet::Disconnect(disconnect) => disconnect.reason_string = None,
        Packet::Auth(auth) => auth.reason_string = None,
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties = None;
        }
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => suback.properties = None,
        _ => {}
    }
}

fn reason_properties(packet: &mut Packet) -> Option<&mut ReasonProperties> {
    match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties.as_deref_mut()
        }
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => suback.properties.as_deref_mut(),
        _ => None,
    }
}
