//! From the link to the session and on: bytes become packets, packets become what the session makes of them.
//!
//! Knows no rules of MQTT. Start at `Driver::take_packets`.

use std::io;

use tokio::time::Instant;
use tracing::debug;
use zwerm_broker::{Accepted, Admission, Attachment, Stage};
use zwerm_session::{Input, Output};
use zwerm_wire::{
    DecodeError, Packet, PacketId, Protocol, Publish, ReasonCode, Subscribe, Unsubscribe, encode_within,
};

use crate::connections::Shared;
use crate::driver::Driver;
use crate::input::Filled;
use crate::link::Link;

/// Packets of one client that are handled before others get their turn.
const PACKETS_PER_TURN: usize = 512;

impl<L: Link> Driver<L> {
    /// Handles the packets that came, reading as long as there is more, up to a turn's worth.
    pub(crate) fn take_packets(&mut self, now: Instant) {
        let mut left = PACKETS_PER_TURN;
        while left > 0 && self.may_read() && (self.backlog || self.readable) {
            if !self.backlog {
                self.fill(now);
                continue;
            }
            match self.decoder.decode(self.input.bytes()) {
                Ok(Some(packet)) => {
                    left -= 1;
                    self.tally.packets_received += 1;
                    self.tally.messages_received += u32::from(matches!(packet, Packet::Publish(_)));
                    self.note_share(&packet);
                    self.feed(Input::Packet(packet), now);
                }
                Ok(None) => {
                    self.backlog = false;
                    self.input.settle();
                }
                Err(error) => self.malformed(error, now),
            }
        }
    }

    /// A client that answers a message of a shared subscription, whatever it says, is the one that got it
    /// (MQTT-4.8.2-6).
    fn note_share(&mut self, packet: &Packet) {
        if let Some(shares) = &mut self.shares {
            shares.answered(packet);
            if shares.is_empty() {
                self.shares = None;
            }
        }
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, now: Instant) {
        match self.input.fill(&mut self.link) {
            Ok(Filled::End) => self.feed(Input::LinkClosed, now),
            Ok(Filled::All(count)) => self.filled(count, false),
            Ok(Filled::Some(count)) => self.filled(count, true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => self.broken(&error, now),
        }
    }

    fn filled(&mut self, count: usize, more: bool) {
        self.tally.bytes_received += count as u64;
        self.backlog = true;
        self.readable = more;
    }

    fn malformed(&mut self, error: DecodeError, now: Instant) {
        let reason = error.reason();
        debug!(peer = %self.peer, %error, ?reason, "malformed");
        self.shared.counters.malformed(reason);
        let protocol = self.decoder.protocol();
        self.feed(Input::Malformed { reason, text: error.to_string(), protocol }, now);
    }

    /// Does everything the session asks for.
    pub(crate) fn act(&mut self, now: Instant) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Authenticate { method, data } => self.authenticate(method.as_deref(), &data, now),
                Output::Attach(connect) => self.connect = Some(connect),
                Output::Publish(publish) => self.publish(publish, now),
                Output::Subscribe(subscribe) => self.subscribe(subscribe),
                Output::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe),
                Output::Send(mut packet) => {
                    self.refer(&mut packet);
                    self.send(&packet, now);
                }
                Output::Acknowledged { packet_id, stage } => self.acknowledged(packet_id, stage),
                Output::Complete(packet_id) => self.complete(packet_id),
                // the loop sees that the session is closed and leaves
                Output::Close => {}
            }
        }
    }

    /// The client's part of enhanced authentication; the answer is there at once.
    fn authenticate(&mut self, method: Option<&str>, data: &[u8], now: Instant) {
        let authenticator = &self.shared.authenticator;
        if let Some(method) = method {
            self.exchange = authenticator.begin(method);
        }
        let answer = match &mut self.exchange {
            Some(exchange) => authenticator.step(exchange, data),
            None => Input::Refused(ReasonCode::BadAuthenticationMethod),
        };
        match &answer {
            Input::Authenticated { .. } => (self.exchange, self.authenticated) = (None, true),
            Input::Refused(reason) => {
                self.shared.counters.authentications_failed_total.increment();
                debug!(peer = %self.peer, ?reason, "not authenticated");
            }
            _ => {}
        }
        self.session.handle(answer, now.into_std());
    }

    /// A client that is sent to another server is told which one, where that is known (section 4.11).
    fn refer(&self, packet: &mut Packet) {
        let (reason, reference) = match packet {
            Packet::Disconnect(disconnect) => (disconnect.reason, &mut disconnect.server_reference),
            Packet::ConnAck(connack) => (connack.reason, &mut connack.properties.server_reference),
            _ => return,
        };
        if matches!(reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved) {
            let Shared { config, broker, referral, .. } = &*self.shared;
            *reference = referral.reference(config.server_reference.as_ref(), &broker.elsewhere());
        }
    }

    fn publish(&mut self, publish: Publish, now: Instant) {
        let Some(attachment) = &mut self.attachment else { return };
        self.busy = attachment.publish(publish, now) == Admission::Busy;
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        let Some(attachment) = &mut self.attachment else { return };
        let packet_id = subscribe.packet_id;
        let reasons = attachment.subscribe(subscribe);
        let answer = async move { Input::Subscribed { packet_id, reasons: reasons.await } };
        self.answers.get_or_insert_default().push(Box::pin(answer));
    }

    fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let Some(attachment) = &mut self.attachment else { return };
        let packet_id = unsubscribe.packet_id;
        let reasons = attachment.unsubscribe(unsubscribe);
        let answer = async move { Input::Unsubscribed { packet_id, reasons: reasons.await } };
        self.answers.get_or_insert_default().push(Box::pin(answer));
    }

    /// The client acknowledged a message of its durable queue. While the node holds no lease the broker keeps
    /// it back.
    fn acknowledged(&mut self, packet_id: PacketId, stage: zwerm_session::Stage) {
        let Some(attachment) = &mut self.attachment else { return };
        let stage = match stage {
            zwerm_session::Stage::Received => Stage::Received,
            zwerm_session::Stage::Done => Stage::Done,
        };
        attachment.acknowledged(packet_id, stage);
    }

    fn complete(&mut self, packet_id: PacketId) {
        if let Some(attachment) = &mut self.attachment {
            attachment.complete(packet_id);
        }
    }

    /// Hands the session the broker's word on messages and on acknowledgements, each in order of their arrival.
    pub(crate) fn take_answers(&mut self, now: Instant) {
        let mut accepted = Vec::new();
        if let Some(attachment) = &mut self.attachment {
            attachment.take_accepted(&mut accepted);
        }
        for Accepted { packet_id, reason } in accepted {
            self.feed(Input::Accepted { packet_id, reason }, now);
        }
        if self.session.is_durable() {
            self.take_commits(now);
        }
        // last, for what was asked for above may have made room
        if self.busy {
            let attachment = self.attachment.as_mut();
            self.busy = attachment.is_some_and(|attachment| attachment.admits() == Admission::Busy);
        }
    }

    /// What the shard of a durable session has committed.
    fn take_commits(&mut self, now: Instant) {
        while let Some(packet_id) = self.attachment.as_mut().and_then(Attachment::next_received) {
            self.feed(Input::Received(packet_id), now);
        }
        while let Some((packet_id, reason)) = self.attachment.as_mut().and_then(Attachment::next_completed) {
            self.feed(Input::Completed { packet_id, reason }, now);
        }
    }

    fn send(&mut self, packet: &Packet, now: Instant) {
        let protocol = self.session.protocol().or(self.decoder.protocol()).unwrap_or(Protocol::V311);
        let limit = self.session.client_maximum_packet_size().unwrap_or_else(|| self.decoder.answer_limit());
        match encode_within(packet, protocol, limit, self.output.tail()) {
            Ok(()) => self.tally.packets_sent += 1,
            Err(error) => {
                // an answer that the client forbids us to give: without it, it would wait for ever
                debug!(peer = %self.peer, %error, "cannot answer");
                self.session.handle(Input::Unsendable(packet.packet_type()), now.into_std());
            }
        }
    }
}
