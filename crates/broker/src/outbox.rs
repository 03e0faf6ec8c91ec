//! Publishes what shards publish themselves: wills that fired, QoS 2 messages of durable sessions after their
//! PUBREL, and messages that a member of a shared subscription left behind.
//!
//! A shard repeats what was not confirmed, so a confirmation is given only when everything that matters has
//! accepted; a repeat is known by its place in the outbox and not delivered again. Start at
//! [`publish_outboxes`].

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zwerm_cluster::receipt::Bell;
use zwerm_cluster::{OutboxMessage, OutboxTarget};
use zwerm_wire::{ReasonCode, TopicFilter};

use crate::broker::Inner;
use crate::mailbox::Delivery;
use crate::message::Message;
use crate::pipeline::Pipeline;

/// Messages left behind that wait for another member; more wait in the connections that end.
pub(crate) const LEFT_BEHIND: usize = 1_024;

/// A message for another member of a shared subscription.
#[derive(Debug)]
pub(crate) struct LeftBehind {
    pub(crate) message: Arc<Message>,
    pub(crate) group: TopicFilter,
}

impl LeftBehind {
    /// What a shared subscription gave to a client that is gone; `None` if none did.
    pub(crate) fn of(delivery: Delivery) -> Option<Self> {
        Some(Self { message: delivery.message.left_behind(), group: delivery.group? })
    }
}

/// Who is told that a message is published; nobody of what was left behind.
type Told = Option<oneshot::Sender<()>>;

/// One pipeline for each shard, so that none waits for a slow subscriber of another, and one for what was left
/// behind. What a shard has under way is bounded by its keeper.
#[derive(Debug)]
struct Pipelines<'a> {
    inner: &'a Inner,
    bell: Bell,
    by_shard: BTreeMap<Option<u32>, Pipeline<Told>>,
}

/// Publishes until the cluster stops.
pub(crate) async fn publish_outboxes(
    inner: &Inner,
    mut outbox: mpsc::Receiver<OutboxMessage>,
    mut left_behind: mpsc::Receiver<LeftBehind>,
) {
    let mut pipelines = Pipelines { inner, bell: Bell::new(), by_shard: BTreeMap::new() };
    let mut resumed = inner.cluster.lease.resumed();
    loop {
        let busy = pipelines.confirm();
        tokio::select! {
            message = outbox.recv() => match message {
                Some(message) => pipelines.publish(message),
                None => return,
            },
            // The sender lives as long as the broker, which `inner` belongs to.
            Some(left) = left_behind.recv(), if !busy => pipelines.pass_on(left),
            () = pipelines.have_room() => {}
            () = pipelines.bell.wait() => {}
            // The sender lives as long as the cluster, which `inner` holds.
            changed = resumed.changed() => drop(changed),
        }
    }
}

impl Pipelines<'_> {
    /// Where a shard's messages go. A pipeline whose incarnation is over takes nothing and confirms nothing, until
    /// the shard has noticed and begins again. What was left behind outlives incarnations.
    fn of(&mut self, shard: Option<u32>) -> &mut Pipeline<Told> {
        let Inner { local, cluster, .. } = self.inner;
        let incarnation = shard.map(|_| cluster.own.incarnation());
        let bell = &self.bell;
        let new = || Pipeline::new(Arc::clone(local), cluster.clone(), bell.clone(), incarnation);
        self.by_shard.entry(shard).or_insert_with(new)
    }

    /// Tells what is published. True: no more of what was left behind should be taken now.
    fn confirm(&mut self) -> bool {
        for pipeline in self.by_shard.values_mut() {
            pipeline.take_accepted(|told, reason| {
                // Where there was no room for it, it is published again.
                if let Some(told) = told.filter(|_| reason != ReasonCode::ServerBusy) {
                    // The shard's keeper may have lost its leadership meanwhile: another repeats.
                    told.send(()).unwrap_or_default();
                }
            });
        }
        self.by_shard.get(&None).is_some_and(Pipeline::is_busy)
    }

    async fn have_room(&self) {
        let waiting = self.by_shard.values().map(|pipeline| Box::pin(pipeline.has_room()));
        let mut waiting: FuturesUnordered<_> = waiting.collect();
        if waiting.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn publish(&mut self, out: OutboxMessage) {
        let OutboxMessage { message, target, origin, picks, begins, published } = out;
        if begins {
            self.by_shard.remove(&Some(origin.shard));
        }
        let cluster = &self.inner.cluster;
        let message = match Message::recorded(&message, cluster.now_ms(), Instant::now()) {
            Ok(message) => Arc::new(message.of_outbox(origin)),
            Err(error) => {
                tracing::error!(%error, topic = message.topic, "a message of an outbox is malformed and is dropped");
                return published.send(()).unwrap_or_default();
            }
        };
        self.inner.local.counters.outbox.add(1);
        let pipeline = self.of(Some(origin.shard));
        let only = match target {
            OutboxTarget::All => None,
            OutboxTarget::Groups(groups) => Some(groups),
        };
        pipeline.admit_of_outbox(message, (only, picks), Some(published));
    }

    fn pass_on(&mut self, left: LeftBehind) {
        self.inner.local.counters.redispatched.add(1);
        self.of(None).admit_for(left.message, vec![left.group], Some(None));
    }
}
