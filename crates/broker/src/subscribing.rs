//! SUBSCRIBE and UNSUBSCRIBE of one client, from the packet to the codes of its answer.
//!
//! A transient session's subscriptions are this node's business and its routes'. A durable session's are
//! committed in its shard and routed to that; beside it they are kept here, for what is published with QoS 0.
//! Knows no queues. Start at [`Subscribing::subscribe`].

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use zwerm_cluster::Routed;
use zwerm_machine::records::{self, EndReplay, Subscription};
use zwerm_wire::{
    QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFilter, SubscribeOptions, TopicFilter,
};

use crate::broker::Inner;
use crate::mailbox::Mailbox;
use crate::replay::{Begun, Budget, Head, Replay, wants_replay};
use crate::subscriptions::{SessionKey, Subscriber};

/// How long a session that is continued waits for its routes for QoS 0.
const QOS_0_PATIENCE: Duration = Duration::from_millis(500);

/// One client, as far as it concerns its subscriptions.
#[derive(Debug, Clone)]
pub(crate) struct Subscribing {
    pub(crate) inner: Arc<Inner>,
    pub(crate) client_id: ByteString,
    pub(crate) key: SessionKey,
    pub(crate) mailbox: Arc<Mailbox>,
    /// The epoch of its owner.
    pub(crate) epoch: u64,
    /// The same, if the session is durable.
    pub(crate) durable: Option<u64>,
    pub(crate) replays: Arc<Semaphore>,
}

/// A line of a SUBSCRIBE that this node knows by now.
struct Line {
    subscriber: Arc<Subscriber>,
    filter: SubscribeFilter,
    is_new: bool,
    begun: Option<Begun>,
}

impl Subscribing {
    /// SUBSCRIBEs of one client whose retained messages are being read.
    pub(crate) const REPLAYS: usize = 4;

    /// See [`Attachment::subscribe`](crate::Attachment::subscribe).
    pub(crate) fn subscribe(self, subscribe: Subscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        let Subscribe { subscription_id, filters, .. } = subscribe;
        let mut lines = Vec::with_capacity(filters.len());
        for filter in filters {
            let filter = SubscribeFilter { filter: filter.filter.detached(), ..filter };
            let subscriber = Arc::new(self.subscriber(filter.options, subscription_id));
            // Before live messages of the subscription can arrive.
            let begun = wants_replay(&filter).then(|| Begun::new(&self.mailbox));
            let is_new = self.inner.local.subscriptions.add(&filter.filter, Arc::clone(&subscriber));
            lines.push(Line { subscriber, filter, is_new, begun });
        }
        match self.durable {
            None => self.subscribe_transient(lines).boxed(),
            Some(epoch) => self.subscribe_durable(epoch, lines).boxed(),
        }
    }

    fn subscriber(
        &self,
        options: SubscribeOptions,
        subscription_id: Option<std::num::NonZeroU32>,
    ) -> Subscriber {
        Subscriber {
            key: self.key,
            client_id: self.client_id.clone(),
            mailbox: Arc::clone(&self.mailbox),
            options,
            subscription_id,
            durable: self.durable.is_some(),
        }
    }

    async fn subscribe_transient(self, lines: Vec<Line>) -> Vec<ReasonCode> {
        let filters = lines.iter().map(|line| line.filter.filter.clone()).collect();
        let reasons = codes(&lines, &self.route(filters).await);
        let (mut replays, mut heads) = (Vec::new(), Vec::new());
        let budget = Budget::new();
        for Line { subscriber, filter, is_new, begun } in lines {
            if let Some(begun) = begun {
                let (replay, head) = Replay::new(filter, subscriber, is_new, (begun, budget.clone()));
                replays.push(replay);
                heads.push(head);
            }
        }
        if !replays.is_empty() {
            // A client that takes nothing is not answered before an older replay of its own is over: what
            // replays hold is bounded. The semaphore is never closed.
            if let Ok(place) = self.replays.acquire_owned().await {
                self.inner.spawn_replays(replays, place);
            }
            let heads = join_all(heads).await;
            // Nothing is awaited from here to the answer: the SUBACK goes first, and what others publish
            // once the client has seen it comes behind the retained messages.
            heads.into_iter().flatten().for_each(Head::queue);
        }
        reasons
    }

    /// The answer waits until all retained messages are in the queue: from there on they are safe.
    async fn subscribe_durable(self, epoch: u64, lines: Vec<Line>) -> Vec<ReasonCode> {
        let client_id = self.client_id.to_string();
        let replay = lines.iter().any(|line| line.begun.is_some());
        let subscribe = records::Subscribe {
            client_id: client_id.clone(),
            epoch,
            subscriptions: lines.iter().map(Line::record).collect(),
            replay,
        };
        let subscribed = match self.inner.cluster.subscribe(subscribe).await {
            Ok(subscribed) => subscribed.lines,
            Err(error) => {
                tracing::debug!(%error, "a durable subscription was not committed");
                return lines.iter().map(|_| ReasonCode::UnspecifiedError).collect();
            }
        };
        let wanted = lines.iter().zip(&subscribed).map(|(line, done)| (&line.filter.filter, done.since));
        let here = self.route(lines.iter().map(|line| line.filter.filter.clone()).collect());
        let (here, shard) = tokio::join!(here, self.shard_routed(wanted));
        let routed: Vec<bool> = here.iter().zip(&shard).map(|(here, shard)| *here && *shard).collect();
        let reasons = codes(&lines, &routed);
        let replays = lines.into_iter().zip(&subscribed).filter_map(|(line, done)| {
            let budget = Budget::none();
            let Line { subscriber, filter, begun, .. } = line;
            Some(Replay::new(filter, subscriber, !done.existed, (begun?, budget)).0.into_durable(epoch))
        });
        let replays: Vec<Replay> = replays.collect();
        if replay {
            join_all(replays.into_iter().map(|replay| replay.run(&self.inner))).await;
            if let Err(error) = self.inner.cluster.end_replay(EndReplay { client_id, epoch }).await {
                tracing::debug!(%error, "the end of a replay was not committed");
            }
        }
        reasons
    }

    /// Publishes what this node wants now of each filter; whether every node knows.
    async fn route(&self, filters: Vec<TopicFilter>) -> Vec<bool> {
        let mut sent: Vec<Option<Routed>> = Vec::with_capacity(filters.len());
        for filter in &filters {
            sent.push(self.inner.route(filter).await);
        }
        let mut routed = Vec::with_capacity(sent.len());
        for sent in sent {
            routed.push(match sent {
                Some(sent) => sent.await.is_ok(),
                None => false,
            });
        }
        routed
    }

    /// Waits until every node routes these filters to the client's shard, as of these versions.
    async fn shard_routed<'a>(&self, wanted: impl Iterator<Item = (&'a TopicFilter, u64)>) -> Vec<bool> {
        let Some(shard) = self.inner.cluster.shard_of(&self.client_id) else { return Vec::new() };
        let cluster = &self.inner.cluster;
        join_all(wanted.map(|(filter, since)| cluster.shard_routed(shard, filter, since))).await
    }

    /// Makes the subscriptions of a continued session live on this node; false if the cluster does not know
    /// them all.
    pub(crate) async fn resume(&self, subscriptions: &[Subscription]) -> bool {
        let mut filters = Vec::with_capacity(subscriptions.len());
        for record in subscriptions {
            let Ok(filter) = TopicFilter::new(record.filter.as_str()) else { continue };
            let identifier = std::num::NonZeroU32::new(record.identifier);
            let subscriber = self.subscriber(options(record), identifier);
            self.inner.local.subscriptions.add(&filter, Arc::new(subscriber));
            filters.push((filter, record.since));
        }
        let here = self.route_soon(filters.iter().map(|(filter, _)| filter.clone()).collect());
        let shard = self.shard_routed(filters.iter().map(|(filter, since)| (filter, *since)));
        let ((), shard) = tokio::join!(here, shard);
        shard.into_iter().all(|routed| routed)
    }

    /// Publishes what this node wants now of each filter, and waits until every node knows, but not for long: a
    /// node that died keeps all from knowing until it is declared down, and what comes to a durable session this
    /// way is QoS 0.
    async fn route_soon(&self, filters: Vec<TopicFilter>) {
        let (routing, (done, routed)) = (self.clone(), oneshot::channel());
        self.inner.spawn(async move {
            routing.route(filters).await;
            // Who does not wait any more has connected.
            done.send(()).unwrap_or_default();
        });
        drop(timeout(QOS_0_PATIENCE, routed).await);
    }

    /// See [`Attachment::unsubscribe`](crate::Attachment::unsubscribe).
    pub(crate) fn unsubscribe(self, filters: Vec<TopicFilter>) -> BoxFuture<'static, Vec<ReasonCode>> {
        let remove = |filter: &TopicFilter| self.inner.local.subscriptions.remove(filter, self.key);
        let existed: Vec<bool> = filters.iter().map(remove).collect();
        async move {
            let mut existed = existed;
            for (filter, _) in filters.iter().zip(&existed).filter(|(_, existed)| **existed) {
                // The client gets nothing more already; the others may take their time to hear of it.
                drop(self.inner.route(filter).await);
            }
            if let Some(epoch) = self.durable {
                let client_id = self.client_id.to_string();
                let filters = filters.iter().map(ToString::to_string).collect();
                let unsubscribe = records::Unsubscribe { client_id, epoch, filters };
                match self.inner.cluster.unsubscribe(unsubscribe).await {
                    Ok(unsubscribed) => existed = unsubscribed.existed,
                    Err(error) => {
                        tracing::debug!(%error, "a durable subscription was not removed");
                        return existed.iter().map(|_| ReasonCode::UnspecifiedError).collect();
                    }
                }
            }
            existed.into_iter().map(unsubscribed).collect()
        }
        .boxed()
    }
}

impl Line {
    fn record(&self) -> Subscription {
        let options = &self.filter.options;
        Subscription {
            filter: self.filter.filter.to_string(),
            qos: u32::from(options.qos as u8),
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            identifier: self.subscriber.subscription_id.map_or(0, std::num::NonZeroU32::get),
            since: 0,
        }
    }
}

fn options(record: &Subscription) -> SubscribeOptions {
    SubscribeOptions {
        qos: match record.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        },
        no_local: record.no_local,
        retain_as_published: record.retain_as_published,
        // Matters only when subscribing.
        retain_handling: RetainHandling::DoNotSend,
    }
}

fn codes(lines: &[Line], routed: &[bool]) -> Vec<ReasonCode> {
    let code = |(line, routed): (&Line, &bool)| {
        if *routed { granted(line.filter.options.qos) } else { ReasonCode::UnspecifiedError }
    };
    lines.iter().zip(routed).map(code).collect()
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}

fn unsubscribed(existed: bool) -> ReasonCode {
    if existed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted }
}
