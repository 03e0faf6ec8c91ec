//! The key spaces: who owns which first byte of a key, and how the rest of the key is laid out.
//!
//! Numbers in keys are big-endian, so that key order is number order. What a value means is the business of
//! the crate that writes it; the type here names it. A prefix byte, once released, is never used again for
//! something else.

use std::ops::Range;

/// One prefix byte: a region of the database with one kind of key and one kind of value.
pub trait KeySpace {
    /// First byte of every key.
    const PREFIX: u8;
    /// For logs and tools.
    const NAME: &'static str;
    /// What identifies a record.
    type Key: Copy;

    /// The bytes of a key.
    fn key(key: Self::Key) -> Vec<u8>;
}

/// Version of the layout of this database: four bytes, big-endian ([`format`](crate::format)).
#[derive(Debug)]
pub struct Format;

/// The members this node's cluster was formed with, and the feature level that it has: one version byte, then `zwerm.peer.v1.Formation`.
#[derive(Debug)]
pub struct Formation;

/// Whether this node holds a shard: one version byte, the version of the shard's placement that said so (eight bytes,
/// big-endian), and 1 or 0. By Raft group; absent: as the cluster was formed.
#[derive(Debug)]
pub struct Holding;

/// A backup reads the messages of a shard: one version byte. What was forgotten meanwhile may lie among them still. By
/// Raft group.
#[derive(Debug)]
pub struct Pinned;

/// Vote of a Raft group: term and candidate (`zwerm.raft.v1.Vote`).
#[derive(Debug)]
pub struct RaftVote;

/// Last committed log id of a Raft group, written lazily (`zwerm.raft.v1.LogId`).
#[derive(Debug)]
pub struct RaftCommitted;

/// Last purged log id of a Raft group (`zwerm.raft.v1.LogId`).
#[derive(Debug)]
pub struct RaftPurged;

/// Log entries of a Raft group: one record holds the entries of one append, at most
/// [`Batch::MAX_VALUE`](crate::Batch::MAX_VALUE) bytes; a larger entry continues in following chunks.
#[derive(Debug)]
pub struct RaftLog;

/// The current snapshot of a Raft group (`zwerm.raft.v1.SnapshotRecord`): names the chunks that hold it.
#[derive(Debug)]
pub struct RaftSnapshot;

/// Chunks of the bytes of a snapshot.
#[derive(Debug)]
pub struct RaftSnapshotChunk;

/// Messages that the queues of a shard name, several in one record
/// ([`MessageLog`](crate::MessageLog) writes and reads them); a large one is cut into chunks of at most
/// [`Batch::MAX_VALUE`](crate::Batch::MAX_VALUE) bytes.
#[derive(Debug)]
pub struct ShardMessage;

/// Key of a [`RaftLog`] record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogKey {
    /// Raft group.
    pub group: u32,
    /// Index of the first entry of the record.
    pub first_index: u64,
    /// 0, or the position in the chunks of one large entry.
    pub chunk: u32,
}

/// Key of a [`RaftSnapshotChunk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey {
    /// Raft group.
    pub group: u32,
    /// Number of the snapshot among those of its group.
    pub snapshot: u64,
    /// Position of the chunk.
    pub chunk: u32,
}

/// Key of a [`ShardMessage`] record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageKey {
    /// Raft group of the shard.
    pub group: u32,
    /// Number of the first message of the record in its shard.
    pub number: u64,
    /// Position of the chunk.
    pub chunk: u32,
}

macro_rules! per_group {
    ($space:ident, $prefix:literal, $name:literal) => {
        impl KeySpace for $space {
            const PREFIX: u8 = $prefix;
            const NAME: &'static str = $name;
            type Key = u32;

            fn key(group: u32) -> Vec<u8> {
                let mut key = vec![Self::PREFIX];
                key.extend_from_slice(&group.to_be_bytes());
                key
            }
        }
    };
}

per_group!(Holding, 0x02, "holding");
per_group!(Pinned, 0x03, "pinned");
per_group!(RaftVote, 0x10, "raft vote");
per_group!(RaftCommitted, 0x11, "raft committed");
per_group!(RaftPurged, 0x12, "raft purged");
per_group!(RaftSnapshot, 0x14, "raft snapshot");

impl KeySpace for Format {
    const PREFIX: u8 = 0x00;
    const NAME: &'static str = "format";
    type Key = ();

    fn key((): ()) -> Vec<u8> {
        vec![Self::PREFIX]
    }
}

impl KeySpace for Formation {
    const PREFIX: u8 = 0x01;
    const NAME: &'static str = "formation";
    type Key = ();

    fn key((): ()) -> Vec<u8> {
        vec![Self::PREFIX]
    }
}

impl KeySpace for RaftLog {
    const PREFIX: u8 = 0x13;
    const NAME: &'static str = "raft log";
    type Key = LogKey;

    fn key(key: LogKey) -> Vec<u8> {
        numbered(Self::PREFIX, key.group, key.first_index, key.chunk)
    }
}

impl RaftLog {
    /// Reads a key back; `None` if it is not one of this space.
    pub fn parse(key: &[u8]) -> Option<LogKey> {
        let (group, first_index, chunk) = parse_numbered(Self::PREFIX, key)?;
        Some(LogKey { group, first_index, chunk })
    }
}

impl KeySpace for RaftSnapshotChunk {
    const PREFIX: u8 = 0x15;
    const NAME: &'static str = "raft snapshot chunk";
    type Key = ChunkKey;

    fn key(key: ChunkKey) -> Vec<u8> {
        numbered(Self::PREFIX, key.group, key.snapshot, key.chunk)
    }
}

impl RaftSnapshotChunk {
    /// Reads a key back; `None` if it is not one of this space.
    pub fn parse(key: &[u8]) -> Option<ChunkKey> {
        let (group, snapshot, chunk) = parse_numbered(Self::PREFIX, key)?;
        Some(ChunkKey { group, snapshot, chunk })
    }
}

impl KeySpace for ShardMessage {
    const PREFIX: u8 = 0x20;
    const NAME: &'static str = "shard message";
    type Key = MessageKey;

    fn key(key: MessageKey) -> Vec<u8> {
        numbered(Self::PREFIX, key.group, key.number, key.chunk)
    }
}

impl ShardMessage {
    /// Reads a key back; `None` if it is not one of this space.
    pub fn parse(key: &[u8]) -> Option<MessageKey> {
        let (group, number, chunk) = parse_numbered(Self::PREFIX, key)?;
        Some(MessageKey { group, number, chunk })
    }

    /// All keys of a group, for [`Engine::scan`](crate::Engine::scan).
    pub fn of_group(group: u32) -> Range<Vec<u8>> {
        let start = Self::key(MessageKey { group, number: 0, chunk: 0 });
        // The key of the last chunk of the last number and one byte more, so that no key is left out.
        let mut end = Self::key(MessageKey { group, number: u64::MAX, chunk: u32::MAX });
        end.push(0);
        start..end
    }

    /// All chunks of one record.
    pub fn of_number(group: u32, number: u64) -> Range<Vec<u8>> {
        let start = Self::key(MessageKey { group, number, chunk: 0 });
        let mut end = Self::key(MessageKey { group, number, chunk: u32::MAX });
        end.push(0);
        start..end
    }
}

/// Group of a key of one of the per-group spaces; `None` if the key is too short.
pub fn group_of(key: &[u8]) -> Option<u32> {
    key.get(1..5)?.try_into().ok().map(u32::from_be_bytes)
}

fn numbered(prefix: u8, group: u32, number: u64, chunk: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(prefix);
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_numbered(prefix: u8, key: &[u8]) -> Option<(u32, u64, u32)> {
    let (&found, rest) = key.split_first()?;
    if found != prefix || rest.len() != 16 {
        return None;
    }
    let group = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    let number = u64::from_be_bytes(rest.get(4..12)?.try_into().ok()?);
    let chunk = u32::from_be_bytes(rest.get(12..)?.try_into().ok()?);
    Some((group, number, chunk))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_space_has_a_prefix_of_its_own() {
        let all = [
            (Format::PREFIX, Format::NAME),
            (Formation::PREFIX, Formation::NAME),
            (Holding::PREFIX, Holding::NAME),
            (Pinned::PREFIX, Pinned::NAME),
            (RaftVote::PREFIX, RaftVote::NAME),
            (RaftCommitted::PREFIX, RaftCommitted::NAME),
            (RaftPurged::PREFIX, RaftPurged::NAME),
            (RaftLog::PREFIX, RaftLog::NAME),
            (RaftSnapshot::PREFIX, RaftSnapshot::NAME),
            (RaftSnapshotChunk::PREFIX, RaftSnapshotChunk::NAME),
            (ShardMessage::PREFIX, ShardMessage::NAME),
        ];
        assert_eq!(all.iter().map(|(prefix, _)| prefix).collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|(_, name)| name).collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn keys_are_frozen_and_read_back() {
        let key = LogKey { group: 0x0102, first_index: 0x0304, chunk: 5 };
        let bytes = RaftLog::key(key);
        assert_eq!(bytes, [0x13, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 5]);
        assert_eq!(RaftLog::parse(&bytes), Some(key));
        assert_eq!(RaftSnapshotChunk::parse(&bytes), None);
        assert_eq!(group_of(&bytes), Some(0x0102));
        assert_eq!(RaftVote::key(7), [0x10, 0, 0, 0, 7]);
    }

    #[test]
    fn log_keys_sort_by_group_then_index_then_chunk() {
        let key = |group, first_index, chunk| RaftLog::key(LogKey { group, first_index, chunk });
        let sorted = [key(0, 9, 0), key(0, 256, 0), key(0, 256, 1), key(1, 1, 0)];
        assert!(sorted.is_sorted());
    }

    #[test]
    fn the_range_of_a_group_and_of_a_number_holds_exactly_their_keys() {
        let key = |group, number, chunk| ShardMessage::key(MessageKey { group, number, chunk });
        assert_eq!(key(1, 2, 3), [0x20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3]);
        assert_eq!(ShardMessage::parse(&key(1, 2, 3)), Some(MessageKey { group: 1, number: 2, chunk: 3 }));
        let group = ShardMessage::of_group(7);
        assert!(group.contains(&key(7, 0, 0)) && group.contains(&key(7, u64::MAX, u32::MAX)));
        assert!(!group.contains(&key(6, u64::MAX, u32::MAX)) && !group.contains(&key(8, 0, 0)));
        let number = ShardMessage::of_number(7, 9);
        assert!(number.contains(&key(7, 9, 0)) && number.contains(&key(7, 9, u32::MAX)));
        assert!(!number.contains(&key(7, 8, u32::MAX)) && !number.contains(&key(7, 10, 0)));
    }
}
