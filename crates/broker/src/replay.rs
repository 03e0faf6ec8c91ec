//! Retained messages for a new subscription (MQTT 5.0 section 3.3.1.3): read linearizably once the
//! subscription is routed, and queued as fast as the client takes them.
//!
//! Knows no shards. Start at [`Replay::run`].

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::time::Instant;
use zwerm_cluster::RetainedMessages;
use zwerm_wire::{RetainHandling, SubscribeFilter, TopicFilter};

use crate::broker::Inner;
use crate::mailbox::{Delivery, Mailbox};
use crate::message::Message;
use crate::subscriptions::Subscriber;

/// Batches read ahead of the client.
const AHEAD: usize = 2;

/// Whether a line of a SUBSCRIBE may bring retained messages.
pub(crate) fn wants_replay(line: &SubscribeFilter) -> bool {
    line.options.retain_handling != RetainHandling::DoNotSend && !line.filter.is_shared()
}

/// One replay to come.
#[derive(Debug)]
pub(crate) struct Replay {
    filter: TopicFilter,
    subscriber: Arc<Subscriber>,
    skip: bool,
    _begun: Begun,
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

impl Replay {
    pub(crate) fn new(
        line: SubscribeFilter,
        subscriber: Arc<Subscriber>,
        is_new: bool,
        begun: Begun,
    ) -> Self {
        let skip = line.options.retain_handling == RetainHandling::SendIfNew && !is_new;
        Self { filter: line.filter, subscriber, skip, _begun: begun }
    }

    /// Reads and queues everything that matches.
    pub(crate) async fn run(self, inner: &Inner) {
        if self.skip {
            return;
        }
        let (into, batches) = mpsc::channel::<RetainedMessages>(AHEAD);
        let read = async {
            let read = inner.cluster.retained(&self.filter, &into).await;
            drop(into);
            read
        };
        // Whoever ends first ends the other: a dropped channel stops the reader.
        let (read, ()) = tokio::join!(read, self.queue_all(inner, batches));
        if let Err(error) = read {
            inner.local.counters.replays_failed.add(1);
            tracing::warn!(%error, filter = %self.filter, "retained messages could not be read for a subscription");
        }
    }

    async fn queue_all(&self, inner: &Inner, mut batches: mpsc::Receiver<RetainedMessages>) {
        while let Some(batch) = batches.recv().await {
            if !self.queue(inner, batch).await {
                return;
            }
        }
    }

    async fn queue(&self, inner: &Inner, batch: RetainedMessages) -> bool {
        let options = &self.subscriber.options;
        for record in batch {
            let Ok(message) = Message::recorded(&record, inner.cluster.now_ms(), Instant::now()) else {
                continue;
            };
            if options.no_local && *message.publisher() == self.subscriber.client_id {
                continue;
            }
            let qos = message.qos().min(options.qos);
            let subscription_ids: SmallVec<_> = self.subscriber.subscription_id.into_iter().collect();
            let delivery = Delivery { message: Arc::new(message), qos, retain: true, subscription_ids };
            if !self.subscriber.mailbox.replay(delivery).await {
                return false;
            }
            inner.local.counters.replayed.add(1);
        }
        true
    }
}
