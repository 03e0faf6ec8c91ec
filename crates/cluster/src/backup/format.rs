//! The bytes of an archive: a beginning, then numbered chunks with a checksum each, and at the end one over all.
//!
//! Knows no groups and no order of chunks. Frozen by tests; described in proto/archive.proto. Start at [`Writer`] and
//! [`Reader`].

use std::io::{self, Read};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;
use zwerm_machine::SnapshotError;
use zwerm_store::StoreError;

use super::proto::{End, Failed, Group, GroupEnd, Head, Messages};

const MAGIC: &[u8; 8] = b"zwermbak";
/// The format that this version writes and the newest it reads.
const FORMAT: u8 = 1;
/// Kind and length.
const PREFIX: usize = 5;
const CHECKSUM: usize = 8;
/// Largest chunk: a message of 256 MiB and what is around it.
const MAX_CHUNK: usize = 272 << 20;

/// Why an archive cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file cannot be read.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// It is another kind of file.
    #[error("this is no backup of zwerm")]
    NoArchive,
    /// A newer zwerm wrote it.
    #[error("the archive has format {found}, this version reads up to {supported}: use a newer zwerm")]
    Newer {
        /// In the file.
        found: u8,
        /// The newest this version reads.
        supported: u8,
    },
    /// It ends before its end.
    #[error("the archive is cut off at byte {at}: take another backup, or copy the file again")]
    CutOff {
        /// Where.
        at: u64,
    },
    /// Its bytes are not those that were written.
    #[error("the archive is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the chunk begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The backup failed while it was written, and says why.
    #[error("the backup was not finished: {reason}")]
    Unfinished {
        /// What the node wrote.
        reason: String,
    },
    /// A state in it cannot be read.
    #[error("Raft group {group} of the archive")]
    State {
        /// Which.
        group: u32,
        /// Why.
        source: SnapshotError,
    },
    /// What is read from it cannot be written.
    #[error("the new data directory cannot be written")]
    Store(#[from] StoreError),
}

/// A part of an archive.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Chunk {
    Head(Head),
    Group(Group),
    State(Bytes),
    Messages(Messages),
    GroupEnd(GroupEnd),
    End(End),
}

const HEAD: u8 = 1;
const GROUP: u8 = 2;
const STATE: u8 = 3;
const MESSAGES: u8 = 4;
const GROUP_END: u8 = 5;
const END: u8 = 6;
const FAILED: u8 = 7;

/// Messages as they are encoded already.
pub(super) struct EncodedMessages(pub(super) Bytes);

/// Makes the bytes of an archive, chunk after chunk.
#[derive(Default)]
pub(super) struct Writer {
    chunks: u64,
    hash: Sha256,
}

impl Writer {
    /// The first bytes.
    pub(super) fn begin(&mut self) -> Bytes {
        let mut out = BytesMut::from(&MAGIC[..]);
        out.put_u8(FORMAT);
        self.seal(out)
    }

    pub(super) fn head(&mut self, head: &Head) -> Bytes {
        self.chunk(HEAD, &head.encode_to_vec())
    }

    pub(super) fn group(&mut self, group: u32) -> Bytes {
        self.chunk(GROUP, &Group { group }.encode_to_vec())
    }

    pub(super) fn state(&mut self, part: &[u8]) -> Bytes {
        self.chunk(STATE, part)
    }

    pub(super) fn messages(&mut self, messages: &EncodedMessages) -> Bytes {
        self.chunk(MESSAGES, &messages.0)
    }

    pub(super) fn group_end(&mut self, end: GroupEnd) -> Bytes {
        self.chunk(GROUP_END, &end.encode_to_vec())
    }

    /// The last chunk of an archive that is whole.
    pub(super) fn end(mut self) -> Bytes {
        let sha256 = self.hash.clone().finalize().to_vec().into();
        let end = End { chunks: self.chunks, sha256 };
        self.chunk(END, &end.encode_to_vec())
    }

    /// The last chunk of one that is not.
    pub(super) fn failed(mut self, reason: String) -> Bytes {
        self.chunk(FAILED, &Failed { reason }.encode_to_vec())
    }

    fn chunk(&mut self, kind: u8, bytes: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(PREFIX + bytes.len() + CHECKSUM);
        out.put_u8(kind);
        // A chunk has at most a message and some bytes: below MAX_CHUNK.
        out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        out.put_slice(bytes);
        out.put_u64(checksum(self.chunks, &out, &[]));
        self.chunks += 1;
        self.seal(out)
    }

    fn seal(&mut self, out: BytesMut) -> Bytes {
        self.hash.update(&out);
        out.freeze()
    }
}

fn checksum(number: u64, prefix: &[u8], bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(number);
    hash.update(prefix);
    hash.update(bytes);
    hash.digest()
}

/// Reads an archive chunk by chunk; holds no more than one.
pub(super) struct Reader<R> {
    from: R,
    /// Bytes read.
    at: u64,
    chunks: u64,
    hash: Sha256,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    pub(super) fn begin(from: R) -> Result<Self, ArchiveError> {
        let mut reader = Self { from, at: 0, chunks: 0, hash: Sha256::new() };
        let mut begin = [0; MAGIC.len() + 1];
        match reader.fill(&mut begin) {
            Ok(()) => {}
            Err(ArchiveError::CutOff { .. }) => return Err(ArchiveError::NoArchive),
            Err(error) => return Err(error),
        }
        let (magic, format) = begin.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(ArchiveError::NoArchive);
        }
        match format.first() {
            Some(&FORMAT) => {}
            Some(&found) if found > FORMAT => {
                return Err(ArchiveError::Newer { found, supported: FORMAT });
            }
            _ => return Err(ArchiveError::Damaged { at: 0, what: "a format that no release wrote" }),
        }
        reader.hash.update(begin);
        Ok(reader)
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next chunk. After [`Chunk::End`] there is none: [`finish`](Self::finish) checks that. Of an archive that was
    /// given up the last says so, wherever it comes ([`ArchiveError::Unfinished`]).
    pub(super) fn next(&mut self) -> Result<Chunk, ArchiveError> {
        let at = self.at;
        let damaged = |what| ArchiveError::Damaged { at, what };
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix)?;
        let [kind, length @ ..] = prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_CHUNK {
            return Err(damaged("a chunk that is larger than any"));
        }
        let bytes = self.take(length)?;
        let mut sum = [0; CHECKSUM];
        self.fill(&mut sum)?;
        if u64::from_be_bytes(sum) != checksum(self.chunks, &prefix, &bytes) {
            return Err(damaged("the checksum differs"));
        }
        let unknown = || damaged("a chunk of no known kind");
        if kind == FAILED {
            let Failed { reason } = Failed::decode(bytes).map_err(|_| unknown())?;
            return Err(ArchiveError::Unfinished { reason });
        }
        let chunk = parse(kind, bytes.clone()).ok_or_else(unknown)?;
        if let Chunk::End(end) = &chunk {
            let whole = self.hash.clone().finalize();
            if end.chunks != self.chunks || end.sha256[..] != whole[..] {
                return Err(damaged("the checksum of the whole archive differs"));
            }
        }
        self.chunks += 1;
        self.hash.update(prefix);
        self.hash.update(&bytes);
        self.hash.update(sum);
        Ok(chunk)
    }

    /// Nothing may follow the last chunk. How many bytes there are.
    pub(super) fn finish(mut self) -> Result<u64, ArchiveError> {
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(self.at),
            Ok(_) => Err(ArchiveError::Damaged { at: self.at, what: "something follows the end" }),
            Err(error) => Err(ArchiveError::Read(error)),
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), ArchiveError> {
        let at = self.at;
        self.from.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::CutOff { at },
            _ => ArchiveError::Read(error),
        })?;
        self.at += into.len() as u64;
        Ok(())
    }

    /// Makes room for what is there, not for what is said to be.
    fn take(&mut self, length: usize) -> Result<Bytes, ArchiveError> {
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(length as u64).read_to_end(&mut bytes);
        let read = read.map_err(ArchiveError::Read)?;
        if read < length {
            return Err(ArchiveError::CutOff { at: self.at });
        }
        self.at += length as u64;
        Ok(bytes.into())
    }
}

fn parse(kind: u8, bytes: Bytes) -> Option<Chunk> {
    Some(match kind {
        HEAD => Chunk::Head(Head::decode(bytes).ok()?),
        GROUP => Chunk::Group(Group::decode(bytes).ok()?),
        STATE => Chunk::State(bytes),
        MESSAGES => Chunk::Messages(Messages::decode(bytes).ok()?),
        GROUP_END => Chunk::GroupEnd(GroupEnd::decode(bytes).ok()?),
        END => Chunk::End(End::decode(bytes).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Every kind of chunk of an archive that is whole; where each chunk begins, and the end.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let mut writer = Writer::default();
        let head = Head {
            cluster_id: "c".to_owned(),
            shards: 2,
            taken_at_ms: 300,
            version: "0.1.0".to_owned(),
            messages: 1,
        };
        let numbered = super::super::proto::Numbered { number: 7, message: "m".into() };
        let messages = Messages { messages: vec![numbered] };
        let mut out = writer.begin().to_vec();
        let mut borders = Vec::new();
        let mut push = |chunk: Bytes| {
            borders.push(out.len());
            out.extend_from_slice(&chunk);
        };
        push(writer.head(&head));
        push(writer.group(1));
        push(writer.state(b"state"));
        push(writer.messages(&EncodedMessages(messages.encode_to_vec().into())));
        push(writer.group_end(GroupEnd { group: 1, messages: 1 }));
        push(writer.end());
        borders.push(out.len());
        (out, borders)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Chunk>, ArchiveError> {
        let mut reader = Reader::begin(bytes)?;
        let mut chunks = Vec::new();
        loop {
            chunks.push(reader.next()?);
            if let Some(Chunk::End(_)) = chunks.last() {
                assert_eq!(reader.finish()?, bytes.len() as u64);
                return Ok(chunks);
            }
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_are_frozen() {
        let (bytes, borders) = written();
        let lines: Vec<String> = std::iter::once(&bytes[..borders[0]])
            .chain(borders.windows(2).map(|border| &bytes[border[0]..border[1]]))
            .map(hex)
            .collect();
        assert_eq!(lines, FROZEN);
        let chunks = read(&bytes).unwrap();
        assert_eq!(chunks.len(), 6);
        assert_eq!(chunks[2], Chunk::State("state".into()));
    }

    /// The beginning, then a line for each chunk.
    const FROZEN: [&str; 7] = [
        "7a7765726d62616b01",
        "01000000110a0163100218ac022205302e312e30280105d5c456bd471ee4",
        "020000000208014c06a857f645d511",
        "0300000005737461746570da58b5dabc02f8",
        "04000000070a05080712016d645f7b3c73c2d8fe",
        "0500000004080110019a863974ec3f84ab",
        "060000002408051220a47fea696cbf1de48fea6e422a3737900761b90329266f601536b86887ea5b0b82b026edb2b07a6c",
    ];

    #[test]
    fn wherever_it_is_cut_off_that_is_said() {
        let (bytes, borders) = written();
        for cut in 0..bytes.len() {
            match read(&bytes[..cut]) {
                Err(ArchiveError::NoArchive) => assert!(cut < borders[0], "cut at {cut}"),
                Err(ArchiveError::CutOff { at }) => assert!(at <= cut as u64, "cut at {cut}: {at}"),
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
        for border in &borders[..borders.len() - 1] {
            let error = read(&bytes[..*border]).unwrap_err();
            assert!(matches!(error, ArchiveError::CutOff { at } if at == *border as u64), "{error}");
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, borders) = written();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = read(&flipped).unwrap_err();
            let begins = borders.iter().rev().find(|border| **border <= bit / 8);
            match (begins, &error) {
                (None, ArchiveError::NoArchive | ArchiveError::Newer { .. }) => {}
                (None, ArchiveError::Damaged { at: 0, .. }) => {}
                // A length that is too large by then.
                (Some(_), ArchiveError::CutOff { .. }) => {}
                (Some(begins), ArchiveError::Damaged { at, .. }) => assert_eq!(*at, *begins as u64),
                _ => panic!("bit {bit}: {error}"),
            }
        }
    }

    #[test]
    fn chunks_that_are_missing_twice_there_or_exchanged_are_found() {
        let (bytes, borders) = written();
        let chunk = |index: usize| &bytes[borders[index]..borders[index + 1]];
        let begin = &bytes[..borders[0]];
        let joined = |order: &[usize]| {
            let mut out = begin.to_vec();
            order.iter().for_each(|index| out.extend_from_slice(chunk(*index)));
            out
        };
        assert!(read(&joined(&[0, 1, 2, 3, 4, 5])).is_ok());
        for order in [&[0, 1, 3, 4, 5][..], &[0, 1, 2, 2, 3, 4, 5], &[0, 2, 1, 3, 4, 5], &[5]] {
            assert!(matches!(read(&joined(order)), Err(ArchiveError::Damaged { .. })), "{order:?}");
        }
        let mut more = bytes.clone();
        more.push(0);
        assert!(matches!(read(&more), Err(ArchiveError::Damaged { what: "something follows the end", .. })));
    }

    #[test]
    fn a_newer_format_and_another_file_are_told_apart() {
        let (mut bytes, _) = written();
        bytes[8] = FORMAT + 1;
        assert_eq!(
            read(&bytes).unwrap_err().to_string(),
            "the archive has format 2, this version reads up to 1: use a newer zwerm"
        );
        for other in [&b""[..], b"zwerm", b"PK\x03\x04 and so on, as an archive of another kind"] {
            assert!(matches!(read(other), Err(ArchiveError::NoArchive)));
        }
    }
}
