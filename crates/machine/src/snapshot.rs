//! The bytes of a snapshot: a header, then records behind their lengths. Knows no state.
//!
//! The format outlives every decision, so tests freeze its bytes. Start at [`Writer`] and [`read`].

use prost::Message;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Magic, format, checksum.
const HEADER: usize = 4 + 1 + 8;

/// Why snapshot bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Written by a newer zwerm: upgrade this node.
    #[error("the snapshot has format {found}, this version reads up to {supported}: upgrade this node")]
    Newer {
        /// In the bytes.
        found: u8,
        /// The newest this version reads.
        supported: u8,
    },
    /// Not a snapshot of this machine, or not as it was written: fetch it again.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
}

/// What a snapshot is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Which machine: the first four bytes.
    pub(crate) magic: [u8; 4],
    /// The format that this version writes and reads.
    pub(crate) format: u8,
}

/// Writes records in the order given.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut bytes = Vec::from(kind.magic);
        bytes.push(kind.format);
        bytes.resize(HEADER, 0);
        Self(bytes)
    }

    pub(crate) fn push(&mut self, record: &impl Message) {
        self.0.extend(record.encode_length_delimited_to_vec());
    }

    /// The snapshot, its checksum filled in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let sum = checksum(&self.0);
        if let Some(place) = self.0.get_mut(5..HEADER) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        self.0
    }
}

/// Of the records of a snapshot.
pub(crate) fn checksum(snapshot: &[u8]) -> u64 {
    xxh3_64(snapshot.get(HEADER..).unwrap_or_default())
}

/// The records of a snapshot, the header checked.
pub(crate) fn read<R: Message + Default>(
    kind: Kind,
    bytes: &[u8],
) -> Result<impl Iterator<Item = Result<R, SnapshotError>>, SnapshotError> {
    let (header, mut records) = bytes.split_at_checked(HEADER).ok_or(SnapshotError::Damaged("no header"))?;
    if !header.starts_with(&kind.magic) {
        return Err(SnapshotError::Damaged("the magic of another machine, or none"));
    }
    match header.get(4) {
        Some(&found) if found == kind.format => {}
        Some(&found) if found > kind.format => {
            return Err(SnapshotError::Newer { found, supported: kind.format });
        }
        _ => return Err(SnapshotError::Damaged("a format that no release wrote")),
    }
    if header.get(5..) != Some(&checksum(bytes).to_le_bytes()) {
        return Err(SnapshotError::Damaged("the checksum differs"));
    }
    Ok(std::iter::from_fn(move || {
        if records.is_empty() {
            return None;
        }
        let record = R::decode_length_delimited(&mut records);
        Some(record.map_err(|_| SnapshotError::Damaged("a record")))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Drained;

    const KIND: Kind = Kind { magic: *b"TEST", format: 1 };

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(KIND);
        for upto in 1..4 {
            writer.push(&Drained { upto });
        }
        writer.finish()
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<u64>, SnapshotError> {
        read::<Drained>(KIND, bytes)?.map(|record| record.map(|record| record.upto)).collect()
    }

    #[test]
    fn records_come_back_in_order() {
        assert_eq!(read_all(&written()), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_newer_format_is_refused_with_both_numbers() {
        let mut bytes = written();
        bytes[4] = KIND.format + 1;
        let newer = SnapshotError::Newer { found: KIND.format + 1, supported: KIND.format };
        assert_eq!(read_all(&bytes), Err(newer.clone()));
        assert_eq!(
            newer.to_string(),
            "the snapshot has format 2, this version reads up to 1: upgrade this node"
        );
    }

    #[test]
    fn every_shorter_and_every_flipped_snapshot_is_refused() {
        let bytes = written();
        for cut in 0..bytes.len() {
            assert!(read_all(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read_all(&flipped).is_err(), "bit {bit}");
        }
    }
}
