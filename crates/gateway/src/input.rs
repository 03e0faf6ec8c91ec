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
