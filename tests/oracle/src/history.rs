//! What the clients saw, in the order in which they saw it.
//!
//! Decides nothing. A harness pushes an event when a client has sent something or has received something;
//! one process writes the history, so the order of the events is the order of what happened at the clients.
//! Start at [`History::push`].

use std::sync::Arc;
use std::time::Duration;

/// Everything that clients sent and received in one run.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub(crate) events: Vec<Event>,
}

/// One thing that a client sent or received, or one fault.
#[derive(Debug, Clone)]
pub struct Event {
    /// Since the run began; never falls.
    pub at: Duration,
    /// The client id; of a fault, who made it.
    pub client: Arc<str>,
    /// Numbers the connections of a client in the order of their CONNECT, from 1.
    pub connection: u32,
    /// What it was.
    pub what: What,
}

/// What happened. A message is known by a number that its payload carries: no two PUBLISH packets have the same,
/// but for one that is sent again with DUP; wills have numbers of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Sent: CONNECT.
    Connect {
        /// Clean Session or Clean Start.
        clean: bool,
        /// Seconds that the session outlives the connection; `u32::MAX` for ever (3.1.1 with Clean Session 0).
        expiry: u32,
        /// The will.
        will: Option<Will>,
    },
    /// Received: CONNACK that accepts.
    ConnAck {
        /// Session Present.
        present: bool,
        /// The session expiry, if the server overruled it.
        expiry: Option<u32>,
    },
    /// Received: CONNACK that refuses.
    Refused {
        /// Its reason code.
        reason: u8,
    },
    /// Sent: SUBSCRIBE.
    Subscribe {
        /// Its packet identifier.
        packet_id: u16,
        /// In order.
        filters: Vec<Filter>,
    },
    /// Received: SUBACK.
    SubAck {
        /// Of the SUBSCRIBE.
        packet_id: u16,
        /// One per filter, in order.
        granted: Vec<Granted>,
    },
    /// Sent: UNSUBSCRIBE.
    Unsubscribe {
        /// As subscribed to.
        filters: Vec<Arc<str>>,
    },
    /// Sent: PUBLISH, for the first time or again.
    Publish {
        /// The number in its payload.
        message: u64,
        /// With QoS 1 and 2.
        packet_id: Option<u16>,
        /// Where to.
        topic: Arc<str>,
        /// 0, 1 or 2.
        qos: u8,
        /// To be kept.
        retain: bool,
        /// The payload is empty: with `retain` it deletes.
        empty: bool,
        /// It has a message expiry: nobody must get it.
        expires: bool,
    },
    /// Received: PUBACK, PUBREC or PUBCOMP.
    Acknowledged {
        /// Of the PUBLISH.
        packet_id: u16,
        /// Which.
        stage: Stage,
        /// Its reason code is below 0x80.
        success: bool,
    },
    /// Received: PUBLISH. One with an empty payload is not written down.
    Delivered {
        /// The number in its payload.
        message: u64,
        /// Where it came from.
        topic: Arc<str>,
        /// 0, 1 or 2.
        qos: u8,
        /// The retain flag.
        retain: bool,
        /// The DUP flag.
        dup: bool,
        /// With QoS 1 and 2.
        packet_id: Option<u16>,
    },
    /// Received: PUBREL, so the server will not send this QoS 2 message again.
    Released {
        /// Of the PUBLISH.
        packet_id: u16,
    },
    /// The connection is over for the client.
    End(Ending),
    /// The client was connected and quiet until now, and everything that it is due had time to come; nothing that
    /// happens later is held against what came before.
    Drained,
    /// Something was broken or healed on purpose; for people who read the history.
    Fault(Arc<str>),
}

/// The will of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// The number in its payload.
    pub message: u64,
    /// Where it goes.
    pub topic: Arc<str>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// To be kept.
    pub retain: bool,
    /// Seconds.
    pub delay: u32,
}

/// One line of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As sent, `$share/...` included.
    pub filter: Arc<str>,
    /// Asked for.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain Handling.
    pub retained: RetainedRead,
}

/// Which retained messages a SUBSCRIBE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainedRead {
    /// All that match.
    #[default]
    Always,
    /// Those only if the subscription is new.
    IfNew,
    /// None.
    Never,
}

/// The answer to one line of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// With this quality of service at most.
    QoS(u8),
    /// Not at all.
    Refused,
}

/// Which acknowledgement of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBCOMP.
    PubComp,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client sent a DISCONNECT that discards its will.
    Disconnected {
        /// The server is known to have read it: it closed the connection, and nothing was broken.
        confirmed: bool,
        /// The session expiry that the DISCONNECT carried.
        expiry: Option<u32>,
    },
    /// Without that: cut, closed by the server (whatever it said), or with a DISCONNECT that asks for the will.
    Lost,
}

/// What the oracle is told about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long bytes may be under way to a client, and how long a node that the others gave up may not know it:
    /// what an old connection may still bring after a newer one was acknowledged.
    pub under_way: Duration,
    /// How long after it is due a will may need, once everything is healed.
    pub will_patience: Duration,
    /// By how much clocks of nodes were moved in all, to and fro: no time is measured more exactly.
    pub clock_slack: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            under_way: Duration::from_millis(100),
            will_patience: Duration::from_secs(15),
            clock_slack: Duration::from_secs(1),
        }
    }
}

impl History {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes down what happened next.
    pub fn push(&mut self, at: Duration, client: impl Into<Arc<str>>, connection: u32, what: What) {
        self.events.push(Event { at, client: client.into(), connection, what });
    }

    /// All of it, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

impl What {
    /// Whether it came from the server to the client as a packet.
    pub(crate) fn is_received(&self) -> bool {
        use What::{Acknowledged, ConnAck, Delivered, Released, SubAck};
        matches!(
            self,
            ConnAck { .. } | SubAck { .. } | Acknowledged { .. } | Delivered { .. } | Released { .. }
        )
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, client, connection, what } = self;
        write!(f, "{:>10.6} s  {client}#{connection}  {what:?}", at.as_secs_f64())
    }
}
