//! Messages to the client: packet identifiers, the window, and the acknowledgements that open it again.
//!
//! Knows no messages, only identifiers: what is delivered under them is the driver's. Start at
//! [`Session::deliver`].

use std::vec;

use zwerm_wire::{Ack, Packet, PacketId, QoS, ReasonCode};

use crate::session::Phase;
use crate::under_way::UnderWay;
use crate::{Output, Session, Stage};

/// Every identifier under way to the client; one that is not in here is free (S2).
#[derive(Debug)]
pub(crate) struct Outbound {
    sent: UnderWay<Sent>,
    limit: u16,
    last: PacketId,
    /// What is left to send of the PUBRELs of an earlier connection. Boxed: few sessions ever have any.
    resumed: Option<Box<vec::IntoIter<PacketId>>>,
}

/// What is awaited under an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// QoS 1 PUBLISH: its PUBACK.
    AtLeastOnce,
    /// QoS 2 PUBLISH: its PUBREC.
    ExactlyOnce,
    /// PUBREC, which the broker has yet to commit: its word, upon which PUBREL is sent. Durable only.
    Receiving,
    /// PUBREL: its PUBCOMP.
    Released,
}

impl Sent {
    /// What a PUBLISH of this quality of service awaits.
    fn by(qos: QoS) -> Option<Self> {
        match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Self::AtLeastOnce),
            QoS::ExactlyOnce => Some(Self::ExactlyOnce),
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self { sent: UnderWay::default(), limit: 0, last: PacketId::MAX, resumed: None }
    }
}

impl Outbound {
    pub(crate) fn open(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// Takes up what awaits a PUBCOMP since an earlier connection. It has places in the window, though it may
    /// be more than the window is wide.
    pub(crate) fn resume(&mut self, mut released: Vec<PacketId>) {
        released.retain(|packet_id| self.sent.insert(*packet_id, Sent::Released).is_none());
        self.resumed = (!released.is_empty()).then(|| Box::new(released.into_iter()));
    }

    /// Nothing is sent any more.
    pub(crate) fn forget_resumed(&mut self) {
        self.resumed = None;
    }

    fn window(&self) -> usize {
        usize::from(self.limit).saturating_sub(self.sent.len())
    }

    /// The next free identifier in turn, so that one is not used again right after its acknowledgement.
    fn allocate(&mut self) -> PacketId {
        loop {
            // ends: the window is at most 65,535 wide and was open, so one identifier is free
            self.last = self.last.checked_add(1).unwrap_or(PacketId::MIN);
            if !self.sent.contains(self.last) {
                return self.last;
            }
        }
    }
}

impl Session {
    /// How many QoS 1 and 2 messages may be sent now (section 4.9). 0 before CONNACK.
    #[must_use]
    pub fn window(&self) -> usize {
        if self.phase == Phase::Open { self.outbound.window() } else { 0 }
    }

    /// QoS 1 and 2 messages that the client has not acknowledged to the end.
    #[must_use]
    pub fn inflight(&self) -> usize {
        self.outbound.sent.len()
    }

    /// Takes a place in the window and an identifier for a PUBLISH that is sent now. `None` for QoS 0, when
    /// there is no place (ask [`window`](Self::window) first), and for a durable session, whose identifiers
    /// are the broker's.
    pub fn deliver(&mut self, qos: QoS) -> Option<PacketId> {
        let sent = Sent::by(qos)?;
        if self.window() == 0 || self.durable {
            return None;
        }
        let packet_id = self.outbound.allocate();
        self.outbound.sent.insert(packet_id, sent);
        Some(packet_id)
    }

    /// The same for a PUBLISH of a durable session, under the broker's identifier. False, and nothing may be
    /// sent: for QoS 0, when there is no place, when the identifier is under way, and for a session that is
    /// not durable.
    pub fn deliver_as(&mut self, packet_id: PacketId, qos: QoS) -> bool {
        let Some(sent) = Sent::by(qos) else { return false };
        if self.window() == 0 || !self.durable {
            return false;
        }
        self.outbound.sent.insert_new(packet_id, sent)
    }

    /// The next PUBREL that an earlier connection left to be sent again.
    pub(crate) fn next_resumed(&mut self) -> Option<Output> {
        let next = self.outbound.resumed.as_mut()?.next();
        if next.is_none() {
            self.outbound.forget_resumed();
        }
        Some(Output::Send(Packet::PubRel(Ack::success(next?))))
    }

    /// The client is done with an identifier.
    fn done(&mut self, packet_id: PacketId) {
        self.outbound.sent.remove(packet_id);
        if self.durable {
            self.put(Output::Acknowledged { packet_id, stage: Stage::Done });
        }
    }

    /// PUBACK ends QoS 1, whatever its code (section 3.4).
    pub(crate) fn puback(&mut self, ack: &Ack) {
        match self.outbound.sent.get(ack.packet_id) {
            Some(Sent::AtLeastOnce) => self.done(ack.packet_id),
            Some(Sent::ExactlyOnce | Sent::Receiving | Sent::Released) => {
                self.violate(ReasonCode::ProtocolError);
            }
            // left over from an earlier connection: nothing to end
            None => {}
        }
    }

    /// PUBREC is answered by PUBREL, or ends the exchange with an error (section 3.5).
    ///
    /// A durable session answers only what the broker has committed: a client that got PUBREL takes the next
    /// PUBLISH under the identifier for a new message, so the message must never be sent again.
    pub(crate) fn pubrec(&mut self, ack: &Ack) {
        let packet_id = ack.packet_id;
        let reason = match self.outbound.sent.get(packet_id) {
            Some(Sent::AtLeastOnce) => return self.violate(ReasonCode::ProtocolError),
            Some(Sent::ExactlyOnce) if ack.reason.is_error() => return self.done(packet_id),
            Some(Sent::ExactlyOnce) if self.durable => {
                self.outbound.sent.insert(packet_id, Sent::Receiving);
                return self.put(Output::Acknowledged { packet_id, stage: Stage::Received });
            }
            // a repetition: PUBREL is on its way
            Some(Sent::Receiving) => return,
            Some(Sent::ExactlyOnce | Sent::Released) => {
                self.outbound.sent.insert(packet_id, Sent::Released);
                ReasonCode::Success
            }
            None if ack.reason.is_error() => return,
            // of a message that may yet be sent again: told PUBREL, the client would take it for a new one
            None if self.durable => return,
            None => self.unknown_id(),
        };
        self.send(Packet::PubRel(Ack { packet_id, reason, properties: None }));
    }

    /// The broker committed a PUBREC.
    pub(crate) fn received(&mut self, packet_id: PacketId) {
        if self.outbound.sent.get(packet_id) == Some(&Sent::Receiving) {
            self.outbound.sent.insert(packet_id, Sent::Released);
            self.send(Packet::PubRel(Ack::success(packet_id)));
        }
    }

    /// PUBCOMP ends QoS 2 (section 3.7).
    pub(crate) fn pubcomp(&mut self, ack: &Ack) {
        match self.outbound.sent.get(ack.packet_id) {
            Some(Sent::Released) => self.done(ack.packet_id),
            Some(Sent::AtLeastOnce | Sent::ExactlyOnce | Sent::Receiving) => {
                self.violate(ReasonCode::ProtocolError);
            }
            None => {}
        }
    }

    /// What an answer to an unknown identifier says: 3.x has no word for it and just goes on.
    pub(crate) fn unknown_id(&self) -> ReasonCode {
        if self.speaks_v5() { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success }
    }
}
