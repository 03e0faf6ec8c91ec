//! One connected client as its connection task holds it: publish, subscribe, take deliveries.
//!
//! Owned by one task; what others may reach of it is its mailbox. Knows no packet ids' states and
//! no sockets. Start at [`Attachment::publish`].

use std::sync::Arc;

use bytestring::ByteString;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zwerm_machine::records::Release;
use zwerm_wire::{PacketId, Publish, QoS, ReasonCode, Subscribe, SubscribeFilter, TopicFilter, Unsubscribe};

use crate::broker::Inner;
use crate::mailbox::{Delivery, Mailbox};
use crate::message::Message;
use crate::pipeline::Pipeline;
use crate::replay::{Begun, Budget, Head, Replay, wants_replay};
use crate::subscriptions::{SessionKey, Subscriber};

/// SUBSCRIBEs of one client whose retained messages are being read.
const REPLAYS: usize = 4;

/// Whether the broker takes more of this publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Go on.
    Taken,
    /// Taken, but publish no more before [`Attachment::admits`] says so.
    Busy,
}

/// A publish that is safe (or refused): acknowledge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// Success, no matching subscribers, or why it was refused.
    pub reason: ReasonCode,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detach {
    /// The will fires (after its delay); false after a DISCONNECT that discards it.
    pub fire_will: bool,
    /// A session expiry that the DISCONNECT changed.
    pub session_expiry: Option<u32>,
}

/// What a connection owns in the broker and the cluster. Dropped unreleased (its task was aborted or
/// panicked), it is released in the background, with the will.
#[derive(Debug)]
struct Ownership {
    inner: Arc<Inner>,
    client_id: ByteString,
    key: SessionKey,
    epoch: u64,
    mailbox: Arc<Mailbox>,
    released: bool,
}

impl Ownership {
    /// Ends what other tasks can see; returns what the cluster still has to be told.
    fn let_go(&mut self, ending: Detach) -> impl Future<Output = ()> + Send + use<> {
        self.released = true;
        self.mailbox.close();
        let inner = Arc::clone(&self.inner);
        inner.local.clients.detach(&self.client_id, self.epoch);
        let filters = inner.local.subscriptions.remove_all(self.key);
        let Detach { fire_will, session_expiry: expiry_s } = ending;
        let release = Release {
            client_id: self.client_id.to_string(),
            epoch: self.epoch,
            fire_will,
            expiry_s,
            sent: 0,
        };
        async move {
            for filter in &filters {
                drop(inner.route(filter).await);
            }
            if let Err(error) = inner.cluster.release(release).await {
                // The node is stopping: its death releases what it owned.
                tracing::debug!(%error, "a client was not released");
            }
        }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if !self.released {
            let rest = self.let_go(Detach { fire_will: true, session_expiry: None });
            self.inner.spawn(rest);
        }
    }
}

/// The broker's side of one connection.
#[derive(Debug)]
pub struct Attachment {
    ownership: Ownership,
    pipeline: Box<Pipeline<PacketId>>,
    /// Places for retained replays that run.
    replays: Arc<Semaphore>,
}

impl Attachment {
    pub(crate) fn new(inner: Arc<Inner>, client_id: ByteString, epoch: u64, mailbox: Arc<Mailbox>) -> Self {
        let pipeline = Pipeline::new(Arc::clone(&inner.local), inner.cluster.clone(), mailbox.bell().clone());
        let key = inner.next_key();
        let ownership = Ownership { inner, client_id, key, epoch, mailbox, released: false };
        Self { ownership, pipeline: Box::new(pipeline), replays: Arc::new(Semaphore::new(REPLAYS)) }
    }

    /// The client's id, also if the server chose it.
    #[must_use]
    pub fn client_id(&self) -> &ByteString {
        &self.ownership.client_id
    }

    /// Publishes. A QoS 1/2 message comes back through [`next_accepted`](Self::next_accepted).
    pub fn publish(&mut self, publish: Publish, now: Instant) -> Admission {
        let token = publish.packet_id.filter(|_| publish.qos != QoS::AtMostOnce);
        // The session resolves aliases: a PUBLISH without a topic does not get here.
        if let Some(message) = Message::published(publish, self.ownership.client_id.clone(), now) {
            self.pipeline.admit(message, token);
        }
        self.admits()
    }

    /// Whether the broker takes more after [`Admission::Busy`]; ask after each [`wait`](Self::wait).
    pub fn admits(&mut self) -> Admission {
        self.pipeline.advance();
        if self.pipeline.is_busy() { Admission::Busy } else { Admission::Taken }
    }

    /// The next acknowledgement that is due, in the order of the publishes.
    pub fn next_accepted(&mut self) -> Option<Accepted> {
        let (packet_id, reason) = self.pipeline.next_accepted()?;
        Some(Accepted { packet_id, reason })
    }

    /// Waits until there may be something to do: deliveries, acknowledgements, a kick, or room after
    /// [`Admission::Busy`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&self) {
        // Both are cancel safe.
        tokio::select! {
            () = self.ownership.mailbox.bell().wait() => {}
            () = self.pipeline.has_room() => {}
        }
    }

    /// Takes up to `max` deliveries, in order.
    pub fn take(&mut self, max: usize, into: &mut Vec<Delivery>) {
        self.ownership.mailbox.take(max, into);
    }

    /// Why the connection has to end, if it has to.
    #[must_use]
    pub fn kicked(&self) -> Option<ReasonCode> {
        self.ownership.mailbox.kicked()
    }

    /// Subscribes at once; the future resolves with a code per filter when every node routes to this client
    /// (P4) and its retained messages are read (P5); they follow as deliveries. The future may be polled beside others and dropped.
    pub fn subscribe(&mut self, subscribe: Subscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        let Subscribe { subscription_id, filters, .. } = subscribe;
        let Ownership { inner, client_id, key, mailbox, .. } = &self.ownership;
        let (inner, places) = (Arc::clone(inner), Arc::clone(&self.replays));
        let (mut replays, mut heads) = (Vec::new(), Vec::new());
        let budget = Budget::new();
        let mut wanted: Vec<(TopicFilter, QoS)> = Vec::with_capacity(filters.len());
        for line in filters {
            let line = SubscribeFilter { filter: line.filter.detached(), ..line };
            let subscriber = Arc::new(Subscriber {
                key: *key,
                client_id: client_id.clone(),
                mailbox: Arc::clone(mailbox),
                options: line.options,
                subscription_id,
            });
            let replayed = wants_replay(&line).then(|| Begun::new(mailbox));
            let is_new = inner.local.subscriptions.add(&line.filter, Arc::clone(&subscriber));
            wanted.push((line.filter.clone(), line.options.qos));
            if let Some(begun) = replayed {
                let (replay, head) = Replay::new(line, subscriber, is_new, (begun, budget.clone()));
                replays.push(replay);
                heads.push(head);
            }
        }
        Box::pin(async move {
            let mut reasons = Vec::with_capacity(wanted.len());
            let mut routed = Vec::with_capacity(wanted.len());
            for (filter, _) in &wanted {
                routed.push(inner.route(filter).await);
            }
            for ((_, qos), routed) in wanted.iter().zip(routed) {
                let holds = match routed {
                    Some(routed) => routed.await.is_ok(),
                    None => false,
                };
                reasons.push(if holds { granted(*qos) } else { ReasonCode::UnspecifiedError });
            }
            if !replays.is_empty() {
                // A client that takes nothing is not answered before an older replay of its own is over: what
                // replays hold is bounded. The semaphore is never closed.
                if let Ok(place) = places.acquire_owned().await {
                    inner.spawn_replays(replays, place);
                }
                let heads = futures::future::join_all(heads).await;
                // Nothing is awaited from here to the answer: the SUBACK goes first, and what others publish
                // once the client has seen it comes behind the retained messages.
                heads.into_iter().flatten().for_each(Head::queue);
            }
            reasons
        })
    }

    /// Unsubscribes at once; the future resolves with a code per filter.
    pub fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        let inner = Arc::clone(&self.ownership.inner);
        let removed: Vec<(TopicFilter, bool)> = unsubscribe
            .filters
            .into_iter()
            .map(|filter| {
                let existed = inner.local.subscriptions.remove(&filter, self.ownership.key);
                (filter, existed)
            })
            .collect();
        Box::pin(async move {
            let mut reasons = Vec::with_capacity(removed.len());
            for (filter, existed) in &removed {
                if *existed {
                    // The client gets nothing more already; the others may take their time to hear of it.
                    drop(inner.route(filter).await);
                }
                reasons.push(if *existed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted });
            }
            reasons
        })
    }

    /// Ends the attachment: subscriptions, queue and ownership go. Returns when the cluster knows.
    pub async fn detach(mut self, ending: Detach) {
        self.ownership.let_go(ending).await;
    }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
