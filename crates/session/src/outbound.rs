//! Messages to the client: packet identifiers, the window, and the acknowledgements that open it again.
//!
//! Knows no messages, only identifiers: what is delivered under them is the driver's. Start at
//! [`Session::deliver`].

use std::collections::BTreeMap;

use zwerm_wire::{Ack, Packet, PacketId, QoS, ReasonCode};

use crate::Session;
use crate::session::Phase;

/// Every identifier under way to the client; one that is not in here is free (S2).
#[derive(Debug)]
pub(crate) struct Outbound {
    sent: BTreeMap<PacketId, Sent>,
    limit: u16,
    last: PacketId,
}

/// What is awaited under an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// QoS 1 PUBLISH: its PUBACK.
    AtLeastOnce,
    /// QoS 2 PUBLISH: its PUBREC.
    ExactlyOnce,
    /// PUBREL: its PUBCOMP.
    Released,
}

impl Default for Outbound {
    fn default() -> Self {
        Self { sent: BTreeMap::new(), limit: 0, last: PacketId::MAX }
    }
}

impl Outbound {
    pub(crate) fn open(&mut self, limit: u16) {
        self.limit = limit;
    }

    fn window(&self) -> usize {
        usize::from(self.limit).saturating_sub(self.sent.len())
    }

    /// The next free identifier in turn, so that one is not used again right after its acknowledgement.
    fn allocate(&mut self) -> PacketId {
        loop {
            // ends: the window is at most 65,535 wide and was open, so one identifier is free
            self.last = self.last.checked_add(1).unwrap_or(PacketId::MIN);
            if !self.sent.contains_key(&self.last) {
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

    /// Takes a place in the window and an identifier for a PUBLISH that is sent now. `None` for QoS 0, and
    /// when there is no place: ask [`window`](Self::window) first.
    pub fn deliver(&mut self, qos: QoS) -> Option<PacketId> {
        let sent = match qos {
            QoS::AtMostOnce => return None,
            QoS::AtLeastOnce => Sent::AtLeastOnce,
            QoS::ExactlyOnce => Sent::ExactlyOnce,
        };
        if self.window() == 0 {
            return None;
        }
        let packet_id = self.outbound.allocate();
        self.outbound.sent.insert(packet_id, sent);
        Some(packet_id)
    }

    /// PUBACK ends QoS 1, whatever its code (section 3.4).
    pub(crate) fn puback(&mut self, ack: &Ack) {
        match self.outbound.sent.get(&ack.packet_id) {
            Some(Sent::AtLeastOnce) => {
                self.outbound.sent.remove(&ack.packet_id);
            }
            Some(Sent::ExactlyOnce | Sent::Released) => self.violate(ReasonCode::ProtocolError),
            // left over from an earlier connection: nothing to end
            None => {}
        }
    }

    /// PUBREC is answered by PUBREL, or ends the exchange with an error (section 3.5).
    pub(crate) fn pubrec(&mut self, ack: &Ack) {
        let reason = match self.outbound.sent.get(&ack.packet_id) {
            Some(Sent::AtLeastOnce) => return self.violate(ReasonCode::ProtocolError),
            Some(Sent::ExactlyOnce) if ack.reason.is_error() => {
                self.outbound.sent.remove(&ack.packet_id);
                return;
            }
            Some(Sent::ExactlyOnce | Sent::Released) => {
                self.outbound.sent.insert(ack.packet_id, Sent::Released);
                ReasonCode::Success
            }
            None if ack.reason.is_error() => return,
            None => self.unknown_id(),
        };
        self.send(Packet::PubRel(Ack { packet_id: ack.packet_id, reason, properties: None }));
    }

    /// PUBCOMP ends QoS 2 (section 3.7).
    pub(crate) fn pubcomp(&mut self, ack: &Ack) {
        match self.outbound.sent.get(&ack.packet_id) {
            Some(Sent::Released) => {
                self.outbound.sent.remove(&ack.packet_id);
            }
            Some(Sent::AtLeastOnce | Sent::ExactlyOnce) => self.violate(ReasonCode::ProtocolError),
            None => {}
        }
    }

    /// What an answer to an unknown identifier says: 3.x has no word for it and just goes on.
    pub(crate) fn unknown_id(&self) -> ReasonCode {
        if self.speaks_v5() { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success }
    }
}
