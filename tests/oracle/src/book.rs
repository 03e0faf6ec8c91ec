//! The history, sorted: connections, sessions, subscriptions, publications, arrivals.
//!
//! What cannot be known is decided in the broker's favour: a CONNECT without an answer may have ended a session
//! or made one, an unacknowledged SUBSCRIBE may hold. Judges only the sessions themselves (Session Present);
//! the other promises are judged by those who read the book. Start at [`Book::read`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::history::{Ending, Event, Filter, Granted, History, RetainedRead, Rules, Stage, What, Will};
use crate::report::{Breach, Counts, Promise, Verdict};
use crate::topic;

/// A sorted history. All numbers are places in the lists of the book; `usize`s called `sent`, `acked`,
/// `until` and the like are places in the history.
#[derive(Debug, Default)]
pub(crate) struct Book<'h> {
    pub(crate) events: &'h [Event],
    pub(crate) connections: Vec<Connection>,
    pub(crate) sessions: Vec<Session>,
    /// In the order of their SUBSCRIBE.
    pub(crate) subscriptions: Vec<Subscription<'h>>,
    /// In the order in which they were first sent.
    pub(crate) publications: Vec<Publication<'h>>,
    pub(crate) streams: Vec<Stream<'h>>,
    pub(crate) arrivals: Vec<Arrival>,
    publication_of: HashMap<u64, usize>,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Arc<str>,
    pub(crate) connect: usize,
    pub(crate) clean: bool,
    pub(crate) expiry: u32,
    pub(crate) will: Option<Will>,
    pub(crate) connack: Option<usize>,
    pub(crate) session: Option<usize>,
    /// The session that it may have ended.
    replaces: Option<usize>,
    pub(crate) ended: Option<(usize, Ending)>,
    /// The last packet that came on it.
    pub(crate) heard: Option<usize>,
    pub(crate) drained: Option<usize>,
}

/// The state that a client and the broker share, over all its connections.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    /// The shortest that may be in force.
    expiry: u32,
    /// From here on it may not be there any more.
    pub(crate) ended: Option<usize>,
    /// From here on it is certainly not there any more, as far as its client can know.
    pub(crate) gone: Option<usize>,
    /// Until here it has got everything.
    pub(crate) drained: Option<usize>,
    heard: Duration,
}

/// One line of a SUBSCRIBE that was not refused.
#[derive(Debug)]
pub(crate) struct Subscription<'h> {
    pub(crate) session: usize,
    pub(crate) share: Option<&'h str>,
    pub(crate) filter: &'h str,
    whole: &'h str,
    pub(crate) no_local: bool,
    pub(crate) retained: RetainedRead,
    pub(crate) sent: usize,
    /// The SUBACK and the QoS that it grants.
    pub(crate) acked: Option<(usize, u8)>,
    /// From here on it may not hold any more (an UNSUBSCRIBE or another SUBSCRIBE).
    pub(crate) until: Option<usize>,
}

/// One message that a client published.
#[derive(Debug)]
pub(crate) struct Publication<'h> {
    pub(crate) message: u64,
    pub(crate) stream: usize,
    pub(crate) retain: bool,
    pub(crate) empty: bool,
    pub(crate) expires: bool,
    pub(crate) sent: usize,
    /// From here on it is safe: PUBACK, PUBCOMP, and PUBREC to a transient publisher.
    pub(crate) safe: Option<usize>,
    /// From here on it is kept, if it is to be retained: PUBACK, and PUBREC to a transient publisher. With
    /// PUBCOMP a durable one is promised that its message is safe, not yet that it is stored (P5).
    pub(crate) kept: Option<usize>,
    pub(crate) topic: &'h str,
    pub(crate) qos: u8,
}

/// The messages of one publisher, topic and QoS, in order. A transient session is a publisher of its own, and
/// with QoS 0 each connection.
#[derive(Debug)]
pub(crate) struct Stream<'h> {
    pub(crate) client: Arc<str>,
    pub(crate) topic: &'h str,
    pub(crate) qos: u8,
    pub(crate) publications: Vec<usize>,
}

/// One message that came to a client.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) session: usize,
    pub(crate) event: usize,
    pub(crate) message: u64,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) packet_id: Option<u16>,
    /// `None`: a will.
    pub(crate) publication: Option<usize>,
}

/// A client as far as the history was read.
#[derive(Debug, Default)]
struct Client {
    connections: HashMap<u32, usize>,
    session: Option<usize>,
    /// A CONNECT without an answer may have made a session.
    maybe: bool,
    publications: HashMap<u16, usize>,
}

struct Reader<'h> {
    book: Book<'h>,
    rules: Rules,
    clients: HashMap<&'h str, Client>,
    /// By connection and packet identifier: subscriptions in order, `None` for each line.
    subscribes: HashMap<(usize, u16), Vec<usize>>,
    publishes: HashMap<(usize, u16), usize>,
    streams: HashMap<(usize, &'h str, u8), usize>,
    live: HashMap<(usize, &'h str), usize>,
    verdicts: Vec<Verdict>,
}

impl<'h> Book<'h> {
    /// Sorts a history; what is wrong with the sessions themselves comes out, too.
    pub(crate) fn read(history: &'h History, rules: &Rules) -> (Self, Vec<Verdict>) {
        let mut reader = Reader {
            book: Self { events: &history.events, ..Self::default() },
            rules: *rules,
            clients: HashMap::new(),
            subscribes: HashMap::new(),
            publishes: HashMap::new(),
            streams: HashMap::new(),
            live: HashMap::new(),
            verdicts: Vec::new(),
        };
        for (place, event) in history.events.iter().enumerate() {
            reader.event(place, event);
        }
        (reader.book, reader.verdicts)
    }

    pub(crate) fn publication_of(&self, message: u64) -> Option<usize> {
        self.publication_of.get(&message).copied()
    }

    pub(crate) fn at(&self, place: usize) -> Duration {
        self.events.get(place).map_or(Duration::ZERO, |event| event.at)
    }

    /// What was looked at.
    pub(crate) fn counts(&self) -> Counts {
        let safe = self.publications.iter().filter(|publication| publication.safe.is_some());
        Counts {
            events: self.events.len(),
            connections: self.connections.iter().filter(|connection| connection.connack.is_some()).count(),
            published: self.publications.len(),
            acknowledged: safe.count(),
            delivered: self.arrivals.len(),
            subscriptions: self.subscriptions.iter().filter(|line| line.acked.is_some()).count(),
            wills: self.connections.iter().filter(|connection| connection.will.is_some()).count(),
        }
    }
}

impl<'h> Reader<'h> {
    fn event(&mut self, place: usize, event: &'h Event) {
        if let What::Connect { clean, expiry, will } = &event.what {
            return self.connect(place, event, *clean, (*expiry, will.as_ref()));
        }
        let client = self.clients.get(&*event.client);
        let Some(number) = client.and_then(|client| client.connections.get(&event.connection)).copied()
        else {
            return;
        };
        let connection = &mut self.book.connections[number];
        if event.what.is_received() {
            connection.heard = Some(place);
            if let Some(session) = connection.session {
                self.book.sessions[session].heard = event.at;
            }
        }
        match &event.what {
            What::ConnAck { present, expiry } => self.connack(place, number, *present, *expiry),
            What::Subscribe { packet_id, filters } => self.subscribe(place, number, *packet_id, filters),
            What::SubAck { packet_id, granted } => self.suback(place, number, *packet_id, granted),
            What::Unsubscribe { filters } => self.unsubscribe(place, number, filters),
            What::Publish { .. } => self.publish(place, number, event),
            What::Acknowledged { packet_id, stage, success } if *success => {
                self.acknowledged(place, number, *packet_id, *stage);
            }
            What::Delivered { .. } => self.delivered(place, number, event),
            What::End(ending) => self.end(place, number, *ending),
            What::Drained => {
                connection.drained = Some(place);
                if let Some(session) = connection.session.map(|session| &mut self.book.sessions[session]) {
                    session.drained = session.ended.is_none().then_some(place);
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self, place: usize, event: &'h Event, clean: bool, asked: (u32, Option<&Will>)) {
        let (expiry, will) = asked;
        let client = self.clients.entry(&event.client).or_default();
        let mut replaces = None;
        if let Some(number) = client.session {
            let session = &mut self.book.sessions[number];
            // A transient session ends with its connection; with an expiry of 0 this one ends it, too.
            if clean || session.expiry == 0 || expiry == 0 {
                session.ended = session.ended.or(Some(place));
                client.maybe |= session.expiry > 0;
                client.session = None;
                replaces = Some(number);
            } else {
                session.expiry = session.expiry.min(expiry);
            }
        }
        client.connections.insert(event.connection, self.book.connections.len());
        self.book.connections.push(Connection {
            client: Arc::clone(&event.client),
            connect: place,
            clean,
            expiry,
            will: will.cloned(),
            connack: None,
            session: None,
            replaces,
            ended: None,
            heard: None,
            drained: None,
        });
        // Until the answer comes nobody knows; see `connack`.
        client.maybe |= expiry > 0;
    }

    fn connack(&mut self, place: usize, number: usize, present: bool, overruled: Option<u32>) {
        let event = &self.book.events[place];
        let connection = &mut self.book.connections[number];
        connection.connack = Some(place);
        let replaced = connection.replaces.map(|session| &mut self.book.sessions[session]);
        if let Some(replaced) = replaced {
            replaced.gone = replaced.gone.or(Some(place));
        }
        let expiry = overruled.unwrap_or(connection.expiry);
        let Some(client) = self.clients.get_mut(&*connection.client) else { return };
        let before = client.session.take();
        let mut verdict = |promise, says: &str| {
            self.verdicts.push(Verdict {
                promise,
                breach: Breach::Session,
                client: Arc::clone(&event.client),
                message: None,
                says: format!("{}: {says}", event.client),
                events: vec![connection.connect, place],
            });
        };
        let continued = match (present, before) {
            (true, _) if connection.clean => {
                verdict(Promise::P4, "a clean start found a session");
                None
            }
            (true, None) if !client.maybe => {
                verdict(Promise::P4, "Session Present, but there was none");
                None
            }
            (true, before) => before,
            (false, Some(before)) => {
                let session = &mut self.book.sessions[before];
                let away = event.at.saturating_sub(session.heard) + self.rules.clock_slack;
                let expired =
                    session.expiry != u32::MAX && away >= Duration::from_secs(session.expiry.into());
                if !expired && session.ended.is_none() {
                    verdict(Promise::P1, "its session is gone");
                }
                session.ended = session.ended.or(Some(connection.connect));
                session.gone = session.gone.or(Some(place));
                None
            }
            (false, None) => None,
        };
        let session = continued.unwrap_or_else(|| {
            let client = Arc::clone(&event.client);
            self.book.sessions.push(Session {
                client,
                expiry,
                ended: None,
                gone: None,
                drained: None,
                heard: event.at,
            });
            self.book.sessions.len() - 1
        });
        self.book.sessions[session].expiry = expiry;
        connection.session = Some(session);
        client.session = Some(session);
        client.maybe = false;
    }

    fn subscribe(&mut self, place: usize, number: usize, packet_id: u16, filters: &'h [Filter]) {
        let Some(session) = self.book.connections[number].session else { return };
        let mut lines = Vec::new();
        for line in filters {
            let (share, filter) = topic::parts(&line.filter);
            lines.push(self.book.subscriptions.len());
            self.end_subscription(session, &line.filter, place);
            self.live.insert((session, &line.filter), self.book.subscriptions.len());
            self.book.subscriptions.push(Subscription {
                session,
                share,
                filter,
                whole: &line.filter,
                no_local: line.no_local,
                retained: line.retained,
                sent: place,
                acked: None,
                until: None,
            });
        }
        self.subscribes.insert((number, packet_id), lines);
    }

    fn end_subscription(&mut self, session: usize, filter: &str, place: usize) {
        if let Some(line) = self.live.get(&(session, filter)) {
            let until = &mut self.book.subscriptions[*line].until;
            *until = until.or(Some(place));
        }
    }

    fn suback(&mut self, place: usize, number: usize, packet_id: u16, granted: &[Granted]) {
        let lines = self.subscribes.remove(&(number, packet_id)).unwrap_or_default();
        for (line, granted) in lines.into_iter().zip(granted) {
            let subscription = &mut self.book.subscriptions[line];
            match granted {
                Granted::QoS(qos) => subscription.acked = Some((place, *qos)),
                Granted::Refused => subscription.until = Some(subscription.sent),
            }
        }
    }

    fn unsubscribe(&mut self, place: usize, number: usize, filters: &[Arc<str>]) {
        let Some(session) = self.book.connections[number].session else { return };
        for filter in filters {
            self.end_subscription(session, filter, place);
        }
    }

    fn publish(&mut self, place: usize, number: usize, event: &'h Event) {
        let What::Publish { message, packet_id, topic, qos, retain, empty, expires } = &event.what else {
            return;
        };
        let publication = match self.book.publication_of(*message) {
            Some(known) => known,
            None => {
                // Two spaces of numbers: sessions are even, connections odd.
                let session = self.book.connections[number].session.filter(|_| *qos > 0);
                let publisher = session.map_or(number * 2 + 1, |session| session * 2);
                let stream = *self.streams.entry((publisher, topic, *qos)).or_insert_with(|| {
                    let client = Arc::clone(&event.client);
                    self.book.streams.push(Stream { client, topic, qos: *qos, publications: Vec::new() });
                    self.book.streams.len() - 1
                });
                let publication = self.book.publications.len();
                self.book.streams[stream].publications.push(publication);
                self.book.publications.push(Publication {
                    message: *message,
                    stream,
                    retain: *retain,
                    empty: *empty,
                    expires: *expires,
                    sent: place,
                    safe: None,
                    kept: None,
                    topic,
                    qos: *qos,
                });
                self.book.publication_of.insert(*message, publication);
                publication
            }
        };
        if let (Some(packet_id), Some(client)) = (*packet_id, self.clients.get_mut(&*event.client)) {
            self.publishes.insert((number, packet_id), publication);
            client.publications.insert(packet_id, publication);
        }
    }

    fn acknowledged(&mut self, place: usize, number: usize, packet_id: u16, stage: Stage) {
        let connection = &self.book.connections[number];
        let here = self.publishes.get(&(number, packet_id));
        // A PUBREL that is sent again has no PUBLISH on its own connection.
        let client = || self.clients.get(&*connection.client)?.publications.get(&packet_id);
        let Some(publication) = here.or_else(client) else { return };
        let transient = connection.session.is_some_and(|session| self.book.sessions[session].expiry == 0);
        if stage != Stage::PubRec || transient {
            let publication = &mut self.book.publications[*publication];
            publication.safe = publication.safe.or(Some(place));
            if transient || stage == Stage::PubAck {
                publication.kept = publication.kept.or(Some(place));
            }
        }
    }

    fn delivered(&mut self, place: usize, number: usize, event: &'h Event) {
        let What::Delivered { message, qos, retain, packet_id, topic, .. } = &event.what else { return };
        let Some(session) = self.book.connections[number].session else { return };
        let publication = self.book.publication_of(*message);
        if let Some(published) = publication.map(|publication| &self.book.publications[publication])
            && published.topic != &**topic
        {
            self.verdicts.push(Verdict {
                promise: Promise::P1,
                breach: Breach::Forged,
                client: Arc::clone(&event.client),
                message: Some(*message),
                says: format!("{message} was published to {} and came from {topic}", published.topic),
                events: vec![published.sent, place],
            });
        }
        self.book.arrivals.push(Arrival {
            session,
            event: place,
            message: *message,
            qos: *qos,
            retain: *retain,
            packet_id: *packet_id,
            publication,
        });
    }

    fn end(&mut self, place: usize, number: usize, ending: Ending) {
        let connection = &mut self.book.connections[number];
        connection.ended = Some((place, ending));
        let Some(client) = self.clients.get_mut(&*connection.client) else { return };
        // Of an older connection, it ends nothing.
        let Some(current) = connection.session.filter(|session| client.session == Some(*session)) else {
            return;
        };
        let session = &mut self.book.sessions[current];
        if let Ending::Disconnected { expiry: Some(expiry), .. } = ending
            && session.expiry > 0
        {
            session.expiry = session.expiry.min(expiry);
            // Read or not: after it, the session may live as long as it says.
            client.maybe = true;
        }
        if session.expiry == 0 {
            session.ended = session.ended.or(Some(place));
            session.gone = session.gone.or(Some(place));
            client.session = None;
        }
    }
}

impl Session {
    /// Whether it outlives its connections.
    pub(crate) fn is_durable(&self) -> bool {
        self.expiry > 0
    }
}

impl Subscription<'_> {
    /// As subscribed to.
    pub(crate) fn whole(&self) -> &str {
        self.whole
    }

    /// Whether it wants a topic.
    pub(crate) fn matches(&self, topic: &str) -> bool {
        topic::matches(self.filter, topic)
    }
}
