//! One connected client as its connection task holds it: publish, subscribe, take deliveries.
//!
//! Owned by one task; what others may reach of it is its mailbox. Knows no packet ids' states and
//! no sockets. Start at [`Attachment::publish`].

use std::sync::Arc;

use bytestring::ByteString;
use futures::future::BoxFuture;
use tokio::time::Instant;
use zwerm_machine::records::Release;
use zwerm_wire::{PacketId, Publish, QoS, ReasonCode, Subscribe, TopicFilter, Unsubscribe};

use crate::broker::Inner;
use crate::mailbox::{Delivery, Mailbox};
use crate::message::Message;
use crate::pipeline::Pipeline;
use crate::replay::{Replay, wants_replay};
use crate::subscriptions::{SessionKey, Subscriber};

/// Whether the broker takes more of this publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Go on.
    Taken,
    /// Taken, but publish no more before [`Attachment::wait_room`] has returned.
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

/// The broker's side of one connection. Must be given to [`detach`](Self::detach) in the end.
#[derive(Debug)]
pub struct Attachment {
    inner: Arc<Inner>,
    client_id: ByteString,
    key: SessionKey,
    epoch: u64,
    mailbox: Arc<Mailbox>,
    pipeline: Box<Pipeline<PacketId>>,
}

impl Attachment {
    pub(crate) fn new(inner: Arc<Inner>, client_id: ByteString, epoch: u64, mailbox: Arc<Mailbox>) -> Self {
        let pipeline = Pipeline::new(Arc::clone(&inner.local), inner.cluster.clone(), mailbox.bell().clone());
        let key = inner.next_key();
        Self { inner, client_id, key, epoch, mailbox, pipeline: Box::new(pipeline) }
    }

    /// The client's id, also if the server chose it.
    #[must_use]
    pub fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    /// Publishes. A QoS 1/2 message comes back through [`next_accepted`](Self::next_accepted).
    pub fn publish(&mut self, publish: Publish, now: Instant) -> Admission {
        let token = publish.packet_id.filter(|_| publish.qos != QoS::AtMostOnce);
        // The session resolves aliases: a PUBLISH without a topic does not get here.
        if let Some(message) = Message::published(publish, self.client_id.clone(), now) {
            self.pipeline.admit(message, token);
        }
        if self.pipeline.is_busy() { Admission::Busy } else { Admission::Taken }
    }

    /// Waits until the broker takes more after [`Admission::Busy`]; call again while it returns `Busy`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_room(&mut self) -> Admission {
        self.pipeline.wait_room().await;
        self.pipeline.advance();
        if self.pipeline.is_busy() { Admission::Busy } else { Admission::Taken }
    }

    /// The next acknowledgement that is due, in the order of the publishes.
    pub fn next_accepted(&mut self) -> Option<Accepted> {
        let (packet_id, reason) = self.pipeline.next_accepted()?;
        Some(Accepted { packet_id, reason })
    }

    /// Waits until there may be something to do: deliveries, acknowledgements, or a kick.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&self) {
        self.mailbox.bell().wait().await;
    }

    /// Takes up to `max` deliveries, in order.
    pub fn take(&mut self, max: usize, into: &mut Vec<Delivery>) {
        self.mailbox.take(max, into);
    }

    /// Why the connection has to end, if it has to.
    #[must_use]
    pub fn kicked(&self) -> Option<ReasonCode> {
        self.mailbox.kicked()
    }

    /// Subscribes at once; the future resolves with a code per filter when every node routes to this client
    /// (P4). Retained messages follow as deliveries. The future may be polled beside others and dropped.
    pub fn subscribe(&mut self, subscribe: Subscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        let Subscribe { subscription_id, filters, .. } = subscribe;
        let inner = Arc::clone(&self.inner);
        let mut replays = Vec::new();
        let mut wanted: Vec<(TopicFilter, QoS)> = Vec::with_capacity(filters.len());
        for line in filters {
            let subscriber = Arc::new(Subscriber {
                key: self.key,
                client_id: self.client_id.clone(),
                mailbox: Arc::clone(&self.mailbox),
                options: line.options,
                subscription_id,
            });
            let will_replay = wants_replay(&line);
            if will_replay {
                self.mailbox.begin_replay();
            }
            let is_new = inner.local.subscriptions.add(&line.filter, Arc::clone(&subscriber));
            wanted.push((line.filter.clone(), line.options.qos));
            if will_replay {
                replays.push(Replay::new(line, subscriber, is_new));
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
            for replay in replays {
                inner.spawn_replay(replay);
            }
            reasons
        })
    }

    /// Unsubscribes at once; the future resolves with a code per filter.
    pub fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        let inner = Arc::clone(&self.inner);
        let removed: Vec<(TopicFilter, bool)> = unsubscribe
            .filters
            .into_iter()
            .map(|filter| {
                let existed = inner.local.subscriptions.remove(&filter, self.key);
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
    pub async fn detach(self, ending: Detach) {
        let Self { inner, client_id, key, epoch, mailbox, .. } = self;
        mailbox.close();
        inner.local.clients.detach(&client_id, epoch);
        let filters = inner.local.subscriptions.remove_all(key);
        for filter in &filters {
            drop(inner.route(filter).await);
        }
        let Detach { fire_will, session_expiry } = ending;
        let release =
            Release { client_id: client_id.to_string(), epoch, fire_will, expiry_s: session_expiry };
        if let Err(error) = inner.cluster.release(release).await {
            // The node is stopping: its death releases what it owned.
            tracing::debug!(%error, client = &*client_id, "a client was not released");
        }
    }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
