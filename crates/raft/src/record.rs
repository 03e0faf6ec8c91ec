//! What a record on disk looks like: a version byte, then a message of `proto/raft.proto`.
//!
//! A log record also carries its length, because one that holds a single large entry is cut into chunks of
//! at most [`Batch::MAX_VALUE`] bytes: `version (1) | length of the message (4, big-endian) | message`.
//! The bytes are frozen by the tests below; a change is a new version that reads the old one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use zwerm_store::Batch;

use crate::consensus::Entry;
use crate::proto::{self, Malformed};

/// Version of every record that this release writes.
const VERSION: u8 = 1;

/// Version byte and length.
const LOG_HEADER: usize = 5;

/// Encodes a record that fits one value.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + message.encoded_len());
    out.put_u8(VERSION);
    out.extend_from_slice(&message.encode_to_vec());
    out.freeze()
}

/// Decodes what [`encode`] wrote.
pub(crate) fn decode<M: Message + Default>(mut record: Bytes) -> Result<M, Malformed> {
    check_version(&mut record)?;
    Ok(M::decode(record)?)
}

fn check_version(record: &mut Bytes) -> Result<(), Malformed> {
    match record.try_get_u8() {
        Ok(VERSION) => Ok(()),
        Ok(other) => Err(Malformed(format!("record version {other}"))),
        Err(_) => Err(Malformed("empty record".into())),
    }
}

/// One log record: the index of its first entry and the values of its chunks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(crate) first_index: u64,
    pub(crate) chunks: Vec<Bytes>,
}

/// Packs the entries of one append into as few records as the size limit of a value allows. Only a record of
/// a single entry has more than one chunk.
pub(crate) fn pack_entries(entries: Vec<Entry>) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let mut pending = proto::LogRecord::default();
    let mut bytes = LOG_HEADER;
    for entry in entries {
        let entry = proto::Entry::from(entry);
        // Tag and length of the field come on top of the entry itself.
        let size = entry.encoded_len() + 6;
        if bytes + size > Batch::MAX_VALUE && !pending.entries.is_empty() {
            records.push(seal(&std::mem::take(&mut pending)));
            bytes = LOG_HEADER;
        }
        bytes += size;
        pending.entries.push(entry);
    }
    if !pending.entries.is_empty() {
        records.push(seal(&pending));
    }
    records
}

fn seal(record: &proto::LogRecord) -> LogRecord {
    let first_index = record.entries.first().and_then(|entry| entry.log_id).map_or(0, |id| id.index);
    let length = record.encoded_len();
    let mut out = BytesMut::with_capacity(LOG_HEADER + length);
    out.put_u8(VERSION);
    // An entry is at most one MQTT packet (256 MiB) and some bytes.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.extend_from_slice(&record.encode_to_vec());
    LogRecord { first_index, chunks: chunks_of(out.freeze()) }
}

/// Cuts bytes into values.
pub(crate) fn chunks_of(mut bytes: Bytes) -> Vec<Bytes> {
    let mut chunks = Vec::with_capacity(bytes.len().div_ceil(Batch::MAX_VALUE));
    while bytes.len() > Batch::MAX_VALUE {
        chunks.push(bytes.split_to(Batch::MAX_VALUE));
    }
    chunks.push(bytes);
    chunks
}

/// Reads back the entries of one record from its chunks, put together.
pub(crate) fn unpack_entries(mut record: Bytes) -> Result<Vec<Entry>, Malformed> {
    check_version(&mut record)?;
    let length = record.try_get_u32().map_err(|_| Malformed("log record without a length".into()))?;
    if record.len() != length as usize {
        return Err(Malformed(format!("log record of {} bytes, {length} expected", record.len())));
    }
    proto::parse_entries(proto::LogRecord::decode(record)?.entries)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::{EntryPayload, LogId, Membership};

    use super::*;
    use crate::consensus::{Command, LeaderId, Vote};

    fn entry(index: u64, payload: EntryPayload<Command, u64, ()>) -> Entry {
        Entry { log_id: LogId { leader_id: LeaderId { term: 3, node_id: 7 }, index }, payload }
    }

    fn command(index: u64, size: usize) -> Entry {
        entry(index, EntryPayload::Normal(Command(Bytes::from(vec![0xab; size]))))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_a_vote_are_frozen() {
        let vote = Vote { leader_id: LeaderId { term: 300, node_id: 2 }, committed: true };
        let bytes = encode(&proto::Vote::from(vote));
        assert_eq!(hex(&bytes), "0108ac021102000000000000001801");
        assert_eq!(Vote::from(decode::<proto::Vote>(bytes).unwrap()), vote);
    }

    #[test]
    fn the_bytes_of_a_log_record_are_frozen() {
        let membership = Membership::new(
            vec![BTreeSet::from([7])],
            [7, 9].map(|n| (n, ())).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        );
        let entries = vec![
            entry(4, EntryPayload::Blank),
            command(5, 3),
            entry(6, EntryPayload::Membership(membership.unwrap())),
        ];
        let records = pack_entries(entries.clone());
        let [LogRecord { first_index: 4, chunks }] = records.as_slice() else { panic!("{records:?}") };
        let [record] = chunks.as_slice() else { panic!("{chunks:?}") };
        assert_eq!(
            hex(record),
            "010000005a0a110a0d0803110700000000000000180412000a140a0d080311070000000000000018051a03ababab\
             0a2f0a0d08031107000000000000001806221e0a0a0a08070000000000000012100700000000000000\
             0900000000000000"
        );
        assert_eq!(unpack_entries(record.clone()).unwrap(), entries);
    }

    #[test]
    fn entries_are_packed_into_records_below_the_limit_and_large_ones_are_chunked() {
        let entries = vec![
            command(1, 40_000),
            command(2, 20_000),
            command(3, 40_000),
            command(4, 200_000),
            command(5, 1),
        ];
        let records = pack_entries(entries.clone());
        let shape: Vec<_> = records.iter().map(|record| (record.first_index, record.chunks.len())).collect();
        assert_eq!(shape, [(1, 1), (3, 1), (4, 4), (5, 1)]);
        assert!(
            records.iter().flat_map(|record| &record.chunks).all(|chunk| chunk.len() <= Batch::MAX_VALUE)
        );
        let read: Vec<_> = records
            .iter()
            .flat_map(|record| unpack_entries(record.chunks.concat().into()).unwrap())
            .collect();
        assert_eq!(read, entries);
    }

    #[test]
    fn a_record_that_lacks_a_chunk_or_is_of_another_version_is_refused() {
        let records = pack_entries(vec![command(4, 200_000)]);
        let chunks = &records.first().unwrap().chunks;
        assert!(unpack_entries(chunks.split_last().unwrap().1.concat().into()).is_err());
        assert!(unpack_entries(Bytes::from_static(&[2, 0, 0, 0, 0])).is_err());
        assert!(decode::<proto::Vote>(Bytes::new()).is_err());
    }
}
