//! What durable clients say of messages: QoS 2 messages from them, acknowledgements of messages to them. Knows no
//! topics. Start at [`Shard::receive`] and [`Shard::acknowledge`].

use crate::Shard;
use crate::message;
use crate::outbox::{OutboxEntry, Target};
use crate::records::{Acknowledge, Complete, Receive, Refusal};
use crate::session::{Received, Removed};
use crate::shard::{APPLIED, Outcome, checked};

impl Shard {
    /// PUBLISH with QoS 2: the message is kept until its PUBREL. A repeat is known by its packet identifier.
    pub(crate) fn receive(&mut self, receive: &Receive) -> Outcome {
        let number = self.owned_session(&receive.client_id, receive.epoch)?;
        let packet_id = packet_id(receive.packet_id)?;
        let message = receive.message.as_ref().filter(|message| message.qos == 2).ok_or(Refusal::Invalid)?;
        checked(message)?;
        let session = self.sessions.get(&number).ok_or(Refusal::NoSession)?;
        if session.received.contains_key(&packet_id) {
            return APPLIED;
        }
        if self.outbox.is_full() {
            return Err(Refusal::Busy);
        }
        let received =
            Received { message: self.messages.store_named(message), bytes: message::weight(message) };
        if let Some(session) = self.session_mut(number) {
            session.received.insert(packet_id, received);
        }
        APPLIED
    }

    /// PUBREL: the message is published from here on.
    pub(crate) fn complete(&mut self, complete: &Complete) -> Outcome {
        let number = self.owned_session(&complete.client_id, complete.epoch)?;
        let packet_id = packet_id(complete.packet_id)?;
        let known = self.sessions.get(&number).and_then(|session| session.received.get(&packet_id)).copied();
        let Received { message, bytes } = known.ok_or(Refusal::UnknownPacket)?;
        if let Some(session) = self.session_mut(number) {
            session.received.remove(&packet_id);
        }
        self.outbox.push(OutboxEntry::new(message, Target::All, bytes));
        APPLIED
    }

    /// PUBACK, PUBREC and PUBCOMP. What is done already stays so.
    pub(crate) fn acknowledge(&mut self, acknowledge: &Acknowledge) -> Outcome {
        let number = self.owned_session(&acknowledge.client_id, acknowledge.epoch)?;
        let Some(session) = self.sessions.get_mut(&number).map(std::sync::Arc::make_mut) else {
            return Err(Refusal::NoSession);
        };
        self.queued.take(session.queue.load());
        let messages = &mut self.messages;
        let mut forget = |removed: Removed| messages.release(removed.message);
        for position in &acknowledge.received {
            session.queue.release(*position).into_iter().for_each(&mut forget);
        }
        for position in &acknowledge.done {
            session.queue.finish(*position).into_iter().for_each(&mut forget);
        }
        self.queued.put(session.queue.load());
        APPLIED
    }
}

fn packet_id(field: u32) -> Result<u16, Refusal> {
    u16::try_from(field).ok().filter(|packet_id| *packet_id > 0).ok_or(Refusal::Invalid)
}
