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
use crate::link::{Link, Through, Unread};

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
    unread: Unread,
    /// The next wait lets others go first.
    resting: AtomicBool,
    /// What was to be written could not be.
    held: bool,
    /// Nothing more comes.
    ended: bool,
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
            unread: Unread::early(),
            resting: AtomicBool::new(false),
            held: false,
            ended: false,
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
            if let Some(error) = self.unread.take_failure() {
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
        if self.unread.any { Poll::Ready(Ok(())) } else { self.socket.link.poll_readable(context) }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.link.poll_writable(context)
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let before = buffer.len();
        let stopped = self.read_some(buffer);
        // answers to pings, and to a Close
        let _held = self.flush();
        if self.ended && !self.held {
            // both have said so: the server closes what is below (RFC 6455 section 7.1.1)
            let _said = self.socket.link.finish();
        }
        match self.unread.settle(buffer.len() - before, stopped) {
            // messages without bytes: 0 would be the end
            Ok(0) if !self.ended => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Scripted;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    const LARGEST: usize = 1000;

    fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { opcode, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
        let mut bytes = Vec::new();
        Frame::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
        bytes
    }

    fn ping(number: usize) -> Vec<u8> {
        masked(OpCode::Control(Control::Ping), number.to_string().as_bytes())
    }

    fn websocket(chunks: Vec<Vec<u8>>, turns: &[usize]) -> WebSocket<Scripted> {
        let link =
            Scripted { chunks: chunks.into(), turns: turns.iter().copied().collect(), taken: Vec::new() };
        WebSocket::new(link, BytesMut::new(), LARGEST)
    }

    /// Reads as the driver does, until nothing more comes.
    fn read_all(websocket: &mut WebSocket<Scripted>) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut seen = Vec::new();
        loop {
            let mut buffer = BytesMut::with_capacity(64);
            match websocket.read(&mut buffer) {
                Ok(0) => return (seen, None),
                Ok(_) => seen.extend_from_slice(&buffer),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return (seen, Some(error.kind())),
                Err(_) if websocket.unread.any => {}
                Err(error) => return (seen, Some(error.kind())),
            }
        }
    }

    #[test]
    fn what_the_link_does_not_take_is_held_and_written_before_anything_else() {
        let mut websocket = websocket(vec![ping(1)], &[]);
        assert_eq!(read_all(&mut websocket).1, Some(io::ErrorKind::WouldBlock));
        assert!(websocket.holds());
        let blocked = websocket.write(&[IoSlice::new(b"later")]).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        websocket.socket.link.turns.extend([2, 100, 100]);
        // the first turn takes a part of the pong, the second the rest
        websocket.flush().unwrap();
        assert!(!websocket.holds());
        assert_eq!(websocket.write(&[IoSlice::new(b"la"), IoSlice::new(b"ter")]).unwrap(), 5);
        assert_eq!(websocket.socket.link.taken, b"\x8a\x011\x82\x05later");
    }

    #[test]
    fn answers_to_a_flood_of_pings_are_bounded() {
        let mut websocket = websocket((0..40_000).map(ping).collect(), &[]);
        assert_eq!(read_all(&mut websocket).1, Some(io::ErrorKind::WouldBlock));
        websocket.socket.link.turns.extend([usize::MAX; 10]);
        websocket.flush().unwrap();
        let taken = websocket.socket.link.taken.len();
        assert!((1..=MOST_HELD + 200).contains(&taken), "{taken}");
    }

    #[test]
    fn one_message_is_no_larger_than_what_a_connection_may_keep() {
        let mut websocket = websocket(vec![], &[usize::MAX; 4]);
        let large = vec![7; 3 * LARGEST_SENT];
        assert_eq!(websocket.write(&[IoSlice::new(&large), IoSlice::new(&large)]).unwrap(), LARGEST_SENT);
    }

    #[test]
    fn messages_without_bytes_let_others_go_first() {
        let empty = masked(OpCode::Data(Data::Binary), b"").repeat(2 * MESSAGES_PER_READ);
        let mut websocket = websocket(vec![empty], &[]);
        let result = websocket.read(&mut BytesMut::with_capacity(64));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(websocket.poll_readable(&mut context).is_pending(), "others first");
        assert!(websocket.poll_readable(&mut context).is_ready(), "then what is left");
    }

    #[test]
    fn what_came_before_an_error_is_read_before_it() {
        let chunk =
            [masked(OpCode::Data(Data::Binary), b"good"), masked(OpCode::Data(Data::Text), b"bad")].concat();
        let mut websocket = websocket(vec![chunk], &[usize::MAX; 4]);
        assert_eq!(read_all(&mut websocket), (b"good".to_vec(), Some(io::ErrorKind::InvalidData)));
        assert!(websocket.socket.link.taken.starts_with(&[0x88]), "a Close frame");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..8)) {
            let mut websocket = websocket(chunks, &[usize::MAX; 100]);
            let (seen, _) = read_all(&mut websocket);
            prop_assert!(seen.len() < 1600);
        }

        #[test]
        fn cutting_the_bytes_anywhere_changes_nothing(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            cuts in proptest::collection::vec(1..50_usize, 1..40),
        ) {
            let frames: Vec<u8> = payloads.iter().flat_map(|payload| masked(OpCode::Data(Data::Binary), payload)).collect();
            let mut left = frames.as_slice();
            let mut chunks = Vec::new();
            for cut in cuts {
                let (chunk, rest) = left.split_at(cut.min(left.len()));
                chunks.push(chunk.to_vec());
                left = rest;
            }
            chunks.push(left.to_vec());
            chunks.retain(|chunk| !chunk.is_empty());
            let mut websocket = websocket(chunks, &[]);
            prop_assert_eq!(read_all(&mut websocket), (payloads.concat(), Some(io::ErrorKind::WouldBlock)));
        }
    }
}
