//! Publishes the routes to the durable sessions of a shard, and says when one of them holds everywhere (P4).
//!
//! The leader of a shard tells the control group how the shard's routes differ from those in the route table.
//! It takes the difference to the table that this node has applied or, while nobody else published, to what it
//! published last: two maps that are alike are compared without reading all of them. So a new leader sends what
//! is missing and nothing else, and the table always holds routes that the shard once had, whoever
//! takes itself for its leader. What changes meanwhile goes with the next command. It does not know who
//! subscribed. Start at [`publish_shard_routes`] and [`Cluster::shard_routed`].

use imbl::ordmap::DiffItem;
use prost::Message as _;
use zwerm_machine::records::{
    ControlReply, Refusal, ShardRoutes, control_command::Command, control_reply::Reply,
};
use zwerm_machine::{Control, Routes, Shard, ShardRoute, records};
use zwerm_raft::Group;
use zwerm_routing::{Destination, Interest};
use zwerm_wire::TopicFilter;

use crate::Cluster;
use crate::cluster::Shared;
use crate::ledger::{control_request, shard_of_group};
use crate::replica::ShardView;
use crate::routes::first_fitting;

/// Publishes the routes of one shard while this node leads it, until the node stops. Everybody else's turn is
/// waited for, never taken: what another leader published meanwhile makes a command void, not wrong.
pub(crate) async fn publish_shard_routes(shared: &Shared, group: &Group, view: &ShardView) {
    let mut status = group.watch();
    let mut applied = view.applied();
    let mut control = shared.control.applied();
    let mut publisher = Publisher { shard: shard_of_group(group.id()), table: None, void: None };
    loop {
        if group.is_leader() {
            publisher.publish(shared, &view.state()).await;
        }
        // All branches are cancel safe; a closed watch means that the node is stopping.
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            changed = control.changed() => if changed.is_err() { return },
        }
    }
}

/// What the route table holds of a shard, and after how many commands.
#[derive(Debug)]
struct Table {
    commands: u64,
    version: u64,
    routes: Routes,
}

#[derive(Debug)]
struct Publisher {
    shard: u32,
    /// As this node left the table; somebody else may have published since.
    table: Option<Table>,
    /// A command upon so many came too late: this node's view of the table is old.
    void: Option<u64>,
}

/// A difference, and upon how many commands.
struct Difference {
    base: u64,
    set: Vec<records::ShardRoute>,
}

impl Publisher {
    /// Publishes what the table lacks, if anything.
    async fn publish(&mut self, shared: &Shared, state: &Shard) {
        let Some(difference) = self.difference(&shared.control.state(), state) else { return };
        let Difference { base: mut commands, set } = difference;
        let mut rest = set.as_slice();
        loop {
            let (part, more) = rest.split_at(first_fitting(rest.iter().map(|route| route.filter.len())));
            let routes = ShardRoutes {
                shard: self.shard,
                base: commands,
                version: state.routes_version(),
                more: !more.is_empty(),
                set: part.to_vec(),
            };
            if !self.send(shared, routes).await {
                self.table = None;
                return;
            }
            (commands, rest) = (commands + 1, more);
            if more.is_empty() {
                break;
            }
        }
        self.table =
            Some(Table { commands, version: state.routes_version(), routes: state.routes().clone() });
    }

    /// What the table lacks; `None`: nothing, or nothing that may be published now.
    fn difference(&self, control: &Control, state: &Shard) -> Option<Difference> {
        let published = control.published(self.shard);
        // The view of the table may lag behind what this node published itself.
        let own = self.table.as_ref().filter(|table| table.commands >= published.commands);
        if let Some(Table { commands, version, routes }) = own {
            let is_newer = state.routes_version() > *version;
            return is_newer.then(|| Difference { base: *commands, set: changes(routes, state.routes()) });
        }
        let is_known_void = self.void.is_some_and(|base| published.commands <= base);
        let is_newer =
            state.routes_version() > published.version && state.routes_version() >= published.begun;
        let is_due = is_newer && !is_known_void;
        is_due.then(|| Difference {
            base: published.commands,
            set: missing(control, Destination::Shard(self.shard), state.routes()),
        })
    }

    /// True if the table has it now.
    async fn send(&mut self, shared: &Shared, routes: ShardRoutes) -> bool {
        let base = routes.base;
        let reply = shared.propose(control_request(Command::ShardRoutes(routes), false)).await;
        match ControlReply::decode(reply).ok().and_then(|reply| reply.reply) {
            Some(Reply::Applied(_)) => return true,
            // Another leader was first, or this was a repeat whose first answer got lost: look again.
            Some(Reply::Ignored(ignored)) if ignored.reason == i32::from(Refusal::StaleVersion) => {
                self.void = Some(base);
            }
            reply => {
                tracing::warn!(
                    shard = self.shard,
                    ?reply,
                    "the control group does not take a shard's routes"
                );
                tokio::time::sleep(shared.config.lease.interval).await;
            }
        }
        false
    }
}

/// What makes `new` of `old`.
fn changes(old: &Routes, new: &Routes) -> Vec<records::ShardRoute> {
    let change = |item| match item {
        DiffItem::Add(filter, route) | DiffItem::Update { new: (filter, route), .. } => {
            record(filter, *route)
        }
        DiffItem::Remove(filter, _) => gone(filter),
    };
    old.diff(new).map(change).collect()
}

/// What makes `wanted` of the table's routes to a shard.
fn missing(control: &Control, shard: Destination, wanted: &Routes) -> Vec<records::ShardRoute> {
    let table = control.routes();
    let surplus = table.routes_of(shard).filter(|(filter, _)| !wanted.contains_key(*filter));
    let is_other =
        |(filter, route): &(&TopicFilter, &ShardRoute)| table.interest(shard, filter) != interest(**route);
    let other = wanted.iter().filter(is_other);
    surplus
        .map(|(filter, _)| gone(filter))
        .chain(other.map(|(filter, route)| record(filter, *route)))
        .collect()
}

fn interest(route: ShardRoute) -> Interest {
    let ShardRoute { members, since, online } = route;
    Interest { members, only_qos0: false, since, online }
}

fn record(filter: &TopicFilter, route: ShardRoute) -> records::ShardRoute {
    let ShardRoute { members, since, online } = route;
    records::ShardRoute { filter: filter.as_str().to_owned(), members, since, online }
}

fn gone(filter: &TopicFilter) -> records::ShardRoute {
    records::ShardRoute { filter: filter.as_str().to_owned(), ..records::ShardRoute::default() }
}

impl Cluster {
    /// Waits until every node that is up routes by a filter of a durable session, as of version `since` of its
    /// shard's routes (P4), or by what became of it: a route that was removed meanwhile needs no promise.
    /// `false`: the node stops first.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn shard_routed(&self, shard: u32, filter: &TopicFilter, since: u64) -> bool {
        // QoS 0 only: nothing comes through the shard.
        if since == 0 || self.settled.holds(shard, since) {
            return true;
        }
        let routed =
            async { self.shard_routed_here(shard, filter, since).await && self.barrier.passed().await };
        self.until_stopped(routed).await.unwrap_or_default()
    }

    async fn shard_routed_here(&self, shard: u32, filter: &TopicFilter, since: u64) -> bool {
        let mut applied = self.control.applied();
        loop {
            let control = self.control.state();
            let is_routed = control.routes().interest(Destination::Shard(shard), filter).since >= since;
            // The table is complete up to that version: what it does not hold is not wanted any more.
            if is_routed || control.published(shard).version >= since {
                return true;
            }
            if applied.changed().await.is_err() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zwerm_machine::records::ControlCommand;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text.to_owned()).unwrap()
    }

    fn routes(routes: &[(&str, u32, u64)]) -> Routes {
        let route =
            |&(text, members, since): &_| (filter(text), ShardRoute { members, since, online: members / 2 });
        routes.iter().map(route).collect()
    }

    fn texts(set: &[records::ShardRoute]) -> Vec<(&str, u32, u64)> {
        set.iter().map(|route| (route.filter.as_str(), route.members, route.since)).collect()
    }

    const OLD: &[(&str, u32, u64)] = &[("$share/g/a", 2, 1), ("again", 1, 2), ("gone", 1, 3), ("same", 1, 3)];
    const NEW: &[(&str, u32, u64)] = &[("$share/g/a", 3, 1), ("again", 1, 6), ("new", 1, 5), ("same", 1, 3)];
    const CHANGES: &[(&str, u32, u64)] =
        &[("$share/g/a", 3, 1), ("again", 1, 6), ("gone", 0, 0), ("new", 1, 5)];

    fn with_table(published: &[(&str, u32, u64)]) -> Control {
        let placement = vec![records::Placement { shard: 0, voters: vec![1], ..Default::default() }];
        let nodes = vec![records::Node { id: 1, incarnation: 1, ..records::Node::default() }];
        let form =
            records::Form { cluster_id: "c".into(), nodes, shards: 1, placement, ..records::Form::default() };
        let set = changes(&Routes::new(), &routes(published));
        let published = ShardRoutes { shard: 0, base: 0, version: 3, more: false, set };
        let mut control = Control::new();
        for command in [Command::Form(form), Command::ShardRoutes(published)] {
            let reply = control.apply(&ControlCommand { at_ms: 1, ..ControlCommand::from(command) });
            assert!(matches!(reply.reply, Some(Reply::Applied(_))));
        }
        control
    }

    #[test]
    fn the_difference_to_the_table_and_to_the_last_published_are_the_same() {
        assert_eq!(texts(&changes(&routes(OLD), &routes(NEW))), CHANGES);
        let mut missing = missing(&with_table(OLD), Destination::Shard(0), &routes(NEW));
        missing.sort_by(|one, other| one.filter.cmp(&other.filter));
        assert_eq!(texts(&missing), CHANGES);
        assert!(changes(&routes(NEW), &routes(NEW)).is_empty());
        assert!(super::missing(&with_table(NEW), Destination::Shard(0), &routes(NEW)).is_empty());
    }
}
