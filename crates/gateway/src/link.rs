//! What the driver needs of a connection: bytes in, bytes out, and word when either is possible.
//!
//! A link waits for bytes without a buffer to put them into: reading and writing never wait, waiting never
//! reads. TCP and Unix sockets are links; TLS and WebSocket are links over links. Knows no MQTT.
//! Start at [`Link`].

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::poll_read_buf;

/// A connection that carries bytes both ways. One task owns it.
pub trait Link: Send + 'static {
    /// Ready when a read would not block; an error and the end count as bytes.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when a write would not block.
    ///
    /// # Errors
    /// The connection is broken.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Appends what has come to the free capacity of `buffer`. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has come; else the connection is broken.
    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize>;

    /// Takes some of the bytes, in order, and says how many.
    ///
    /// # Errors
    /// `WouldBlock` if none can be taken now; else the connection is broken.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Says that nothing more will be written, after what it holds. May be called again until it succeeds.
    ///
    /// # Errors
    /// `WouldBlock` if it cannot be said now; else the connection is broken.
    fn finish(&mut self) -> io::Result<()>;

    /// Bytes of its own wait until they can be written: an encrypted record, the answer to a ping. Bounded.
    fn holds(&self) -> bool {
        false
    }

    /// Writes what it holds.
    ///
    /// # Errors
    /// `WouldBlock` if not all can be written now; else the connection is broken.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// After [`finish`](Self::finish) the other side has its own last word, without which it takes the connection
    /// for broken.
    fn closes_together(&self) -> bool {
        false
    }
}

/// What Tokio's streams do when they have no task to wake: a partial read or write tells them that the
/// socket is drained or full, which saves the system call that would only say `WouldBlock`.
fn at_once<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

macro_rules! links {
    ($($stream:ty),*) => {$(
        impl Link for $stream {
            fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(context)
            }

            fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(context)
            }

            fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
                let mut context = Context::from_waker(Waker::noop());
                at_once(poll_read_buf(Pin::new(self), &mut context, buffer))
            }

            fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
                let mut context = Context::from_waker(Waker::noop());
                at_once(Pin::new(self).poll_write_vectored(&mut context, pieces))
            }

            fn finish(&mut self) -> io::Result<()> {
                let mut context = Context::from_waker(Waker::noop());
                at_once(Pin::new(self).poll_shutdown(&mut context))
            }
        }
    )*};
}
links!(TcpStream, UnixStream);

/// What is not plain TCP: layers cost more than this call, and one driver serves them all.
impl Link for Box<dyn Link + Sync> {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_readable(context)
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_writable(context)
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        (**self).read(buffer)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (**self).write(pieces)
    }

    fn finish(&mut self) -> io::Result<()> {
        (**self).finish()
    }

    fn holds(&self) -> bool {
        (**self).holds()
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn closes_together(&self) -> bool {
        (**self).closes_together()
    }
}

/// What the last read of a layer left behind.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// There is something, were it the end: a read would not block.
    pub(crate) any: bool,
    /// Why the connection is over, to be said when what came before is read.
    failed: Option<io::Error>,
}

impl Unread {
    /// Something may have come with the handshake.
    pub(crate) fn early() -> Self {
        Self { any: true, failed: None }
    }

    /// Why the connection is over, if a read has found out and not said.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// What a read says that brought so many bytes before it stopped: because there was no more room or is no more to
    /// come, or with an error.
    pub(crate) fn settle(&mut self, count: usize, stopped: io::Result<()>) -> io::Result<usize> {
        let Err(error) = stopped else {
            self.any = true;
            return Ok(count);
        };
        let would_block = error.kind() == io::ErrorKind::WouldBlock;
        self.any = !would_block;
        if count == 0 {
            return Err(error);
        }
        self.failed = Some(error).filter(|_| !would_block);
        Ok(count)
    }
}

/// A link as the libraries write to it that know no links.
pub(crate) struct Through<'a, L>(pub(crate) &'a mut L);

impl<L: Link> Write for Through<'_, L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A link that does what a test tells it.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    /// What the reads find, in turn; an empty one is the end.
    pub(crate) chunks: std::collections::VecDeque<Vec<u8>>,
    /// How many bytes the writes take, in turn.
    pub(crate) turns: std::collections::VecDeque<usize>,
    /// What was written.
    pub(crate) taken: Vec<u8>,
}

#[cfg(test)]
impl Link for Scripted {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.chunks.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turns.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let chunk = self.chunks.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        assert!(buffer.capacity() - buffer.len() >= chunk.len(), "a link fills free capacity only");
        buffer.extend_from_slice(&chunk);
        Ok(chunk.len())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let most = self.turns.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let before = self.taken.len();
        self.taken.extend(pieces.iter().flat_map(|piece| piece.iter()).take(most));
        Ok(self.taken.len() - before)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
