//! Bytes that wait to be written: small packets copied one behind the other, large payloads kept as they are
//! and written between them.
//!
//! An idle connection holds no buffer. Knows no packets but their encoding. Start at [`Output::write`].

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::buffers;
use crate::link::Link;

/// Pieces of one vectored write.
const PIECES: usize = 32;

/// The writing side of one connection.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Earlier than `tail`, in order.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes in `pieces`.
    in_pieces: usize,
}

impl Output {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.in_pieces + self.tail.len()
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer to append the next packet to. What is in it stays as it is.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail = buffers::take();
        }
        &mut self.tail
    }

    /// Appends bytes without copying them.
    pub(crate) fn append(&mut self, bytes: Bytes) {
        let earlier = self.tail.split().freeze();
        self.push(earlier);
        self.push(bytes);
    }

    fn push(&mut self, piece: Bytes) {
        self.in_pieces += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Writes until all is written or the link takes no more, and says how many bytes it took.
    ///
    /// # Errors
    /// The link is broken. That it takes no more is not an error: then something is left.
    pub(crate) fn write(&mut self, link: &mut impl Link) -> io::Result<usize> {
        let mut total = 0;
        while !self.is_empty() {
            let (offered, result) = self.offer(link);
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.advance(written);
                    total += written;
                    if written < offered {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_empty() {
            self.give_up_memory();
        }
        Ok(total)
    }

    fn offer(&self, link: &mut impl Link) -> (usize, io::Result<usize>) {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        let mut offered = 0;
        let pieces = self.pieces.iter().map(|piece| &**piece).chain(std::iter::once(&*self.tail));
        for (slice, piece) in slices.iter_mut().zip(pieces.filter(|piece| !piece.is_empty())) {
            *slice = IoSlice::new(piece);
            count += 1;
            offered += piece.len();
        }
        (offered, link.write(slices.get(..count).unwrap_or_default()))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let taken = written.min(piece.len());
            piece.advance(taken);
            self.in_pieces -= taken;
            written -= taken;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.tail.advance(written.min(self.tail.len()));
    }

    fn give_up_memory(&mut self) {
        self.pieces = VecDeque::new();
        if self.tail.capacity() > 0 {
            buffers::give_back(std::mem::take(&mut self.tail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Scripted;

    /// Takes so many bytes in each write, then blocks.
    fn link(turns: &[usize]) -> Scripted {
        Scripted { turns: turns.iter().copied().collect(), ..Scripted::default() }
    }

    /// Small and kept pieces in turn, more of them than one write offers.
    fn mixed() -> (Output, Vec<u8>) {
        let mut output = Output::default();
        let mut expected = Vec::new();
        for number in 0..50_u8 {
            let small = [number; 3];
            let large = Bytes::from(vec![number.wrapping_add(100); 1000]);
            output.tail().extend_from_slice(&small);
            output.append(large.clone());
            expected.extend_from_slice(&small);
            expected.extend_from_slice(&large);
        }
        output.tail().extend_from_slice(b"end");
        expected.extend_from_slice(b"end");
        (output, expected)
    }

    #[test]
    fn all_is_written_in_order_by_one_call_if_the_link_takes_it() {
        let (mut output, expected) = mixed();
        assert_eq!(output.len(), expected.len());
        let mut link = link(&[usize::MAX; 10]);
        assert_eq!(output.write(&mut link).unwrap(), expected.len());
        assert!(output.is_empty());
        assert_eq!(link.taken, expected);
    }

    #[test]
    fn any_way_of_taking_a_part_keeps_the_order() {
        for most in [1, 2, 3, 4, 999, 1000, 1003, 1004, 5000, 40_000] {
            let (mut output, expected) = mixed();
            let mut link = link(&[]);
            let mut left = expected.len();
            while left > 0 {
                link.turns.push_back(most);
                let written = output.write(&mut link).unwrap();
                assert!(written > 0 && written <= most + PIECES * 1003);
                left -= written;
                assert_eq!(output.len(), left);
            }
            assert!(link.taken == expected, "in steps of {most}");
        }
    }

    #[test]
    fn a_link_that_takes_nothing_is_no_error() {
        let (mut output, expected) = mixed();
        assert_eq!(output.write(&mut link(&[])).unwrap(), 0);
        assert_eq!(output.len(), expected.len());
    }

    #[test]
    fn a_link_that_takes_zero_bytes_is_broken() {
        let (mut output, _) = mixed();
        assert_eq!(output.write(&mut link(&[0])).unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn nothing_is_held_when_nothing_waits() {
        let (mut output, _) = mixed();
        output.write(&mut link(&[usize::MAX; 10])).unwrap();
        assert_eq!((output.tail.capacity(), output.pieces.capacity()), (0, 0));
    }
}
