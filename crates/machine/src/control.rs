//! The control group's state: cluster, nodes, placement, routes. Knows no clients and no messages.
//!
//! Start at [`Control::apply`].

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use zwerm_routing::RouteTable;
use zwerm_wire::TopicFilter;

use crate::SnapshotError;
use crate::limits::{MAX_NODES, MAX_ROUTES, MAX_SHARDS, MAX_TEXT};
use crate::records::control_command::Command;
use crate::records::control_record::Record;
use crate::records::control_reply::Reply;
use crate::records::{
    Applied, ControlCommand, ControlHead, ControlRecord, ControlReply, Form, Ignored, Node, NodeDown,
    NodeRecord, NodeUp, Placement, Refusal, Route, RouteRecord, Routes,
};
use crate::snapshot::{self, Magic, Writer};

const MAGIC: Magic = *b"ZWCT";

/// The state of the control group. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// `None` until formed.
    cluster: Option<Arc<Cluster>>,
    nodes: OrdMap<u64, Arc<Member>>,
    routes: RouteTable,
}

/// What is fixed when the cluster is formed.
#[derive(Debug)]
struct Cluster {
    id: String,
    /// By shard, one for each.
    placement: Vec<Placement>,
}

/// A node and what only this machine needs to know of it.
#[derive(Debug, Clone)]
struct Member {
    node: Node,
    /// Of the current incarnation; 0 = none yet.
    routes_version: u64,
    /// The current incarnation is dead: only a newer one brings the node back.
    lost: bool,
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
            Some(Command::ShardRoutes(_)) => Err(Refusal::UnknownCommand),
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
        self.cluster = Some(Arc::new(Cluster { id: form.cluster_id.clone(), placement }));
        for node in &form.nodes {
            let node = Node { since_ms: now_ms, ..node.clone() };
            self.nodes.insert(node.id, Arc::new(Member { node, routes_version: 0, lost: false }));
        }
        Ok(())
    }

    fn node_up(&mut self, up: &NodeUp, now_ms: u64) -> Result<(), Refusal> {
        let node = up.node.as_ref().ok_or(Refusal::Invalid)?;
        check_node(node)?;
        let known = self.nodes.get(&node.id);
        if known.is_none() && self.nodes.len() >= MAX_NODES {
            return Err(Refusal::Limit);
        }
        let mut member = Member { node: node.clone(), routes_version: 0, lost: false };
        member.node.up = true;
        member.node.since_ms = now_ms;
        match known {
            Some(known) if known.node.incarnation > node.incarnation => {
                return Err(Refusal::StaleIncarnation);
            }
            Some(known) if known.node.incarnation == node.incarnation => {
                if known.lost {
                    return Err(Refusal::StaleIncarnation);
                }
                member.routes_version = known.routes_version;
                if known.node.up {
                    member.node.since_ms = known.node.since_ms;
                }
            }
            _ => {
                self.routes.remove_node(node.id);
            }
        }
        self.nodes.insert(node.id, Arc::new(member));
        Ok(())
    }

    fn node_down(&mut self, down: &NodeDown, now_ms: u64) -> Result<(), Refusal> {
        let member = self.current(down.id, down.incarnation)?;
        member.lost = true;
        member.node.up = false;
        member.node.since_ms = now_ms;
        self.routes.remove_node(down.id);
        Ok(())
    }

    fn set_routes(&mut self, routes: &Routes) -> Result<(), Refusal> {
        if routes.set.len() > MAX_ROUTES {
            return Err(Refusal::Limit);
        }
        let filter =
            |route: &Route| TopicFilter::new(route.filter.as_str()).map(|filter| (filter, route.members));
        let set: Vec<_> =
            routes.set.iter().map(filter).collect::<Result<_, _>>().map_err(|_| Refusal::Invalid)?;
        let member = self.current(routes.node, routes.incarnation)?;
        if routes.version <= member.routes_version {
            return Err(Refusal::StaleVersion);
        }
        member.routes_version = routes.version;
        if routes.full {
            self.routes.replace(routes.node, set);
        } else {
            for (filter, members) in &set {
                self.routes.set(routes.node, filter, *members);
            }
        }
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

    /// Every node ever seen, by id.
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

    /// Which node wants which filter.
    #[must_use]
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// The whole state as bytes; equal states give equal bytes.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC);
        let mut push = |record| writer.push(&ControlRecord { record: Some(record) });
        push(Record::Head(ControlHead {
            cluster_id: self.cluster_id().unwrap_or_default().to_owned(),
            shards: self.shards(),
            placement: self.placement().to_vec(),
            generation: self.routes.generation(),
        }));
        for member in self.nodes.values() {
            let Member { node, routes_version, lost } = Member::clone(member);
            push(Record::Node(NodeRecord { node: Some(node), routes_version, lost }));
        }
        for node in self.routes.nodes() {
            for (filter, members) in self.routes.routes_of(node) {
                let route = Some(Route { filter: filter.as_str().to_owned(), members, only_qos0: false });
                push(Record::Route(RouteRecord { node, route }));
            }
        }
        writer.finish()
    }

    /// The state that these bytes were written from.
    ///
    /// # Errors
    /// What [`SnapshotError`] says; the bytes are never trusted.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut control = Self::new();
        let mut generation = 0;
        let mut routes = Vec::new();
        for record in snapshot::read::<ControlRecord>(MAGIC, bytes)? {
            match record?.record {
                Some(Record::Head(head)) => {
                    generation = head.generation;
                    let cluster = Cluster { id: head.cluster_id, placement: head.placement };
                    control.cluster = (!cluster.id.is_empty()).then(|| Arc::new(cluster));
                }
                Some(Record::Node(NodeRecord { node, routes_version, lost })) => {
                    let node = node.ok_or(SnapshotError::Damaged("a node record without a node"))?;
                    control.nodes.insert(node.id, Arc::new(Member { node, routes_version, lost }));
                }
                Some(Record::Route(RouteRecord { node, route })) => {
                    let route = route.ok_or(SnapshotError::Damaged("a route record without a route"))?;
                    let filter = TopicFilter::new(route.filter);
                    let filter = filter.map_err(|_| SnapshotError::Damaged("a route without a filter"))?;
                    routes.push((node, filter, route.members));
                }
                None => return Err(SnapshotError::Damaged("an unknown record")),
            }
        }
        control.routes = RouteTable::restore(generation, routes);
        Ok(control)
    }

    /// A hash of the whole state: it differs as soon as two replicas do. Costs a snapshot.
    #[must_use]
    pub fn digest(&self) -> u64 {
        snapshot::checksum(&self.encode_snapshot())
    }
}

fn check_form(form: &Form) -> Result<(), Refusal> {
    if form.nodes.len() > MAX_NODES || form.shards > MAX_SHARDS || form.cluster_id.len() > MAX_TEXT {
        return Err(Refusal::Limit);
    }
    form.nodes.iter().try_for_each(check_node)?;
    let ids: BTreeSet<u64> = form.nodes.iter().map(|node| node.id).collect();
    let shards: BTreeSet<u32> = form.placement.iter().map(|placement| placement.shard).collect();
    let each_shard_once = form.placement.len() == shards.len() && shards.iter().copied().eq(0..form.shards);
    let valid = !form.cluster_id.is_empty()
        && !ids.is_empty()
        && ids.len() == form.nodes.len()
        && form.shards > 0
        && each_shard_once
        && form.placement.iter().all(|placement| check_voters(&placement.voters, &ids));
    if valid { Ok(()) } else { Err(Refusal::Invalid) }
}

fn check_voters(voters: &[u64], nodes: &BTreeSet<u64>) -> bool {
    let distinct: BTreeSet<u64> = voters.iter().copied().collect();
    !voters.is_empty() && distinct.len() == voters.len() && distinct.is_subset(nodes)
}

fn check_node(node: &Node) -> Result<(), Refusal> {
    let texts = [&node.name, &node.cluster_addr, &node.mqtt_addr, &node.http_addr];
    if texts.into_iter().any(|text| text.len() > MAX_TEXT) { Err(Refusal::Limit) } else { Ok(()) }
}
