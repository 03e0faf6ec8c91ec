//! Bytes that came and are not packets yet.
//!
//! An idle connection holds none: bytes are read into a spare buffer of the thread and, if they are few,
//! copied to a buffer of their size, so that a message that is kept keeps no more alive than what came with
//! it. Knows no packets. Start at [`Input::fill`].

use std::io;

use bytes::BytesMut;

use crate::buffers;
use crate::link::Link;

/// From this many bytes on a buffer is handed over instead of copied.
const MANY: usize = buffers::SIZE / 4;

/// The reading side of one connection.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: BytesMut,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// The other side will send no more.
    End,
    /// So many bytes, and probably no more for now.
    All(usize),
    /// So many bytes, and probably more behind them.
    Some(usize),
}

impl Input {
    /// The bytes so far, for the decoder to take packets off.
    pub(crate) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// No packet is left in it: its memory is given up unless a part of a packet is there.
    pub(crate) fn settle(&mut self) {
        if self.bytes.is_empty() {
            buffers::give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// As [`Link::read`].
    pub(crate) fn fill(&mut self, link: &mut impl Link) -> io::Result<Filled> {
        if self.bytes.len() >= MANY {
            self.bytes.reserve(buffers::SIZE);
            let free = self.bytes.capacity() - self.bytes.len();
            return link.read(&mut self.bytes).map(|count| filled(count, free));
        }
        let mut spare = buffers::take();
        let free = spare.capacity();
        let result = link.read(&mut spare);
        if self.bytes.is_empty() && spare.len() >= MANY {
            self.bytes = spare;
        } else {
            self.append(&spare);
            buffers::give_back(spare);
        }
        result.map(|count| filled(count, free))
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::from(bytes);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

fn filled(count: usize, free: usize) -> Filled {
    match count {
        0 => Filled::End,
        count if count < free => Filled::All(count),
        count => Filled::Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Scripted;

    fn link(chunks: &[usize]) -> Scripted {
        Scripted { chunks: chunks.iter().map(|size| vec![7; *size]).collect(), ..Scripted::default() }
    }

    #[test]
    fn few_bytes_are_kept_in_a_buffer_of_their_size() {
        let mut input = Input::default();
        assert_eq!(input.fill(&mut link(&[100])).unwrap(), Filled::All(100));
        assert_eq!((input.bytes().len(), input.bytes().capacity()), (100, 100));
    }

    #[test]
    fn many_bytes_are_not_copied() {
        let mut input = Input::default();
        assert_eq!(input.fill(&mut link(&[buffers::SIZE])).unwrap(), Filled::Some(buffers::SIZE));
        assert_eq!(input.bytes().capacity(), buffers::SIZE);
    }

    #[test]
    fn a_part_of_a_packet_grows_with_what_comes() {
        let mut input = Input::default();
        let sizes = [10, 20_000, 30_000, 5];
        let mut link = link(&sizes);
        for size in sizes {
            assert_eq!(input.fill(&mut link).unwrap(), Filled::All(size));
        }
        assert_eq!(input.bytes().len(), sizes.iter().sum::<usize>());
        assert!(input.bytes().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn nothing_and_the_end_are_told_apart() {
        let mut input = Input::default();
        let mut nothing = link(&[]);
        assert_eq!(input.fill(&mut nothing).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(input.fill(&mut link(&[0])).unwrap(), Filled::End);
    }

    #[test]
    fn nothing_is_held_when_all_packets_were_taken() {
        for size in [100, buffers::SIZE] {
            let mut input = Input::default();
            input.fill(&mut link(&[size])).unwrap();
            drop(input.bytes().split());
            input.settle();
            assert_eq!(input.bytes().capacity(), 0);
        }
    }
}
