//! The network of the simulation: streams of bytes between places, with delays, that can be cut or stalled.
//!
//! Between two places there are two directions, each with its delay; a stalled direction brings nothing until it
//! is healed (one way, if only one is), a broken link resets its connections and refuses new ones.
//! Time is what [`Net::advance`] says. Knows no MQTT and no gRPC. Start at [`Net::connect`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use zwerm_cluster::{Dial, Incoming, PeerStream};
use zwerm_gateway::Link;

use crate::dice::Dice;

/// Bytes that wait in one direction of one connection.
const PIPE_BYTES: usize = 128 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// Where something runs: a node by its number, a client by another.
pub(crate) type Place = u64;

/// The network; clones are the same one.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    now_ms: u64,
    dice: Dice,
    /// Milliseconds under way: at least the start, less than the end.
    delays: BTreeMap<(Place, Place), (u64, u64)>,
    delay: (u64, u64),
    stalled: BTreeSet<(Place, Place)>,
    /// Both directions; the smaller place first.
    broken: BTreeSet<(Place, Place)>,
    listeners: BTreeMap<Place, mpsc::Sender<PeerStream>>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    /// When a pipe's next bytes come.
    due: BinaryHeap<Reverse<(u64, u64)>>,
}

/// One direction of one connection.
struct Pipe {
    from: Place,
    to: Place,
    /// With the time they come; an empty one is the end.
    chunks: VecDeque<(u64, Bytes)>,
    bytes: usize,
    last_due: u64,
    state: PipeState,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PipeState {
    Open,
    /// The writing side said that nothing more comes.
    Finished,
    /// The reading side is gone.
    Unread,
    Cut,
}

/// One end of a connection. Dropped, it closes it.
pub(crate) struct End {
    net: Net,
    incoming: u64,
    outgoing: u64,
}

/// Wakers to be called when the lock is let go: a task may be dropped by them, and its connections with it.
type Wakers = Vec<Waker>;

impl Net {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(State {
            now_ms: 0,
            dice,
            delays: BTreeMap::new(),
            delay: (0, 1),
            stalled: BTreeSet::new(),
            broken: BTreeSet::new(),
            listeners: BTreeMap::new(),
            pipes: BTreeMap::new(),
            next_pipe: 0,
            due: BinaryHeap::new(),
        })))
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, now_ms: u64) {
        self.change(|state| {
            state.now_ms = now_ms;
            let mut wakers = Wakers::new();
            while let Some(Reverse((_, pipe))) =
                state.due.peek().copied().filter(|Reverse((due, _))| *due <= now_ms)
            {
                state.due.pop();
                wakers.extend(state.pipes.get_mut(&pipe).and_then(|pipe| pipe.reader.take()));
            }
            wakers
        });
    }

    /// Sets how long bytes are under way where nothing else is said.
    pub(crate) fn set_delay(&self, from_ms: u64, to_ms: u64) {
        self.0.lock().delay = (from_ms, to_ms);
    }

    /// Sets how long bytes are under way in one direction; `None`: as everywhere.
    pub(crate) fn delay(&self, from: Place, to: Place, delay: Option<(u64, u64)>) {
        let mut state = self.0.lock();
        match delay {
            Some(delay) => state.delays.insert((from, to), delay),
            None => state.delays.remove(&(from, to)),
        };
    }

    /// Brings nothing in one direction until [`heal`](Self::heal).
    pub(crate) fn stall(&self, from: Place, to: Place) {
        self.0.lock().stalled.insert((from, to));
    }

    /// Resets all connections between two places and refuses new ones until [`heal`](Self::heal).
    pub(crate) fn cut(&self, one: Place, other: Place) {
        self.change(|state| {
            state.broken.insert((one.min(other), one.max(other)));
            state.reset(|pipe| pipe.is_between(one, other))
        });
    }

    /// Resets all connections between two places; new ones work.
    pub(crate) fn reset(&self, one: Place, other: Place) {
        self.change(|state| state.reset(|pipe| pipe.is_between(one, other)));
    }

    /// Resets every connection of a place and forgets where it listens, as when its process dies.
    pub(crate) fn reset_all(&self, place: Place) {
        self.change(|state| {
            state.listeners.remove(&place);
            state.reset(|pipe| pipe.from == place || pipe.to == place)
        });
    }

    /// Makes a link work in both directions. What was reset stays so; what was stalled flows on.
    pub(crate) fn heal(&self, one: Place, other: Place) {
        self.change(|state| {
            state.broken.remove(&(one.min(other), one.max(other)));
            state.stalled.remove(&(one, other));
            state.stalled.remove(&(other, one));
            let healed = state.pipes.values_mut().filter(|pipe| pipe.is_between(one, other));
            healed.flat_map(Pipe::wakers).collect()
        });
    }

    /// Listens at a place.
    pub(crate) fn listen(&self, place: Place) -> Incoming {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.0.lock().listeners.insert(place, sender);
        Box::pin(ReceiverStream::new(receiver).map(Ok))
    }

    /// How a place dials others.
    pub(crate) fn dialer(&self, from: Place) -> Dialer {
        Dialer { net: self.clone(), from }
    }

    /// A connection between two places: the ends here and there. `None`: the link is broken.
    pub(crate) fn connect(&self, from: Place, to: Place) -> Option<(End, End)> {
        let mut state = self.0.lock();
        if state.broken.contains(&(from.min(to), from.max(to))) {
            return None;
        }
        let (there, back) = (state.pipe(from, to), state.pipe(to, from));
        let near = End { net: self.clone(), incoming: back, outgoing: there };
        Some((near, End { net: self.clone(), incoming: there, outgoing: back }))
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Wakers) {
        let wakers = change(&mut self.0.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn pipe(&mut self, from: Place, to: Place) -> u64 {
        self.next_pipe += 1;
        let pipe = Pipe {
            from,
            to,
            chunks: VecDeque::new(),
            bytes: 0,
            last_due: 0,
            state: PipeState::Open,
            reader: None,
            writer: None,
        };
        self.pipes.insert(self.next_pipe, pipe);
        self.next_pipe
    }

    fn reset(&mut self, which: impl Fn(&Pipe) -> bool) -> Wakers {
        let cut = self.pipes.values_mut().filter(|pipe| which(pipe));
        cut.flat_map(|pipe| {
            pipe.state = PipeState::Cut;
            pipe.chunks.clear();
            pipe.wakers()
        })
        .collect()
    }

    /// Puts bytes (or the end) under way.
    fn send(&mut self, number: u64, bytes: Bytes) {
        let Some(pipe) = self.pipes.get_mut(&number) else { return };
        let (from, to) = self.delays.get(&(pipe.from, pipe.to)).copied().unwrap_or(self.delay);
        let due = (self.now_ms + self.dice.within(from..to)).max(pipe.last_due);
        pipe.last_due = due;
        pipe.bytes += bytes.len();
        pipe.chunks.push_back((due, bytes));
        self.due.push(Reverse((due, number)));
    }

    /// The next bytes that have come: some of them, or none yet, or that the connection is over.
    fn front(&mut self, number: u64) -> Front<'_> {
        let Some(pipe) = self.pipes.get_mut(&number) else {
            return Front::Over(io::ErrorKind::ConnectionReset);
        };
        if self.stalled.contains(&(pipe.from, pipe.to)) {
            return Front::Nothing(pipe);
        }
        if pipe.state == PipeState::Cut {
            return Front::Over(io::ErrorKind::ConnectionReset);
        }
        if pipe.chunks.front().is_some_and(|(due, _)| *due <= self.now_ms) {
            return Front::Bytes(pipe);
        }
        Front::Nothing(pipe)
    }
}

enum Front<'a> {
    Bytes(&'a mut Pipe),
    Nothing(&'a mut Pipe),
    Over(io::ErrorKind),
}

impl Pipe {
    fn is_between(&self, one: Place, other: Place) -> bool {
        (self.from, self.to) == (one, other) || (self.from, self.to) == (other, one)
    }

    fn wakers(&mut self) -> Wakers {
        [self.reader.take(), self.writer.take()].into_iter().flatten().collect()
    }

    /// Takes up to so many bytes of those that have come; empty is the end, which stays.
    fn take(&mut self, most: usize) -> Bytes {
        let Some((_, chunk)) = self.chunks.front_mut() else { return Bytes::new() };
        let taken = chunk.split_to(most.min(chunk.len()));
        if chunk.is_empty() && !taken.is_empty() {
            self.chunks.pop_front();
        }
        self.bytes -= taken.len();
        taken
    }
}

impl End {
    /// Reads without waiting: `None` if nothing has come, empty at the end.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn try_read(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        self.read_or(most, None)
    }

    /// Writes without waiting, as much as there is room for.
    ///
    /// # Errors
    /// The connection is broken; `WouldBlock` if there is no room.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_or(&[IoSlice::new(bytes)], None)
    }

    fn read_or(&self, most: usize, wait: Option<&Waker>) -> io::Result<Option<Bytes>> {
        let (result, writer) = {
            let mut state = self.net.0.lock();
            match state.front(self.incoming) {
                Front::Bytes(pipe) => (Ok(Some(pipe.take(most))), pipe.writer.take()),
                Front::Nothing(pipe) => {
                    pipe.reader = wait.cloned();
                    (Ok(None), None)
                }
                Front::Over(kind) => (Err(kind.into()), None),
            }
        };
        writer.into_iter().for_each(Waker::wake);
        result
    }

    fn is_writable(&self, wait: Option<&Waker>) -> io::Result<bool> {
        let mut state = self.net.0.lock();
        let Some(pipe) = state.pipes.get_mut(&self.outgoing) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        match pipe.state {
            PipeState::Open if pipe.bytes < PIPE_BYTES => Ok(true),
            PipeState::Open => {
                pipe.writer = wait.cloned();
                Ok(false)
            }
            PipeState::Cut => Err(io::ErrorKind::ConnectionReset.into()),
            PipeState::Finished | PipeState::Unread => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn write_or(&self, pieces: &[IoSlice<'_>], wait: Option<&Waker>) -> io::Result<usize> {
        if !self.is_writable(wait)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = BytesMut::new();
        for piece in pieces {
            let room = PIPE_BYTES - bytes.len().min(PIPE_BYTES);
            bytes.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        }
        let count = bytes.len();
        if count > 0 {
            self.net.0.lock().send(self.outgoing, bytes.freeze());
        }
        Ok(count)
    }

    /// Says that nothing more comes; what is under way still does.
    fn say_end(&self) {
        let mut state = self.net.0.lock();
        let open = state.pipes.get_mut(&self.outgoing).filter(|pipe| pipe.state == PipeState::Open);
        if let Some(pipe) = open {
            pipe.state = PipeState::Finished;
            state.send(self.outgoing, Bytes::new());
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.say_end();
        self.net.change(|state| {
            let Some(pipe) = state.pipes.get_mut(&self.incoming) else { return Wakers::new() };
            let writer_is_gone = pipe.state == PipeState::Finished;
            if pipe.state != PipeState::Cut {
                pipe.state = PipeState::Unread;
            }
            let wakers = pipe.wakers();
            // The end that is left needs its own incoming pipe only.
            if writer_is_gone || pipe.state == PipeState::Cut {
                state.pipes.remove(&self.incoming);
            }
            let unread = |pipe: &Pipe| matches!(pipe.state, PipeState::Cut | PipeState::Unread);
            if state.pipes.get(&self.outgoing).is_some_and(unread) {
                state.pipes.remove(&self.outgoing);
            }
            wakers
        });
    }
}

impl Link for End {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.0.lock();
        match state.front(self.incoming) {
            // An error is read, too.
            Front::Bytes(_) | Front::Over(_) => Poll::Ready(Ok(())),
            Front::Nothing(pipe) => {
                pipe.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.is_writable(Some(context.waker())) {
            Ok(false) => Poll::Pending,
            Ok(true) | Err(_) => Poll::Ready(Ok(())),
        }
    }

    fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let most = buffer.capacity() - buffer.len();
        let bytes = self.read_or(most, None)?.ok_or(io::ErrorKind::WouldBlock)?;
        buffer.extend_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_or(pieces, None)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.say_end();
        Ok(())
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.read_or(buf.remaining(), Some(cx.waker()))? {
            Some(bytes) => {
                buf.put_slice(bytes.chunk());
                Poll::Ready(Ok(()))
            }
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.write_or(&[IoSlice::new(buf)], Some(cx.waker())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.say_end();
        Poll::Ready(Ok(()))
    }
}

/// [`Dial`] from one place. An address is the number of a place.
pub(crate) struct Dialer {
    net: Net,
    from: Place,
}

impl Dial for Dialer {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<PeerStream>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let connected = address.parse().map_err(|_| refused()).and_then(|to: Place| {
            let ends = self.net.connect(self.from, to).ok_or(io::ErrorKind::HostUnreachable)?;
            let listener = self.net.0.lock().listeners.get(&to).cloned();
            Ok((ends, listener.ok_or_else(refused)?))
        });
        Box::pin(async move {
            let ((near, far), listener) = connected?;
            listener.send(PeerStream::new(far)).await.map_err(|_| refused())?;
            Ok(PeerStream::new(near))
        })
    }
}
