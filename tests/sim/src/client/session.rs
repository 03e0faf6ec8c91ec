//! What a client remembers from one connection to the next (MQTT 5.0 section 4.1).
//!
//! Knows no bytes. Start at [`Session`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use zwerm_wire::{Ack, Packet, PacketId, Publish, QoS, TopicName};

/// QoS 1 and 2 messages under way at once.
const WINDOW: usize = 8;

/// Packet identifiers, messages that are not acknowledged, subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Session {
    next_id: u16,
    /// In the order in which they were first sent.
    unacknowledged: VecDeque<Outgoing>,
    /// SUBSCRIBE packets without an answer on this connection: the filters.
    pub(crate) subscribing: BTreeMap<PacketId, Vec<Arc<str>>>,
    /// UNSUBSCRIBE packets without an answer on this connection.
    pub(crate) unsubscribing: BTreeSet<PacketId>,
    pub(crate) subscribed: BTreeSet<Arc<str>>,
}

/// A message that is not acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) message: u64,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) topic: Arc<str>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload: Bytes,
    /// PUBREC came: from then on it is PUBREL that is sent again.
    received: bool,
}

impl Outgoing {
    pub(crate) fn new(message: u64, topic: &Arc<str>, qos: QoS, retain: bool, payload: Bytes) -> Self {
        Self { message, packet_id: None, topic: Arc::clone(topic), qos, retain, payload, received: false }
    }

    /// What is sent for it now. `None`: its topic is none.
    pub(crate) fn packet(&self, again: bool) -> Option<Packet> {
        if let Some(packet_id) = self.packet_id.filter(|_| self.received) {
            return Some(Packet::PubRel(Ack::success(packet_id)));
        }
        Some(Packet::Publish(Publish {
            dup: again && self.qos != QoS::AtMostOnce,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            topic: Some(TopicName::new(&*self.topic).ok()?),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload: self.payload.clone(),
        }))
    }
}

impl Session {
    /// Forgets everything: the server has no session, or a new one.
    pub(crate) fn clear(&mut self) {
        *self = Self { next_id: self.next_id, ..Self::default() };
    }

    /// Forgets what only a connection knows.
    pub(crate) fn disconnected(&mut self) {
        self.subscribing.clear();
        self.unsubscribing.clear();
    }

    /// A packet identifier that is not in use (section 2.2.1).
    pub(crate) fn packet_id(&mut self) -> PacketId {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            let Some(id) = PacketId::new(self.next_id) else { continue };
            let in_use = self.unacknowledged.iter().any(|outgoing| outgoing.packet_id == Some(id));
            if !in_use && !self.subscribing.contains_key(&id) && !self.unsubscribing.contains(&id) {
                return id;
            }
        }
    }

    pub(crate) fn may_publish(&self) -> bool {
        self.unacknowledged.len() < WINDOW
    }

    /// Keeps a QoS 1 or 2 message until it is acknowledged.
    pub(crate) fn keep(&mut self, mut outgoing: Outgoing) -> Outgoing {
        outgoing.packet_id = Some(self.packet_id());
        self.unacknowledged.push_back(outgoing.clone());
        outgoing
    }

    /// What a new connection sends again, in order.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &Outgoing> {
        self.unacknowledged.iter()
    }

    /// PUBREC: true if PUBREL is to be sent.
    pub(crate) fn received(&mut self, packet_id: PacketId) -> bool {
        let outgoing = self.unacknowledged.iter_mut().find(|outgoing| outgoing.packet_id == Some(packet_id));
        outgoing.is_some_and(|outgoing| {
            outgoing.received = true;
            true
        })
    }

    /// PUBACK, PUBCOMP, or PUBREC with an error.
    pub(crate) fn done(&mut self, packet_id: PacketId) {
        self.unacknowledged.retain(|outgoing| outgoing.packet_id != Some(packet_id));
    }

    /// Nothing waits for an answer.
    pub(crate) fn is_quiet(&self) -> bool {
        self.unacknowledged.is_empty() && self.subscribing.is_empty() && self.unsubscribing.is_empty()
    }
}
