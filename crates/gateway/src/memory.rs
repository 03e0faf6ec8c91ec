//! A link without a socket: two ends in one process, for tests and for the simulation of a cluster.
//!
//! It behaves as TCP does: bytes come in order, a side that is not read takes no more than its bound, closing
//! one way leaves the other open, and a cut loses what is under way. Knows no MQTT and no time. Start at
//! [`MemoryLink::pair`].

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;

use crate::Link;

/// One end of a connection in memory. Dropped, it closes both ways: the other end reads what is under way and
/// then the end, and can write no more.
#[derive(Debug)]
pub struct MemoryLink {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
}

/// One way of the connection.
#[derive(Debug)]
struct Pipe {
    bytes: BytesMut,
    /// Bytes that wait at most.
    bound: usize,
    state: State,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The writing side said that nothing more comes.
    Finished,
    /// The reading side is gone.
    Unread,
    /// The connection is broken, what was under way lost.
    Cut,
}

impl Pipe {
    fn new(bound: usize) -> Self {
        Self { bytes: BytesMut::new(), bound: bound.max(1), state: State::Open, reader: None, writer: None }
    }

    fn enter(&mut self, state: State) {
        if self.state != State::Cut {
            self.state = state;
        }
        self.wake();
    }

    fn cut(&mut self) {
        self.bytes.clear();
        self.enter(State::Cut);
    }

    fn wake(&mut self) {
        [self.reader.take(), self.writer.take()].into_iter().flatten().for_each(Waker::wake);
    }

    fn is_readable(&self) -> bool {
        !self.bytes.is_empty() || self.state != State::Open
    }

    fn is_writable(&self) -> bool {
        self.bytes.len() < self.bound || self.state != State::Open
    }
}

impl MemoryLink {
    /// Both ends of a connection on which at most `bound` bytes (at least one) wait in each direction.
    #[must_use]
    pub fn pair(bound: usize) -> (Self, Self) {
        let [there, back] = [(); 2].map(|()| Arc::new(Mutex::new(Pipe::new(bound))));
        let near = Self { incoming: Arc::clone(&back), outgoing: Arc::clone(&there) };
        (near, Self { incoming: there, outgoing: back })
    }

    /// Breaks the connection for both ends, as a reset does: what is under way is lost.
    pub fn cut(&self) {
        self.incoming.lock().cut();
        self.outgoing.lock().cut();
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.outgoing.lock().enter(State::Finished);
        let mut incoming = self.incoming.lock();
        incoming.bytes.clear();
        incoming.enter(State::Unread);
    }
}

impl Link for MemoryLink {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.incoming.lock();
        if pipe.is_readable() {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.lock();
        if pipe.is_writable() {
            return Poll::Ready(Ok(()));
        }
        pipe.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut pipe = self.incoming.lock();
        if pipe.bytes.is_empty() {
            return match pipe.state {
                State::Open => Err(io::ErrorKind::WouldBlock.into()),
                State::Finished | State::Unread => Ok(0),
                State::Cut => Err(io::ErrorKind::ConnectionReset.into()),
            };
        }
        let count = pipe.bytes.len().min(buffer.capacity() - buffer.len());
        if let Some(taken) = pipe.bytes.get(..count) {
            buffer.extend_from_slice(taken);
        }
        pipe.bytes.advance(count);
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Ok(count)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.outgoing.lock();
        match pipe.state {
            State::Open => {}
            State::Finished | State::Unread => return Err(io::ErrorKind::BrokenPipe.into()),
            State::Cut => return Err(io::ErrorKind::ConnectionReset.into()),
        }
        if !pipe.is_writable() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = pipe.bytes.len();
        for piece in pieces {
            let room = pipe.bound - pipe.bytes.len();
            pipe.bytes.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        }
        let count = pipe.bytes.len() - before;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Ok(count)
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut pipe = self.outgoing.lock();
        if pipe.state == State::Open {
            pipe.enter(State::Finished);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn read(link: &mut MemoryLink, capacity: usize) -> io::Result<Vec<u8>> {
        poll_fn(|context| link.poll_readable(context)).await?;
        let mut buffer = BytesMut::with_capacity(capacity);
        link.read(&mut buffer).map(|_| buffer.to_vec())
    }

    fn write(link: &mut MemoryLink, bytes: &[u8]) -> io::Result<usize> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        link.write(&[IoSlice::new(first), IoSlice::new(second)])
    }

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.unwrap_err().kind()
    }

    #[tokio::test]
    async fn bytes_come_in_order_and_no_more_than_the_bound_wait() {
        let (mut near, mut far) = MemoryLink::pair(5);
        assert_eq!(write(&mut near, b"abcdefgh").unwrap(), 5);
        assert_eq!(kind(write(&mut near, b"f")), io::ErrorKind::WouldBlock);
        assert_eq!(read(&mut far, 3).await.unwrap(), b"abc");
        assert_eq!(write(&mut near, b"fgh").unwrap(), 3);
        assert_eq!(read(&mut far, 64).await.unwrap(), b"defgh");
        assert_eq!(kind(far.read(&mut BytesMut::with_capacity(1))), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let (mut near, mut far) = MemoryLink::pair(1);
        let echo = tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 100 {
                let got = read(&mut far, 8).await.unwrap();
                seen.extend_from_slice(&got);
                poll_fn(|context| far.poll_writable(context)).await.unwrap();
                assert_eq!(write(&mut far, &got).unwrap(), 1);
            }
            seen
        });
        for number in 0..100 {
            poll_fn(|context| near.poll_writable(context)).await.unwrap();
            assert_eq!(write(&mut near, &[number]).unwrap(), 1);
            assert_eq!(read(&mut near, 8).await.unwrap(), [number]);
        }
        assert_eq!(echo.await.unwrap(), (0..100).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn closing_one_way_leaves_the_other_open() {
        let (mut near, mut far) = MemoryLink::pair(9);
        write(&mut near, b"last").unwrap();
        near.finish().unwrap();
        assert_eq!(kind(write(&mut near, b"x")), io::ErrorKind::BrokenPipe);
        assert_eq!(read(&mut far, 9).await.unwrap(), b"last");
        assert_eq!(read(&mut far, 9).await.unwrap(), b"");
        write(&mut far, b"heard").unwrap();
        assert_eq!(read(&mut near, 9).await.unwrap(), b"heard");
    }

    #[tokio::test]
    async fn an_end_that_is_gone_is_the_end_of_what_it_wrote() {
        let (mut near, mut far) = MemoryLink::pair(9);
        write(&mut near, b"last").unwrap();
        write(&mut far, b"unread").unwrap();
        drop(near);
        assert_eq!(read(&mut far, 9).await.unwrap(), b"last");
        assert_eq!(read(&mut far, 9).await.unwrap(), b"");
        assert_eq!(kind(write(&mut far, b"x")), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_cut_loses_what_is_under_way_and_both_ends_are_told() {
        let (mut near, mut far) = MemoryLink::pair(9);
        write(&mut near, b"lost").unwrap();
        near.cut();
        for end in [&mut near, &mut far] {
            assert_eq!(kind(read(end, 9).await), io::ErrorKind::ConnectionReset);
            assert_eq!(kind(write(end, b"x")), io::ErrorKind::ConnectionReset);
        }
    }
}
