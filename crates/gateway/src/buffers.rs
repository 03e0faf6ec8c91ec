//! Spare buffers of each thread, so that a connection holds none while it is idle and none is allocated for
//! each wake-up.
//!
//! Knows no sockets. Start at [`take`] and [`give_back`].

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a spare buffer: what one read or write of a busy socket moves.
pub(crate) const SIZE: usize = 64 * 1024;

/// Spare buffers a thread keeps: a connection at work uses two at most, and works without waiting.
const SPARES: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of [`SIZE`] bytes.
pub(crate) fn take() -> BytesMut {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Keeps a buffer for the next one who needs it, unless a slice of it is in use or there are enough.
pub(crate) fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.try_reclaim(SIZE) && buffer.capacity() <= 2 * SIZE {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARES {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests may share a thread.
    fn forget() {
        SPARE.with_borrow_mut(Vec::clear);
    }

    fn spares() -> usize {
        SPARE.with_borrow(Vec::len)
    }

    #[test]
    fn a_buffer_comes_back_empty_and_whole() {
        forget();
        let mut buffer = take();
        buffer.extend_from_slice(&[7; 100]);
        let pointer = buffer.as_ptr();
        give_back(buffer);
        assert_eq!(spares(), 1);
        let again = take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (pointer, 0, SIZE));
    }

    #[test]
    fn a_buffer_with_a_slice_in_use_is_not_kept() {
        forget();
        let mut buffer = take();
        buffer.extend_from_slice(&[7; 100]);
        let slice = buffer.split_to(50).freeze();
        give_back(buffer);
        assert_eq!(spares(), 0);
        assert_eq!(slice.len(), 50);
    }

    #[test]
    fn a_thread_keeps_a_few() {
        forget();
        let buffers: Vec<_> = (0..SPARES + 3).map(|_| take()).collect();
        buffers.into_iter().for_each(give_back);
        assert_eq!(spares(), SPARES);
    }
}
