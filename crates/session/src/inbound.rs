//! Messages from the client: duplicates, receive maximum, and acknowledgements that wait for the broker.
//!
//! Knows not where messages go. The client's identifiers for SUBSCRIBE and UNSUBSCRIBE live in the same
//! table, for they are of one space (section 2.2.1). Start at `Session::publish`.

use zwerm_wire::{Ack, Packet, PacketId, PacketType, Publish, QoS, ReasonCode};

use crate::told::told;
use crate::under_way::UnderWay;
use crate::{Cause, Output, Session};

/// Every identifier the client has under way, at most 65,535; one that is not in here is free (S2).
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    taken: UnderWay<Taken>,
    /// How many of them are messages: what the receive maximum counts.
    messages: u16,
    /// How many of them wait for the broker.
    pending: u16,
}

/// What goes on under an identifier of the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// QoS 1 PUBLISH: PUBACK follows `Accepted`.
    AtLeastOnce,
    /// QoS 2 PUBLISH: PUBREC follows `Accepted`.
    ExactlyOnce,
    /// PUBREC was sent: the client's PUBREL is awaited.
    Received,
    /// The same since an earlier connection: the client's quota began anew and does not count it (section 4.9).
    Resumed,
    /// PUBREL of a durable session: PUBCOMP follows `Completed`.
    Completing,
    /// SUBSCRIBE: SUBACK follows `Subscribed`. `Some`: the filters refused here, and why, by position.
    Subscribe(Option<Box<[Option<ReasonCode>]>>),
    /// UNSUBSCRIBE: UNSUBACK follows `Unsubscribed`.
    Unsubscribe,
}

impl Taken {
    fn is_message(&self) -> bool {
        matches!(self, Self::AtLeastOnce | Self::ExactlyOnce | Self::Received)
    }

    fn is_pending(&self) -> bool {
        !matches!(self, Self::Received | Self::Resumed)
    }
}

impl Inbound {
    pub(crate) fn get(&self, packet_id: PacketId) -> Option<&Taken> {
        self.taken.get(packet_id)
    }

    pub(crate) fn insert(&mut self, packet_id: PacketId, taken: Taken) {
        let (message, pending) = (taken.is_message(), taken.is_pending());
        let before = self.taken.insert(packet_id, taken);
        self.forget(before.as_ref());
        self.messages += u16::from(message);
        self.pending += u16::from(pending);
    }

    /// Knows again what awaits a PUBREL since an earlier connection.
    pub(crate) fn resume(&mut self, received: Vec<PacketId>) {
        for packet_id in received {
            self.insert(packet_id, Taken::Resumed);
        }
    }

    pub(crate) fn remove(&mut self, packet_id: PacketId) -> Option<Taken> {
        let taken = self.taken.remove(packet_id);
        self.forget(taken.as_ref());
        taken
    }

    fn forget(&mut self, taken: Option<&Taken>) {
        self.messages -= u16::from(taken.is_some_and(Taken::is_message));
        self.pending -= u16::from(taken.is_some_and(Taken::is_pending));
    }
}

impl Session {
    /// Packets handed out that the broker has not answered. For back-pressure: a driver that stops reading
    /// at some number of these bounds what a 3.x client, which knows no receive maximum, has under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        usize::from(self.inbound.pending)
    }

    pub(crate) fn publish(&mut self, mut publish: Publish) {
        let most = self.limits.topic_alias_maximum;
        match self.aliases_in.resolve(publish.topic.take(), publish.topic_alias.take(), most) {
            Ok(topic) => publish.topic = Some(topic),
            Err(reason) => return self.violate(reason),
        }
        if let Some(reason) = self.refuse(&publish) {
            return self.violate(reason);
        }
        let taken = match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => None,
            (QoS::AtLeastOnce, Some(packet_id)) => Some((packet_id, Taken::AtLeastOnce)),
            (QoS::ExactlyOnce, Some(packet_id)) => Some((packet_id, Taken::ExactlyOnce)),
            // the decoder lets none through
            (QoS::AtLeastOnce | QoS::ExactlyOnce, None) => return self.violate(ReasonCode::ProtocolError),
        };
        if let Some((packet_id, taken)) = taken
            && !self.take_id(packet_id, taken, publish.dup)
        {
            return;
        }
        self.put(Output::Publish(publish));
    }

    fn refuse(&self, publish: &Publish) -> Option<ReasonCode> {
        if !publish.subscription_ids.is_empty() {
            return Some(ReasonCode::ProtocolError);
        }
        if publish.qos > self.limits.max_qos {
            return Some(ReasonCode::QoSNotSupported);
        }
        (publish.retain && !self.limits.retain_available).then_some(ReasonCode::RetainNotSupported)
    }

    /// Whether a message under this identifier is a new one. What it is instead is dealt with.
    fn take_id(&mut self, packet_id: PacketId, taken: Taken, dup: bool) -> bool {
        match (&taken, self.inbound.get(packet_id)) {
            (_, None) => {
                let full = self.inbound.messages >= self.limits.receive_maximum.get();
                if full && self.speaks_v5() {
                    self.violate(ReasonCode::ReceiveMaximumExceeded);
                    return false;
                }
                self.inbound.insert(packet_id, taken);
                return true;
            }
            // a duplicate: the client gets its PUBREC again, its subscribers get nothing (section 4.3.3)
            (Taken::ExactlyOnce, Some(Taken::Received | Taken::Resumed)) => {
                self.send(Packet::PubRec(Ack::success(packet_id)));
            }
            // a duplicate of what is not acknowledged yet: the acknowledgement is on its way
            (Taken::ExactlyOnce, Some(Taken::ExactlyOnce)) => {}
            (Taken::AtLeastOnce, Some(Taken::AtLeastOnce)) if dup => {}
            (_, Some(_)) => self.refuse_id(packet_id, &taken),
        }
        false
    }

    /// The client used an identifier twice at once. Acknowledging would promise something about a message
    /// that was not taken, so a 3.x client, which cannot be told, is cut off.
    fn refuse_id(&mut self, packet_id: PacketId, taken: &Taken) {
        if !self.speaks_v5() {
            return self.violate(ReasonCode::PacketIdentifierInUse);
        }
        let ack = Ack { packet_id, reason: ReasonCode::PacketIdentifierInUse, properties: None };
        self.send(match taken {
            Taken::ExactlyOnce => Packet::PubRec(ack),
            _ => Packet::PubAck(ack),
        });
    }

    /// The broker's word on a message: only now it is acknowledged (S3).
    pub(crate) fn accepted(&mut self, packet_id: PacketId, reason: ReasonCode) {
        let exactly_once = match self.inbound.get(packet_id) {
            Some(Taken::AtLeastOnce) => false,
            Some(Taken::ExactlyOnce) => true,
            _ => return,
        };
        let Some(reason) = self.acknowledgement(reason) else {
            return self.end(Cause::Violation(reason), None, None);
        };
        if exactly_once && !reason.is_error() {
            self.inbound.insert(packet_id, Taken::Received);
        } else {
            self.inbound.remove(packet_id);
        }
        let ack = Ack { packet_id, reason, properties: None };
        self.send(if exactly_once { Packet::PubRec(ack) } else { Packet::PubAck(ack) });
    }

    /// What the acknowledgement says. 3.x can only say yes: a message the client may not publish is
    /// acknowledged and dropped (MQTT-3.3.5-2 of 3.1.1); one that is not safe must not be, and the only
    /// way to say so is to close (`None`).
    fn acknowledgement(&self, reason: ReasonCode) -> Option<ReasonCode> {
        if self.speaks_v5() {
            return Some(told(reason, PacketType::PubAck)); // the list of PUBREC is the same
        }
        let says_yes = !reason.is_error() || reason == ReasonCode::NotAuthorized;
        says_yes.then_some(ReasonCode::Success)
    }

    /// PUBREL ends QoS 2 (section 3.6). For a durable session the broker publishes the message only now, and
    /// PUBCOMP waits for that.
    pub(crate) fn pubrel(&mut self, ack: &Ack) {
        let packet_id = ack.packet_id;
        match self.inbound.get(packet_id) {
            Some(Taken::Received | Taken::Resumed) if self.durable => {
                self.inbound.insert(packet_id, Taken::Completing);
                self.put(Output::Complete(packet_id));
            }
            Some(Taken::Received | Taken::Resumed) => {
                self.inbound.remove(packet_id);
                self.pubcomp_with(packet_id, ReasonCode::Success);
            }
            // a repetition: PUBCOMP is on its way
            Some(Taken::Completing) => {}
            // before our PUBREC, or under the identifier of something else
            Some(_) => self.violate(ReasonCode::ProtocolError),
            None => self.pubcomp_with(packet_id, ReasonCode::PacketIdentifierNotFound),
        }
    }

    /// The broker's word on a PUBREL.
    pub(crate) fn completed(&mut self, packet_id: PacketId, reason: ReasonCode) {
        if self.inbound.get(packet_id) != Some(&Taken::Completing) {
            return;
        }
        if reason.is_error() && reason != ReasonCode::PacketIdentifierNotFound {
            return self.end(Cause::Kicked(reason), Some(reason), None);
        }
        self.inbound.remove(packet_id);
        self.pubcomp_with(packet_id, reason);
    }

    /// PUBCOMP knows two reasons (section 3.7.2.1), and none in 3.x.
    fn pubcomp_with(&mut self, packet_id: PacketId, reason: ReasonCode) {
        let reason = if reason.is_error() { self.unknown_id() } else { ReasonCode::Success };
        self.send(Packet::PubComp(Ack { packet_id, reason, properties: None }));
    }
}
