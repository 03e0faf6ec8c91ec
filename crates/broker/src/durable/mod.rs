//! The owner's side of a durable session: takes messages from its queue and hands its shard what the client
//! acknowledged and published with QoS 2.
//!
//! Everything the session has to keep is in the shard; what is here can be lost at any time, for the next owner
//! starts from the shard again. Knows no subscriptions and no packets but identifiers. Start at [`Durable::take`].

mod acknowledgements;
mod inbound;
mod under_way;

use std::sync::Arc;

use bytestring::ByteString;
use tokio::time::Instant;
use zwerm_cluster::receipt::Bell;
use zwerm_cluster::{Cluster, QueueReader, QueuedMessage};
use zwerm_machine::records::Resumed;
use zwerm_wire::{PacketId, ReasonCode};

use self::acknowledgements::Acknowledgements;
use self::inbound::Inbound;
use self::under_way::UnderWay;
pub(crate) use self::under_way::packet_id_of;
use crate::mailbox::Delivery;
use crate::message::Message;

/// How far the client is with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// PUBREC: it has the message, and the exchange goes on.
    Received,
    /// PUBACK, PUBCOMP, or PUBREC with an error: done with; also a message that the client cannot be sent.
    Done,
}

/// Whose session it is, in which shard.
#[derive(Debug, Clone)]
struct Owner {
    cluster: Cluster,
    client_id: ByteString,
    epoch: u64,
    shard: u32,
    bell: Bell,
}

/// A durable session that this node owns.
#[derive(Debug)]
pub(crate) struct Durable {
    owner: Owner,
    reader: QueueReader,
    /// The highest position taken.
    taken: u64,
    /// An owner before may have sent messages up to this position.
    maybe_sent: u64,
    under_way: UnderWay,
    acknowledgements: Acknowledgements,
    inbound: Inbound,
    batch: Vec<QueuedMessage>,
    /// The next message waits for its identifier.
    crowded: bool,
}

impl Durable {
    /// The session of a client as the claim with this epoch found it.
    pub(crate) fn new(
        cluster: &Cluster,
        (client_id, epoch, shard): (&ByteString, u64, u32),
        bell: &Bell,
        resumed: &Resumed,
    ) -> Self {
        let mut under_way = UnderWay::default();
        resumed.released.iter().for_each(|position| under_way.insert(*position));
        let owner = Owner {
            cluster: cluster.clone(),
            client_id: client_id.clone(),
            epoch,
            shard,
            bell: bell.clone(),
        };
        Self {
            owner,
            reader: cluster.queue(client_id, epoch, bell.clone()),
            taken: 0,
            maybe_sent: resumed.maybe_sent,
            under_way,
            acknowledgements: Acknowledgements::default(),
            inbound: Inbound::default(),
            batch: Vec::new(),
            crowded: false,
        }
    }

    /// Takes up to `max` messages from the queue, in order; fewer while many acknowledgements are not safe.
    pub(crate) fn take(&mut self, max: usize, into: &mut Vec<Delivery>) {
        let max = max.min(self.acknowledgements.room());
        let mut batch = std::mem::take(&mut self.batch);
        self.reader.read(self.taken, max, &mut batch);
        for queued in batch.drain(..) {
            // Its identifier is still in use: it is taken when that is free again.
            self.crowded = !self.under_way.has_place_for(queued.position);
            if self.crowded {
                break;
            }
            self.taken = queued.position;
            self.under_way.insert(queued.position);
            match self.delivery(queued) {
                Some(delivery) => into.push(delivery),
                None => {
                    self.done(self.taken);
                    // Fewer than asked for otherwise means that there is no more.
                    self.owner.bell.ring();
                }
            }
        }
        batch.clear();
        self.batch = batch;
    }

    /// `None`: the record is malformed and nobody can be sent it.
    fn delivery(&self, queued: QueuedMessage) -> Option<Delivery> {
        let QueuedMessage { position, message, qos, retain, identifiers, .. } = queued;
        let recorded = Message::recorded(&message, self.owner.cluster.now_ms(), Instant::now());
        let message = recorded.inspect_err(|error| {
            tracing::error!(%error, topic = message.topic, "a queued message is malformed and is dropped");
        });
        Some(Delivery {
            message: Arc::new(message.ok()?),
            qos,
            retain,
            subscription_ids: identifiers.into_iter().filter_map(std::num::NonZeroU32::new).collect(),
            dup: position <= self.maybe_sent,
            packet_id: Some(packet_id_of(position)),
            group: None,
        })
    }

    /// The client acknowledged, or cannot be sent, what goes by this identifier.
    pub(crate) fn acknowledged(&mut self, packet_id: PacketId, stage: Stage) {
        let Some(position) = self.under_way.position_of(packet_id) else { return };
        match stage {
            Stage::Received => self.acknowledgements.received(packet_id, position),
            Stage::Done => self.done(position),
        }
    }

    fn done(&mut self, position: u64) {
        self.under_way.remove(position);
        self.acknowledgements.done(position);
        if std::mem::take(&mut self.crowded) {
            self.owner.bell.ring();
        }
    }

    /// The next identifier whose PUBREC is safe: PUBREL may follow.
    pub(crate) fn next_received(&mut self) -> Option<PacketId> {
        self.acknowledgements.flush(&self.owner);
        self.acknowledgements.next_received()
    }

    /// A QoS 2 message from the client.
    pub(crate) fn receive(&mut self, packet_id: PacketId, message: Arc<Message>) {
        self.inbound.receive(packet_id, message);
        self.inbound.flush(&self.owner);
    }

    /// A QoS 2 message from the client that nobody gets.
    pub(crate) fn refuse(&mut self, packet_id: PacketId, reason: ReasonCode) {
        self.inbound.refuse(packet_id, reason);
        self.inbound.flush(&self.owner);
    }

    /// Its PUBREL.
    pub(crate) fn complete(&mut self, packet_id: PacketId) {
        self.inbound.complete(packet_id);
        self.inbound.flush(&self.owner);
    }

    /// The next message of [`receive`](Self::receive) that is safe or refused, in order.
    pub(crate) fn next_accepted(&mut self) -> Option<(PacketId, ReasonCode)> {
        self.inbound.flush(&self.owner);
        self.inbound.next_received()
    }

    /// The next [`complete`](Self::complete) that is done, in order.
    pub(crate) fn next_completed(&mut self) -> Option<(PacketId, ReasonCode)> {
        self.inbound.flush(&self.owner);
        self.inbound.next_completed()
    }

    /// More QoS 2 messages should not come now.
    pub(crate) fn is_busy(&self) -> bool {
        self.inbound.is_blocked()
    }

    /// The shard had no room for something; see [`has_room`](Self::has_room).
    pub(crate) fn is_blocked(&self) -> bool {
        self.inbound.is_blocked() || self.acknowledgements.is_blocked()
    }

    /// Waits until the shard may take what it had no room for; for ever if there is nothing. Cancel safe.
    pub(crate) async fn has_room(&self) {
        if self.is_blocked() {
            self.owner.cluster.wait_shard(self.owner.shard).await;
        } else {
            std::future::pending().await
        }
    }

    /// Hands over what can be handed over; the highest position that the client may have been sent.
    pub(crate) fn finish(&mut self) -> u64 {
        self.acknowledgements.flush(&self.owner);
        self.taken.max(self.maybe_sent)
    }
}
