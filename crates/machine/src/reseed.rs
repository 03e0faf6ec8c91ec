//! The states of a cluster that begins with what another one had: its backup, on one new node.
//!
//! Knows no archive. What the nodes of the old cluster owned is not ended here: they count as removed, and the leaders of
//! the shards end it as they do for any node that is gone. Start at [`Control::reseed`].

use std::collections::BTreeSet;
use std::sync::Arc;

use zwerm_wire::TopicFilter;

use crate::entry::Entry;
use crate::limits::MAX_ROUTES;
use crate::records::control_command::Command;
use crate::records::control_reply::Reply;
use crate::records::{ControlCommand, Form, Node, Placement, ShardRoute, ShardRoutes};
use crate::{Control, Shard};

impl Control {
    /// The state of a cluster that was just formed by one node, which holds all shards. `None` if that cannot be a
    /// cluster.
    #[must_use]
    pub fn reseed(cluster_id: &str, shards: u32, node: Node, now_ms: u64) -> Option<Self> {
        let id = node.id;
        let held = |shard| Placement { shard, voters: vec![id], ..Placement::default() };
        let placement = (0..shards).map(held).collect();
        // The level rises by itself as soon as its node runs.
        let form = Form {
            cluster_id: cluster_id.to_owned(),
            nodes: vec![node],
            shards,
            placement,
            ..Form::default()
        };
        let mut control = Self::new();
        control.do_now(Command::Form(form), now_ms).then_some(control)
    }

    /// Takes over what a shard's durable sessions want, as it stands in the shard: who publishes first, a shard from its
    /// outbox above all, must find them. False if that cannot be.
    #[must_use]
    pub fn adopt_routes(&mut self, shard: u32, state: &Shard, now_ms: u64) -> bool {
        let version = state.routes_version();
        let route = |(filter, route): (&TopicFilter, &crate::ShardRoute)| ShardRoute {
            filter: filter.as_str().to_owned(),
            members: route.members,
            since: route.since,
            online: route.online,
        };
        let set: Vec<ShardRoute> = state.routes().iter().map(route).collect();
        let count = set.len().div_ceil(MAX_ROUTES);
        let taken = set.chunks(MAX_ROUTES).enumerate().all(|(index, set)| {
            let base = self.published(shard).commands;
            let (more, set) = (index + 1 < count, set.to_vec());
            self.do_now(Command::ShardRoutes(ShardRoutes { shard, base, version, more, set }), now_ms)
        });
        taken && self.published(shard).version == if count > 0 { version } else { 0 }
    }

    /// The nodes of the old cluster are removed.
    pub fn forget_nodes(&mut self, gone: impl IntoIterator<Item = u64>) {
        let gone: Vec<u64> = gone.into_iter().filter(|gone| !self.nodes.contains_key(gone)).collect();
        self.removed = gone.into_iter().collect();
    }

    fn do_now(&mut self, command: Command, at_ms: u64) -> bool {
        let reply = self.apply(&ControlCommand { at_ms, ..ControlCommand::from(command) }).reply;
        matches!(reply, Some(Reply::Applied(_)))
    }
}

impl Shard {
    /// The nodes that this state names as owners of clients or as proposers.
    #[must_use]
    pub fn named_nodes(&self) -> BTreeSet<u64> {
        let owners = self.clients.values().map(|entry| entry.owner.node);
        self.peers.records().map(|peer| peer.node).chain(owners).collect()
    }

    /// Lets no time have passed for sessions and wills of clients that were away: what they had left they have still.
    /// Messages expire by the time of day, whatever happens.
    pub fn stand_still(&mut self, for_ms: u64) {
        let away = self.clients.iter().filter(|(_, entry)| !entry.owner.connected);
        let away: Vec<_> = away.map(|(client, entry)| (client.clone(), Entry::clone(entry))).collect();
        for (client, mut entry) in away {
            entry.disconnected_at_ms = entry.disconnected_at_ms.saturating_add(for_ms);
            self.put(&client, Some(entry));
        }
        self.touched.clear();
    }

    /// Who is connected, as this state knows.
    pub fn connected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clients.iter().filter(|(_, entry)| entry.owner.connected).map(|(client, _)| client)
    }
}

#[cfg(test)]
mod tests {
    use zwerm_routing::Destination;

    use super::*;
    use crate::Published;
    use crate::records::shard_command::Command as ShardCommandKind;
    use crate::records::{
        Claim, Message, OwnerLost, Release, ShardCommand, Subscribe, Subscription, Tick, Will,
    };

    fn apply(shard: &mut Shard, at_ms: u64, command: ShardCommandKind) {
        let reply = shard.apply(&ShardCommand { command: Some(command), at_ms });
        assert!(!matches!(reply.reply, Some(crate::records::shard_reply::Reply::Ignored(_))), "{reply:?}");
    }

    fn claim(client: &str, node: u64, expiry_s: u32) -> ShardCommandKind {
        let message = Message { topic: "gone".to_owned(), qos: 1, ..Message::default() };
        let will = Will { message: Some(message), delay_s: 10, message_expiry_s: None };
        ShardCommandKind::Claim(Claim {
            client_id: client.to_owned(),
            node,
            incarnation: 1 << 20,
            expiry_s,
            will: Some(will),
            ..Claim::default()
        })
    }

    fn release(client: &str, epoch: u64) -> ShardCommandKind {
        let client_id = client.to_owned();
        ShardCommandKind::Release(Release { client_id, epoch, fire_will: true, ..Release::default() })
    }

    #[test]
    fn a_cluster_begins_on_one_node_and_the_old_nodes_are_removed() {
        let node = Node { id: 9, name: "new".to_owned(), ..Node::default() };
        let mut control = Control::reseed("c2", 3, node, 50).unwrap();
        control.forget_nodes([1, 9, 2]);
        assert_eq!((control.cluster_id(), control.shards()), (Some("c2"), 3));
        assert!(control.removed().eq([1, 2]) && control.nodes().map(|node| node.id).eq([9]));
        assert!(control.placement().iter().all(|placement| placement.voters == [9]));
        let written = Control::decode_snapshot(&control.encode_snapshot()).unwrap();
        assert_eq!(written.digest(), control.digest());
        assert!(Control::reseed("", 3, Node { id: 9, ..Node::default() }, 50).is_none());
        assert!(Control::reseed("c", 0, Node { id: 9, ..Node::default() }, 50).is_none());
    }

    #[test]
    fn what_a_shard_wants_is_routed_from_the_beginning_and_its_next_change_is_taken() {
        let mut shard = Shard::new();
        apply(&mut shard, 1, claim("a", 7, 60));
        let subscription =
            |filter: &str| Subscription { filter: filter.to_owned(), qos: 1, ..Subscription::default() };
        let subscriptions = vec![subscription("t/#"), subscription("$share/g/t")];
        let subscribe = Subscribe { client_id: "a".to_owned(), epoch: 1, subscriptions, replay: false };
        apply(&mut shard, 1, ShardCommandKind::Subscribe(subscribe));
        let mut control = Control::reseed("c", 2, Node { id: 9, ..Node::default() }, 50).unwrap();
        assert!(control.adopt_routes(1, &shard, 50) && control.adopt_routes(0, &Shard::new(), 50));
        assert!(!control.adopt_routes(2, &shard, 50), "there is no such shard");
        let routed = control.routes().routes_of(Destination::Shard(1));
        assert_eq!(routed.map(|(filter, _)| filter.as_str()).collect::<Vec<_>>(), ["$share/g/t", "t/#"]);
        let published = control.published(1);
        assert_eq!((published.version, published.begun), (shard.routes_version(), shard.routes_version()));
        assert_eq!(control.published(0), Published::default());
        let set = vec![ShardRoute { filter: "t/#".to_owned(), ..ShardRoute::default() }];
        let (base, version) = (published.commands, published.version + 1);
        assert!(
            control
                .do_now(Command::ShardRoutes(ShardRoutes { shard: 1, base, version, more: false, set }), 51)
        );
    }

    #[test]
    fn a_session_and_a_will_have_what_they_had_left_however_old_the_backup_is() {
        let mut shard = Shard::new();
        apply(&mut shard, 1_000, claim("away", 1, 60));
        apply(&mut shard, 1_000, release("away", 1));
        // Of a backup at 2 s, restored a day later.
        let (day, backup) = (86_400_000, 2_000);
        shard.stand_still(day);
        apply(&mut shard, backup + day, ShardCommandKind::Tick(Tick {}));
        assert_eq!((shard.sessions(), shard.outbox_len()), (1, 0));
        apply(&mut shard, 11_000 + day, ShardCommandKind::Tick(Tick {}));
        assert_eq!(
            (shard.sessions(), shard.outbox_len()),
            (1, 1),
            "the will, ten seconds after its client went"
        );
        apply(&mut shard, 61_000 + day, ShardCommandKind::Tick(Tick {}));
        assert_eq!((shard.sessions(), shard.clients()), (0, 0));
    }

    #[test]
    fn what_the_named_nodes_owned_ends_and_durable_sessions_stay() {
        let mut shard = Shard::new();
        apply(&mut shard, 1, claim("a", 7, 60));
        apply(&mut shard, 1, claim("b", 2, 60));
        apply(&mut shard, 1, claim("c", 5, 60));
        apply(&mut shard, 1, release("b", 2));
        apply(&mut shard, 1, claim("d", 5, 0));
        assert!(shard.named_nodes().into_iter().eq([2, 5, 7]));
        assert_eq!(shard.connected().count(), 3);
        for node in shard.named_nodes() {
            apply(&mut shard, 20, ShardCommandKind::OwnerLost(OwnerLost { node, incarnation: u64::MAX }));
        }
        assert_eq!((shard.connected().count(), shard.sessions()), (0, 3));
    }
}
