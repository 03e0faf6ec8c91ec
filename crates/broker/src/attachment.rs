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
use zwerm_wire::{PacketId, Publish, QoS, ReasonCode, Subscribe, TopicFilter, Unsubscribe};

use crate::broker::Inner;
use crate::delayed::Delayed;
use crate::durable::{Durable, Stage};
use crate::exclusive::{Turns, holder, vacate};
use crate::mailbox::{Delivery, Mailbox};
use crate::message::Message;
use crate::outbox::LeftBehind;
use crate::pipeline::Pipeline;
use crate::subscribing::Subscribing;
use crate::subscriptions::SessionKey;
use crate::sys::is_sys;

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

type Deliveries = Vec<Delivery>;

/// What a connection owns in the broker and the cluster. Dropped unreleased (its task was aborted or
/// panicked), it is released in the background, with the will.
#[derive(Debug)]
struct Ownership {
    inner: Arc<Inner>,
    key: SessionKey,
    epoch: u64,
    /// Of this node when it claimed the client id: no other may serve the client.
    incarnation: u64,
    mailbox: Arc<Mailbox>,
    /// The highest position of the durable queue that was taken for the client.
    sent: u64,
    /// Messages of shared subscriptions that the client did not acknowledge. Boxed: they are here at the end only.
    unacknowledged: Option<Box<Deliveries>>,
    /// The session ends with the connection.
    is_transient: bool,
    released: bool,
}

impl Ownership {
    /// Ends what other tasks can see; returns what the cluster still has to be told.
    fn let_go(&mut self, ending: Detach) -> impl Future<Output = ()> + Send + use<> {
        self.released = true;
        let queued = self.mailbox.close();
        let inner = Arc::clone(&self.inner);
        inner.local.clients.detach(self.mailbox.client_id(), self.epoch);
        // Before another member is picked: this one must not be.
        let filters = inner.local.subscriptions.remove_all(self.key);
        let unacknowledged = self.unacknowledged.take().map_or_else(Vec::new, |boxed| *boxed);
        let left_behind = unacknowledged.into_iter().chain(queued);
        let left_behind: Vec<LeftBehind> = left_behind.filter_map(LeftBehind::of).collect();
        let Detach { fire_will, session_expiry: expiry_s } = ending;
        let client_id = self.mailbox.client_id().to_string();
        let release = Release { client_id, epoch: self.epoch, fire_will, expiry_s, sent: self.sent };
        let holder = self.is_transient.then(|| holder(self.mailbox.client_id(), self.epoch));
        async move {
            for message in left_behind {
                inner.local.leave_behind(message).await;
            }
            for filter in &filters {
                drop(inner.route(filter).await);
            }
            // Whoever claims the client next asks this node only as long as it owns it.
            inner.cluster.taken_over(&release.client_id, release.epoch).await;
            if let Err(error) = inner.cluster.release(release).await {
                // The node is stopping: its death releases what it owned.
                tracing::debug!(%error, "a client was not released");
            }
            if let Some(holder) = holder {
                let exclusive = filters.into_iter().filter(TopicFilter::is_exclusive).collect();
                vacate(&inner, exclusive, holder).await;
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

/// Who a connection is to the cluster.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) epoch: u64,
    pub(crate) incarnation: u64,
    /// Says which client it is.
    pub(crate) mailbox: Arc<Mailbox>,
}

/// The broker's side of one connection.
#[derive(Debug)]
pub struct Attachment {
    ownership: Ownership,
    /// `None`: it has published nothing yet. Many clients never do.
    pipeline: Option<Box<Pipeline<PacketId>>>,
    durable: Option<Box<Durable>>,
    /// Places for retained replays that run. `None`: it has not subscribed.
    replays: Option<Arc<Semaphore>>,
    /// Boxed: few clients have exclusive subscriptions.
    exclusive: Option<Box<Turns>>,
}

impl Attachment {
    pub(crate) fn new(inner: Arc<Inner>, owned: Owned, durable: Option<Box<Durable>>) -> Self {
        let Owned { epoch, incarnation, mailbox } = owned;
        let ownership = Ownership {
            key: inner.next_key(),
            inner,
            epoch,
            incarnation,
            mailbox,
            sent: 0,
            unacknowledged: None,
            is_transient: durable.is_none(),
            released: false,
        };
        Self { ownership, pipeline: None, durable, replays: None, exclusive: None }
    }

    /// The client's id, also if the server chose it.
    #[must_use]
    pub fn client_id(&self) -> &ByteString {
        self.ownership.mailbox.client_id()
    }

    /// Whether this node may serve the client now: it holds its lease, as the incarnation that owns the client.
    /// Without, the client may have another owner; all that it would see of this one waits (P3).
    fn serves(&self) -> bool {
        let lease = &self.ownership.inner.cluster.lease;
        lease.is_valid() && lease.routing() == Some(self.ownership.incarnation)
    }

    /// Publishes. A QoS 1/2 message comes back through [`take_accepted`](Self::take_accepted).
    pub fn publish(&mut self, publish: Publish, now: Instant) -> Admission {
        let (token, qos) = (publish.packet_id, publish.qos);
        // The session resolves aliases: a PUBLISH without a topic does not get here.
        let Some(message) = Message::published(publish, self.client_id().clone(), now) else {
            return self.admits();
        };
        self.ownership.inner.local.counters.published.add(1);
        if let Some(reason) = self.unacceptable(&message) {
            return self.refuse(token, qos, reason);
        }
        let message = Arc::new(message);
        match (&mut self.durable, qos, token) {
            (Some(durable), QoS::ExactlyOnce, Some(packet_id)) => durable.receive(packet_id, message),
            (_, QoS::AtMostOnce, _) => self.pipeline().admit(message, None),
            (_, _, token) => self.pipeline().admit(message, token),
        }
        self.admission()
    }

    /// Why nobody gets a message.
    fn unacceptable(&self, message: &Message) -> Option<ReasonCode> {
        let topic = message.topic();
        if is_sys(topic) || matches!(Delayed::of(topic), Some(Err(_))) {
            return Some(ReasonCode::TopicNameInvalid);
        }
        let validates = self.ownership.inner.local.config.validate_payload_format;
        let is_belied = || message.properties().is_some_and(|said| said.belie(message.payload()));
        (validates && is_belied()).then_some(ReasonCode::PayloadFormatInvalid)
    }

    /// Refuses a message, in its turn.
    fn refuse(&mut self, token: Option<PacketId>, qos: QoS, reason: ReasonCode) -> Admission {
        self.ownership.inner.local.counters.refused.add(1);
        match (&mut self.durable, qos, token) {
            (Some(durable), QoS::ExactlyOnce, Some(packet_id)) => durable.refuse(packet_id, reason),
            (_, _, token) => self.pipeline().refuse(reason, token),
        }
        self.admission()
    }

    /// Whether the broker takes more after [`Admission::Busy`]; ask after each [`wait`](Self::wait).
    pub fn admits(&mut self) -> Admission {
        if let Some(pipeline) = &mut self.pipeline {
            pipeline.advance();
        }
        self.admission()
    }

    fn pipeline(&mut self) -> &mut Pipeline<PacketId> {
        let Ownership { inner, mailbox, incarnation, epoch, .. } = &self.ownership;
        self.pipeline.get_or_insert_with(|| {
            let (local, cluster) = (Arc::clone(&inner.local), inner.cluster.clone());
            let pipeline = Pipeline::new(local, cluster, mailbox.bell().clone(), Some(*incarnation));
            Box::new(pipeline.of_connection(*epoch))
        })
    }

    fn admission(&self) -> Admission {
        let is_full = self.pipeline.as_ref().is_some_and(|pipeline| pipeline.is_busy());
        let busy = is_full || self.durable.as_ref().is_some_and(|durable| durable.is_busy());
        if busy { Admission::Busy } else { Admission::Taken }
    }

    /// Takes the acknowledgements that are due, those of each quality of service in the order of the publishes. The
    /// client is to get them before anything else is waited for.
    pub fn take_accepted(&mut self, into: &mut Vec<Accepted>) {
        let mut take = |packet_id, reason| {
            // PUBACK and PUBREC have no such reason.
            let reason = if reason == ReasonCode::ServerBusy { ReasonCode::QuotaExceeded } else { reason };
            into.push(Accepted { packet_id, reason });
        };
        if let Some(pipeline) = &mut self.pipeline {
            pipeline.take_accepted(&mut take);
        }
        let serves = self.durable.is_some() && self.serves();
        let Some(durable) = self.durable.as_mut().filter(|_| serves) else { return };
        while let Some((packet_id, reason)) = durable.next_accepted() {
            take(packet_id, reason);
        }
    }

    /// The client sent PUBREL for a QoS 2 message of its durable session; answered by
    /// [`next_completed`](Self::next_completed).
    pub fn complete(&mut self, packet_id: PacketId) {
        if let Some(durable) = &mut self.durable {
            durable.complete(packet_id);
        }
    }

    /// The next PUBREL of [`complete`](Self::complete) that PUBCOMP may answer, in order.
    pub fn next_completed(&mut self) -> Option<(PacketId, ReasonCode)> {
        let serves = self.serves();
        self.durable.as_mut().filter(|_| serves)?.next_completed()
    }

    /// The client acknowledged a delivery of its durable queue, or cannot be sent it.
    pub fn acknowledged(&mut self, packet_id: PacketId, stage: Stage) {
        if let Some(durable) = &mut self.durable {
            durable.acknowledged(packet_id, stage);
        }
    }

    /// The next PUBREC of [`acknowledged`](Self::acknowledged) that is safe: PUBREL may follow.
    pub fn next_received(&mut self) -> Option<PacketId> {
        let serves = self.serves();
        self.durable.as_mut().filter(|_| serves)?.next_received()
    }

    /// Waits until there may be something to do: deliveries, acknowledgements, a kick, or room after
    /// [`Admission::Busy`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&self) {
        let is_stopped = self.pipeline.as_ref().is_some_and(|pipeline| pipeline.is_stopped());
        if is_stopped || self.durable.as_ref().is_some_and(|durable| durable.is_blocked()) {
            // Boxed: an idle connection is as large as all that it may ever wait for.
            Box::pin(self.wait_for_room()).await;
        } else {
            self.ownership.mailbox.bell().wait().await;
        }
    }

    /// The same, when something may have to wait for room.
    async fn wait_for_room(&self) {
        let lane_has_room = async {
            match &self.pipeline {
                Some(pipeline) => pipeline.has_room().await,
                None => std::future::pending().await,
            }
        };
        let shard_has_room = async {
            match &self.durable {
                // nothing is handed over without a lease: then the bell says when it is back
                Some(durable) if self.serves() => durable.has_room().await,
                _ => std::future::pending().await,
            }
        };
        // All are cancel safe.
        tokio::select! {
            () = self.ownership.mailbox.bell().wait() => {}
            () = lane_has_room => {}
            () = shard_has_room => {}
        }
    }

    /// Takes up to `max` deliveries, each kind in order: QoS 0 and what a transient session gets from the
    /// mailbox, the rest of a durable session from its queue. None while this node holds no lease.
    pub fn take(&mut self, max: usize, into: &mut Vec<Delivery>) {
        if !self.serves() {
            return;
        }
        let Some(durable) = &mut self.durable else {
            return self.ownership.mailbox.take(max, into);
        };
        // Half for each, so that neither starves; what one leaves the other may have.
        let before = into.len();
        self.ownership.mailbox.take(max.div_ceil(2), into);
        durable.take(max - (into.len() - before), into);
        self.ownership.mailbox.take(max - (into.len() - before), into);
        self.ownership.sent = durable.finish();
    }

    /// Why the connection has to end, if it has to.
    #[must_use]
    pub fn kicked(&self) -> Option<ReasonCode> {
        self.ownership.mailbox.kicked()
    }

    /// Subscribes at once, but for exclusive filters, which wait until they are this client's; the future resolves with a code per filter when every node routes to this client
    /// (P4) and its retained messages are read (P5); they follow as deliveries. The future may be polled beside others and dropped.
    pub fn subscribe(&mut self, subscribe: Subscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        if subscribe.filters.iter().any(|line| line.filter.is_exclusive()) {
            let turn = self.exclusive.get_or_insert_default().next();
            return self.subscribing().subscribe_exclusive(subscribe, turn);
        }
        self.subscribing().subscribe(subscribe)
    }

    /// Unsubscribes at once; the future resolves with a code per filter.
    pub fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        if unsubscribe.filters.iter().any(TopicFilter::is_exclusive) {
            let turn = self.exclusive.get_or_insert_default().next();
            return self.subscribing().unsubscribe_exclusive(unsubscribe, turn);
        }
        self.subscribing().unsubscribe(unsubscribe.filters)
    }

    pub(crate) fn subscribing(&mut self) -> Subscribing {
        let Ownership { inner, key, epoch, mailbox, .. } = &self.ownership;
        let places = || Arc::new(Semaphore::new(Subscribing::REPLAYS));
        Subscribing {
            inner: Arc::clone(inner),
            client_id: mailbox.client_id().clone(),
            key: *key,
            mailbox: Arc::clone(mailbox),
            epoch: *epoch,
            durable: self.durable.is_some().then_some(*epoch),
            replays: Arc::clone(self.replays.get_or_insert_with(places)),
        }
    }

    /// Deliveries that were sent and not acknowledged when the connection ended: those of shared subscriptions
    /// go to other members (MQTT 5.0 section 4.8.2). To be followed by [`detach`](Self::detach).
    pub fn unacknowledged(&mut self, deliveries: Vec<Delivery>) {
        self.ownership.unacknowledged = Some(Box::new(deliveries));
    }

    /// Ends the attachment: a transient session goes, of a durable one its connection. Returns when the cluster
    /// knows.
    pub async fn detach(mut self, ending: Detach) {
        if let Some(durable) = &mut self.durable {
            self.ownership.sent = durable.finish();
        }
        self.ownership.let_go(ending).await;
    }
}
