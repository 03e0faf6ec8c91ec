//! What the broker asks of the shards: owners, durable sessions, their messages, retained messages.
//!
//! Commands with a ticket never wait: what one caller hands to one shard in order is committed in order, each
//! exactly once, and its ticket is dropped then. It is refused, with a reason
//! ([`Receipt::refusal`](crate::receipt::Receipt::refusal)), when the shard ignored the command or this node
//! stops. Start at [`Cluster::claim`].

use tokio::sync::mpsc;
use zwerm_machine::records::{
    Acknowledge, Claim, Claimed, Complete, Delay, Deliver, EndReplay, Enqueue, Pick, Receive, Release,
    Retain, Subscribe, Subscribed, Unsubscribe, Unsubscribed, shard_command::Command,
};
use zwerm_wire::TopicFilter;

use crate::Cluster;
use crate::queue::QueueReader;
use crate::receipt::{Bell, Ticket};
use crate::retained::RetainedMessages;
use crate::shards::{AWAITED, PUBLISHED, Room, ShardError};

impl Cluster {
    /// Becomes the owner of a client id.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn claim(&self, claim: Claim) -> Result<Claimed, ShardError> {
        self.client_of(&claim.client_id)?.claim(claim).await
    }

    /// Gives a client id up; returns when that is committed.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] when the node stops first.
    pub async fn release(&self, release: Release) -> Result<(), ShardError> {
        self.client_of(&release.client_id)?.release(release).await
    }

    /// Adds subscriptions to a durable session; returns when that is committed, which is before every node
    /// routes to them.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscribed, ShardError> {
        self.client_of(&subscribe.client_id)?.subscribe(subscribe).await
    }

    /// Removes subscriptions of a durable session; returns when that is committed.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn unsubscribe(&self, unsubscribe: Unsubscribe) -> Result<Unsubscribed, ShardError> {
        self.client_of(&unsubscribe.client_id)?.unsubscribe(unsubscribe).await
    }

    /// Says that the retained messages of a [`subscribe`](Self::subscribe) with `replay` are all queued.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn end_replay(&self, end: EndReplay) -> Result<(), ShardError> {
        self.client_of(&end.client_id)?.end_replay(end).await
    }

    /// Queues a message for all durable sessions of a shard that want it. Neither message nor ticket is made
    /// when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn enqueue(
        &self,
        shard: u32,
        message: impl FnOnce() -> Enqueue,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.hand(shard, PUBLISHED, || Command::Enqueue(message()), || Some(ticket()))
    }

    /// Queues a message for one durable session of a shard. Neither is made when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn deliver(
        &self,
        shard: u32,
        message: impl FnOnce() -> Deliver,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.hand(shard, PUBLISHED, || Command::Deliver(message()), || Some(ticket()))
    }

    /// Keeps a QoS 2 message of a durable session of the shard until its PUBREL. Neither is made when there is
    /// an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn receive(
        &self,
        shard: u32,
        message: impl FnOnce() -> Receive,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.hand(shard, PUBLISHED, || Command::Receive(message()), || Some(ticket()))
    }

    /// Publishes what [`receive`](Self::receive) kept. Neither is made when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn complete(
        &self,
        shard: u32,
        complete: impl FnOnce() -> Complete,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.hand(shard, AWAITED, || Command::Complete(complete()), || Some(ticket()))
    }

    /// Takes what a client acknowledged off its queue. It makes room in the shard, so it has room in front of it
    /// when messages have none any more. Neither is made when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn acknowledge(
        &self,
        shard: u32,
        acknowledge: impl FnOnce() -> Acknowledge,
        ticket: impl FnOnce() -> Option<Ticket>,
    ) -> Result<(), ShardError> {
        self.hand(shard, AWAITED, || Command::Acknowledge(acknowledge()), ticket)
    }

    /// Keeps a retained message of this topic (or deletes it: an empty payload); the ticket is dropped when that
    /// is safe. Neither is made when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_retain`](Self::wait_retain).
    pub fn retain(
        &self,
        topic: &str,
        retain: impl FnOnce() -> Retain,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.client_of(topic)?.hand(PUBLISHED, || Command::Retain(retain()), || Some(ticket()))
    }

    /// Keeps a message until it is published; the ticket is dropped when that is safe, and refuses where too many
    /// wait. Neither is made when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn delay(
        &self,
        shard: u32,
        delay: impl FnOnce() -> Delay,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.hand(shard, PUBLISHED, || Command::Delay(delay()), || Some(ticket()))
    }

    /// Notes where a QoS 2 message of a shard's outbox goes of shared subscriptions, before it goes there: whoever
    /// publishes it again sends it to the same, who know it. The ticket is dropped when that is safe, and refuses when
    /// it goes elsewhere already. Neither is made when there is an error.
    ///
    /// # Errors
    /// [`ShardError::Busy`]: hand it again after [`wait_shard`](Self::wait_shard).
    pub fn pick(
        &self,
        shard: u32,
        pick: impl FnOnce() -> Pick,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<(), ShardError> {
        self.hand(shard, PUBLISHED, || Command::Pick(pick()), || Some(ticket()))
    }

    /// Waits until a shard may take messages again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_shard(&self, shard: u32) {
        if let Some(client) = self.shard_client(shard) {
            client.room().await;
        }
    }

    /// Waits until [`retain`](Self::retain) may take a message of this topic again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_retain(&self, topic: &str) {
        if let Some(shard) = self.shard_of(topic) {
            self.wait_shard(shard).await;
        }
    }

    /// Sends all retained messages that match to `into`; see `retained.rs`.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] if some shard had no leader for too long.
    pub async fn retained(
        &self,
        filter: &TopicFilter,
        into: &mpsc::Sender<RetainedMessages>,
    ) -> Result<(), ShardError> {
        // Boxed, for it is deep: the callers' futures would have to hold all of it.
        Box::pin(self.read_retained(filter, into)).await
    }

    /// Reads the queue of a durable session that this node owns with this epoch; the bell rings when there is
    /// more than the last read found.
    #[must_use]
    pub fn queue(&self, client_id: &str, epoch: u64, bell: Bell) -> QueueReader {
        QueueReader::new(self.shared(), client_id, epoch, bell)
    }

    fn hand(
        &self,
        shard: u32,
        room: Room,
        command: impl FnOnce() -> Command,
        ticket: impl FnOnce() -> Option<Ticket>,
    ) -> Result<(), ShardError> {
        self.shard_client(shard).ok_or(ShardError::Unavailable)?.hand(room, command, ticket)
    }
}
