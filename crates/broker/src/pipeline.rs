//! The way of a publish from one publisher to everything that wants it, in order.
//!
//! A retained message is stored before it is routed (P5), so what the publisher sends behind it waits;
//! several may be on their way to disk. A full lane stops the pipeline until it has room: the publisher
//! is not read meanwhile. Nothing is routed while this node may not know all routes (it comes back, or was
//! declared down), and acknowledgements come out in the order in which messages went in, only while this
//! node holds its lease as the incarnation that routed them. Start at [`Pipeline::admit`].

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;
use zwerm_cluster::forward::{Lane, Target};
use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_cluster::{Cluster, ShardError};
use zwerm_routing::Destination;
use zwerm_wire::{QoS, ReasonCode, TopicFilter};

use crate::local::LocalSessions;
use crate::mailbox::Acceptance;
use crate::message::{Expiry, Message};
use crate::shared::{Pick, Picker};
use crate::targets::{Group, Resolver, Targets, wants};

/// Messages of one publisher that may wait for disk or lanes before it is not read any more.
const DEPTH: usize = 1_024;

#[derive(Debug)]
enum Stage {
    /// To be handed to the shard of its topic.
    ToStore(Arc<Message>),
    /// On its way to a quorum's disks.
    Storing(Arc<Message>, Receipt),
    /// To be routed.
    ToRoute(Arc<Message>),
    /// Some lanes were full: these are left.
    Stalled(Arc<Message>, Destinations, Option<Receipt>),
    /// Handed to everything that wants it.
    Routed(Option<Receipt>, ReasonCode),
}

/// Other nodes, and shards, that a message goes to.
type Destinations = SmallVec<[(Destination, Target); 4]>;

#[derive(Debug)]
struct Pending<T> {
    /// Who waits for the acknowledgement; `None` for QoS 0.
    token: Option<T>,
    stage: Stage,
    /// Only for one member of each of these shared subscriptions; `None`: for all that want it.
    only: Option<Box<[TopicFilter]>>,
    /// The incarnation of this node that routed it; `None`: not routed.
    routed_by: Option<u64>,
}

/// What has no room for the next message.
#[derive(Debug)]
enum Full {
    Lane(Arc<Lane>),
    Shard(u32),
}

/// The publishes of one publisher. `T` names a publish in its acknowledgement.
#[derive(Debug)]
pub(crate) struct Pipeline<T> {
    local: Arc<LocalSessions>,
    cluster: Cluster,
    resolver: Resolver,
    picker: Picker,
    bell: Bell,
    pending: VecDeque<Pending<T>>,
    /// Entries before this one are routed.
    routed: usize,
    /// What stops the pipeline.
    full: Option<Full>,
}

impl<T> Pipeline<T> {
    pub(crate) fn new(local: Arc<LocalSessions>, cluster: Cluster, bell: Bell) -> Self {
        let config = &local.config;
        let resolver = Resolver::new(config.overlapping, Some(cluster.clone()));
        let picker = Picker::new(config.shared_strategy);
        Self { local, cluster, resolver, picker, bell, pending: VecDeque::new(), routed: 0, full: None }
    }

    /// Takes a message; a token is given back by [`next_accepted`](Self::next_accepted).
    pub(crate) fn admit(&mut self, message: Arc<Message>, token: Option<T>) {
        let stage = if message.retain() { Stage::ToStore } else { Stage::ToRoute };
        self.push(Pending { token, stage: stage(message), only: None, routed_by: None });
    }

    /// Takes a message that only one member of each of these shared subscriptions gets.
    pub(crate) fn admit_for(&mut self, message: Arc<Message>, groups: Vec<TopicFilter>, token: Option<T>) {
        let only = Some(groups.into());
        self.push(Pending { token, stage: Stage::ToRoute(message), only, routed_by: None });
    }

    fn push(&mut self, pending: Pending<T>) {
        self.pending.push_back(pending);
        self.advance();
    }

    /// More should not be admitted now; see [`has_room`](Self::has_room).
    pub(crate) fn is_busy(&self) -> bool {
        self.full.is_some() || self.pending.len() >= DEPTH
    }

    /// Waits until the lane or shard that stops the pipeline may have room; for ever if none does. All else
    /// that makes room rings the bell. Cancel safe; follow with [`advance`](Self::advance).
    pub(crate) async fn has_room(&self) {
        match &self.full {
            Some(Full::Lane(lane)) => lane.wait_room().await,
            Some(Full::Shard(shard)) => self.cluster.wait_shard(*shard).await,
            None => std::future::pending().await,
        }
    }

    /// Moves everything as far as it goes.
    pub(crate) fn advance(&mut self) {
        self.full = None;
        self.store();
        while self.routed < self.pending.len() && self.route_next() {
            self.routed += 1;
        }
        while self.pending.front().is_some_and(|first| first.token.is_none() && first.stage.is_routed()) {
            self.pop();
        }
    }

    /// The next acknowledgement that is due.
    pub(crate) fn next_accepted(&mut self) -> Option<(T, ReasonCode)> {
        self.advance();
        loop {
            let first = self.pending.front()?;
            let Stage::Routed(receipt, reason) = &first.stage else { return None };
            let (reason, routed_by) = (*reason, first.routed_by);
            // The lease first: the incarnation that holds it is no older than the one that routes.
            let holds = self.cluster.lease.is_valid();
            let routing = self.cluster.lease.routing();
            let is_outdated = routed_by.is_some() && routing.is_some() && routing != routed_by;
            if !is_outdated {
                let is_complete = receipt.as_ref().is_none_or(Receipt::is_complete);
                if !is_complete || !holds || routing.is_none() {
                    return None;
                }
            }
            // What a dead incarnation routed is never acknowledged: its clients are being sent away.
            let token = self.pop()?.token.filter(|_| !is_outdated);
            if let Some(token) = token {
                return Some((token, reason));
            }
        }
    }

    fn pop(&mut self) -> Option<Pending<T>> {
        self.routed = self.routed.saturating_sub(1);
        self.pending.pop_front()
    }

    /// Hands retained messages to their shards, as soon as they come and in order.
    fn store(&mut self) {
        let now_ms = self.cluster.now_ms();
        for pending in self.pending.iter_mut().skip(self.routed) {
            let Stage::ToStore(message) = &pending.stage else { continue };
            let receipt = Receipt::new(self.bell.clone());
            match self.cluster.retain(message.topic(), || message.retained(now_ms), || receipt.ticket()) {
                Ok(()) => {
                    self.local.counters.retained.add(1);
                    pending.stage = Stage::Storing(Arc::clone(message), receipt);
                }
                // Its queue is full: the ones behind wait, too.
                Err(ShardError::Busy) => {
                    self.full = self.cluster.shard_of(message.topic()).map(Full::Shard);
                    return;
                }
                Err(_) => pending.stage = Stage::Routed(None, ReasonCode::ImplementationSpecificError),
            }
        }
    }

    /// Routes the entry at the cursor; false when it has to wait.
    fn route_next(&mut self) -> bool {
        // While its routes may be too old this node routes nothing: others are promised that it has the newest.
        let Some(incarnation) = self.cluster.lease.routing() else { return false };
        let Some(pending) = self.pending.get_mut(self.routed) else { return false };
        let acknowledged = pending.token.is_some();
        let only = pending.only.take();
        let begins = matches!(pending.stage, Stage::ToRoute(_) | Stage::Storing(..));
        if begins {
            pending.routed_by = Some(incarnation);
        }
        let placeholder = Stage::Routed(None, ReasonCode::Success);
        let stage = match std::mem::replace(&mut pending.stage, placeholder) {
            Stage::ToRoute(message) => self.route(message, only.as_deref(), acknowledged),
            Stage::Storing(message, receipt) if receipt.is_complete() => {
                if receipt.has_failed() {
                    Stage::Routed(None, ReasonCode::QuotaExceeded)
                } else {
                    self.route(message, None, acknowledged)
                }
            }
            Stage::Stalled(message, left, receipt) => self.forward(message, left, receipt),
            waiting => waiting,
        };
        let routed = stage.is_routed();
        if let Some(pending) = self.pending.get_mut(self.routed) {
            pending.stage = stage;
        }
        routed
    }

    /// Delivers here, forwards to other nodes and to the shards of durable sessions.
    fn route(&mut self, message: Arc<Message>, only: Option<&[TopicFilter]>, acknowledged: bool) -> Stage {
        if message.expiry(Instant::now()) == Expiry::Expired {
            self.local.counters.dropped_expired.add(1);
            return Stage::Routed(None, ReasonCode::Success);
        }
        let targets = self.resolver.resolve(message.topic(), &self.local.subscriptions);
        if targets.is_empty() {
            self.local.counters.unmatched.add(1);
            let kept = message.retain() || !acknowledged;
            return Stage::Routed(
                None,
                if kept { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers },
            );
        }
        let mut acceptance = Acceptance::new(&self.bell);
        let mut destinations = Destinations::new();
        // A repeat goes once more to where it may be missing: who has it knows it.
        if only.is_none() {
            if !self.local.is_repeat(&message, None) {
                self.local.deliver(&targets.local, &message, &mut acceptance);
            }
            destinations.extend(plain_destinations(&targets, &message));
        }
        let groups =
            targets.groups.iter().filter(|group| only.is_none_or(|only| only.contains(&group.filter)));
        for group in groups {
            match self.picker.pick(group, &message) {
                Some(Pick::Local(_)) if self.local.is_repeat(&message, Some(&group.filter)) => {}
                Some(Pick::Local(index)) => {
                    self.local.deliver_member(group, index, &message, &mut acceptance);
                }
                Some(Pick::Elsewhere(destination)) => add_group(&mut destinations, destination, group),
                None => {}
            }
        }
        let receipt = acceptance.into_receipt();
        self.forward(message, destinations, receipt)
    }

    /// Hands a message to the lanes of other nodes and the queues of shards, until one is full.
    fn forward(&mut self, message: Arc<Message>, mut left: Destinations, receipt: Option<Receipt>) -> Stage {
        let mut acceptance = Acceptance::continued(&self.bell, receipt);
        let qos = message.qos();
        while let Some((destination, target)) = left.last() {
            let full = match *destination {
                // No lane: the node is down, and with it the sessions that wanted the message.
                Destination::Node(node) => self.cluster.lanes.to(node).and_then(|lane| {
                    let ticket = || (qos != QoS::AtMostOnce).then(|| acceptance.ticket());
                    let pushed = lane.push(qos, target, message.body(Instant::now()), ticket);
                    pushed.is_err().then_some(Full::Lane(lane))
                }),
                Destination::Shard(shard) => {
                    let enqueue = || message.enqueue(target, self.cluster.now_ms());
                    match self.cluster.enqueue(shard, enqueue, || acceptance.ticket()) {
                        Ok(()) => None,
                        Err(ShardError::Busy) => Some(Full::Shard(shard)),
                        // The node is stopping: not accepted, so never acknowledged.
                        Err(_) => return Stage::Routed(None, ReasonCode::ImplementationSpecificError),
                    }
                }
            };
            if full.is_some() {
                self.full = full;
                return Stage::Stalled(message, left, acceptance.into_receipt());
            }
            left.pop();
        }
        Stage::Routed(acceptance.into_receipt(), ReasonCode::Success)
    }
}

impl Stage {
    fn is_routed(&self) -> bool {
        matches!(self, Self::Routed(..))
    }
}

/// Where plain subscribers elsewhere are reached.
fn plain_destinations(targets: &Targets, message: &Message) -> impl Iterator<Item = (Destination, Target)> {
    let qos = message.qos();
    let nodes = targets.nodes.iter().filter(move |(_, interest)| wants(*interest, qos));
    let nodes = nodes.map(|(node, _)| Destination::Node(*node));
    let shards = targets.shards.iter().filter(move |_| qos != QoS::AtMostOnce);
    let shards = shards.map(|shard| Destination::Shard(*shard));
    nodes.chain(shards).map(|destination| (destination, Target { plain: true, groups: Vec::new() }))
}

/// One member of the group, at that destination, gets the message too.
fn add_group(destinations: &mut Destinations, destination: Destination, group: &Group) {
    match destinations.iter_mut().find(|(known, _)| *known == destination) {
        Some((_, target)) => target.groups.push(group.filter.clone()),
        None => {
            let groups = vec![group.filter.clone()];
            destinations.push((destination, Target { plain: false, groups }));
        }
    }
}
