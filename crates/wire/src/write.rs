//! Writes fields, into a buffer or into a counter: a packet is measured first, then written by the same code.
//!
//! Measuring first gives the exact remaining length, and every error before the first byte is out.
//! Knows the data types of MQTT 5.0 section 1.5 and no packet. Start at [`Encode`].

use bytes::BytesMut;

use crate::{EncodeError, varint};

/// Where bytes go.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A sink that only counts.
#[derive(Debug, Default)]
pub(crate) struct Count(usize);

impl Count {
    pub(crate) fn total(&self) -> usize {
        self.0
    }
}

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// A packet body or a list of properties.
pub(crate) trait Encode {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError>;

    /// How many bytes `put` writes.
    fn measure(&self) -> Result<usize, EncodeError> {
        let mut count = Count::default();
        self.put(&mut count)?;
        Ok(count.total())
    }
}

pub(crate) fn u8<S: Sink>(sink: &mut S, value: u8) {
    sink.put(&[value]);
}

pub(crate) fn u16<S: Sink>(sink: &mut S, value: u16) {
    sink.put(&value.to_be_bytes());
}

pub(crate) fn u32<S: Sink>(sink: &mut S, value: u32) {
    sink.put(&value.to_be_bytes());
}

/// A variable byte integer, which is at most [`varint::MAX`].
pub(crate) fn varint<S: Sink>(sink: &mut S, value: u32) {
    let (bytes, width) = varint::bytes_of(value);
    sink.put(bytes.get(..width).unwrap_or_default());
}

/// The length of what follows.
pub(crate) fn length<S: Sink>(sink: &mut S, size: usize) -> Result<(), EncodeError> {
    let limit = varint::MAX as usize;
    match u32::try_from(size) {
        Ok(value) if size <= limit => varint(sink, value),
        _ => return Err(EncodeError::PacketTooLarge { size, limit }),
    }
    Ok(())
}

/// A string or binary data: two bytes of length and the bytes; never cut.
pub(crate) fn field<S: Sink>(sink: &mut S, field: &'static str, bytes: &[u8]) -> Result<(), EncodeError> {
    let len = bytes.len();
    u16(sink, u16::try_from(len).map_err(|_| EncodeError::FieldTooLong { field, len })?);
    sink.put(bytes);
    Ok(())
}

/// A string that no type vouches for: as [`field`], and without U+0000 (MQTT-1.5.4-2).
pub(crate) fn string<S: Sink>(sink: &mut S, name: &'static str, text: &str) -> Result<(), EncodeError> {
    if text.as_bytes().contains(&0) {
        return Err(EncodeError::FieldHoldsNul { field: name });
    }
    field(sink, name, text.as_bytes())
}
