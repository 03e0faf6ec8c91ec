//! What the client acknowledged, on its way to the shard: collected while the shard's line has no room, so that
//! many become one command.
//!
//! PUBACK and PUBCOMP need no answer: lost, the message is sent again. PUBREL must wait until its PUBREC is safe,
//! for after a failover the message must not be sent again. Start at [`Acknowledgements::flush`].

use std::collections::VecDeque;

use zwerm_cluster::receipt::Receipt;
use zwerm_machine::records::Acknowledge;
use zwerm_wire::PacketId;

use super::Owner;

/// Positions in one command.
const MOST: usize = 1_024;

/// Of one session. Bounded by what is under way to the client.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    done: VecDeque<u64>,
    received: VecDeque<(PacketId, u64)>,
    committing: VecDeque<(Vec<PacketId>, Receipt)>,
    /// PUBRECs that are safe.
    safe: VecDeque<PacketId>,
    blocked: bool,
}

impl Acknowledgements {
    pub(super) fn done(&mut self, position: u64) {
        self.done.push_back(position);
    }

    pub(super) fn received(&mut self, packet_id: PacketId, position: u64) {
        self.received.push_back((packet_id, position));
    }

    /// The shard had no room.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Hands what was collected to the shard, as far as it has room.
    pub(super) fn flush(&mut self, owner: &Owner) {
        self.blocked = false;
        while !(self.done.is_empty() && self.received.is_empty()) {
            let (done, received) = (self.done.len().min(MOST), self.received.len().min(MOST));
            let receipt = (received > 0).then(|| Receipt::new(owner.bell.clone()));
            let command = || Acknowledge {
                client_id: owner.client_id.to_string(),
                epoch: owner.epoch,
                done: self.done.iter().take(done).copied().collect(),
                received: self.received.iter().take(received).map(|(_, position)| *position).collect(),
            };
            let ticket = || receipt.as_ref().map(Receipt::ticket);
            if owner.cluster.acknowledge(owner.shard, command, ticket).is_err() {
                self.blocked = true;
                return;
            }
            self.done.drain(..done);
            let ids = self.received.drain(..received).map(|(packet_id, _)| packet_id).collect();
            self.committing.extend(receipt.map(|receipt| (ids, receipt)));
        }
        self.done.shrink_to(MOST);
    }

    /// The next PUBREC that is safe. One that the shard refused never is: the client has a newer owner.
    pub(super) fn next_received(&mut self) -> Option<PacketId> {
        while self.safe.is_empty() {
            let (_, receipt) = self.committing.front()?;
            if !receipt.is_complete() {
                return None;
            }
            let (ids, receipt) = self.committing.pop_front()?;
            if receipt.refusal().is_none() {
                self.safe.extend(ids);
            }
        }
        self.safe.pop_front()
    }
}
