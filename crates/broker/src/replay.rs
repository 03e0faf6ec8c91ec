//! Retained messages for a new subscription (MQTT 5.0 section 3.3.1.3): read linearizably once the
//! subscription is routed.
//!
//! The first ones are read before the SUBACK is answered and queued together with it, so that what is
//! published after the SUBACK comes behind them; the others are queued as fast as the client takes them.
//! Knows no shards. Start at [`Replay::run`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_cluster::{RetainedMessages, ShardError};
use zwerm_machine::records::{Deliver, Message};
use zwerm_wire::{QoS, RetainHandling, SubscribeFilter, TopicFilter};

use crate::broker::Inner;
use crate::mailbox::{Delivery, Mailbox};
use crate::subscriptions::Subscriber;
use crate::sys::is_sys;

/// Messages read before the SUBACK.
const HEAD: usize = 1_024;
/// Batches read ahead of the client.
const AHEAD: usize = 2;

/// Whether a line of a SUBSCRIBE may bring retained messages.
pub(crate) fn wants_replay(line: &SubscribeFilter) -> bool {
    line.options.retain_handling != RetainHandling::DoNotSend && !line.filter.is_shared()
}

/// A replay that its mailbox knows of: until this is dropped it remembers what came live.
#[derive(Debug)]
pub(crate) struct Begun(Arc<Mailbox>);

impl Begun {
    /// Begins; to be called before live messages of the subscription can arrive.
    pub(crate) fn new(mailbox: &Arc<Mailbox>) -> Self {
        mailbox.begin_replay();
        Self(Arc::clone(mailbox))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.end_replay();
    }
}

/// What comes before the SUBACK's answer: the first messages of a replay.
#[derive(Debug)]
pub(crate) struct Head {
    deliveries: Vec<Delivery>,
    begun: Arc<Begun>,
}

impl Head {
    /// Queues it, whatever the bounds: it is itself bounded by [`Budget`].
    pub(crate) fn queue(self) {
        for delivery in self.deliveries {
            self.begun.0.replay_now(delivery);
        }
    }
}

/// Messages that the heads of one SUBSCRIBE may hold together.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<AtomicUsize>);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(HEAD)))
    }

    /// No heads: everything is queued as it is read.
    pub(crate) fn none() -> Self {
        Self(Arc::default())
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// The way into the queue of a durable session.
#[derive(Debug)]
struct DurableReplay {
    epoch: u64,
    bell: Bell,
    receipt: Receipt,
}

impl DurableReplay {
    fn new(epoch: u64) -> Self {
        let bell = Bell::new();
        Self { epoch, receipt: Receipt::new(bell.clone()), bell }
    }

    /// Hands a message to the session's shard when that has room. False: the node stops.
    async fn queue(&self, inner: &Inner, subscriber: &Subscriber, record: &Message, qos: QoS) -> bool {
        let Some(shard) = inner.cluster.shard_of(&subscriber.client_id) else { return false };
        loop {
            let deliver = || Deliver {
                client_id: subscriber.client_id.to_string(),
                message: Some(record.clone()),
                qos: u32::from(qos as u8),
                retain: true,
                identifiers: subscriber.subscription_id.iter().map(|id| id.get()).collect(),
                replay_epoch: self.epoch,
                ..Deliver::default()
            };
            match inner.cluster.deliver(shard, deliver, || self.receipt.ticket()) {
                Ok(()) => return true,
                Err(ShardError::Busy) => inner.cluster.wait_shard(shard).await,
                Err(_) => return false,
            }
        }
    }

    /// Waits until the queue has what was handed over, or the client has another owner.
    async fn committed(self) {
        while !self.receipt.is_complete() {
            self.bell.wait().await;
        }
    }
}

/// One replay to come.
#[derive(Debug)]
pub(crate) struct Replay {
    filter: TopicFilter,
    subscriber: Arc<Subscriber>,
    skip: bool,
    /// `None` when all is with the head: that is the end of it for the mailbox, whenever this task is run again.
    begun: Option<Arc<Begun>>,
    budget: Budget,
    /// `Some` until the head is complete.
    head: Option<(oneshot::Sender<Head>, Vec<Delivery>)>,
    /// Of a durable session: what goes into its queue.
    durable: Option<DurableReplay>,
}

impl Replay {
    /// The replay, and its head once that is read.
    pub(crate) fn new(
        line: SubscribeFilter,
        subscriber: Arc<Subscriber>,
        is_new: bool,
        (begun, budget): (Begun, Budget),
    ) -> (Self, oneshot::Receiver<Head>) {
        let skip = line.options.retain_handling == RetainHandling::SendIfNew && !is_new;
        let (sender, head) = oneshot::channel();
        let (begun, filter) = (Some(Arc::new(begun)), line.filter);
        (
            Self { filter, subscriber, skip, begun, budget, head: Some((sender, Vec::new())), durable: None },
            head,
        )
    }

    /// Into the queue of a durable session, except for QoS 0.
    pub(crate) fn into_durable(self, epoch: u64) -> Self {
        Self { durable: Some(DurableReplay::new(epoch)), ..self }
    }

    /// Reads everything that matches: the first messages into the head, the others into the queue as the
    /// client takes them.
    pub(crate) async fn run(mut self, inner: &Inner) {
        if !self.skip && is_sys(self.filter.as_str()) {
            self.queue_sys(inner).await;
        } else if !self.skip {
            let (into, batches) = mpsc::channel::<RetainedMessages>(AHEAD);
            let filter = self.filter.clone();
            let read = async {
                let read = inner.cluster.retained(&filter, &into).await;
                drop(into);
                read
            };
            // Whoever ends first ends the other: a dropped channel stops the reader.
            let (read, ()) = tokio::join!(read, self.queue_all(inner, batches));
            if let Err(error) = read {
                inner.local.counters.replays_failed.add(1);
                tracing::warn!(%error, %filter, "retained messages could not be read for a subscription");
            }
        }
        let begun = self.begun.take();
        self.end_head(begun);
        if let Some(durable) = self.durable.take() {
            durable.committed().await;
        }
    }

    /// What this node says of itself: QoS 0, so through the mailbox also for a durable session.
    async fn queue_sys(&mut self, inner: &Inner) {
        for message in inner.local.sys.matching(&self.filter) {
            inner.local.counters.replayed.add(1);
            if !self.queue(self.delivery_of(message, QoS::AtMostOnce)).await {
                return;
            }
        }
    }

    async fn queue_all(&mut self, inner: &Inner, mut batches: mpsc::Receiver<RetainedMessages>) {
        while let Some(batch) = batches.recv().await {
            for record in batch {
                let Some(delivery) = self.delivery(inner, &record) else { continue };
                inner.local.counters.replayed.add(1);
                let queued = match &self.durable {
                    Some(durable) if !self.subscriber.takes(delivery.qos) => {
                        durable.queue(inner, &self.subscriber, &record, delivery.qos).await
                    }
                    _ => self.queue(delivery).await,
                };
                if !queued {
                    return;
                }
            }
        }
    }

    /// False: the client is gone.
    async fn queue(&mut self, delivery: Delivery) -> bool {
        if let Some((_, head)) = &mut self.head {
            if self.budget.take() {
                head.push(delivery);
                return true;
            }
            let begun = self.begun.clone();
            self.end_head(begun);
        }
        self.subscriber.mailbox.replay(delivery).await
    }

    fn end_head(&mut self, begun: Option<Arc<Begun>>) {
        if let Some(((sender, deliveries), begun)) = self.head.take().zip(begun) {
            // Nobody waits any more: the connection is gone.
            drop(sender.send(Head { deliveries, begun }));
        }
    }

    fn delivery(&self, inner: &Inner, record: &Message) -> Option<Delivery> {
        let options = &self.subscriber.options;
        let message =
            crate::message::Message::recorded(record, inner.cluster.now_ms(), Instant::now()).ok()?;
        if options.no_local && *message.publisher() == self.subscriber.client_id {
            return None;
        }
        let qos = message.qos().min(options.qos);
        Some(self.delivery_of(Arc::new(message), qos))
    }

    fn delivery_of(&self, message: Arc<crate::message::Message>, qos: QoS) -> Delivery {
        let subscription_ids: SmallVec<_> = self.subscriber.subscription_id.into_iter().collect();
        Delivery { message, qos, retain: true, subscription_ids, dup: false, packet_id: None, group: None }
    }
}
