//! How bytes reach another node: the [`Dial`] trait, TCP, and its in-memory twin.
//!
//! gRPC runs on top of whatever `Dial` gives, so tests and simulations run the very code that the
//! network runs. Knows no membership and no messages. Start at [`Dial`].

mod calls;
mod gathered;
mod memory;
mod raft_link;
mod service;
mod severable;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

pub use calls::CallError;
pub(crate) use calls::Peers;
pub use memory::{MemoryDial, MemoryNet};
pub(crate) use service::serve;

/// The contract between nodes, compiled from proto/peer.proto.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/peer.proto, documented there"
)]
pub mod proto {
    tonic::include_proto!("zwerm.peer.v1");
}

/// A two-way stream of bytes.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// One connection between two nodes, however it came about.
pub struct PeerStream(Box<dyn Io>);

impl PeerStream {
    /// Wraps a stream.
    pub fn new(io: impl Io) -> Self {
        Self(Box::new(io))
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerStream")
    }
}

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// Opens connections to other nodes. An address is `host:port`; a name is resolved at every dial.
pub trait Dial: Send + Sync + 'static {
    /// Connects.
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<PeerStream>>;
}

/// Connections that other nodes open to this one.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<PeerStream>> + Send>>;

/// [`Dial`] over TCP.
#[derive(Debug, Default, Clone, Copy)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<PeerStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(PeerStream::new(stream))
        })
    }
}

/// The connections a TCP listener accepts.
#[must_use]
pub fn tcp_incoming(listener: TcpListener) -> Incoming {
    Box::pin(futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(PeerStream::new(stream))
        });
        Some((accepted, listener))
    }))
}
