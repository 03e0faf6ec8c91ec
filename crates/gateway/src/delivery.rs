//! From the broker to the link: deliveries become PUBLISH packets.
//!
//! A message without anything of this client's own is copied from the frame that all its receivers share, or written
//! at once where there is one receiver; with subscription identifiers, an alias or seconds left to live it is encoded
//! for this client alone.
//! Knows no subscriptions. Start at `Driver::take_deliveries`.

use tokio::time::Instant;
use tracing::{debug, error};
use zwerm_broker::{Delivery, Expiry, Stage};
use zwerm_session::AliasUse;
use zwerm_wire::{MessageProperties, Packet, PacketId, Protocol, Publish, QoS, encode, encoded_len};

use crate::driver::Driver;
use crate::link::Link;
use crate::shares::Shares;

/// Deliveries taken from the mailbox at once.
const BATCH: usize = 32;

/// Deliveries to one client before others get their turn.
const DELIVERIES_PER_TURN: usize = 512;

/// Bytes that a topic alias adds to a PUBLISH at most: the property, and two lengths that may grow.
const ALIAS_BYTES: usize = 5;

/// Why a delivery was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    /// It waited longer than it was to live.
    Expired,
    /// It exceeds the maximum packet size of the client.
    TooLarge,
    /// No packet can hold it.
    Unencodable,
    /// Another message is under way under its identifier: the broker's mistake.
    Unidentified,
}

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
                self.deliver(delivery, now);
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery, now: Instant) {
        match self.encode(&delivery, now) {
            Ok(packet_id) => {
                self.tally.packets_sent += 1;
                self.tally.messages_sent += 1;
                if let Some(packet_id) = packet_id
                    && Shares::wants(&delivery)
                {
                    self.shares.get_or_insert_default().sent(packet_id, delivery);
                }
            }
            Err(unsent) => self.give_up(&delivery, unsent),
        }
    }

    /// Encodes a delivery behind what waits to be written, under the identifier that is returned.
    fn encode(&mut self, delivery: &Delivery, now: Instant) -> Result<Option<PacketId>, Unsent> {
        let left = left(delivery.message.expiry(now), delivery.dup)?;
        let protocol = self.session.protocol().unwrap_or(Protocol::V311);
        let published = delivery.message.properties().and_then(|properties| properties.message_expiry);
        let alone = protocol == Protocol::V5
            && (!delivery.subscription_ids.is_empty() || left != published || self.session.uses_aliases());
        if alone { self.encode_alone(delivery, left) } else { self.encode_shared(delivery, protocol) }
    }

    fn encode_shared(&mut self, delivery: &Delivery, protocol: Protocol) -> Result<Option<PacketId>, Unsent> {
        let Delivery { message, qos, retain, dup, .. } = delivery;
        if let Some(sole) = message.sole(protocol, *qos != QoS::AtMostOnce) {
            self.check_size(sole.len())?;
            let packet_id = self.identify(delivery)?;
            let written = sole.write_to(self.output.tail(), *dup, *qos, *retain, packet_id);
            if let Some(payload) = written.map_err(|_| Unsent::Unencodable)? {
                self.output.append(payload);
            }
            return Ok(packet_id);
        }
        let frame = message.frame(protocol, *qos != QoS::AtMostOnce).ok_or(Unsent::Unencodable)?;
        self.check_size(frame.len())?;
        let packet_id = self.identify(delivery)?;
        if let Some(payload) = frame.write_to(self.output.tail(), *dup, *qos, *retain, packet_id) {
            self.output.append(payload);
        }
        Ok(packet_id)
    }

    fn encode_alone(&mut self, delivery: &Delivery, left: Option<u32>) -> Result<Option<PacketId>, Unsent> {
        let mut packet = Packet::Publish(own_publish(delivery, left));
        let size = encoded_len(&packet, Protocol::V5).map_err(|_| Unsent::Unencodable)?;
        self.check_size(size)?;
        let packet_id = self.identify(delivery)?;
        if let Packet::Publish(publish) = &mut packet {
            publish.packet_id = packet_id;
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
        encode(&packet, Protocol::V5, self.output.tail()).map_err(|_| Unsent::Unencodable)?;
        Ok(packet_id)
    }

    /// Takes the place of a delivery in the window: under the broker's identifier if it comes from a durable
    /// queue, else under one that is free.
    fn identify(&mut self, delivery: &Delivery) -> Result<Option<PacketId>, Unsent> {
        match delivery.packet_id {
            None => Ok(self.session.deliver(delivery.qos)),
            Some(packet_id) if self.session.deliver_as(packet_id, delivery.qos) => Ok(Some(packet_id)),
            Some(_) => Err(Unsent::Unidentified),
        }
    }

    /// A packet that the client does not take is dropped as if it had been sent (MQTT-3.1.2-25).
    fn check_size(&self, size: usize) -> Result<(), Unsent> {
        if self.is_within_limit(size) { Ok(()) } else { Err(Unsent::TooLarge) }
    }

    fn is_within_limit(&self, size: usize) -> bool {
        self.session.client_maximum_packet_size().is_none_or(|most| size <= most as usize)
    }

    /// Counts what is not sent. A durable queue is told that the client is done with it: it would keep it for
    /// ever.
    fn give_up(&mut self, delivery: &Delivery, unsent: Unsent) {
        let (counters, topic) = (&self.shared.counters, delivery.message.topic());
        match unsent {
            Unsent::Expired => counters.messages_dropped_expired_total.increment(),
            Unsent::TooLarge => counters.messages_dropped_too_large_total.increment(),
            Unsent::Unencodable => {
                debug!(peer = %self.peer, %topic, "message fits no packet");
                counters.messages_dropped_unencodable_total.increment();
            }
            Unsent::Unidentified => {
                // what goes by the identifier is acknowledged by the client, not by us
                error!(peer = %self.peer, %topic, packet_id = ?delivery.packet_id, "identifier is under way");
                return;
            }
        }
        if let (Some(packet_id), Some(attachment)) = (delivery.packet_id, &mut self.attachment) {
            attachment.acknowledged(packet_id, Stage::Done);
        }
    }
}

/// Seconds that a message has left to live. One that may have been sent already does not expire any more, for the
/// client may be about to acknowledge it (MQTT-4.3.3-7, and what is not acknowledged is sent again: MQTT-4.4.0-1).
fn left(expiry: Expiry, dup: bool) -> Result<Option<u32>, Unsent> {
    match expiry {
        Expiry::Never => Ok(None),
        Expiry::Left(seconds) => Ok(Some(seconds)),
        Expiry::Expired if dup => Ok(Some(0)),
        Expiry::Expired => Err(Unsent::Expired),
    }
}

/// The PUBLISH of one delivery for a 5.0 client. Its identifier is a placeholder of the right size.
fn own_publish(delivery: &Delivery, left: Option<u32>) -> Publish {
    let message = &delivery.message;
    let with_left = |properties: &MessageProperties| {
        Box::new(MessageProperties { message_expiry: left, ..properties.clone() })
    };
    Publish {
        dup: delivery.dup,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_sent_does_not_expire_mqtt_4_3_3_7() {
        for dup in [false, true] {
            assert_eq!(left(Expiry::Never, dup), Ok(None));
            assert_eq!(left(Expiry::Left(7), dup), Ok(Some(7)));
        }
        assert_eq!(left(Expiry::Expired, false), Err(Unsent::Expired));
        assert_eq!(left(Expiry::Expired, true), Ok(Some(0)));
    }
}
