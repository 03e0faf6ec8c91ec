//! The machine: phases, dispatch of packets, deadlines, and how a connection ends.
//!
//! Knows no details of any exchange: CONNECT is in `handshake`, AUTH in `authenticate`, messages from the client
//! in `inbound`, messages to it in `outbound`, subscriptions in `subscribe`. Start at [`Session::handle`].

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use zwerm_wire::{Disconnect, Packet, PacketType, Protocol, ReasonCode};

use crate::alias::{InboundAliases, OutboundAliases};
use crate::authenticate::Authentication;
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::told::told;
use crate::{Cause, Deadline, Ending, Input, Limits, Output};

/// One client's protocol state, from the opening of its link to its end.
///
/// Hand it every [`Input`] with the instant it happened, then [`poll`](Self::poll) until `None`.
/// A few hundred bytes while nothing is under way.
#[derive(Debug)]
pub struct Session {
    /// Shared by all sessions of a server.
    pub(crate) limits: Arc<Limits>,
    pub(crate) phase: Phase,
    /// When the link was opened, later when the client last gave a sign of life.
    heard: Instant,
    pub(crate) client: Client,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) aliases_in: InboundAliases,
    pub(crate) aliases_out: OutboundAliases,
    /// Of a client that asked for enhanced authentication. Boxed: few do.
    pub(crate) authentication: Option<Box<Authentication>>,
    /// As the broker attached it.
    pub(crate) durable: bool,
    /// In order. Its memory is [lent](Self::lend). At most two come of one input, a last word and the
    /// closing; but that happens once.
    outputs: Outputs,
    ending: Option<Ending>,
}

/// Memory that sessions put their outputs into while they are handled; see [`Session::lend`].
#[derive(Debug, Default)]
pub struct Outputs(Option<Box<Line>>);

/// Outputs in order.
#[derive(Debug, Default)]
struct Line(VecDeque<Output>);

impl Outputs {
    fn push(&mut self, output: Output) {
        self.0.get_or_insert_default().0.push_back(output);
    }

    fn pop(&mut self) -> Option<Output> {
        self.0.as_mut()?.0.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|line| line.0.is_empty())
    }
}

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for CONNECT.
    Connecting,
    /// CONNECT came with an authentication method; the exchange is under way.
    Authenticating,
    /// CONNECT was handed over; waits for `Attached` or `Refused`.
    Attaching,
    /// CONNACK was sent.
    Open,
    /// `Close` was put out; nothing matters any more.
    Closed,
}

/// What CONNECT said that is needed later.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) protocol: Option<Protocol>,
    pub(crate) bridge: bool,
    /// Seconds, after the server's word; 0 is off.
    pub(crate) keep_alive: u16,
    /// `Some` when the server overruled it.
    pub(crate) server_keep_alive: Option<u16>,
    /// Seconds the client asked for its session to outlive the connection.
    pub(crate) requested_expiry: u32,
    pub(crate) maximum_packet_size: Option<NonZeroU32>,
}

impl Session {
    /// The session of a link that was opened at `now`.
    #[must_use]
    pub fn new(limits: impl Into<Arc<Limits>>, now: Instant) -> Self {
        Self {
            limits: limits.into(),
            phase: Phase::Connecting,
            heard: now,
            client: Client::default(),
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            aliases_in: InboundAliases::default(),
            aliases_out: OutboundAliases::default(),
            authentication: None,
            durable: false,
            outputs: Outputs::default(),
            ending: None,
        }
    }

    /// Takes note of something that happened at `now`. Total: every input is allowed in every phase, and
    /// after [`Output::Close`] none has an effect.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        match input {
            Input::Packet(packet) => {
                // until it is attached a client has the time of a CONNECT, whatever it sends
                if self.phase == Phase::Open {
                    self.heard = now;
                }
                self.packet(packet);
            }
            Input::Malformed { reason, text, protocol } => self.malformed(reason, text, protocol),
            Input::Attached(attached) => {
                // the client's time starts with CONNACK: it may have kept silent for it
                self.heard = now;
                self.attached(attached);
            }
            Input::Refused(reason) => self.refused(reason),
            Input::Challenge(data) => self.challenge(data),
            Input::Authenticated { name, data } => self.authenticated(name, data),
            Input::Accepted { packet_id, reason } => self.accepted(packet_id, reason),
            Input::Received(packet_id) => self.received(packet_id),
            Input::Completed { packet_id, reason } => self.completed(packet_id, reason),
            Input::Subscribed { packet_id, reasons } => self.subscribed(packet_id, reasons),
            Input::Unsubscribed { packet_id, reasons } => self.unsubscribed(packet_id, reasons),
            Input::Kicked(reason) => self.end(Cause::Kicked(reason), Some(reason), None),
            Input::Unsendable(packet) => self.unsendable(packet),
            Input::Alive => self.heard = now,
            Input::Tick => self.tick(now),
            Input::LinkClosed => self.end(Cause::LinkClosed, None, None),
        }
    }

    /// The next output, in order. To be drained after every [`handle`](Self::handle).
    pub fn poll(&mut self) -> Option<Output> {
        match self.outputs.pop() {
            None => self.next_resumed(),
            output => output,
        }
    }

    /// Lends it memory for outputs until [`give_back`](Self::give_back): many sessions that are handled in turn need
    /// only one, and an idle one holds none. Without, it takes memory when an output comes, and keeps it.
    pub fn lend(&mut self, memory: Outputs) {
        if self.outputs.0.is_none() {
            self.outputs = memory;
        }
    }

    /// Gives up the memory for outputs; to be polled to the end before.
    pub fn give_back(&mut self) -> Outputs {
        if self.outputs.is_empty() { std::mem::take(&mut self.outputs) } else { Outputs::default() }
    }

    /// When to hand in [`Input::Tick`], and why then. `None` while attaching (the broker bounds that), without
    /// keep alive, and at the end.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Deadline)> {
        let (wait, why) = match self.phase {
            Phase::Connecting | Phase::Authenticating => (self.limits.connect_timeout, Deadline::Connect),
            Phase::Open if self.client.keep_alive > 0 => {
                (Duration::from_millis(u64::from(self.client.keep_alive) * 1500), Deadline::KeepAlive)
            }
            Phase::Open | Phase::Attaching | Phase::Closed => return None,
        };
        Some((self.heard.checked_add(wait)?, why))
    }

    /// CONNECT was handed over and is not answered: no packet may be handed in.
    #[must_use]
    pub fn is_attaching(&self) -> bool {
        self.phase == Phase::Attaching
    }

    /// CONNACK was sent and nothing ended the connection.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The broker keeps what is unacknowledged: see [`Attached::durable`](crate::Attached::durable).
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Nothing more will come out of it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The version of CONNECT; `None` before it.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.client.protocol
    }

    /// The largest packet in bytes that the client takes; `None` is no limit. Enforced by the driver, for
    /// only it knows sizes (section 3.1.2.11.4).
    #[must_use]
    pub fn client_maximum_packet_size(&self) -> Option<u32> {
        self.client.maximum_packet_size.map(NonZeroU32::get)
    }

    /// How the connection ended; `Some` from the moment [`Output::Close`] is put out.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    pub(crate) fn speaks_v5(&self) -> bool {
        self.client.protocol == Some(Protocol::V5)
    }

    pub(crate) fn put(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(crate) fn send(&mut self, packet: Packet) {
        self.outputs.push(Output::Send(packet));
    }

    fn packet(&mut self, packet: Packet) {
        match (self.phase, packet) {
            (Phase::Connecting, Packet::Connect(connect)) => self.connect(connect),
            // not a client of MQTT: no word, no reason (section 3.1.0)
            (Phase::Connecting, _) => self.violate(ReasonCode::ProtocolError),
            (Phase::Authenticating, Packet::Auth(auth)) => self.auth(auth),
            (Phase::Authenticating, Packet::Disconnect(disconnect)) => self.disconnect(&disconnect),
            (Phase::Authenticating, _) => self.violate(ReasonCode::ProtocolError), // MQTT-3.1.2-30
            (Phase::Attaching, _) => self.violate(ReasonCode::ImplementationSpecificError),
            (Phase::Open, packet) => self.open_packet(packet),
            (Phase::Closed, _) => {}
        }
    }

    fn open_packet(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::PubAck(ack) => self.puback(&ack),
            Packet::PubRec(ack) => self.pubrec(&ack),
            Packet::PubRel(ack) => self.pubrel(&ack),
            Packet::PubComp(ack) => self.pubcomp(&ack),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe),
            Packet::PingReq => self.send(Packet::PingResp),
            Packet::Disconnect(disconnect) => self.disconnect(&disconnect),
            Packet::Auth(auth) => self.auth(auth),
            // the server's to send
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.violate(ReasonCode::ProtocolError),
        }
    }

    fn disconnect(&mut self, disconnect: &Disconnect) {
        let expiry = disconnect.session_expiry.filter(|_| self.speaks_v5());
        if self.client.requested_expiry == 0 && expiry.is_some_and(|seconds| seconds > 0) {
            return self.violate(ReasonCode::ProtocolError); // section 3.14.2.2.2
        }
        self.close(Ending {
            fire_will: disconnect.reason != ReasonCode::Success,
            session_expiry: expiry.map(|seconds| seconds.min(self.limits.session_expiry_maximum)),
            cause: Cause::Disconnected(disconnect.reason),
        });
    }

    fn malformed(&mut self, reason: ReasonCode, text: String, protocol: Option<Protocol>) {
        if let (Phase::Connecting, Some(protocol)) = (self.phase, protocol) {
            self.say_no(protocol, reason, Some(text));
            return self.close(ending(Cause::Violation(reason)));
        }
        self.end(Cause::Violation(reason), Some(reason), Some(text));
    }

    fn unsendable(&mut self, packet: PacketType) {
        let reason = ReasonCode::PacketTooLarge;
        match (packet, self.client.protocol) {
            // a short CONNACK instead: DISCONNECT must not come before one (MQTT-3.14.0-1)
            (PacketType::ConnAck, Some(protocol)) => {
                self.say_no(protocol, reason, None);
                self.close(ending(Cause::Kicked(reason)));
            }
            _ => self.end(Cause::Kicked(reason), Some(reason), None),
        }
    }

    fn tick(&mut self, now: Instant) {
        let Some((at, why)) = self.deadline() else { return };
        if now < at {
            return;
        }
        let told = (why == Deadline::KeepAlive).then_some(ReasonCode::KeepAliveTimeout);
        self.end(Cause::TimedOut(why), told, None);
    }

    /// The client broke the protocol: it is told if its version can be told, and the link closed.
    pub(crate) fn violate(&mut self, reason: ReasonCode) {
        self.end(Cause::Violation(reason), Some(reason), None);
    }

    /// Ends the connection from our side, with a last word where the phase and the version have one.
    pub(crate) fn end(&mut self, cause: Cause, reason: Option<ReasonCode>, text: Option<String>) {
        if let Some(reason) = reason {
            match (self.phase, self.client.protocol) {
                (Phase::Authenticating | Phase::Attaching, Some(protocol)) => {
                    self.say_no(protocol, reason, text);
                }
                (Phase::Open, Some(Protocol::V5)) => {
                    let reason_string = text.map(ByteString::from);
                    let reason = told(reason, PacketType::Disconnect);
                    let disconnect = Disconnect { reason_string, ..Disconnect::because(reason) };
                    self.send(Packet::Disconnect(disconnect));
                }
                _ => {}
            }
        }
        self.close(ending(cause));
    }

    pub(crate) fn close(&mut self, ending: Ending) {
        self.phase = Phase::Closed;
        self.ending = Some(ending);
        self.outbound.forget_resumed();
        self.put(Output::Close);
    }
}

fn ending(cause: Cause) -> Ending {
    Ending { fire_will: true, session_expiry: None, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_outputs_is_lent_and_given_back() {
        let mut session = Session::new(Limits::default(), Instant::now());
        session.lend(Outputs(Some(Box::new(Line(VecDeque::with_capacity(7))))));
        session.put(Output::Close);
        assert!(session.give_back().0.is_none(), "what waits is not given up");
        assert_eq!(session.poll(), Some(Output::Close));
        let memory = session.give_back();
        assert!(memory.0.as_ref().is_some_and(|line| line.0.capacity() >= 7) && session.outputs.0.is_none());
        session.put(Output::Close);
        session.lend(memory);
        assert_eq!(session.poll(), Some(Output::Close), "what waits stays when memory is lent");
    }
}
