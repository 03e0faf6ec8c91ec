//! Messages of shared subscriptions that a client was sent with QoS 1 and has not acknowledged: when it goes, another
//! member gets them (MQTT 5.0 section 4.8.2).
//!
//! With QoS 2 nobody else may get what one was sent (MQTT-4.8.2-5). Only of transient sessions: a durable one is sent
//! them again itself. Knows no members. Start at [`Shares::sent`].

use std::collections::HashMap;

use foldhash::fast::RandomState;
use zwerm_broker::Delivery;
use zwerm_wire::{Packet, PacketId, QoS};

/// What is under way to one client. Bounded by its window.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// With the order in which they were sent: identifiers go round.
    sent: HashMap<PacketId, (u64, Delivery), RandomState>,
    count: u64,
}

impl Shares {
    /// Whether another member gets this one if the client that was sent it goes.
    pub(crate) fn wants(delivery: &Delivery) -> bool {
        delivery.group.is_some() && delivery.qos == QoS::AtLeastOnce
    }

    /// A message was sent under an identifier that was free.
    pub(crate) fn sent(&mut self, packet_id: PacketId, delivery: Delivery) {
        self.count += 1;
        self.sent.insert(packet_id, (self.count, delivery));
    }

    /// The client said something. PUBACK is its word on a message, whatever its code.
    pub(crate) fn answered(&mut self, packet: &Packet) {
        if let Packet::PubAck(ack) = packet {
            self.sent.remove(&ack.packet_id);
        }
    }

    /// All was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// What was not answered, in the order in which it was sent.
    pub(crate) fn into_deliveries(self) -> Vec<Delivery> {
        let mut left: Vec<_> = self.sent.into_values().collect();
        left.sort_unstable_by_key(|(order, _)| *order);
        left.into_iter().map(|(_, delivery)| delivery).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::time::Instant;
    use zwerm_broker::Message;
    use zwerm_wire::{Ack, Publish, ReasonCode, TopicFilter, TopicName};

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    fn delivery(text: &'static str, qos: QoS) -> Delivery {
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            packet_id: Some(id(1)),
            topic: Some(TopicName::new("t").unwrap()),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload: text.into(),
        };
        let message = Message::published(publish, "publisher".into(), Instant::now()).unwrap();
        Delivery {
            message: Arc::new(message),
            qos,
            retain: false,
            subscription_ids: Default::default(),
            dup: false,
            packet_id: None,
            group: Some(TopicFilter::new("$share/g/t").unwrap()),
        }
    }

    fn ack(number: u16, reason: ReasonCode) -> Ack {
        Ack { packet_id: id(number), reason, properties: None }
    }

    fn left(shares: Shares) -> Vec<String> {
        let text = |delivery: Delivery| String::from_utf8(delivery.message.payload().to_vec()).unwrap();
        shares.into_deliveries().into_iter().map(text).collect()
    }

    #[test]
    fn what_was_not_answered_is_left_in_the_order_of_sending() {
        let mut shares = Shares::default();
        for (number, text) in [(65_534, "a"), (65_535, "b"), (1, "c"), (2, "d")] {
            shares.sent(id(number), delivery(text, QoS::AtLeastOnce));
        }
        shares.answered(&Packet::PubAck(ack(65_535, ReasonCode::Success)));
        assert_eq!(left(shares), ["a", "c", "d"]);
    }

    #[test]
    fn the_word_of_a_client_on_a_message_is_the_last_whatever_it_is_mqtt_4_8_2_6() {
        for reason in [ReasonCode::Success, ReasonCode::QuotaExceeded] {
            let mut shares = Shares::default();
            shares.sent(id(7), delivery("a", QoS::AtLeastOnce));
            shares.answered(&Packet::PubAck(ack(7, reason)));
            assert!(shares.is_empty(), "{reason:?}");
        }
    }

    #[test]
    fn only_qos_1_goes_to_another_member_mqtt_4_8_2_5() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(Shares::wants(&delivery("a", qos)), qos == QoS::AtLeastOnce);
            assert!(!Shares::wants(&Delivery { group: None, ..delivery("a", qos) }));
        }
    }

    #[test]
    fn an_answer_to_something_else_leaves_it() {
        let mut shares = Shares::default();
        shares.sent(id(7), delivery("a", QoS::AtLeastOnce));
        for other in [
            Packet::PubAck(ack(8, ReasonCode::Success)),
            Packet::PubRec(ack(7, ReasonCode::Success)),
            Packet::PubRel(ack(7, ReasonCode::Success)),
            Packet::PubComp(ack(7, ReasonCode::Success)),
            Packet::PingReq,
        ] {
            shares.answered(&other);
        }
        assert_eq!(left(shares), ["a"]);
    }
}
