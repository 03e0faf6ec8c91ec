//! TLS over another link: what is read is decrypted, what is written encrypted.
//!
//! rustls does it; it is fed whole reads and asked for whole writes. Knows no certificates but that of the other
//! side, and no MQTT. Start at [`Tls::accept`].

use std::future::poll_fn;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use thiserror::Error;

use crate::buffers;
use crate::link::{Link, Through, Unread};

/// A link under TLS.
pub(crate) struct Tls<L> {
    link: L,
    connection: ServerConnection,
    /// What came and rustls has not taken yet. Without memory while it is empty.
    incoming: BytesMut,
    unread: Unread,
    /// Nothing more comes.
    ended: bool,
}

/// Why a TLS connection is over.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    /// What is below.
    #[error(transparent)]
    Link(#[from] io::Error),
    /// The other side does not keep to the protocol, or has not what we ask for.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Link(error) => error,
            Broken::Tls(error) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

impl<L: Link> Tls<L> {
    /// Does the handshake. What went wrong comes with the link, on which an alert has said so.
    pub(crate) async fn accept(link: L, config: Arc<ServerConfig>) -> Result<Self, (Broken, Option<L>)> {
        let connection = ServerConnection::new(config).map_err(|error| (error.into(), None))?;
        let (incoming, unread) = (BytesMut::new(), Unread::default());
        let mut tls = Self { link, connection, incoming, unread, ended: false };
        match tls.shake_hands().await {
            Ok(()) => Ok(tls),
            Err(broken) => {
                let told = tls.flush_all().await;
                Err((broken, told.is_ok().then_some(tls.link)))
            }
        }
    }

    async fn shake_hands(&mut self) -> Result<(), Broken> {
        loop {
            self.flush_all().await?;
            if !self.connection.is_handshaking() {
                self.unread = Unread::early();
                return Ok(());
            }
            if self.ended {
                return Err(Broken::Link(io::ErrorKind::UnexpectedEof.into()));
            }
            if self.incoming.is_empty() {
                poll_fn(|context| self.link.poll_readable(context)).await?;
            }
            match self.advance() {
                Err(Broken::Link(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => result?,
            }
        }
    }

    async fn flush_all(&mut self) -> io::Result<()> {
        loop {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.link.poll_writable(context)).await?;
                }
                result => return result,
            }
        }
    }

    /// Whether the client came back with a session of before.
    pub(crate) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificate of the other side (DER), if it has shown one. It was verified.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.connection.peer_certificates()?.first().map(AsRef::as_ref)
    }

    /// Hands rustls some of what has come, reading the link at most once.
    fn advance(&mut self) -> Result<(), Broken> {
        if self.incoming.is_empty() {
            self.fill()?;
        }
        let mut bytes = &*self.incoming;
        let taken = if self.ended { 0 } else { self.connection.read_tls(&mut bytes)? };
        self.incoming.advance(taken);
        if self.incoming.is_empty() {
            buffers::give_back(std::mem::take(&mut self.incoming));
        }
        let processed = self.connection.process_new_packets();
        // an answer, or the alert that says what is wrong; what cannot be written now is held
        let _held = self.flush();
        self.ended |= processed?.peer_has_closed();
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut spare = buffers::take();
        let result = self.link.read(&mut spare);
        if spare.is_empty() {
            buffers::give_back(spare);
        } else {
            self.incoming = spare;
        }
        self.ended |= result? == 0;
        Ok(())
    }

    /// Moves what is decrypted, as much as there is room for.
    fn take_plaintext(&mut self, buffer: &mut BytesMut) {
        let mut reader = self.connection.reader();
        loop {
            let room = buffer.capacity() - buffer.len();
            // an error says that there is nothing more; `ended` knows whether more comes
            let Ok(chunk) = reader.fill_buf() else { return };
            let count = chunk.len().min(room);
            if count == 0 {
                return;
            }
            buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
            reader.consume(count);
        }
    }

    /// Reads until the buffer is full, or nothing more has come, or nothing more comes.
    fn read_some(&mut self, buffer: &mut BytesMut) -> io::Result<()> {
        loop {
            self.take_plaintext(buffer);
            if buffer.len() == buffer.capacity() || self.ended {
                return Ok(());
            }
            if let Some(error) = self.unread.take_failure() {
                return Err(error);
            }
            self.advance()?;
        }
    }
}

impl<L: Link> Link for Tls<L> {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.any { Poll::Ready(Ok(())) } else { self.link.poll_readable(context) }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.poll_writable(context)
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let before = buffer.len();
        let stopped = self.read_some(buffer);
        self.unread.settle(buffer.len() - before, stopped)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush()?;
        let count = self.connection.writer().write_vectored(pieces)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush()?;
        self.link.finish()
    }

    fn holds(&self) -> bool {
        self.connection.wants_write() || self.link.holds()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Through(&mut self.link))?;
        }
        self.link.flush()
    }
}
