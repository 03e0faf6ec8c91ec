//! One MQTT client: a client id, its session as a real client keeps it, and one connection at a time.
//!
//! Every connection is polled by a task of its own, which writes down each packet as it goes over the wire and
//! tells the client's owner what it needs to go on. Knows no load. Start at [`Client::connect`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use zwerm_oracle::{Ending, Filter, Granted, RetainedRead, Stage, What, Will};

use crate::library::{Failure, Incoming, Library, Options, Packet, Requests};
use crate::network::Side;
use crate::world::World;

/// What a connection's task may be ahead of the client's owner.
const EVENTS: usize = 1024;
/// How long the end of a connection may take after a DISCONNECT.
const LEAVING: Duration = Duration::from_secs(5);
/// How long the SUBACKs may take.
const SUBSCRIBING: Duration = Duration::from_secs(10);
/// Released QoS 2 messages that a client remembers: more than any server has under way.
const RELEASED: usize = 1024;
/// Bytes after the number in a payload.
const PADDING: usize = 100;

/// What the owner of a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// CONNACK, with Session Present.
    Connected(bool),
    /// SUBACK, and whether it was granted.
    Subscribed(bool),
    /// PUBACK, PUBCOMP, or a refusal.
    Acknowledged,
    /// PUBLISH.
    Message,
    /// The connection is over.
    Ended,
}

/// A message that is not acknowledged.
#[derive(Debug)]
struct Sent {
    message: u64,
    packet_id: Option<u16>,
    topic: Arc<str>,
    qos: u8,
    retain: bool,
}

/// The client's half of a session.
#[derive(Debug, Default)]
struct Ledger {
    /// In the order in which they were published.
    sent: VecDeque<Sent>,
    /// Filters whose SUBSCRIBE is queued.
    subscribing: VecDeque<Filter>,
    /// QoS 2 messages that were received and not released.
    received: BTreeSet<u16>,
    /// Those that were released last: the server asks again when it has not heard the answer.
    released: VecDeque<u16>,
}

impl Ledger {
    fn place(&self, packet_id: u16) -> Option<usize> {
        self.sent.iter().position(|sent| sent.packet_id == Some(packet_id))
    }

    fn release(&mut self, packet_id: u16) {
        self.received.remove(&packet_id);
        self.released.push_back(packet_id);
        if self.released.len() > RELEASED {
            self.released.pop_front();
        }
    }
}

/// A client that is not connected, or whose [`Connection`] somebody holds.
pub(crate) struct Client {
    world: Rc<World>,
    options: Options,
    library: Option<(Library, Requests)>,
    ledger: Rc<RefCell<Ledger>>,
    connections: Rc<Cell<u32>>,
}

/// An accepted connection.
pub(crate) struct Connection {
    /// Session Present.
    pub(crate) present: bool,
    line: Line,
    requests: Requests,
    events: mpsc::Receiver<Seen>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Library>,
}

/// One connection as its events are written down.
#[derive(Clone)]
struct Line {
    world: Rc<World>,
    id: Arc<str>,
    number: u32,
    is_transient: bool,
    ledger: Rc<RefCell<Ledger>>,
}

impl Client {
    /// One that has never connected.
    pub(crate) fn new(world: &Rc<World>, options: Options) -> Self {
        let (world, ledger) = (Rc::clone(world), Rc::default());
        Self { world, options, library: None, ledger, connections: Rc::default() }
    }

    /// Another program with the same client id.
    pub(crate) fn twin(&self) -> Self {
        let connections = Rc::clone(&self.connections);
        Self { connections, ..Self::new(&self.world, self.options.clone()) }
    }

    /// The client id.
    pub(crate) fn id(&self) -> &Arc<str> {
        &self.options.id
    }

    /// Whether messages are on their way that a later connection of this session must finish.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.ledger.borrow().sent.is_empty()
    }

    /// Connects to a node, with another will or none. `None` when it did not come about, whatever the reason.
    pub(crate) async fn connect(&mut self, node: Side, will: Option<Will>) -> Option<Connection> {
        let address = self.world.address(node).ok()?;
        self.options.will = will;
        let (mut library, requests) =
            self.library.take().unwrap_or_else(|| Library::new(&self.options, address));
        {
            let mut ledger = self.ledger.borrow_mut();
            ledger.subscribing.clear();
            let known = ledger.received.iter().chain(&ledger.released).copied().collect();
            library.prepare(&self.options, address, |packet_id| ledger.place(packet_id), &known);
        }
        self.connections.set(self.connections.get() + 1);
        let line = Line {
            world: Rc::clone(&self.world),
            id: Arc::clone(&self.options.id),
            number: self.connections.get(),
            is_transient: self.options.clean && self.options.expiry == 0,
            ledger: Rc::clone(&self.ledger),
        };
        let (Options { clean, expiry, will, .. }, number) = (self.options.clone(), line.number);
        self.world.place(&line.id, number, node);
        self.world.record(&line.id, number, What::Connect { clean, expiry, will });
        let (events, mut seen) = mpsc::channel(EVENTS);
        let (stop, stopped) = oneshot::channel();
        let task = spawn_local(drive(line.clone(), library, events, stopped));
        match seen.recv().await {
            Some(Seen::Connected(present)) => {
                Some(Connection { present, line, requests, events: seen, stop, task })
            }
            _ => {
                self.library = task.await.ok().map(|library| (library, requests));
                None
            }
        }
    }

    /// Ends a connection without a word, or takes note that it has ended.
    pub(crate) async fn cut(&mut self, connection: Connection) {
        // The task may have ended before: then there is nobody to stop.
        connection.stop.send(()).ok();
        drop(connection.events);
        self.library = connection.task.await.ok().map(|library| (library, connection.requests));
    }

    /// Ends a connection with a DISCONNECT, and waits until the server has closed it.
    pub(crate) async fn leave(&mut self, mut connection: Connection) {
        if connection.requests.disconnect().is_ok() {
            let closed = async { while connection.next().await != Seen::Ended {} };
            // A server that does not answer is left all the same.
            timeout(LEAVING, closed).await.ok();
        }
        self.cut(connection).await;
    }
}

impl Connection {
    /// What happens next. After [`Seen::Ended`] again and again that.
    pub(crate) async fn next(&mut self) -> Seen {
        self.events.recv().await.unwrap_or(Seen::Ended)
    }

    /// Publishes a new message; [`Seen::Acknowledged`] follows.
    ///
    /// # Errors
    /// When too much is queued.
    pub(crate) fn publish(&self, topic: &Arc<str>, qos: u8, retain: bool) -> Result<()> {
        let message = self.line.world.number();
        self.requests.publish(topic, qos, retain, format!("{message} {:PADDING$}", ""))?;
        let sent = Sent { message, packet_id: None, topic: Arc::clone(topic), qos, retain };
        self.line.ledger.borrow_mut().sent.push_back(sent);
        Ok(())
    }

    /// Messages that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.line.ledger.borrow().sent.len()
    }

    /// Subscribes to filters, each with a SUBSCRIBE of its own; whether all were granted in time.
    pub(crate) async fn subscribe(&mut self, filters: &[(Arc<str>, u8)]) -> bool {
        for (filter, qos) in filters {
            if self.requests.subscribe(filter, *qos).is_err() {
                return false;
            }
            let (filter, qos, retained) = (Arc::clone(filter), *qos, RetainedRead::Always);
            let filter = Filter { filter, qos, no_local: false, retained };
            self.line.ledger.borrow_mut().subscribing.push_back(filter);
        }
        let granted = async {
            let mut missing = filters.len();
            while missing > 0 {
                match self.next().await {
                    Seen::Subscribed(true) => missing -= 1,
                    Seen::Subscribed(false) | Seen::Ended => return false,
                    _ => {}
                }
            }
            true
        };
        timeout(SUBSCRIBING, granted).await.unwrap_or(false)
    }
}

/// Polls a connection to its end.
async fn drive(
    line: Line,
    mut library: Library,
    events: mpsc::Sender<Seen>,
    mut stop: oneshot::Receiver<()>,
) -> Library {
    let mut leaving = None;
    let failure = loop {
        let packet = select! {
            biased;
            _ = &mut stop => break None,
            packet = library.poll() => packet,
        };
        match packet {
            Ok(Some(Packet::SentDisconnect)) => leaving = Some(line.world.calm()),
            Ok(Some(packet)) => {
                if let Some(seen) = line.packet(packet) {
                    // An owner that does not listen any more wants the connection to go on, or will stop it.
                    events.send(seen).await.ok();
                }
            }
            Ok(None) => {}
            Err(failure) => break Some(failure),
        }
    };
    for packet in library.rest() {
        line.packet(packet);
    }
    library.hang_up();
    line.over(failure.as_ref(), leaving);
    library
}

impl Line {
    fn record(&self, what: What) {
        self.world.record(&self.id, self.number, what);
    }

    /// Writes a packet down; says what the owner should know.
    fn packet(&self, packet: Packet) -> Option<Seen> {
        match packet {
            Packet::ConnAck { present, expiry } => {
                if !present {
                    *self.ledger.borrow_mut() = Ledger::default();
                }
                self.record(What::ConnAck { present, expiry });
                Some(Seen::Connected(present))
            }
            Packet::SentPublish(packet_id) => {
                self.published(packet_id);
                None
            }
            Packet::SentSubscribe(packet_id) => {
                let filters = self.ledger.borrow_mut().subscribing.pop_front().into_iter().collect();
                self.record(What::Subscribe { packet_id, filters });
                None
            }
            Packet::SentDisconnect => None,
            Packet::SubAck { packet_id, granted } => {
                let is_granted = granted.iter().all(|granted| *granted != Granted::Refused);
                self.record(What::SubAck { packet_id, granted });
                Some(Seen::Subscribed(is_granted))
            }
            Packet::Acknowledged { packet_id, stage, success } => {
                self.record(What::Acknowledged { packet_id, stage, success });
                if stage == Stage::PubRec && success {
                    return None;
                }
                let mut ledger = self.ledger.borrow_mut();
                let place = ledger.place(packet_id)?;
                ledger.sent.remove(place);
                Some(Seen::Acknowledged)
            }
            Packet::Publish(incoming) => Some(self.delivered(&incoming)),
            Packet::PubRel(packet_id) => {
                self.ledger.borrow_mut().release(packet_id);
                self.record(What::Released { packet_id });
                None
            }
        }
    }

    /// A PUBLISH went out: one of an earlier connection again, or the oldest that has no packet id yet.
    fn published(&self, packet_id: u16) {
        let mut ledger = self.ledger.borrow_mut();
        let again = ledger.place(packet_id);
        let place = again.or_else(|| ledger.sent.iter().position(|sent| sent.packet_id.is_none()));
        let Some(sent) = place.and_then(|place| ledger.sent.get_mut(place)) else { return };
        sent.packet_id = Some(packet_id);
        let what = What::Publish {
            message: sent.message,
            packet_id: Some(packet_id),
            topic: Arc::clone(&sent.topic),
            qos: sent.qos,
            retain: sent.retain,
            empty: false,
            expires: false,
        };
        self.record(what);
    }

    fn delivered(&self, incoming: &Incoming) -> Seen {
        let text = String::from_utf8_lossy(&incoming.payload);
        // Every payload begins with the number of its message; what does not is nobody's message 0.
        let message = text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        if incoming.qos == 2 {
            self.ledger.borrow_mut().received.insert(incoming.packet_id);
        }
        self.record(What::Delivered {
            message,
            topic: incoming.topic.as_str().into(),
            qos: incoming.qos,
            retain: incoming.retain,
            dup: incoming.dup,
            packet_id: (incoming.qos > 0).then_some(incoming.packet_id),
        });
        Seen::Message
    }

    /// The connection is over. `leaving`: a DISCONNECT was sent, and how calm it was then.
    fn over(&self, failure: Option<&Failure>, leaving: Option<Option<u64>>) {
        let ending = match leaving {
            None => Ending::Lost,
            Some(calm) => {
                let confirmed =
                    matches!(failure, Some(Failure::Closed)) && calm.is_some() && calm == self.world.calm();
                Ending::Disconnected { confirmed, expiry: None }
            }
        };
        let how = match (failure, leaving) {
            (_, Some(_)) => "left".to_owned(),
            (None, None) => "cut by the client".to_owned(),
            (Some(Failure::Closed), None) => "closed by the server".to_owned(),
            (Some(Failure::Refused(reason)), None) => {
                self.record(What::Refused { reason: 0x80 });
                format!("refused: {reason}")
            }
            (Some(Failure::Broken(why)), None) => why.clone(),
        };
        self.world.ended(how);
        self.record(What::End(ending));
        if self.is_transient {
            *self.ledger.borrow_mut() = Ledger::default();
        }
    }
}
