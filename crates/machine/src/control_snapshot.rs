//! The control group's state as bytes: one head, nodes by id, how far shards have published, routes by
//! destination. Knows no rules. Start at [`Control::encode_snapshot`].

use std::sync::Arc;

use zwerm_routing::{Destination, Interest, RouteTable};
use zwerm_wire::TopicFilter;

use crate::control::{Cluster, Control, Member, Published, interest_of, shard_interest_of};
use crate::level::{unsaid, unsaid_replicas};
use crate::records::control_record::Record;
use crate::records::{
    ControlHead, ControlRecord, NodeRecord, PublishedRecord, RemovedRecord, Route, RouteRecord, ShardRoute,
    ShardRouteRecord,
};
use crate::snapshot::{self, Kind, SnapshotError, Writer};

const CONTROL: Kind = Kind { magic: *b"ZWCT", format: 1 };
const NO_ROUTE: SnapshotError = SnapshotError::Damaged("a route record without a route");

impl Control {
    /// The whole state as bytes; equal states give equal bytes.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut writer = Writer::new(CONTROL);
        let mut push = |record| writer.push(&ControlRecord { record: Some(record) });
        push(Record::Head(ControlHead {
            cluster_id: self.cluster_id().unwrap_or_default().to_owned(),
            shards: self.shards(),
            placement: self.placement().to_vec(),
            generation: self.routes.generation(),
            // As absent as they were before there were levels.
            level: unsaid(self.level()),
            replicas: unsaid_replicas(self.replicas()),
        }));
        for member in self.nodes.values() {
            let Member { node, routes_version, lost, removing } = Member::clone(member);
            push(Record::Node(NodeRecord { node: Some(node), routes_version, lost, removing }));
        }
        for &id in &self.removed {
            push(Record::Removed(RemovedRecord { id }));
        }
        for (&shard, &Published { commands, version, begun }) in &self.published {
            push(Record::Published(PublishedRecord { shard, commands, version, begun }));
        }
        for destination in self.routes.destinations() {
            for (filter, interest) in self.routes.routes_of(destination) {
                push(route_record(destination, filter, interest));
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
        for record in snapshot::read::<ControlRecord>(CONTROL, bytes)? {
            match record?.record {
                Some(Record::Head(head)) => {
                    generation = head.generation;
                    let cluster = Cluster::new(head.cluster_id, head.placement, head.level, head.replicas);
                    control.cluster = (!cluster.id.is_empty()).then(|| Arc::new(cluster));
                }
                Some(Record::Node(NodeRecord { node, routes_version, lost, removing })) => {
                    let node = node.ok_or(SnapshotError::Damaged("a node record without a node"))?;
                    control.nodes.insert(node.id, Arc::new(Member { node, routes_version, lost, removing }));
                }
                Some(Record::Removed(RemovedRecord { id })) => control.removed.push_back(id),
                Some(Record::Published(PublishedRecord { shard, commands, version, begun })) => {
                    control.published.insert(shard, Published { commands, version, begun });
                }
                Some(Record::Route(RouteRecord { node, route })) => {
                    let route = route.ok_or(NO_ROUTE)?;
                    routes.push((Destination::Node(node), filter(&route.filter)?, interest_of(&route)));
                }
                Some(Record::ShardRoute(ShardRouteRecord { shard, route })) => {
                    let route = route.ok_or(NO_ROUTE)?;
                    let interest = shard_interest_of(&route);
                    routes.push((Destination::Shard(shard), filter(&route.filter)?, interest));
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

fn route_record(destination: Destination, filter: &TopicFilter, interest: Interest) -> Record {
    let Interest { members, only_qos0, since, online } = interest;
    let filter = filter.as_str().to_owned();
    match destination {
        Destination::Node(node) => {
            Record::Route(RouteRecord { node, route: Some(Route { filter, members, only_qos0 }) })
        }
        Destination::Shard(shard) => {
            let route = Some(ShardRoute { filter, members, since, online });
            Record::ShardRoute(ShardRouteRecord { shard, route })
        }
    }
}

fn filter(text: &str) -> Result<TopicFilter, SnapshotError> {
    TopicFilter::new(text.to_owned()).map_err(|_| SnapshotError::Damaged("a route without a filter"))
}
