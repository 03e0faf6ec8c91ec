//! What the client acknowledged, on its way to the shard: collected while the shard's line has no room, so that
//! many become one command.
//!
//! PUBACK and PUBCOMP need no answer: lost, the message is sent again. So that few are, only so many may be on
//! their way ([`UNSAFE`]) before the client is sent more. PUBREL must wait until its PUBREC is safe, for after a
//! failover the message must not be sent again. Start at [`Acknowledgements::flush`].

use std::collections::VecDeque;

use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_machine::records::Acknowledge;
use zwerm_wire::PacketId;

use super::Owner;

/// Positions in one command.
const MOST: usize = 1_024;

/// Messages that the client is done with while its shard does not know it, before it is sent no more: what comes
/// again when its owner dies is bounded by this and the client's window.
const UNSAFE: usize = 256;

/// Of one session. Bounded by what is under way to the client.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    done: VecDeque<u64>,
    received: VecDeque<(PacketId, u64)>,
    committing: VecDeque<Committing>,
    /// Positions done with in `committing`.
    committing_done: usize,
    /// PUBRECs that are safe.
    safe: VecDeque<PacketId>,
    blocked: bool,
}

/// A command on its way.
#[derive(Debug)]
struct Committing {
    done: usize,
    received: Vec<PacketId>,
    receipt: Receipt,
}

impl Acknowledgements {
    pub(super) fn done(&mut self, position: u64) {
        self.done.push_back(position);
    }

    pub(super) fn received(&mut self, packet_id: PacketId, position: u64) {
        self.received.push_back((packet_id, position));
    }

    /// How many messages more the client may be sent now. The bell rings when it is more again.
    pub(super) fn room(&mut self) -> usize {
        self.settle();
        UNSAFE.saturating_sub(self.done.len() + self.committing_done)
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
            // Nobody waits for what is only done with, as long as there is room for more.
            let is_awaited = received > 0 || 2 * (self.committing_done + done) > UNSAFE;
            let receipt = Receipt::new(if is_awaited { owner.bell.clone() } else { Bell::new() });
            let command = || Acknowledge {
                client_id: owner.client_id.to_string(),
                epoch: owner.epoch,
                done: self.done.iter().take(done).copied().collect(),
                received: self.received.iter().take(received).map(|(_, position)| *position).collect(),
            };
            let ticket = || Some(receipt.ticket());
            if owner.cluster.acknowledge(owner.shard, command, ticket).is_err() {
                self.blocked = true;
                return;
            }
            self.done.drain(..done);
            let received = self.received.drain(..received).map(|(packet_id, _)| packet_id).collect();
            self.committing_done += done;
            self.committing.push_back(Committing { done, received, receipt });
        }
        self.done.shrink_to(MOST);
    }

    /// The next PUBREC that is safe. One that the shard refused never is: the client has a newer owner.
    pub(super) fn next_received(&mut self) -> Option<PacketId> {
        self.settle();
        self.safe.pop_front()
    }

    /// Takes note of what the shard has answered.
    fn settle(&mut self) {
        while self.committing.front().is_some_and(|first| first.receipt.is_complete()) {
            let Some(Committing { done, received, receipt }) = self.committing.pop_front() else { return };
            self.committing_done -= done;
            if receipt.refusal().is_none() {
                self.safe.extend(received);
            }
        }
    }
}
