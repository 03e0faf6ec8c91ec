//! From the mailbox to the link: deliveries become PUBLISH packets.
//!
//! A message without anything of this client's own is copied from the frame that all its receivers share;
//! with subscription identifiers, an alias or seconds left to live it is encoded for this client alone.
//! Knows no subscriptions. Start at `Driver::take_deliveries`.

use tokio::time::Instant;
use tracing::debug;
use zwerm_broker::{Delivery, Expiry};
use zwerm_session::AliasUse;
use zwerm_wire::{MessageProperties, Packet, PacketId, Protocol, Publish, QoS, encode, encoded_len};

use crate::driver::Driver;
use crate::link::Link;

/// Deliveries taken from the mailbox at once.
const BATCH: usize = 32;

/// Deliveries to one client before others get their turn.
const DELIVERIES_PER_TURN: usize = 512;

/// Bytes that a topic alias adds to a PUBLISH at most: the property, and two lengths that may grow.
const ALIAS_BYTES: usize = 5;

impl<L: Link> Driver<L> {
    /// Encodes what waits for the client, as far as it has room for it, up to a turn's worth.
    pub(crate) fn take_deliveries(&mut self, now: Instant) {
        let mut left = DELIVERIES_PER_TURN;
        let mut batch = Vec::new();
        while left > 0 && self.waiting && self.may_deliver() {
            // no more than have a place in the window, whatever their quality of service
            let most = self.session.window().min(BATCH).min(left);
            let Some(attachment) = &mut self.attachment else { return };
            attachment.take(most, &mut batch);
            self.waiting = batch.len() == most;
            left -= batch.len();
            for delivery in batch.drain(..) {
                self.deliver(&delivery, now);
            }
        }
    }

    fn deliver(&mut self, delivery: &Delivery, now: Instant) {
        let left = match delivery.message.expiry(now) {
            Expiry::Never => None,
            Expiry::Left(seconds) => Some(seconds),
            Expiry::Expired => return self.shared.counters.messages_dropped_expired_total.increment(),
        };
        let Some(protocol) = self.session.protocol() else { return };
        let published = delivery.message.properties().and_then(|properties| properties.message_expiry);
        let alone = protocol == Protocol::V5
            && (!delivery.subscription_ids.is_empty() || left != published || self.session.uses_aliases());
        if alone {
            self.deliver_alone(delivery, left);
        } else {
            self.deliver_shared(delivery, protocol);
        }
    }

    fn deliver_shared(&mut self, delivery: &Delivery, protocol: Protocol) {
        let with_id = delivery.qos != QoS::AtMostOnce;
        let Some(frame) = delivery.message.frame(protocol, with_id) else {
            return self.unencodable(delivery);
        };
        if !self.fits(frame.len()) {
            return;
        }
        let packet_id = self.session.deliver(delivery.qos);
        let payload = frame.write_to(self.output.tail(), false, delivery.qos, delivery.retain, packet_id);
        if let Some(payload) = payload {
            self.output.append(payload);
        }
        self.delivered();
    }

    fn deliver_alone(&mut self, delivery: &Delivery, left: Option<u32>) {
        let mut packet = Packet::Publish(own_publish(delivery, left));
        let Ok(size) = encoded_len(&packet, Protocol::V5) else {
            return self.unencodable(delivery);
        };
        if !self.fits(size) {
            return;
        }
        if let Packet::Publish(publish) = &mut packet {
            publish.packet_id = self.session.deliver(delivery.qos);
            if self.is_within_limit(size + ALIAS_BYTES) {
                match self.session.alias(delivery.message.topic()) {
                    AliasUse::None => {}
                    AliasUse::New(alias) => publish.topic_alias = Some(alias),
                    AliasUse::Known(alias) => {
                        publish.topic_alias = Some(alias);
                        publish.topic = None;
                    }
                }
            }
        }
        match encode(&packet, Protocol::V5, self.output.tail()) {
            Ok(()) => self.delivered(),
            Err(_) => self.unencodable(delivery),
        }
    }

    /// Whether the client takes a packet of this size; one that it does not take is dropped as if it had been
    /// sent (MQTT-3.1.2-25).
    fn fits(&self, size: usize) -> bool {
        let fits = self.is_within_limit(size);
        if !fits {
            self.shared.counters.messages_dropped_too_large_total.increment();
        }
        fits
    }

    fn is_within_limit(&self, size: usize) -> bool {
        self.session.client_maximum_packet_size().is_none_or(|most| size <= most as usize)
    }

    fn delivered(&mut self) {
        self.tally.packets_sent += 1;
        self.tally.messages_sent += 1;
    }

    fn unencodable(&self, delivery: &Delivery) {
        debug!(peer = %self.peer, topic = %delivery.message.topic(), "message fits no packet");
        self.shared.counters.messages_dropped_unencodable_total.increment();
    }
}

/// The PUBLISH of one delivery for a 5.0 client. Its identifier is a placeholder of the right size.
fn own_publish(delivery: &Delivery, left: Option<u32>) -> Publish {
    let message = &delivery.message;
    let with_left = |properties: &MessageProperties| {
        Box::new(MessageProperties { message_expiry: left, ..properties.clone() })
    };
    Publish {
        dup: false,
        qos: delivery.qos,
        retain: delivery.retain,
        packet_id: (delivery.qos != QoS::AtMostOnce).then_some(PacketId::MIN),
        topic: Some(message.topic().clone()),
        topic_alias: None,
        subscription_ids: delivery.subscription_ids.to_vec(),
        properties: message.properties().map(with_left),
        payload: message.payload().clone(),
    }
}
