//! The bytes of a run: messages with increasing numbers in one record.
//!
//! `version (1) | length of the rest (4, big-endian) | per message: number - first, length, bytes`, the two
//! numbers as LEB128. A run that is larger than a value may be holds one message and continues in chunks.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::keyspace::{KeySpace, MessageKey, ShardMessage};
use crate::{Batch, Engine, StoreError};

/// Version of every run that this release writes.
const VERSION: u8 = 1;
/// Version and length.
const HEADER: usize = 5;

/// A message and its number.
pub(super) type Numbered = (u64, Bytes);

/// Messages of one record, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Names the record: the first number that was ever in it.
    pub(super) first: u64,
    pub(super) messages: Vec<Numbered>,
}

impl Run {
    /// Whether it holds a number.
    pub(super) fn find(&self, number: u64) -> Option<&Bytes> {
        let at = self.messages.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.messages.get(at).map(|(_, message)| message)
    }

    /// The same without what is not named.
    pub(super) fn left(&self, named: &impl Fn(u64) -> bool) -> Self {
        let left = self.messages.iter().filter(|(number, _)| named(*number));
        Self { first: self.first, messages: left.cloned().collect() }
    }

    /// Bytes of all messages.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(|(_, message)| message.len()).sum()
    }

    /// Adds the record.
    pub(super) fn put(&self, batch: &mut Batch, group: u32) {
        let mut rest = self.encode();
        for chunk in 0.. {
            let value = rest.split_to(rest.len().min(Batch::MAX_VALUE));
            batch.put(ShardMessage::key(MessageKey { group, number: self.first, chunk }), value);
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Removes the record.
    pub(super) fn delete(&self, batch: &mut Batch, group: u32) {
        let chunks = self.encoded_len().div_ceil(Batch::MAX_VALUE);
        for chunk in (0..).take(chunks) {
            batch.delete(ShardMessage::key(MessageKey { group, number: self.first, chunk }));
        }
    }

    fn encoded_len(&self) -> usize {
        let message = |(number, message): &Numbered| {
            leb_len(number - self.first) + leb_len(message.len() as u64) + message.len()
        };
        HEADER + self.messages.iter().map(message).sum::<usize>()
    }

    fn encode(&self) -> Bytes {
        let length = self.encoded_len();
        let mut out = BytesMut::with_capacity(length);
        out.put_u8(VERSION);
        // A message is at most one MQTT packet (256 MiB) and some bytes.
        out.put_u32(u32::try_from(length - HEADER).unwrap_or(u32::MAX));
        for (number, message) in &self.messages {
            put_leb(&mut out, number - self.first);
            put_leb(&mut out, message.len() as u64);
            out.put_slice(message);
        }
        out.freeze()
    }

    /// The record that holds `number`, if any does; it may hold others only.
    pub(super) fn load(engine: &dyn Engine, group: u32, number: u64) -> Result<Option<Self>, StoreError> {
        let from = ShardMessage::key(MessageKey { group, number: 0, chunk: 0 });
        let to = ShardMessage::key(MessageKey { group, number, chunk: 1 });
        let Some((key, value)) = engine.scan(&from, &to, 1, true)?.pop() else { return Ok(None) };
        let key = ShardMessage::parse(&key).ok_or_else(damaged)?;
        if key.chunk > 0 {
            // The end of a large message with a smaller number.
            return Ok(None);
        }
        let length = record_len(&value)?;
        if length <= value.len() {
            return Self::parse(key.number, value).map(Some);
        }
        if key.number != number {
            return Ok(None);
        }
        Self::parse(number, join(engine, group, number, length)?).map(Some)
    }

    /// Reads a whole record.
    pub(super) fn parse(first: u64, mut record: Bytes) -> Result<Self, StoreError> {
        if record_len(&record)? != record.len() {
            return Err(damaged());
        }
        let _header = record.split_to(HEADER);
        let mut messages = Vec::new();
        while !record.is_empty() {
            let number = first.checked_add(take_leb(&mut record)?).ok_or_else(damaged)?;
            let length = usize::try_from(take_leb(&mut record)?).map_err(|_| damaged())?;
            if length > record.len() {
                return Err(damaged());
            }
            messages.push((number, record.split_to(length)));
        }
        Ok(Self { first, messages })
    }
}

/// The numbers in a record of which this is one key and value; a large message is known by its key.
pub(super) fn numbers(key: &[u8], value: &[u8]) -> Result<Vec<u64>, StoreError> {
    let key = ShardMessage::parse(key).ok_or_else(damaged)?;
    if key.chunk > 0 || record_len(value)? > value.len() {
        return Ok(vec![key.number]);
    }
    let run = Run::parse(key.number, Bytes::copy_from_slice(value))?;
    Ok(run.messages.into_iter().map(|(number, _)| number).collect())
}

fn damaged() -> StoreError {
    StoreError::Damaged("a record of messages is malformed".into())
}

/// Bytes of a whole record, by its beginning.
fn record_len(value: &[u8]) -> Result<usize, StoreError> {
    let (&version, rest) = value.split_first().ok_or_else(damaged)?;
    if version != VERSION {
        return Err(StoreError::Damaged(format!("a record of messages has version {version}")));
    }
    let length: [u8; 4] = rest.get(..4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
    Ok(HEADER + u32::from_be_bytes(length) as usize)
}

fn join(engine: &dyn Engine, group: u32, number: u64, length: usize) -> Result<Bytes, StoreError> {
    let mut record = BytesMut::new();
    let Range { start, end } = ShardMessage::of_number(group, number);
    for (_, value) in engine.scan(&start, &end, usize::MAX, false)? {
        record.extend_from_slice(&value);
    }
    if record.len() != length {
        return Err(damaged());
    }
    Ok(record.freeze())
}

fn leb_len(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

fn put_leb(out: &mut BytesMut, mut value: u64) {
    while value > 0x7f {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_leb(from: &mut Bytes) -> Result<u64, StoreError> {
    let mut value = 0_u64;
    for (position, byte) in from.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * position as u32).ok_or_else(damaged)?;
        if byte & 0x80 == 0 {
            let _read = from.split_to(position + 1);
            return Ok(value);
        }
    }
    Err(damaged())
}
