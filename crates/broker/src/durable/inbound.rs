//! QoS 2 messages from a durable client: into its shard before PUBREC, on to the shard's outbox before PUBCOMP.
//!
//! Commands go to the shard in the order in which packets came. A command that the shard refused because the
//! client has a newer owner is never answered: the client asks that one. Start at [`Inbound::flush`].

use std::collections::VecDeque;
use std::sync::Arc;

use zwerm_cluster::ShardError;
use zwerm_cluster::receipt::Receipt;
use zwerm_machine::records::{Complete, Receive, Refusal};
use zwerm_wire::{PacketId, ReasonCode};

use super::Owner;
use crate::message::Message;

#[derive(Debug)]
enum Step {
    Receive(Arc<Message>),
    /// It is refused, in its turn.
    Refuse(ReasonCode),
    Complete,
}

/// Of one session. Bounded by what the client may have under way.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// Not handed to the shard.
    waiting: VecDeque<(PacketId, Step)>,
    receiving: VecDeque<Handed>,
    completing: VecDeque<Handed>,
}

/// What an answer is awaited of.
#[derive(Debug)]
struct Handed {
    packet_id: PacketId,
    receipt: Receipt,
    /// It was not handed to the shard but refused here.
    refused: Option<ReasonCode>,
}

impl Inbound {
    pub(super) fn receive(&mut self, packet_id: PacketId, message: Arc<Message>) {
        self.waiting.push_back((packet_id, Step::Receive(message)));
    }

    /// A message that nobody gets.
    pub(super) fn refuse(&mut self, packet_id: PacketId, reason: ReasonCode) {
        self.waiting.push_back((packet_id, Step::Refuse(reason)));
    }

    pub(super) fn complete(&mut self, packet_id: PacketId) {
        self.waiting.push_back((packet_id, Step::Complete));
    }

    /// The shard had no room for all of it.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands what waits to the shard, as far as it has room.
    pub(super) fn flush(&mut self, owner: &Owner) {
        while let Some((packet_id, step)) = self.waiting.front() {
            let receipt = Receipt::new(owner.bell.clone());
            if hand(owner, *packet_id, step, &receipt).is_err() {
                return;
            }
            let (line, refused) = match step {
                Step::Receive(_) => (&mut self.receiving, None),
                Step::Refuse(reason) => (&mut self.receiving, Some(*reason)),
                Step::Complete => (&mut self.completing, None),
            };
            line.push_back(Handed { packet_id: *packet_id, receipt, refused });
            self.waiting.pop_front();
        }
    }

    /// The next message that is safe, or was refused with an error.
    pub(super) fn next_received(&mut self) -> Option<(PacketId, ReasonCode)> {
        next(&mut self.receiving, |refusal| match refusal {
            None => Some(ReasonCode::Success),
            Some(Refusal::Busy) => Some(ReasonCode::QuotaExceeded),
            Some(
                Refusal::StaleEpoch | Refusal::NoSession | Refusal::UnknownClient | Refusal::Unspecified,
            ) => None,
            Some(_) => Some(ReasonCode::ImplementationSpecificError),
        })
    }

    /// The next PUBREL that is done with.
    pub(super) fn next_completed(&mut self) -> Option<(PacketId, ReasonCode)> {
        next(&mut self.completing, |refusal| match refusal {
            None => Some(ReasonCode::Success),
            Some(Refusal::UnknownPacket) => Some(ReasonCode::PacketIdentifierNotFound),
            Some(_) => None,
        })
    }
}

fn hand(owner: &Owner, packet_id: PacketId, step: &Step, receipt: &Receipt) -> Result<(), ShardError> {
    let (client_id, epoch, packet_id) = (owner.client_id.to_string(), owner.epoch, packet_id.get().into());
    let ticket = || receipt.ticket();
    match step {
        Step::Receive(message) => {
            let record = || Some(message.record(owner.cluster.now_ms()));
            let receive = || Receive { client_id, epoch, packet_id, message: record() };
            owner.cluster.receive(owner.shard, receive, ticket)
        }
        // answered by its reason alone
        Step::Refuse(_) => Ok(()),
        Step::Complete => {
            owner.cluster.complete(owner.shard, || Complete { client_id, epoch, packet_id }, ticket)
        }
    }
}

/// The answer to the first of a line, if the shard has given it and it is to be passed on.
fn next(
    line: &mut VecDeque<Handed>,
    answer: impl Fn(Option<Refusal>) -> Option<ReasonCode>,
) -> Option<(PacketId, ReasonCode)> {
    loop {
        let Handed { packet_id, receipt, refused } = line.front()?;
        if !receipt.is_complete() {
            return None;
        }
        let reason = refused.or_else(|| answer(receipt.refusal()));
        let answered = reason.map(|reason| (*packet_id, reason));
        line.pop_front();
        if answered.is_some() {
            return answered;
        }
    }
}
