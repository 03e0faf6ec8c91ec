//! The bytes of one forwarded message, version 2: frozen, see the test at the end.
//!
//! ```text
//! record  := sequence-delta:varint marks [count:varint (length:varint filter)*] [waited-ms:varint] body-length:varint body
//! marks   := 0x01 plain subscribers match | 0x02 groups (filters) follow | 0x04 the time it waited follows
//! body    := flags publisher-length:varint publisher topic-length:varint topic
//!            [shard:varint outbox-sequence:varint] [expiry-ms:varint] [properties-length:varint properties] payload (the rest)
//! flags   := qos (2 bits) | 0x04 retain | 0x08 properties | 0x10 expiry | 0x20 of a shard's outbox
//! ```
//! The body is encoded once and copied into the batch of every peer; the target, and how long the message waited
//! for this peer, differ. What it waited is to be taken off its expiry.
//! Properties are a `zwerm.records.v1.Properties`. Knows no streams. Start at [`Body::encode`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use thiserror::Error;
use zwerm_machine::message::{self, Header};
use zwerm_machine::records::{Message, Properties};
use zwerm_wire::{MessageProperties, QoS, TopicFilter, TopicName};

/// Version of the layout above.
pub(super) const VERSION: u32 = 2;

const RETAIN: u8 = 0x04;
const PROPERTIES: u8 = 0x08;
const EXPIRY: u8 = 0x10;
const ORIGIN: u8 = 0x20;
const PLAIN: u8 = 0x01;
const GROUPS: u8 = 0x02;
const WAITED: u8 = 0x04;

/// A record that another node of this version would not have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a forwarded record is malformed: {0}")]
pub struct RecordError(&'static str);

/// For whom of the receiving node a message is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// All plain subscribers there.
    pub plain: bool,
    /// One member of each of these shared subscriptions (`$share/name/filter`).
    pub groups: Vec<TopicFilter>,
}

/// Where a message that a shard publishes itself comes from. A new leader of the shard publishes again what
/// its predecessor may not have: who remembers the last sequence of each shard knows a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The shard.
    pub shard: u32,
    /// Place in its outbox.
    pub sequence: u64,
}

/// A message as another node forwarded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// For whom.
    pub target: Target,
    /// Client id of the publisher, for No Local.
    pub publisher: ByteString,
    /// Topic.
    pub topic: TopicName,
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// `Some` if a shard published it.
    pub origin: Option<Origin>,
    /// Milliseconds the message still lives; `None` for ever.
    pub expires_in_ms: Option<u64>,
    /// What travels with the message; its own `message_expiry` is not used.
    pub properties: Option<Box<MessageProperties>>,
    /// A slice of the batch.
    pub payload: Bytes,
}

impl Record {
    /// As it is forwarded.
    #[must_use]
    pub fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            publisher: &self.publisher,
            topic: &self.topic,
            qos: self.qos,
            retain: self.retain,
            origin: self.origin,
            expires_in_ms: self.expires_in_ms,
            properties: self.properties.as_deref(),
            payload: &self.payload,
        }
    }
}

/// A message that goes to other nodes: what a record says of it, but for whom it is there.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Client id of the publisher, for No Local.
    pub publisher: &'a str,
    /// Topic.
    pub topic: &'a TopicName,
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// `Some` if a shard published it.
    pub origin: Option<Origin>,
    /// Milliseconds the message still lives; `None` for ever.
    pub expires_in_ms: Option<u64>,
    /// What travels with the message; its own `message_expiry` is not used.
    pub properties: Option<&'a MessageProperties>,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    /// Bytes of its body, exactly; `properties` are its own, encoded.
    fn len(&self, properties: Option<&[u8]>) -> usize {
        let numbers = self.origin.map(|Origin { shard, sequence }| [u64::from(shard), sequence]);
        let numbers = numbers.into_iter().flatten().chain(self.expires_in_ms);
        let texts = [Some(self.publisher.as_bytes()), Some(self.topic.as_bytes()), properties];
        let texts =
            texts.into_iter().flatten().map(|text| encoded_len_varint(text.len() as u64) + text.len());
        1 + texts.sum::<usize>() + numbers.map(encoded_len_varint).sum::<usize>() + self.payload.len()
    }

    fn put(&self, properties: Option<&[u8]>, out: &mut impl BufMut) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(
            self.qos as u8
                | flag(self.retain, RETAIN)
                | flag(properties.is_some(), PROPERTIES)
                | flag(self.expires_in_ms.is_some(), EXPIRY)
                | flag(self.origin.is_some(), ORIGIN),
        );
        put_bytes(self.publisher.as_bytes(), out);
        put_bytes(self.topic.as_bytes(), out);
        if let Some(Origin { shard, sequence }) = self.origin {
            encode_varint(u64::from(shard), out);
            encode_varint(sequence, out);
        }
        if let Some(expiry) = self.expires_in_ms {
            encode_varint(expiry, out);
        }
        if let Some(properties) = properties {
            put_bytes(properties, out);
        }
        out.put_slice(self.payload);
    }

    fn encode_properties(&self) -> Option<Vec<u8>> {
        let properties = Some(self.properties?);
        let header = Header { publisher: "", qos: self.qos, retain: self.retain, properties };
        message::record(self.topic, Bytes::new(), header, 0)
            .properties
            .map(|properties| properties.encode_to_vec())
    }
}

/// The part of a record that is the same for every peer, encoded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Body(Bytes);

impl Body {
    /// Encodes a message.
    #[must_use]
    pub fn encode(message: &Outgoing<'_>) -> Self {
        let properties = message.encode_properties();
        // Exactly as long as it becomes: then it is one allocation.
        let mut out = Vec::with_capacity(message.len(properties.as_deref()));
        message.put(properties.as_deref(), &mut out);
        Self(out.into())
    }

    /// `Some` if a shard published it.
    pub(super) fn origin(&self) -> Option<Origin> {
        let is_of_outbox = self.0.first().is_some_and(|flags| flags & ORIGIN != 0);
        is_of_outbox.then(|| self.decode(Target::default()).ok()?.origin).flatten()
    }

    /// What was encoded, for this target.
    pub(super) fn decode(&self, target: Target) -> Result<Record, RecordError> {
        take_body(target, self.0.clone())
    }

    /// The message dies at some time.
    pub(crate) fn expires(&self) -> bool {
        self.0.first().is_some_and(|flags| flags & EXPIRY != 0)
    }

    /// Bytes it takes in a batch, about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a body has at least its flags.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a record to a batch, of a message that has waited for so many milliseconds.
pub(super) fn put_record(
    sequence_delta: u64,
    target: &Target,
    waited_ms: u64,
    body: &Body,
    out: &mut BytesMut,
) {
    put_envelope(sequence_delta, target, waited_ms, out);
    put_bytes(&body.0, out);
}

/// Appends a record to a batch, of a message that is sent once and has not waited; the bytes are those of
/// [`put_record`].
pub(super) fn put_loose(sequence_delta: u64, target: &Target, message: &Outgoing<'_>, out: &mut BytesMut) {
    let properties = message.encode_properties();
    let properties = properties.as_deref();
    put_envelope(sequence_delta, target, 0, out);
    encode_varint(message.len(properties) as u64, out);
    message.put(properties, out);
}

/// What stands before the body.
fn put_envelope(sequence_delta: u64, target: &Target, waited_ms: u64, out: &mut BytesMut) {
    encode_varint(sequence_delta, out);
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.put_u8(
        flag(target.plain, PLAIN) | flag(!target.groups.is_empty(), GROUPS) | flag(waited_ms > 0, WAITED),
    );
    if !target.groups.is_empty() {
        encode_varint(target.groups.len() as u64, out);
        for group in &target.groups {
            put_bytes(group.as_str().as_bytes(), out);
        }
    }
    if waited_ms > 0 {
        encode_varint(waited_ms, out);
    }
}

/// Bytes that [`put_record`] appends, at most.
pub(super) fn record_len(target: &Target, body: &Body) -> usize {
    let groups: usize = target.groups.iter().map(|group| group.as_str().len() + 3).sum();
    3 * encoded_len_varint(u64::MAX) + 1 + groups + body.len()
}

/// Takes the next record off a batch: its sequence delta and the record.
pub(super) fn take_record(batch: &mut Bytes) -> Result<(u64, Record), RecordError> {
    let delta = take_varint(batch)?;
    let marks = take_u8(batch)?;
    let mut target = Target { plain: marks & PLAIN != 0, groups: Vec::new() };
    if marks & GROUPS != 0 {
        for _ in 0..take_varint(batch)? {
            let filter = TopicFilter::new(take_string(batch)?).map_err(|_| RecordError("filter"))?;
            target.groups.push(filter);
        }
    }
    let waited_ms = if marks & WAITED != 0 { take_varint(batch)? } else { 0 };
    let body = take_bytes(batch)?;
    let mut record = take_body(target, body)?;
    record.expires_in_ms = record.expires_in_ms.map(|left| left.saturating_sub(waited_ms));
    Ok((delta, record))
}

fn take_body(target: Target, mut body: Bytes) -> Result<Record, RecordError> {
    let flags = take_u8(&mut body)?;
    let qos = match flags & 0x03 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => return Err(RecordError("QoS")),
    };
    let publisher = take_string(&mut body)?;
    let topic = TopicName::new(take_string(&mut body)?).map_err(|_| RecordError("topic"))?;
    let origin = if flags & ORIGIN != 0 { Some(take_origin(&mut body)?) } else { None };
    let expires_in_ms = if flags & EXPIRY != 0 { Some(take_varint(&mut body)?) } else { None };
    let properties = if flags & PROPERTIES != 0 { Some(take_properties(&mut body)?) } else { None };
    Ok(Record {
        target,
        publisher,
        topic,
        qos,
        retain: flags & RETAIN != 0,
        origin,
        expires_in_ms,
        properties,
        payload: body,
    })
}

fn take_origin(body: &mut Bytes) -> Result<Origin, RecordError> {
    let shard = u32::try_from(take_varint(body)?).map_err(|_| RecordError("shard"))?;
    Ok(Origin { shard, sequence: take_varint(body)? })
}

fn take_properties(body: &mut Bytes) -> Result<Box<MessageProperties>, RecordError> {
    let malformed = RecordError("properties");
    let properties = Properties::decode(take_bytes(body)?).map_err(|_| malformed)?;
    let carrier = Message { properties: Some(properties), ..Message::default() };
    message::properties(&carrier, 0).map_err(|_| malformed)?.ok_or(malformed)
}

fn put_bytes(bytes: &[u8], out: &mut impl BufMut) {
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn take_u8(from: &mut Bytes) -> Result<u8, RecordError> {
    if from.has_remaining() { Ok(from.get_u8()) } else { Err(RecordError("cut short")) }
}

fn take_varint(from: &mut Bytes) -> Result<u64, RecordError> {
    decode_varint(from).map_err(|_| RecordError("number"))
}

fn take_bytes(from: &mut Bytes) -> Result<Bytes, RecordError> {
    let len = usize::try_from(take_varint(from)?).map_err(|_| RecordError("length"))?;
    if len > from.len() {
        return Err(RecordError("cut short"));
    }
    Ok(from.split_to(len))
}

fn take_string(from: &mut Bytes) -> Result<ByteString, RecordError> {
    ByteString::try_from(take_bytes(from)?).map_err(|_| RecordError("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            target: Target { plain: true, groups: vec![TopicFilter::new("$share/g/a/+").unwrap()] },
            publisher: "pub".into(),
            topic: TopicName::new("a/b").unwrap(),
            qos: QoS::AtLeastOnce,
            retain: true,
            origin: None,
            expires_in_ms: Some(1_500),
            properties: Some(Box::new(MessageProperties {
                content_type: Some("text".into()),
                user: vec![("k".into(), "v".into())],
                ..MessageProperties::default()
            })),
            payload: Bytes::from_static(b"21.5"),
        }
    }

    fn encoded(record: &Record) -> BytesMut {
        let mut out = BytesMut::new();
        put_record(3, &record.target, 0, &Body::encode(&record.outgoing()), &mut out);
        out
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let bytes = encoded(&record());
        assert!(bytes.len() <= record_len(&record().target, &Body::encode(&record().outgoing())));
        let mut bytes = bytes.freeze();
        assert_eq!(take_record(&mut bytes), Ok((3, record())));
        assert!(bytes.is_empty());
    }

    #[test]
    fn the_layout_is_frozen() {
        let hex: String = encoded(&record()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0303010c2473686172652f672f612f2b1e1d0370756203612f62dc0b0e\
             120474657874\
             2a060a016b120176\
             32312e35"
                .replace(' ', "")
        );
    }

    #[test]
    fn a_record_of_an_outbox_says_so() {
        let of_outbox = Record { origin: Some(Origin { shard: 3, sequence: 300 }), ..record() };
        let plain = encoded(&record()).len();
        let bytes = encoded(&of_outbox);
        assert_eq!(bytes.len(), plain + 3);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0303010c2473686172652f672f612f2b213d0370756203612f6203ac02dc0b0e\
             120474657874\
             2a060a016b120176\
             32312e35"
                .replace(' ', "")
        );
        assert_eq!(take_record(&mut bytes.freeze()), Ok((3, of_outbox)));
    }

    #[test]
    fn what_a_message_waited_is_taken_off_its_expiry() {
        for (waited_ms, left) in [(0, 1_500), (1, 1_499), (400, 1_100), (1_501, 0)] {
            let (mut out, record) = (BytesMut::new(), record());
            put_record(3, &record.target, waited_ms, &Body::encode(&record.outgoing()), &mut out);
            assert!(out.len() <= record_len(&record.target, &Body::encode(&record.outgoing())));
            let taken = take_record(&mut out.freeze());
            assert_eq!(taken, Ok((3, Record { expires_in_ms: Some(left), ..record })));
        }
    }

    #[test]
    fn a_loose_record_has_the_same_bytes_and_a_body_its_exact_length() {
        let plain = Record { properties: None, expires_in_ms: None, ..record() };
        let of_outbox = Record { origin: Some(Origin { shard: 3, sequence: 300 }), ..record() };
        for record in [record(), plain, of_outbox] {
            let mut loose = BytesMut::new();
            put_loose(3, &record.target, &record.outgoing(), &mut loose);
            assert_eq!(loose, encoded(&record));
            let properties = record.outgoing().encode_properties();
            assert_eq!(Body::encode(&record.outgoing()).len(), record.outgoing().len(properties.as_deref()));
        }
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let mut whole = BytesMut::new();
        put_record(3, &record().target, 300, &Body::encode(&record().outgoing()), &mut whole);
        let whole = whole.freeze();
        for end in 0..whole.len() {
            assert!(take_record(&mut whole.slice(..end)).is_err(), "cut at {end}");
        }
    }
}
