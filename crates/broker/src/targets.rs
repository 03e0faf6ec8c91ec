//! Where a topic goes: resolved once per topic and publisher, kept until a subscription or route changes.
//!
//! The answer is data; `pipeline.rs` and `inbound.rs` act on it. Start at [`Resolver::resolve`].

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use zwerm_cluster::{Cluster, NodeId};
use zwerm_routing::{Destination, Interest, Matches};
use zwerm_wire::{QoS, TopicFilter, TopicName};

use crate::config::Overlapping;
use crate::subscriptions::{SessionKey, Subscriber, Subscriptions};

/// Topics one publisher's cache holds; a full cache is emptied.
const CACHE: usize = 512;

/// One copy for one local client.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) qos: QoS,
    pub(crate) ids: SmallVec<[NonZeroU32; 1]>,
}

impl Copy {
    fn of(subscriber: &Arc<Subscriber>) -> Self {
        let ids = subscriber.subscription_id.into_iter().collect();
        Self { subscriber: Arc::clone(subscriber), qos: subscriber.options.qos, ids }
    }

    fn merge(&mut self, other: Self) {
        self.qos = self.qos.max(other.qos);
        self.ids.extend(other.ids);
    }

    fn merges_with(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.subscriber, &other.subscriber);
        // No Local and Retain As Published are of the subscription: copies that differ stay apart.
        ours.key == theirs.key
            && ours.options.no_local == theirs.options.no_local
            && ours.options.retain_as_published == theirs.options.retain_as_published
    }
}

impl Copy {
    /// With what quality of service its client gets a message, if it comes through the mailbox.
    pub(crate) fn qos_of(&self, published: QoS) -> Option<QoS> {
        let qos = published.min(self.qos);
        self.subscriber.takes(qos).then_some(qos)
    }
}

/// A shared subscription that matched.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) filter: TopicFilter,
    /// Members of this node.
    pub(crate) local: Box<[Copy]>,
    /// Other nodes with members, and shards with durable ones (those connected to this node included).
    pub(crate) elsewhere: Box<[(Destination, Interest)]>,
}

/// Whether a node is sent what is published with this quality of service.
pub(crate) fn wants(interest: Interest, published: QoS) -> bool {
    !interest.only_qos0 || published == QoS::AtMostOnce
}

/// Nodes, each with how it wants a topic.
type Nodes = SmallVec<[(NodeId, Interest); 4]>;
type Shards = SmallVec<[u32; 4]>;

/// Everything that wants a topic.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(crate) local: Box<[Copy]>,
    /// Other nodes with plain subscribers.
    pub(crate) nodes: Nodes,
    /// Shards with plain subscribers that are durable.
    pub(crate) shards: Shards,
    pub(crate) groups: Box<[Group]>,
}

impl Targets {
    pub(crate) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.nodes.is_empty() && self.shards.is_empty() && self.groups.is_empty()
    }
}

/// The cache of one publisher. Empty, it allocates nothing.
#[derive(Debug)]
pub(crate) struct Resolver {
    overlapping: Overlapping,
    /// `None`: resolves only what is on this node, for messages that were routed elsewhere.
    cluster: Option<Cluster>,
    generations: (u64, u64),
    cache: HashMap<TopicName, Arc<Targets>, RandomState>,
    local: Matches<SessionKey, Arc<Subscriber>>,
    routes: Matches<Destination, Interest>,
}

impl Resolver {
    pub(crate) fn new(overlapping: Overlapping, cluster: Option<Cluster>) -> Self {
        let (local, routes) = (Matches::new(), Matches::new());
        Self { overlapping, cluster, generations: (0, 0), cache: HashMap::default(), local, routes }
    }

    /// The targets of a topic.
    pub(crate) fn resolve(&mut self, topic: &TopicName, subscriptions: &Subscriptions) -> Arc<Targets> {
        let routed = self.cluster.as_ref().map_or(0, |cluster| cluster.control.generation());
        let generations = (subscriptions.generation(), routed);
        if generations != self.generations {
            self.cache.clear();
            self.generations = generations;
        }
        if let Some(targets) = self.cache.get(topic) {
            return Arc::clone(targets);
        }
        let targets = Arc::new(self.look_up(topic, subscriptions));
        if self.cache.len() >= CACHE {
            self.cache.clear();
        }
        self.cache.insert(topic.detached(), Arc::clone(&targets));
        targets
    }

    fn look_up(&mut self, topic: &TopicName, subscriptions: &Subscriptions) -> Targets {
        self.local.clear();
        self.routes.clear();
        subscriptions.snapshot().matches(topic, &mut self.local);
        if let Some(cluster) = &self.cluster {
            cluster.control.routes().matches(topic, &mut self.routes);
        }
        let (nodes, shards) = self.elsewhere();
        let targets = Targets { local: self.copies(), nodes, shards, groups: self.groups() };
        // The buffers hold handles of subscribers: let go of them.
        self.local.clear();
        targets
    }

    /// Nodes and shards with plain subscribers, each once however many of its filters match.
    fn elsewhere(&self) -> (Nodes, Shards) {
        let own = self.cluster.as_ref().map(|cluster| cluster.own.id);
        let (mut nodes, mut shards) = (Nodes::new(), Shards::new());
        for &(destination, interest) in &self.routes.plain {
            match destination {
                Destination::Node(node) if Some(node) != own => {
                    match nodes.iter_mut().find(|(known, _)| *known == node) {
                        Some((_, known)) => known.only_qos0 &= interest.only_qos0,
                        None => nodes.push((node, interest)),
                    }
                }
                Destination::Node(_) => {}
                Destination::Shard(shard) => shards.push(shard),
            }
        }
        nodes.sort_unstable();
        shards.sort_unstable();
        shards.dedup();
        (nodes, shards)
    }

    fn copies(&self) -> Box<[Copy]> {
        let mut copies: Vec<Copy> =
            self.local.plain.iter().map(|(_, subscriber)| Copy::of(subscriber)).collect();
        if self.overlapping == Overlapping::Merged {
            copies.sort_by_key(|copy| copy.subscriber.key);
            let mut merged: Vec<Copy> = Vec::with_capacity(copies.len());
            for copy in copies {
                match merged.last_mut().filter(|last| last.merges_with(&copy)) {
                    Some(last) => last.merge(copy),
                    None => merged.push(copy),
                }
            }
            copies = merged;
        }
        copies.into()
    }

    /// Groups with members here, elsewhere, or both.
    fn groups(&self) -> Box<[Group]> {
        let own = self.cluster.as_ref().map(|cluster| Destination::Node(cluster.own.id));
        let others = |filter: &TopicFilter| -> Box<[(Destination, Interest)]> {
            let elsewhere = self.routes.shared.iter().filter(|group| group.filter == *filter);
            elsewhere
                .flat_map(|group| group.members.iter().copied())
                .filter(|(destination, _)| Some(*destination) != own)
                .collect()
        };
        let group = |filter: &TopicFilter, local: Box<[Copy]>| Group {
            filter: filter.clone(),
            elsewhere: others(filter),
            local,
        };
        let here = self.local.shared.iter().map(|matched| {
            let copies = matched.members.iter().map(|(_, subscriber)| Copy::of(subscriber)).collect();
            group(&matched.filter, copies)
        });
        let is_here =
            |filter: &TopicFilter| self.local.shared.iter().any(|matched| matched.filter == *filter);
        let elsewhere = self.routes.shared.iter().filter(|matched| !is_here(&matched.filter));
        let elsewhere = elsewhere.map(|matched| group(&matched.filter, Box::default()));
        here.chain(elsewhere).filter(|group| !group.local.is_empty() || !group.elsewhere.is_empty()).collect()
    }
}
