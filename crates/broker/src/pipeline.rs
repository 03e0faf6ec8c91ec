//! The way of a publish from one publisher to everything that wants it, in order.
//!
//! A retained message is stored before it is routed (P5), so what the publisher sends behind it waits;
//! several may be on their way to disk. A full lane stops the pipeline until it has room: the publisher
//! is not read meanwhile. Nothing is routed while this node may not know all routes (it comes back, or was
//! declared down), and acknowledgements come out in the order in which messages went in, only while this
//! node holds its lease as the incarnation that routed them. A pipeline routes as one incarnation: what an older
//! one routed may have missed subscribers, comes again from elsewhere, and must not come behind what followed it
//! (P9).
//!
//! Exactly once for shared subscriptions too: a QoS 2 message goes to one member, whatever fails. Where one of a
//! shard's outbox goes is noted in the shard before it goes there, so that a second leader, who publishes it again,
//! sends it to the same. What another node may have taken before it was declared down goes to nobody else before that
//! is known (`cluster/src/forward/doubts.rs`). Start at [`Pipeline::admit`].

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;
use zwerm_cluster::forward::{Lane, Target};
use zwerm_cluster::receipt::{Bell, Receipt, Ticket};
use zwerm_cluster::{Cluster, NodeId, ShardError};
use zwerm_machine::records::{self, Refusal};
use zwerm_machine::{Picked, Place};
use zwerm_routing::Destination;
use zwerm_wire::{QoS, ReasonCode, TopicFilter};

use crate::delayed::{Delayed, Malformed};
use crate::local::LocalSessions;
use crate::mailbox::Acceptance;
use crate::message::{Message, Through};
use crate::shared::{Pick, Picker};
use crate::targets::{Group, Resolver, Targets, wants};

/// Messages of one publisher that may wait for disk or lanes before it is not read any more.
const DEPTH: usize = 1_024;

#[derive(Debug)]
enum Stage {
    /// To be handed to the shard of its topic.
    ToStore(Arc<Message>),
    /// To be handed to the shard of the topic that it is published to later.
    ToDelay(Box<(Arc<Message>, Delayed)>),
    /// On its way to a quorum's disks, and nowhere else.
    Delaying(Receipt),
    /// On its way to a quorum's disks.
    Storing(Arc<Message>, Receipt),
    /// To be routed.
    ToRoute(Arc<Message>),
    /// Where it goes of shared subscriptions is on its way to a quorum's disks.
    Picking(Arc<Message>, Receipt),
    /// It cannot be published now, and its publisher does so again.
    Void,
    /// Some lanes were full: these are left.
    Stalled(Box<Stalled>),
    /// Handed to everything that wants it.
    Routed(Routed),
}

/// A message that is handed to some of what wants it.
#[derive(Debug)]
struct Stalled {
    message: Arc<Message>,
    left: Destinations,
    routed: Routed,
}

/// What a message waits for that was handed to everything that wants it.
#[derive(Debug)]
struct Routed {
    receipt: Option<Receipt>,
    reason: ReasonCode,
    /// What was handed to members of shared subscriptions on other nodes.
    shared: Option<Box<Shared>>,
}

/// A member's node may die before it has accepted: then another member is picked.
#[derive(Debug)]
struct Shared {
    message: Arc<Message>,
    handed: SmallVec<[(Receipt, Vec<TopicFilter>); 1]>,
}

impl Routed {
    fn done(reason: ReasonCode) -> Self {
        Self { receipt: None, reason, shared: None }
    }

    /// Everything has accepted or refused.
    fn is_complete(&self) -> bool {
        let handed = self.shared.iter().flat_map(|shared| &shared.handed);
        let mut receipts = self.receipt.iter().chain(handed.map(|(receipt, _)| receipt));
        receipts.all(Receipt::is_complete)
    }

    /// Shared subscriptions whose picked member is gone, with its node.
    fn bereft(&self) -> Option<(Arc<Message>, Vec<TopicFilter>)> {
        let shared = self.shared.as_ref()?;
        let refused = shared.handed.iter().filter(|(receipt, _)| receipt.has_failed());
        let groups: Vec<TopicFilter> = refused.flat_map(|(_, groups)| groups.clone()).collect();
        (!groups.is_empty()).then(|| (Arc::clone(&shared.message), groups))
    }

    /// What the publisher is told.
    fn reason(&self) -> ReasonCode {
        match self.receipt.as_ref().and_then(Receipt::refusal) {
            None => self.reason,
            Some(Refusal::Busy) => ReasonCode::ServerBusy,
            Some(_) => ReasonCode::ImplementationSpecificError,
        }
    }
}

/// Other nodes, and shards, that a message goes to.
type Destinations = SmallVec<[(Destination, Target, Option<Meant>); 4]>;

/// Which incarnation of a node was picked for a QoS 2 message of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meant {
    incarnation: u64,
    /// By another leader of the shard, who may have sent it there.
    again: bool,
}

#[derive(Debug)]
struct Pending<T> {
    /// Who waits for the acknowledgement; `None` for QoS 0.
    token: Option<T>,
    stage: Stage,
    /// Only for one member of each of these shared subscriptions; `None`: for all that want it.
    only: Option<Box<[TopicFilter]>>,
    /// Where a QoS 2 message of an outbox goes of shared subscriptions, as far as that is noted.
    picks: Picks,
}

/// Where a QoS 2 message of an outbox goes of shared subscriptions.
#[derive(Debug, Default)]
struct Picks {
    noted: Vec<Picked>,
    /// Some were noted before it came here: another leader of the shard may have sent it.
    again: bool,
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
    /// The incarnation of this node that it routes as; `None`: as whichever there is.
    incarnation: Option<u64>,
    /// Of the publisher's connection; 0: there is none.
    epoch: u64,
    pending: VecDeque<Pending<T>>,
    /// Entries before this one are routed.
    routed: usize,
    /// What stops the pipeline.
    full: Option<Full>,
    /// A message was not published, and is to be taken again: so is all that came behind it, or it would overtake (P9).
    is_over: bool,
}

impl<T> Pipeline<T> {
    /// Of a publisher that belongs to this incarnation of the node; `None`: of messages that come from no publisher
    /// any more, in no order.
    pub(crate) fn new(
        local: Arc<LocalSessions>,
        cluster: Cluster,
        bell: Bell,
        incarnation: Option<u64>,
    ) -> Self {
        let config = &local.config;
        let resolver = Resolver::new(config.overlapping, Some(cluster.clone()));
        let picker = Picker::new(config.shared_strategy);
        Self {
            local,
            cluster,
            resolver,
            picker,
            bell,
            incarnation,
            epoch: 0,
            pending: VecDeque::new(),
            routed: 0,
            full: None,
            is_over: false,
        }
    }

    /// Of the connection with this epoch.
    pub(crate) fn of_connection(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }

    /// Takes a message; a token is given back by [`take_accepted`](Self::take_accepted).
    pub(crate) fn admit(&mut self, message: Arc<Message>, token: Option<T>) {
        self.push(Pending { token, stage: Stage::of(message), only: None, picks: Picks::default() });
    }

    /// Takes a message of a shard's outbox: for all that want it, or for one member of each of these shared
    /// subscriptions only; with where it goes of shared subscriptions, as far as that is noted in the shard. Dropped
    /// with its token, it is to be taken again, by a new pipeline; this one drops all that comes behind it.
    pub(crate) fn admit_of_outbox(
        &mut self,
        message: Arc<Message>,
        (only, noted): (Option<Vec<TopicFilter>>, Vec<Picked>),
        token: T,
    ) {
        let picks = Picks { again: !noted.is_empty(), noted };
        let stage = if only.is_some() { Stage::ToRoute(message) } else { Stage::of(message) };
        self.push(Pending { token: Some(token), stage, only: only.map(Into::into), picks });
    }

    /// Takes a message that only one member of each of these shared subscriptions gets.
    pub(crate) fn admit_for(&mut self, message: Arc<Message>, groups: Vec<TopicFilter>, token: Option<T>) {
        let only = Some(groups.into());
        self.push(Pending { token, stage: Stage::ToRoute(message), only, picks: Picks::default() });
    }

    /// Refuses a message, in its turn.
    pub(crate) fn refuse(&mut self, reason: ReasonCode, token: Option<T>) {
        self.push(Pending { token, stage: Stage::done(reason), only: None, picks: Picks::default() });
    }

    fn push(&mut self, pending: Pending<T>) {
        if self.is_over {
            return;
        }
        self.pending.push_back(pending);
        self.advance();
    }

    /// More should not be admitted now; see [`has_room`](Self::has_room).
    pub(crate) fn is_busy(&self) -> bool {
        self.full.is_some() || self.pending.len() >= DEPTH
    }

    /// A lane or shard stops it; see [`has_room`](Self::has_room).
    pub(crate) fn is_stopped(&self) -> bool {
        self.full.is_some()
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
        let routing = self.cluster.lease.routing();
        if self.incarnation.is_some_and(|own| routing.is_some_and(|routing| routing != own)) {
            // A newer incarnation routes. What is never acknowledged is sent again, in order, and elsewhere.
            self.pending.clear();
            self.routed = 0;
        }
        self.store();
        while self.routed < self.pending.len() && self.route_next() {
            self.routed += 1;
        }
        while self.pending.front().is_some_and(|first| first.token.is_none() && first.stage.is_routed()) {
            self.pop();
        }
    }

    /// Whether this node knows all routes, as the incarnation of this pipeline. While it may not it routes nothing:
    /// others are promised that it has the newest; and what it routed it does not acknowledge.
    fn routes(&self) -> bool {
        let routing = self.cluster.lease.routing();
        routing.is_some_and(|routing| self.incarnation.is_none_or(|own| own == routing))
    }

    /// Hands out the acknowledgements that are due, in order. Whether this node may acknowledge is looked at once for
    /// all of them: they are to be given before anything else is waited for.
    pub(crate) fn take_accepted(&mut self, mut each: impl FnMut(T, ReasonCode)) {
        self.advance();
        // The lease first: the incarnation that holds it is no older than the one that routes.
        if self.pending.is_empty() || !(self.cluster.lease.is_valid() && self.routes()) {
            return;
        }
        while let Some((token, reason)) = self.next_accepted() {
            each(token, reason);
        }
    }

    fn next_accepted(&mut self) -> Option<(T, ReasonCode)> {
        loop {
            let first = self.pending.front()?;
            let Stage::Routed(routed) = &first.stage else { return None };
            let reason = routed.reason();
            let is_complete = routed.is_complete();
            #[cfg(feature = "sabotage")]
            let is_complete =
                is_complete || zwerm_sabotage::is_broken(zwerm_sabotage::Rule::AcknowledgeWhenSafe);
            if !is_complete {
                return None;
            }
            if let Some((message, groups)) = routed.bereft() {
                self.route_again(message, &groups, reason);
                // Whatever it waits for now rings the bell.
                return None;
            }
            if let Some(token) = self.pop()?.token {
                return Some((token, reason));
            }
        }
    }

    /// Gives the first message to other members of these shared subscriptions.
    fn route_again(&mut self, message: Arc<Message>, groups: &[TopicFilter], reason: ReasonCode) {
        self.local.counters.redispatched.add(1);
        let mut stage = self.route(message, Some(groups), &Picks::default(), true);
        // That nobody is left is no news to a publisher whose message went to others, too.
        match &mut stage {
            Stage::Routed(routed) => routed.reason = reason,
            Stage::Stalled(stalled) => stalled.routed.reason = reason,
            _ => {}
        }
        if let Some(first) = self.pending.front_mut() {
            // Those behind it are routed: the cursor passes them once this one is.
            first.stage = stage;
            self.routed = 0;
        }
        self.bell.ring();
    }

    fn pop(&mut self) -> Option<Pending<T>> {
        self.routed = self.routed.saturating_sub(1);
        self.pending.pop_front()
    }

    /// Hands retained and delayed messages to their shards, as soon as they come and in order.
    fn store(&mut self) {
        let (node, incarnation, epoch) =
            (self.cluster.own.id, self.incarnation.unwrap_or_default(), self.epoch);
        let through = Through { node, incarnation, epoch };
        let (cluster, counters) = (&self.cluster, &self.local.counters);
        for pending in self.pending.iter_mut().skip(self.routed) {
            let (topic, handed) = match &pending.stage {
                Stage::ToStore(message) => {
                    let (topic, receipt) = (message.topic(), Receipt::new(self.bell.clone()));
                    let retained = cluster.retain(
                        topic,
                        || message.retained(cluster.now_ms(), through),
                        || receipt.ticket(),
                    );
                    let storing = retained.map(|()| {
                        counters.retained.add(1);
                        Stage::Storing(Arc::clone(message), receipt)
                    });
                    (topic, storing)
                }
                Stage::ToDelay(delay) => {
                    let ((message, delayed), receipt) = (&**delay, Receipt::new(self.bell.clone()));
                    let shard = cluster.shard_of(&delayed.topic).ok_or(ShardError::Unavailable);
                    let record = || message.delayed(delayed, cluster.now_ms());
                    let kept = shard.and_then(|shard| cluster.delay(shard, record, || receipt.ticket()));
                    let delaying = kept.map(|()| {
                        counters.delayed.add(1);
                        Stage::Delaying(receipt)
                    });
                    (&delayed.topic, delaying)
                }
                _ => continue,
            };
            match handed {
                Ok(stage) => pending.stage = stage,
                // Its queue is full: the ones behind wait, too.
                Err(ShardError::Busy) => {
                    self.full = cluster.shard_of(topic).map(Full::Shard);
                    return;
                }
                Err(_) => pending.stage = Stage::done(ReasonCode::ImplementationSpecificError),
            }
        }
    }

    /// Routes the entry at the cursor; false when it has to wait.
    fn route_next(&mut self) -> bool {
        if !self.routes() {
            return false;
        }
        let Some(pending) = self.pending.get_mut(self.routed) else { return false };
        let acknowledged = pending.token.is_some();
        let (only, mut picks) = (pending.only.take(), std::mem::take(&mut pending.picks));
        let placeholder = Stage::done(ReasonCode::Success);
        let stage = match std::mem::replace(&mut pending.stage, placeholder) {
            Stage::ToRoute(message) => self.pick(message, only.as_deref(), &mut picks, acknowledged),
            Stage::Picking(message, receipt) if receipt.is_complete() => {
                if receipt.has_failed() {
                    Stage::Void
                } else {
                    self.route(message, only.as_deref(), &picks, acknowledged)
                }
            }
            Stage::Storing(message, receipt) if receipt.is_complete() => {
                if receipt.has_failed() {
                    Stage::done(ReasonCode::QuotaExceeded)
                } else {
                    self.pick(message, None, &mut picks, acknowledged)
                }
            }
            Stage::Delaying(receipt) if receipt.is_complete() => Stage::done(if receipt.has_failed() {
                ReasonCode::QuotaExceeded
            } else {
                ReasonCode::Success
            }),
            Stage::Stalled(stalled) => self.forward(stalled.message, stalled.left, stalled.routed),
            waiting => waiting,
        };
        let Some(pending) = self.pending.get_mut(self.routed) else { return false };
        if matches!(stage, Stage::Void) {
            self.pending.truncate(self.routed);
            self.is_over = true;
            return false;
        }
        let routed = stage.is_routed();
        (pending.stage, pending.only, pending.picks) = (stage, only, picks);
        routed
    }

    /// Decides where a QoS 2 message of an outbox goes of shared subscriptions, and has it noted before it goes there;
    /// routes any other message, and one of which all is noted.
    fn pick(
        &mut self,
        message: Arc<Message>,
        only: Option<&[TopicFilter]>,
        picks: &mut Picks,
        acknowledged: bool,
    ) -> Stage {
        let origin = message.origin().filter(|_| message.qos() == QoS::ExactlyOnce);
        #[cfg(feature = "sabotage")]
        let origin = origin.filter(|_| !zwerm_sabotage::is_broken(zwerm_sabotage::Rule::PickOnce));
        let Some(origin) = origin else {
            return self.route(message, only, &Picks::default(), acknowledged);
        };
        let targets = self.resolver.resolve(message.topic(), &self.local.subscriptions);
        let (own, lanes) = (&self.cluster.own, &self.cluster.lanes);
        let mut fresh: Vec<Picked> = Vec::new();
        for group in targets.groups.iter().filter(|group| is_among(group, only) && !is_picked(group, picks)) {
            let picked = self.picker.pick(group, &message, |node| lanes.to(node).is_some());
            let at = match picked {
                Some(Pick::Local(_)) => {
                    let incarnation = self.incarnation.unwrap_or_else(|| own.incarnation());
                    Some(Place::Node { id: own.id, incarnation })
                }
                Some(Pick::Elsewhere(Destination::Node(id))) => {
                    lanes.to(id).map(|lane| Place::Node { id, incarnation: lane.incarnation() })
                }
                Some(Pick::Elsewhere(Destination::Shard(shard))) => Some(Place::Shard(shard)),
                None => None,
            };
            fresh.extend(at.map(|at| Picked { group: group.filter.clone(), at }));
        }
        if fresh.is_empty() || message.has_expired(Instant::now) {
            return self.route(message, only, picks, acknowledged);
        }
        let receipt = Receipt::new(self.bell.clone());
        let (sequence, noted) = (origin.sequence, fresh.iter().map(Picked::record).collect());
        let pick = || records::Pick { sequence, picks: noted };
        match self.cluster.pick(origin.shard, pick, || receipt.ticket()) {
            Ok(()) => {
                picks.noted.append(&mut fresh);
                Stage::Picking(message, receipt)
            }
            Err(ShardError::Busy) => {
                self.full = Some(Full::Shard(origin.shard));
                Stage::ToRoute(message)
            }
            Err(_) => Stage::Void,
        }
    }

    /// Delivers here, forwards to other nodes and to the shards of durable sessions.
    fn route(
        &mut self,
        message: Arc<Message>,
        only: Option<&[TopicFilter]>,
        picks: &Picks,
        acknowledged: bool,
    ) -> Stage {
        if message.has_expired(Instant::now) {
            self.local.counters.dropped_expired.add(1);
            return Stage::done(ReasonCode::Success);
        }
        let targets = self.resolver.resolve(message.topic(), &self.local.subscriptions);
        if targets.is_empty() && picks.noted.is_empty() {
            self.local.counters.unmatched.add(1);
            let kept = message.retain() || !acknowledged;
            return Stage::done(if kept { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers });
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
        picks.noted.iter().for_each(|picked| {
            let into = (&mut destinations, &mut acceptance);
            self.hand_to((picked, picks.again), &message, &targets, into);
        });
        let groups = targets.groups.iter().filter(|group| is_among(group, only) && !is_picked(group, picks));
        let lanes = &self.cluster.lanes;
        for group in groups {
            match self.picker.pick(group, &message, |node| lanes.to(node).is_some()) {
                Some(Pick::Local(_)) if self.local.is_repeat(&message, Some(&group.filter)) => {}
                Some(Pick::Local(index)) => {
                    self.local.deliver_member(group, index, &message, &mut acceptance);
                }
                Some(Pick::Elsewhere(destination)) => {
                    add_group(&mut destinations, (destination, None), &group.filter);
                }
                None => {}
            }
        }
        let routed = Routed { receipt: acceptance.into_receipt(), ..Routed::done(ReasonCode::Success) };
        self.forward(message, destinations, routed)
    }

    /// Hands a message to where it was picked to go of a shared subscription; who has it there knows it.
    fn hand_to(
        &self,
        (picked, again): (&Picked, bool),
        message: &Arc<Message>,
        targets: &Targets,
        (destinations, acceptance): (&mut Destinations, &mut Acceptance<'_>),
    ) {
        let (own, filter) = (&self.cluster.own, &picked.group);
        match picked.at {
            Place::Shard(shard) => add_group(destinations, (Destination::Shard(shard), None), filter),
            Place::Node { id, incarnation } if id != own.id => {
                let meant = Some(Meant { incarnation, again });
                add_group(destinations, (Destination::Node(id), meant), filter);
            }
            // This node has been started again since: a member that is gone may have been sent it.
            Place::Node { incarnation, .. } if incarnation < own.boot_incarnation => self.cluster.give_up(),
            Place::Node { .. } if self.local.is_repeat(message, Some(filter)) => {}
            Place::Node { .. } => {
                let group = targets.groups.iter().find(|group| group.filter == *filter);
                match group.filter(|group| !group.local.is_empty()) {
                    Some(group) => {
                        let turn = message.origin().map_or(0, |origin| origin.sequence);
                        let index = usize::try_from(turn).unwrap_or_default() % group.local.len();
                        self.local.deliver_member(group, index, message, acceptance);
                    }
                    None => self.local.pass_on(message, filter),
                }
            }
        }
    }

    /// Hands a message to the lanes of other nodes and the queues of shards, until one is full.
    fn forward(&mut self, message: Arc<Message>, mut left: Destinations, mut routed: Routed) -> Stage {
        let mut acceptance = Acceptance::continued(&self.bell, routed.receipt.take());
        let mut full = None;
        let is_sole = left.len() == 1;
        while let Some((destination, target, meant)) = left.last() {
            full = match *destination {
                Destination::Node(node)
                    if target.groups.is_empty() || message.qos() == QoS::AtMostOnce || meant.is_some() =>
                {
                    self.to_lane((node, *meant), (target, is_sole), &message, || acceptance.ticket())
                }
                Destination::Node(node) => {
                    let receipt = Receipt::new(self.bell.clone());
                    let full = self.to_lane((node, None), (target, is_sole), &message, || receipt.ticket());
                    if full.is_none() {
                        routed.handed(&message, receipt, target.groups.clone());
                    }
                    full
                }
                Destination::Shard(shard) => {
                    let enqueue = || message.enqueue(target, self.cluster.now_ms());
                    match self.cluster.enqueue(shard, enqueue, || acceptance.ticket()) {
                        Ok(()) => None,
                        Err(ShardError::Busy) => Some(Full::Shard(shard)),
                        // The node is stopping: not accepted, so never acknowledged.
                        Err(_) => return Stage::done(ReasonCode::ImplementationSpecificError),
                    }
                }
            };
            if full.is_some() {
                break;
            }
            left.pop();
        }
        routed.receipt = acceptance.into_receipt();
        self.full = full;
        match self.full {
            Some(_) => Stage::Stalled(Box::new(Stalled { message, left, routed })),
            None => Stage::Routed(routed),
        }
    }

    /// Hands a message to a lane; `Some` if that is full. A lane that is closed, or is not there, accepts for plain
    /// subscribers (they went with their node) and refuses for members of shared subscriptions; but what was picked to
    /// go to one incarnation of a node, and may have come there before, goes to nobody else before that is known.
    fn to_lane(
        &self,
        (node, meant): (NodeId, Option<Meant>),
        (target, is_sole): (&Target, bool),
        message: &Message,
        mut ticket: impl FnMut() -> Ticket,
    ) -> Option<Full> {
        let qos = message.qos();
        if qos == QoS::AtMostOnce && !message.expires() {
            self.cluster.lanes.with(node, |lane| lane.post(target, &message.outgoing(Instant::now)));
            return None;
        }
        let is_meant = |lane: &Arc<Lane>| meant.is_none_or(|meant| meant.incarnation == lane.incarnation());
        let Some(lane) = self.cluster.lanes.to(node).filter(is_meant) else {
            if let Some(Meant { incarnation, again }) = meant {
                for group in &target.groups {
                    let body = message.body(false, Instant::now);
                    self.cluster.doubt((node, incarnation), again, group.clone(), body);
                }
                return None;
            }
            if qos != QoS::AtMostOnce && !target.groups.is_empty() {
                ticket().refuse();
            }
            return None;
        };
        let ticket = || (qos != QoS::AtMostOnce).then(&mut ticket);
        let body = message.body(is_sole, Instant::now);
        let pushed = match meant {
            Some(Meant { again: true, .. }) => lane.push_again(target, body, ticket),
            _ => lane.push(qos, target, body, ticket),
        };
        pushed.is_err().then_some(Full::Lane(lane))
    }
}

impl Routed {
    /// Members of these groups, on another node, were handed the message.
    fn handed(&mut self, message: &Arc<Message>, receipt: Receipt, groups: Vec<TopicFilter>) {
        let shared = self.shared.get_or_insert_with(|| {
            Box::new(Shared { message: Arc::clone(message), handed: SmallVec::new() })
        });
        shared.handed.push((receipt, groups));
    }
}

impl Stage {
    fn of(message: Arc<Message>) -> Self {
        match Delayed::of(message.topic()) {
            Some(Ok(delayed)) => Self::ToDelay(Box::new((message, delayed))),
            Some(Err(Malformed)) => Self::done(ReasonCode::TopicNameInvalid),
            None if message.retain() => Self::ToStore(message),
            None => Self::ToRoute(message),
        }
    }

    fn done(reason: ReasonCode) -> Self {
        Self::Routed(Routed::done(reason))
    }

    fn is_routed(&self) -> bool {
        matches!(self, Self::Routed(..))
    }
}

/// Where plain subscribers elsewhere are reached.
fn plain_destinations(
    targets: &Targets,
    message: &Message,
) -> impl Iterator<Item = (Destination, Target, Option<Meant>)> {
    let qos = message.qos();
    let nodes = targets.nodes.iter().filter(move |(_, interest)| wants(*interest, qos));
    let nodes = nodes.map(|(node, _)| Destination::Node(*node));
    let shards = targets.shards.iter().filter(move |_| qos != QoS::AtMostOnce);
    let shards = shards.map(|shard| Destination::Shard(*shard));
    nodes.chain(shards).map(|destination| (destination, Target { plain: true, groups: Vec::new() }, None))
}

/// One member of the group, at that destination and incarnation, gets the message too.
fn add_group(
    destinations: &mut Destinations,
    (destination, meant): (Destination, Option<Meant>),
    filter: &TopicFilter,
) {
    let found = destinations.iter_mut().find(|known| (known.0, known.2) == (destination, meant));
    match found {
        Some((_, target, _)) => target.groups.push(filter.clone()),
        None => {
            let groups = vec![filter.clone()];
            destinations.push((destination, Target { plain: false, groups }, meant));
        }
    }
}

fn is_among(group: &Group, only: Option<&[TopicFilter]>) -> bool {
    only.is_none_or(|only| only.contains(&group.filter))
}

fn is_picked(group: &Group, picks: &Picks) -> bool {
    picks.noted.iter().any(|picked| picked.group == group.filter)
}
