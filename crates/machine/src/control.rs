//! The control group's state: cluster, nodes, placement, routes. Knows no clients and no messages.
//!
//! Start at [`Control::apply`]; who belongs to the cluster and who holds what is in `membership.rs`, its bytes are in
//! `control_snapshot.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use zwerm_routing::{Destination, Interest, RouteTable};
use zwerm_wire::TopicFilter;

use crate::level::{Level, check_beginning, said, said_replicas};
use crate::limits::{MAX_NODES, MAX_ROUTES, MAX_SHARDS, MAX_TEXT};
use crate::records::control_command::Command;
use crate::records::control_reply::Reply;
use crate::records::{
    Applied, ControlCommand, ControlReply, Form, Ignored, Node, NodeDown, NodeUp, Placement, Refusal, Route,
    Routes, ShardRoute, ShardRoutes,
};

/// The state of the control group. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// `None` until formed.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: OrdMap<u64, Arc<Member>>,
    /// Nodes that were removed, in that order.
    pub(crate) removed: Vector<u64>,
    pub(crate) routes: RouteTable,
    /// By shard; one that never published is not here.
    pub(crate) published: OrdMap<u32, Published>,
}

/// What the cluster was formed as, and who holds what.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    /// By shard, one for each.
    pub(crate) placement: Vec<Placement>,
    pub(crate) level: Level,
    /// That a shard is to have.
    pub(crate) replicas: u32,
}

impl Cluster {
    /// What is said of level and replicas by who knows neither is 0.
    pub(crate) fn new(id: String, placement: Vec<Placement>, level: u32, replicas: u32) -> Self {
        Self { id, placement, level: said(level), replicas: said_replicas(replicas) }
    }
}

/// A node and what only this machine needs to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) node: Node,
    /// Of the current incarnation; 0 = none yet.
    pub(crate) routes_version: u64,
    /// The current incarnation is dead: only a newer one brings the node back.
    pub(crate) lost: bool,
    /// No incarnation brings the node back.
    pub(crate) removing: bool,
}

impl Member {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, routes_version: 0, lost: false, removing: false }
    }
}

/// How far a shard's routes have come.
///
/// Whoever takes itself for the shard's leader publishes the difference between its state and the route table
/// as it knows it. `commands` makes sure that this was the table: of two that compute from the same table one
/// wins, the other looks again. `begun` makes sure that nobody leads the table back: what is older than
/// anything that came before is ignored, also while the newer version is not complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// Commands applied: the `base` of the next one.
    pub commands: u64,
    /// The table holds exactly the shard's routes of this version, or this and a part of the next; 0 = none.
    pub version: u64,
    /// The newest version of which something came.
    pub begun: u64,
}

impl Control {
    /// Not formed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one command of the log.
    pub fn apply(&mut self, command: &ControlCommand) -> ControlReply {
        let outcome = match &command.command {
            None => Err(Refusal::UnknownCommand),
            Some(Command::Form(form)) => self.form(form, command.at_ms),
            Some(_) if self.cluster.is_none() => Err(Refusal::NotFormed),
            Some(Command::NodeUp(up)) => self.node_up(up, command.at_ms),
            Some(Command::NodeDown(down)) => self.node_down(down, command.at_ms),
            Some(Command::Routes(routes)) => self.set_routes(routes),
            Some(Command::ShardRoutes(routes)) => self.set_shard_routes(routes),
            Some(Command::Join(join)) => self.join(join, command.at_ms),
            Some(Command::Leave(leave)) => self.leave(leave),
            Some(Command::Removed(removed)) => self.remove(removed),
            Some(Command::Move(to)) => self.begin_move(to),
            Some(Command::Moved(moved)) => self.end_move(moved),
            Some(Command::RaiseLevel(raise)) => self.raise_level(raise),
            Some(Command::SetReplicas(set)) => self.set_replicas(set),
        };
        let reply = match outcome {
            Ok(()) => Reply::Applied(Applied {}),
            Err(reason) => Reply::Ignored(Ignored { reason: reason.into() }),
        };
        ControlReply { reply: Some(reply) }
    }

    fn form(&mut self, form: &Form, now_ms: u64) -> Result<(), Refusal> {
        if self.cluster.is_some() {
            return Err(Refusal::AlreadyFormed);
        }
        check_form(form)?;
        let mut placement = form.placement.clone();
        placement.sort_unstable_by_key(|placement| placement.shard);
        let cluster = Cluster::new(form.cluster_id.clone(), placement, form.level, form.replicas);
        self.cluster = Some(Arc::new(cluster));
        for node in &form.nodes {
            let node = Node { since_ms: now_ms, ..node.clone() };
            self.nodes.insert(node.id, Arc::new(Member::new(node)));
        }
        Ok(())
    }

    fn node_up(&mut self, up: &NodeUp, now_ms: u64) -> Result<(), Refusal> {
        let node = up.node.as_ref().ok_or(Refusal::Invalid)?;
        check_node(node)?;
        self.check_level(node)?;
        let known = self.nodes.get(&node.id).ok_or_else(|| self.no_member(node.id))?;
        if known.removing {
            return Err(Refusal::Removed);
        }
        if node.name != known.node.name && self.named(&node.name).is_some() {
            return Err(Refusal::NameTaken);
        }
        let mut member = Member::new(Node { leaving: known.node.leaving, ..node.clone() });
        member.node.up = true;
        member.node.since_ms = now_ms;
        if known.node.incarnation > node.incarnation {
            return Err(Refusal::StaleIncarnation);
        }
        if known.node.incarnation == node.incarnation {
            if known.lost {
                return Err(Refusal::StaleIncarnation);
            }
            member.routes_version = known.routes_version;
            if known.node.up {
                member.node.since_ms = known.node.since_ms;
            }
        } else {
            self.routes.remove(Destination::Node(node.id));
        }
        self.nodes.insert(node.id, Arc::new(member));
        Ok(())
    }

    fn node_down(&mut self, down: &NodeDown, now_ms: u64) -> Result<(), Refusal> {
        let member = self.current(down.id, down.incarnation)?;
        member.lost = true;
        member.node.up = false;
        member.node.since_ms = now_ms;
        self.routes.remove(Destination::Node(down.id));
        Ok(())
    }

    fn set_routes(&mut self, routes: &Routes) -> Result<(), Refusal> {
        let interest = |route: &Route| (interest_of(route), route.filter.clone());
        let set = checked(&routes.set, interest)?;
        let member = self.current(routes.node, routes.incarnation)?;
        if routes.version <= member.routes_version {
            return Err(Refusal::StaleVersion);
        }
        member.routes_version = routes.version;
        let node = Destination::Node(routes.node);
        if routes.full {
            self.routes.replace(node, set);
        } else {
            self.routes.change(node, set.iter().map(|(filter, interest)| (filter, *interest)));
        }
        Ok(())
    }

    fn set_shard_routes(&mut self, routes: &ShardRoutes) -> Result<(), Refusal> {
        let interest = |route: &ShardRoute| (shard_interest_of(route), route.filter.clone());
        let set = checked(&routes.set, interest)?;
        if routes.shard >= self.shards() {
            return Err(Refusal::Invalid);
        }
        let mut published = self.published(routes.shard);
        let is_stale = routes.version <= published.version || routes.version < published.begun;
        if is_stale || routes.base != published.commands {
            return Err(Refusal::StaleVersion);
        }
        published.commands += 1;
        published.begun = routes.version;
        if !routes.more {
            published.version = routes.version;
        }
        self.published.insert(routes.shard, published);
        let shard = Destination::Shard(routes.shard);
        self.routes.change(shard, set.iter().map(|(filter, interest)| (filter, *interest)));
        Ok(())
    }

    /// The node, if this is its current incarnation and alive.
    fn current(&mut self, id: u64, incarnation: u64) -> Result<&mut Member, Refusal> {
        let member = self.nodes.get(&id).ok_or(Refusal::UnknownNode)?;
        if member.node.incarnation != incarnation || member.lost {
            return Err(Refusal::StaleIncarnation);
        }
        self.nodes.get_mut(&id).map(Arc::make_mut).ok_or(Refusal::UnknownNode)
    }

    /// A cluster was formed.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.cluster.is_some()
    }

    /// `None` until formed.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster.as_ref().map(|cluster| cluster.id.as_str())
    }

    /// Number of shards; 0 until formed.
    #[must_use]
    pub fn shards(&self) -> u32 {
        u32::try_from(self.placement().len()).unwrap_or(u32::MAX)
    }

    /// Who votes in which shard, by shard; empty until formed.
    #[must_use]
    pub fn placement(&self) -> &[Placement] {
        self.cluster.as_ref().map_or(&[], |cluster| &cluster.placement)
    }

    /// Every member, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|member| &member.node)
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: u64) -> Option<&Node> {
        self.nodes.get(&id).map(|member| &member.node)
    }

    /// The last version of a node's routes that was applied for its current incarnation; 0 = none.
    #[must_use]
    pub fn routes_version(&self, node: u64) -> u64 {
        self.nodes.get(&node).map_or(0, |member| member.routes_version)
    }

    /// How far a shard's routes have come.
    #[must_use]
    pub fn published(&self, shard: u32) -> Published {
        self.published.get(&shard).copied().unwrap_or_default()
    }

    /// Which node and which shard wants which filter.
    #[must_use]
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }
}

/// Filters and how they are wanted; refused whole if one is none.
fn checked<R>(
    routes: &[R],
    interest: impl Fn(&R) -> (Interest, String),
) -> Result<Vec<(TopicFilter, Interest)>, Refusal> {
    if routes.len() > MAX_ROUTES {
        return Err(Refusal::Limit);
    }
    let check = |route: &R| {
        let (interest, filter) = interest(route);
        TopicFilter::new(filter).map(|filter| (filter, interest)).map_err(|_| Refusal::Invalid)
    };
    routes.iter().map(check).collect()
}

pub(crate) fn interest_of(route: &Route) -> Interest {
    Interest { only_qos0: route.only_qos0, ..Interest::of(route.members) }
}

pub(crate) fn shard_interest_of(route: &ShardRoute) -> Interest {
    Interest { since: route.since, online: route.online, ..Interest::of(route.members) }
}

fn check_form(form: &Form) -> Result<(), Refusal> {
    if form.nodes.len() > MAX_NODES || form.shards > MAX_SHARDS || form.cluster_id.len() > MAX_TEXT {
        return Err(Refusal::Limit);
    }
    form.nodes.iter().try_for_each(check_node)?;
    check_beginning(form)?;
    let ids: BTreeSet<u64> = form.nodes.iter().map(|node| node.id).collect();
    let shards: BTreeSet<u32> = form.placement.iter().map(|placement| placement.shard).collect();
    let each_shard_once = form.placement.len() == shards.len() && shards.iter().copied().eq(0..form.shards);
    let valid = !form.cluster_id.is_empty()
        && !ids.is_empty()
        && ids.len() == form.nodes.len()
        && form.shards > 0
        && each_shard_once
        && form
            .placement
            .iter()
            .all(|placement| check_voters(&placement.voters, &ids) && is_founding(placement));
    if valid { Ok(()) } else { Err(Refusal::Invalid) }
}

/// Nothing has happened to it yet.
fn is_founding(placement: &Placement) -> bool {
    placement.next.is_empty() && placement.version == 0 && !placement.moved
}

pub(crate) fn check_voters(voters: &[u64], nodes: &BTreeSet<u64>) -> bool {
    let distinct: BTreeSet<u64> = voters.iter().copied().collect();
    !voters.is_empty() && distinct.len() == voters.len() && distinct.is_subset(nodes)
}

pub(crate) fn check_node(node: &Node) -> Result<(), Refusal> {
    let texts = [&node.name, &node.cluster_addr, &node.mqtt_addr, &node.http_addr];
    if texts.into_iter().any(|text| text.len() > MAX_TEXT) { Err(Refusal::Limit) } else { Ok(()) }
}
