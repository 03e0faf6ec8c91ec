//! A PUBLISH that is encoded once and then copied to each of its receivers with flags and packet identifier
//! patched in; and one that has a single receiver and is written where it is to go at once.
//!
//! Knows no receivers. What differs between them besides these (topic alias, subscription identifiers) needs
//! [`encode`](crate::encode()). Start at [`PublishFrame::encode`].

use bytes::{Bytes, BytesMut};

use crate::encode::whole;
use crate::publish::first_byte;
use crate::write::{self, Encode, Sink};
use crate::{EncodeError, MessageProperties, PacketId, Protocol, QoS, TopicName, properties, varint};

/// Payloads larger than this, in bytes, are not copied into frames: two pieces of a vectored write are
/// cheaper than the copy.
pub const LARGE_PAYLOAD: usize = 4 * 1024;

/// One PUBLISH for all receivers of the same protocol family (3.x or 5.0) at QoS 0 (without packet
/// identifier) or above it (with). A clone shares the bytes.
#[derive(Debug, Clone)]
pub struct PublishFrame {
    /// From the first byte up to the payload, or with it if that is small.
    head: Bytes,
    /// Where the topic name starts in `head`, behind the fixed header.
    body_at: usize,
    /// Where the topic name ends in `head`, and the packet identifier starts if there is room for one.
    topic_end: usize,
    /// There is room for a packet identifier.
    with_id: bool,
    /// A payload too large to copy.
    tail: Option<Bytes>,
}

impl PublishFrame {
    /// Encodes the message: for receivers at QoS 1 and 2 `with_id`, for those at QoS 0 without.
    /// 3.x has no properties: they are left out.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`], [`EncodeError::FieldHoldsNul`] or [`EncodeError::PacketTooLarge`].
    pub fn encode(
        protocol: Protocol,
        topic: &TopicName,
        properties: Option<&MessageProperties>,
        payload: &Bytes,
        with_id: bool,
    ) -> Result<Self, EncodeError> {
        let packet = SolePublish::measure(protocol, topic, properties, payload, with_id)?;
        let body_at = packet.len - packet.body;
        let copied = if packet.is_large() { packet.len - payload.len() } else { packet.len };
        let mut head = BytesMut::with_capacity(copied);
        let tail = packet.put(&mut head, first_byte(false, QoS::AtMostOnce, false))?;
        let topic_end = body_at + 2 + topic.len();
        Ok(Self { head: head.freeze(), body_at, topic_end, with_id, tail })
    }

    /// Bytes of the whole packet, fixed header and payload included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.as_ref().map_or(0, Bytes::len)
    }

    /// Has room for a packet identifier.
    #[must_use]
    pub fn has_id(&self) -> bool {
        self.with_id
    }

    /// Appends the packet to `out`, with this receiver's flags and identifier. A large payload is returned
    /// instead, to be sent right after.
    ///
    /// QoS 1 and 2 need an identifier and QoS 0 has none: without one the packet is sent at QoS 0. A frame
    /// made for the other case is rewritten, which costs a second copy of the head and no error.
    pub fn write_to(
        &self,
        out: &mut BytesMut,
        dup: bool,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
    ) -> Option<Bytes> {
        let id = packet_id.filter(|_| qos != QoS::AtMostOnce);
        let first = first_byte_of(dup, qos, retain, id);
        if self.with_id != id.is_some() {
            self.write_anew(out, first, id);
            return self.tail.clone();
        }
        let start = out.len();
        out.extend_from_slice(&self.head);
        if let Some(place) = out.get_mut(start) {
            *place = first;
        }
        let at = start + self.topic_end;
        if let Some(id) = id
            && let Some(place) = out.get_mut(at..at + 2)
        {
            place.copy_from_slice(&id.get().to_be_bytes());
        }
        self.tail.clone()
    }

    /// With an identifier where the frame has no room for one, or the other way round.
    fn write_anew(&self, out: &mut BytesMut, first: u8, id: Option<PacketId>) {
        let topic = self.head.get(self.body_at..self.topic_end).unwrap_or_default();
        let behind_id = if self.with_id { self.topic_end + 2 } else { self.topic_end };
        let rest = self.head.get(behind_id..).unwrap_or_default();
        let id = id.map(|id| id.get().to_be_bytes());
        let id = id.as_ref().map_or(&[][..], |bytes| bytes.as_slice());
        let remaining = topic.len() + id.len() + rest.len() + self.tail.as_ref().map_or(0, Bytes::len);
        write::u8(out, first);
        write::varint(out, u32::try_from(remaining).unwrap_or(varint::MAX).min(varint::MAX));
        for piece in [topic, id, rest] {
            out.extend_from_slice(piece);
        }
    }
}

/// One PUBLISH for one receiver: measured, to be written once.
#[derive(Debug)]
pub struct SolePublish<'a> {
    fields: Fields<'a>,
    payload: &'a Bytes,
    /// Bytes behind the fixed header.
    body: usize,
    /// Bytes of the whole packet.
    len: usize,
}

impl<'a> SolePublish<'a> {
    /// Measures the message: for a receiver at QoS 1 and 2 `with_id`, for one at QoS 0 without. 3.x has no properties:
    /// they are left out.
    ///
    /// # Errors
    /// As [`PublishFrame::encode`].
    pub fn measure(
        protocol: Protocol,
        topic: &'a TopicName,
        properties: Option<&'a MessageProperties>,
        payload: &'a Bytes,
        with_id: bool,
    ) -> Result<Self, EncodeError> {
        let id = with_id.then_some(0);
        let fields = Fields { topic, id, properties, v5: protocol == Protocol::V5 };
        let body = fields.measure()? + payload.len();
        // One without an identifier must have room for one in its length: it may yet get one.
        whole(body + 2)?;
        Ok(Self { fields, payload, body, len: whole(body)? })
    }

    /// Bytes of the whole packet, fixed header and payload included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    fn is_large(&self) -> bool {
        self.payload.len() > LARGE_PAYLOAD
    }

    /// Appends the packet to `out`. A large payload is returned instead, to be sent right after. QoS 1 and 2 need an
    /// identifier and QoS 0 has none: without one the packet is sent at QoS 0. If it was measured for the other case it
    /// differs in length.
    ///
    /// # Errors
    /// As [`measure`](Self::measure), which finds them first.
    pub fn write_to(
        mut self,
        out: &mut BytesMut,
        dup: bool,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
    ) -> Result<Option<Bytes>, EncodeError> {
        let id = packet_id.filter(|_| qos != QoS::AtMostOnce);
        let first = first_byte_of(dup, qos, retain, id);
        let id = id.map(PacketId::get);
        self.body = self.body + width_of(id) - width_of(self.fields.id);
        self.fields.id = id;
        self.put(out, first)
    }

    fn put(&self, out: &mut BytesMut, first: u8) -> Result<Option<Bytes>, EncodeError> {
        write::u8(out, first);
        write::length(out, self.body)?;
        self.fields.put(out)?;
        if self.is_large() {
            return Ok(Some(self.payload.clone()));
        }
        out.put(self.payload);
        Ok(None)
    }
}

/// Bytes of a packet identifier, if there is one.
fn width_of(id: Option<u16>) -> usize {
    if id.is_some() { size_of::<u16>() } else { 0 }
}

/// Without an identifier a packet is sent at QoS 0.
fn first_byte_of(dup: bool, qos: QoS, retain: bool, id: Option<PacketId>) -> u8 {
    match id {
        Some(_) => first_byte(dup, qos, retain),
        None => first_byte(false, QoS::AtMostOnce, retain),
    }
}

/// What stands before the payload.
#[derive(Debug)]
struct Fields<'a> {
    topic: &'a TopicName,
    /// Packet identifier, at QoS 1 and 2.
    id: Option<u16>,
    properties: Option<&'a MessageProperties>,
    v5: bool,
}

impl Encode for Fields<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        write::field(sink, "topic name", self.topic.as_bytes())?;
        if let Some(id) = self.id {
            write::u16(sink, id);
        }
        match self.properties {
            Some(found) if self.v5 => properties::block(sink, found),
            None if self.v5 => write::length(sink, 0),
            _ => Ok(()),
        }
    }
}
