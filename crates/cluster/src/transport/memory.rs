//! The in-memory twin of TCP: nodes of one process dial each other through pipes that can be cut.
//!
//! A cut link breaks at once, like a process that died, or stalls, like a cable that was pulled: then
//! nothing arrives and nothing fails until it is healed. Knows no gRPC. Start at [`MemoryNet::listen`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Dial, Incoming, PeerStream};

/// Bytes in flight in one direction of one pipe.
const PIPE_BYTES: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

const OPEN: u8 = 0;
const STALLED: u8 = 1;
const BROKEN: u8 = 2;

/// A network of its own; clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct MemoryNet(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    listeners: BTreeMap<String, mpsc::Sender<PeerStream>>,
    /// Links, both directions of them, that are cut.
    broken: BTreeSet<Link>,
    stalled: BTreeSet<Link>,
    refused: BTreeSet<Link>,
    pipes: Vec<(Link, Weak<Pipe>)>,
}

/// Two addresses, the smaller one first.
type Link = (String, String);

fn link(one: &str, other: &str) -> Link {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    (first.to_owned(), second.to_owned())
}

impl MemoryNet {
    /// A network without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on an address, taking it over from whoever listened there before.
    #[must_use]
    pub fn listen(&self, address: &str) -> Incoming {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.0.lock().listeners.insert(address.to_owned(), sender);
        Box::pin(ReceiverStream::new(receiver).map(Ok))
    }

    /// How the node at an address dials the others.
    #[must_use]
    pub fn dialer(&self, address: &str) -> MemoryDial {
        MemoryDial { net: self.clone(), from: address.to_owned() }
    }

    /// Breaks every connection between two addresses and lets none come about.
    pub fn cut(&self, one: &str, other: &str) {
        let mut state = self.0.lock();
        state.broken.insert(link(one, other));
        state.set(&link(one, other), BROKEN);
    }

    /// Breaks every connection between two addresses and refuses new ones, as the machine of a dead process does.
    pub fn refuse(&self, one: &str, other: &str) {
        let mut state = self.0.lock();
        state.refused.insert(link(one, other));
        state.set(&link(one, other), BROKEN);
    }

    /// Stops all bytes between two addresses, also of new connections, until [`heal`](Self::heal).
    pub fn stall(&self, one: &str, other: &str) {
        let mut state = self.0.lock();
        state.stalled.insert(link(one, other));
        state.set(&link(one, other), STALLED);
    }

    /// Makes a link work again. What was broken stays broken; what was stalled flows on.
    pub fn heal(&self, one: &str, other: &str) {
        let mut state = self.0.lock();
        let link = link(one, other);
        state.broken.remove(&link);
        state.stalled.remove(&link);
        state.refused.remove(&link);
        state.set(&link, OPEN);
    }

    fn connect(
        &self,
        from: &str,
        to: &str,
    ) -> io::Result<(PeerStream, PeerStream, mpsc::Sender<PeerStream>)> {
        let mut state = self.0.lock();
        let link = link(from, to);
        if state.broken.contains(&link) {
            return Err(io::Error::new(io::ErrorKind::HostUnreachable, to));
        }
        let listener = state.listeners.get(to).filter(|_| !state.refused.contains(&link)).cloned();
        let listener = listener.ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, to))?;
        let mode = if state.stalled.contains(&link) { STALLED } else { OPEN };
        let pipe = Arc::new(Pipe { mode: AtomicU8::new(mode), wakers: Default::default() });
        state.pipes.retain(|(_, pipe)| pipe.strong_count() > 0);
        state.pipes.push((link, Arc::downgrade(&pipe)));
        drop(state);
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let near = PeerStream::new(End { io: near, pipe: Arc::clone(&pipe), side: 0 });
        Ok((near, PeerStream::new(End { io: far, pipe, side: 2 }), listener))
    }
}

impl State {
    fn set(&self, link: &Link, mode: u8) {
        let pipes = self.pipes.iter().filter(|(of, _)| of == link);
        pipes.filter_map(|(_, pipe)| pipe.upgrade()).for_each(|pipe| pipe.set(mode));
    }
}

/// [`Dial`] of one node of a [`MemoryNet`].
#[derive(Debug, Clone)]
pub struct MemoryDial {
    net: MemoryNet,
    from: String,
}

impl Dial for MemoryDial {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<PeerStream>> {
        let connected = self.net.connect(&self.from, &address);
        Box::pin(async move {
            let (near, far, listener) = connected?;
            let refused = |_| io::Error::new(io::ErrorKind::ConnectionRefused, address);
            listener.send(far).await.map_err(refused)?;
            Ok(near)
        })
    }
}

/// What both ends of a connection share.
#[derive(Debug)]
struct Pipe {
    mode: AtomicU8,
    /// Of the reader and the writer of the one end, then of the other.
    wakers: [AtomicWaker; 4],
}

impl Pipe {
    fn set(&self, mode: u8) {
        let stays_broken = |now: u8| (now != BROKEN).then_some(mode);
        // What it was before does not matter.
        self.mode.fetch_update(Ordering::AcqRel, Ordering::Acquire, stays_broken).unwrap_or_default();
        self.wakers.iter().for_each(AtomicWaker::wake);
    }

    /// Ready when bytes flow, or never will.
    fn poll_open(&self, waker: usize, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(slot) = self.wakers.get(waker) {
            slot.register(cx.waker());
        }
        match self.mode.load(Ordering::Acquire) {
            OPEN => Poll::Ready(Ok(())),
            STALLED => Poll::Pending,
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    io: DuplexStream,
    pipe: Arc<Pipe>,
    /// Of its reader among the wakers; the writer's is the next.
    side: usize,
}

impl End {
    fn poll_writable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.poll_open(self.side + 1, cx)
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.pipe.poll_open(self.side, cx))?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_writable(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_writable(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn connection(net: &MemoryNet) -> (PeerStream, PeerStream) {
        let mut incoming = net.listen("b");
        let near = net.dialer("a").dial("b".to_owned()).await.unwrap();
        (near, incoming.next().await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn a_cut_link_breaks_its_connections_and_refuses_new_ones_until_it_is_healed() {
        let net = MemoryNet::new();
        let (mut near, mut far) = connection(&net).await;
        let reading = tokio::spawn(async move { far.read_u8().await });
        tokio::task::yield_now().await;
        net.cut("b", "a");
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(near.write_all(b"x").await.is_err());
        assert!(net.dialer("a").dial("b".to_owned()).await.is_err());
        net.heal("a", "b");
        assert!(near.write_all(b"x").await.is_err(), "what was broken stays broken");
        connection(&net).await;
    }

    #[tokio::test]
    async fn a_stalled_link_delivers_when_it_is_healed() {
        let net = MemoryNet::new();
        let (mut near, mut far) = connection(&net).await;
        near.write_all(b"x").await.unwrap();
        net.stall("a", "b");
        let mut reading = Box::pin(far.read_u8());
        assert!(futures::poll!(&mut reading).is_pending());
        net.heal("a", "b");
        assert_eq!(reading.await.unwrap(), b'x');
    }
}
