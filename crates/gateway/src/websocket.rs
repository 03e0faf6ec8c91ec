//! WebSocket over another link: binary frames carry the bytes (MQTT 5.0 section 6).
//!
//! tungstenite does the frames. How packets lie in messages means nothing, neither way. Knows no HTTP and no MQTT.
//! Start at [`WebSocket::new`].

use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tungstenite::Message;
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};

use crate::buffers;
use crate::link::{Link, Through};

/// Bytes of one message to the client: what a connection may keep as a buffer afterwards.
const LARGEST_SENT: usize = 16 * 1024;

/// Bytes that tungstenite reads at once, a buffer that each connection keeps.
const READ_BUFFER: usize = 4096;

/// Bytes that wait to be written at most. Beyond a message of ours they are answers to pings.
const MOST_HELD: usize = 4 * LARGEST_SENT;

/// Messages of one client in one read: empty ones and pings bring no bytes, and others want their turn.
const MESSAGES_PER_READ: usize = 64;

/// A link under WebSocket, after its handshake.
pub(crate) struct WebSocket<L> {
    socket: Socket<L>,
    frames: WebSocketContext,
    /// What is left of the last message.
    message: Bytes,
    /// The last read left something behind, were it the end.
    unread: bool,
    /// The next wait lets others go first.
    resting: AtomicBool,
    /// What was to be written could not be.
    held: bool,
    /// Nothing more comes.
    ended: bool,
    /// Why the connection is over, to be said when what came before is read.
    failed: Option<io::Error>,
}

/// The link as tungstenite sees it.
struct Socket<L> {
    link: L,
    /// What came and tungstenite has not taken yet. Without memory while it is empty.
    incoming: BytesMut,
}

impl<L: Link> Read for Socket<L> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            let mut spare = buffers::take();
            let result = self.link.read(&mut spare);
            if spare.is_empty() {
                buffers::give_back(spare);
                return result;
            }
            self.incoming = spare;
        }
        let count = self.incoming.len().min(buffer.len());
        self.incoming.split_to(count).copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        if self.incoming.is_empty() {
            buffers::give_back(std::mem::take(&mut self.incoming));
        }
        Ok(count)
    }
}

impl<L: Link> Write for Socket<L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Through(&mut self.link).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.link.flush()
    }
}

impl<L: Link> WebSocket<L> {
    /// After the handshake. `early` came with it; a message of the client has `largest` bytes at most, however many
    /// frames it is in.
    pub(crate) fn new(link: L, early: BytesMut, largest: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MOST_HELD)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest));
        Self {
            socket: Socket { link, incoming: early },
            frames: WebSocketContext::new(Role::Server, Some(config)),
            message: Bytes::new(),
            unread: true,
            resting: AtomicBool::new(false),
            held: false,
            ended: false,
            failed: None,
        }
    }

    /// Reads until the buffer is full, or nothing more has come, or nothing more comes.
    fn read_some(&mut self, buffer: &mut BytesMut) -> io::Result<()> {
        for _ in 0..MESSAGES_PER_READ {
            let count = self.message.len().min(buffer.capacity() - buffer.len());
            buffer.extend_from_slice(&self.message.split_to(count));
            if buffer.len() == buffer.capacity() || self.ended {
                return Ok(());
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            match self.frames.read(&mut self.socket) {
                Ok(Message::Binary(bytes)) => self.message = bytes,
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Text(_)) => return Err(self.refuse(CloseCode::Unsupported, TEXT)),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.ended = true
                }
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => self.ended = true,
                Err(Error::Io(error)) => return Err(error),
                Err(error) => return Err(self.refuse_for(&error)),
            }
        }
        self.resting.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn refuse_for(&mut self, error: &Error) -> io::Error {
        let code = match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        };
        self.refuse(code, &error.to_string())
    }

    /// Tells the client why it is left. What cannot be written now is lost.
    fn refuse(&mut self, code: CloseCode, why: &str) -> io::Error {
        let reason = why.get(..LONGEST_REASON).unwrap_or(why);
        let close = CloseFrame { code, reason: reason.into() };
        let _told = self.frames.close(&mut self.socket, Some(close));
        io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
    }

    /// Notes what a write has left behind.
    fn written(&mut self, result: Result<(), Error>) -> io::Result<()> {
        match result {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                self.held = false;
                Ok(())
            }
            Err(Error::Io(error)) => {
                self.held = error.kind() == io::ErrorKind::WouldBlock;
                Err(error)
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// What a client is told that sends text (MQTT-6.0.0-1).
const TEXT: &str = "MQTT comes in binary frames";

/// Bytes of a reason in a Close frame (RFC 6455 section 5.5.1).
const LONGEST_REASON: usize = 123;

impl<L: Link> Link for WebSocket<L> {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.resting.swap(false, Ordering::Relaxed) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.unread { Poll::Ready(Ok(())) } else { self.socket.link.poll_readable(context) }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.link.poll_writable(context)
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let before = buffer.len();
        self.unread = true;
        let result = self.read_some(buffer);
        // answers to pings, and to a Close
        let _held = self.flush();
        if self.ended && !self.held {
            // both have said so: the server closes what is below (RFC 6455 section 7.1.1)
            let _said = self.socket.link.finish();
        }
        let count = buffer.len() - before;
        match result {
            Ok(()) if count == 0 && !self.ended => Err(io::ErrorKind::WouldBlock.into()),
            Ok(()) => Ok(count),
            Err(error) => {
                let would_block = error.kind() == io::ErrorKind::WouldBlock;
                self.unread = !would_block;
                if count == 0 {
                    return Err(error);
                }
                self.failed = Some(error).filter(|_| !would_block);
                Ok(count)
            }
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.held {
            self.flush()?;
        }
        if !self.frames.can_write() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut message = BytesMut::new();
        for piece in pieces {
            let room = LARGEST_SENT - message.len();
            message.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        }
        let count = message.len();
        let written = self.frames.write(&mut self.socket, Message::Binary(message.freeze()));
        match self.written(written).and_then(|()| self.flush()) {
            // it is taken, though not written
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let closed = self.frames.close(&mut self.socket, Some(close));
        self.written(closed)?;
        // what is below is closed when the client has said so too
        if self.ended { self.socket.link.finish() } else { Ok(()) }
    }

    fn holds(&self) -> bool {
        self.held || self.socket.link.holds()
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.frames.flush(&mut self.socket);
        self.written(flushed)
    }

    fn closes_together(&self) -> bool {
        !self.ended
    }
}
