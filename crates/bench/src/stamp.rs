//! What every payload starts with: who sent it, as which of his messages, and when.
//!
//! Knows no connection and no topic. Start at [`Stamp`].

use std::time::Duration;

/// Sixteen bytes, big-endian: publisher, sequence, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the publisher.
    pub(crate) publisher: u32,
    /// Number of the message, from 0, rising by one.
    pub(crate) sequence: u32,
    /// When it was sent, since the start of the run.
    pub(crate) sent: Duration,
}

impl Stamp {
    /// Bytes it takes; no payload is smaller.
    pub(crate) const LENGTH: usize = 16;

    /// As it is written.
    pub(crate) fn bytes(self) -> [u8; Self::LENGTH] {
        let nanoseconds = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        let whole =
            u128::from(self.publisher) << 96 | u128::from(self.sequence) << 64 | u128::from(nanoseconds);
        whole.to_be_bytes()
    }

    /// Reads it back; `None` when the payload is too short to hold one.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (sent, _) = rest.split_first_chunk()?;
        Some(Self {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u32::from_be_bytes(*sequence),
            sent: Duration::from_nanos(u64::from_be_bytes(*sent)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back() {
        let stamp = Stamp { publisher: 7, sequence: u32::MAX, sent: Duration::from_nanos(123) };
        assert_eq!(Stamp::read(&stamp.bytes()), Some(stamp));
        assert_eq!(Stamp::read(&stamp.bytes()[..15]), None);
    }
}
