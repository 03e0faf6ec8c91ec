//! What a client does with a packet that came, and how it subscribes.
//!
//! Start at [`Client::take`].

use zwerm_oracle::RetainedRead;
use zwerm_oracle::{Filter, Granted, Stage, What};
use zwerm_wire::RetainHandling;
use zwerm_wire::{
    Ack, ConnAck, Packet, PacketId, Publish, QoS, ReasonCode, SubAck, Subscribe, SubscribeFilter,
    SubscribeOptions, TopicFilter, Unsubscribe,
};

use super::connection::{Connection, Phase};
use super::{Around, Client, plan};

/// How long a client takes for an acknowledgement, if it takes its time.
const SLOW_MS: std::ops::Range<u64> = 1..400;
/// How long it waits before it tries again what was refused.
const AGAIN_MS: std::ops::Range<u64> = 100..1_000;
/// Acknowledgements of a hundred that it takes its time for.
const SLOW_PERCENT: u64 = 10;

impl Client {
    pub(super) fn take(
        &mut self,
        connection: &mut Connection,
        packet: Packet,
        now_ms: u64,
        around: &mut impl Around,
    ) {
        match packet {
            Packet::ConnAck(connack) => self.connack(connection, &connack, now_ms, around),
            Packet::Publish(publish) => self.delivered(connection, &publish, now_ms, around),
            Packet::PubAck(ack) => self.acknowledged(connection, Stage::PubAck, &ack, (now_ms, around)),
            Packet::PubRec(ack) => self.acknowledged(connection, Stage::PubRec, &ack, (now_ms, around)),
            Packet::PubComp(ack) => self.acknowledged(connection, Stage::PubComp, &ack, (now_ms, around)),
            Packet::PubRel(ack) => {
                let what = What::Released { packet_id: ack.packet_id.into() };
                self.note(connection, now_ms, around, what);
                self.answer(connection, now_ms, Packet::PubComp(Ack::success(ack.packet_id)));
            }
            Packet::SubAck(suback) => self.subacked(connection, &suback, now_ms, around),
            Packet::UnsubAck(suback) => {
                self.session.unsubscribing.remove(&suback.packet_id);
            }
            Packet::PingResp => connection.pinged_ms = None,
            Packet::Disconnect(disconnect) => {
                tracing::debug!(client = &*self.name, connection.number, reason = ?disconnect.reason, "told to go");
            }
            other => tracing::error!(?other, "no server sends that"),
        }
    }

    fn connack(
        &mut self,
        connection: &mut Connection,
        connack: &ConnAck,
        now_ms: u64,
        around: &mut impl Around,
    ) {
        if connack.reason != ReasonCode::Success {
            let what = What::Refused { reason: connack.reason as u8 };
            return self.note(connection, now_ms, around, what);
        }
        let what =
            What::ConnAck { present: connack.session_present, expiry: connack.properties.session_expiry };
        self.note(connection, now_ms, around, what);
        connection.phase = Phase::Open;
        self.session.disconnected();
        if !connack.session_present {
            self.session.clear();
        }
        for outgoing in self.session.unacknowledged() {
            self.send(connection, outgoing, true, (now_ms, around));
        }
        self.plan_habit(now_ms);
    }

    fn delivered(
        &mut self,
        connection: &mut Connection,
        publish: &Publish,
        now_ms: u64,
        around: &mut impl Around,
    ) {
        if let (Some(message), Some(topic)) = (plan::message_of(&publish.payload), &publish.topic) {
            let what = What::Delivered {
                message,
                topic: (&**topic.as_byte_string()).into(),
                qos: publish.qos as u8,
                retain: publish.retain,
                dup: publish.dup,
                packet_id: publish.packet_id.map(PacketId::get),
            };
            self.note(connection, now_ms, around, what);
        }
        let Some(packet_id) = publish.packet_id else { return };
        let ack = Ack::success(packet_id);
        let packet = if publish.qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        self.answer(connection, now_ms, packet);
    }

    fn answer(&mut self, connection: &mut Connection, now_ms: u64, packet: Packet) {
        let wait_ms = if self.dice.percent(SLOW_PERCENT) { self.dice.within(SLOW_MS) } else { 0 };
        connection.send_at(now_ms + wait_ms, packet);
    }

    fn acknowledged(
        &mut self,
        connection: &mut Connection,
        stage: Stage,
        ack: &Ack,
        (now_ms, around): (u64, &mut impl Around),
    ) {
        let success = !ack.reason.is_error();
        self.note(
            connection,
            now_ms,
            around,
            What::Acknowledged { packet_id: ack.packet_id.into(), stage, success },
        );
        if stage == Stage::PubRec && success {
            if self.session.received(ack.packet_id) {
                connection.send(&Packet::PubRel(Ack::success(ack.packet_id)));
            }
        } else {
            self.session.done(ack.packet_id);
        }
    }

    /// Subscribes to what it wants and has not.
    pub(super) fn subscribe(&mut self, connection: &mut Connection, now_ms: u64, around: &mut impl Around) {
        if !self.session.subscribing.is_empty() || !self.session.unsubscribing.is_empty() {
            return;
        }
        let wanted: Vec<_> = self
            .plan
            .wishes
            .iter()
            .filter(|wish| !self.session.subscribed.contains(&wish.filter))
            // Who has not got it by now would ask for ever.
            .filter(|wish| !(wish.is_exclusive() && around.is_ending()))
            .filter_map(|wish| Some((wish.clone(), TopicFilter::new(&*wish.filter).ok()?)))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let packet_id = self.session.packet_id();
        let names = wanted.iter().map(|(wish, _)| wish.filter.clone()).collect();
        self.session.subscribing.insert(packet_id, names);
        let filters = wanted.iter().map(|(wish, _)| Filter {
            filter: wish.filter.clone(),
            qos: wish.qos as u8,
            no_local: false,
            retained: wish.retained,
        });
        let what = What::Subscribe { packet_id: packet_id.into(), filters: filters.collect() };
        self.note(connection, now_ms, around, what);
        let filters = wanted.into_iter().map(|(wish, filter)| SubscribeFilter {
            filter,
            options: SubscribeOptions {
                qos: wish.qos,
                retain_handling: match wish.retained {
                    RetainedRead::Always => RetainHandling::Send,
                    RetainedRead::IfNew => RetainHandling::SendIfNew,
                    RetainedRead::Never => RetainHandling::DoNotSend,
                },
                ..SubscribeOptions::default()
            },
        });
        connection.send(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user: Vec::new(),
            filters: filters.collect(),
        }));
    }

    fn subacked(
        &mut self,
        connection: &mut Connection,
        suback: &SubAck,
        now_ms: u64,
        around: &mut impl Around,
    ) {
        let granted = suback.reasons.iter().map(|reason| match reason.is_error() {
            true => Granted::Refused,
            false => Granted::QoS(*reason as u8),
        });
        let granted: Vec<_> = granted.collect();
        if granted.contains(&Granted::Refused) {
            self.subscribe_at_ms = now_ms + self.dice.within(AGAIN_MS);
        }
        let filters = self.session.subscribing.remove(&suback.packet_id).unwrap_or_default();
        let taken = filters.into_iter().zip(&granted).filter(|(_, granted)| **granted != Granted::Refused);
        self.session.subscribed.extend(taken.map(|(filter, _)| filter));
        self.note(connection, now_ms, around, What::SubAck { packet_id: suback.packet_id.into(), granted });
    }

    /// Gives up one subscription; it will be missed, and subscribed to again.
    pub(super) fn unsubscribe(&mut self, connection: &mut Connection, now_ms: u64, around: &mut impl Around) {
        let subscribed: Vec<_> = self.session.subscribed.iter().collect();
        let Some(filter) = self.dice.pick(&subscribed).cloned() else { return };
        let Ok(parsed) = TopicFilter::new(&*filter) else { return };
        self.session.subscribed.remove(&filter);
        let packet_id = self.session.packet_id();
        self.session.unsubscribing.insert(packet_id);
        self.note(connection, now_ms, around, What::Unsubscribe { filters: vec![filter] });
        connection.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            user: Vec::new(),
            filters: vec![parsed],
        }));
    }
}
