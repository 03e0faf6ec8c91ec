//! Nodes that are cut off, come back, or leave; and that a route is promised only when all know it.

use std::sync::atomic::Ordering;

use zwerm_cluster::NodeId;
use zwerm_routing::{Destination, Interest, Matches};
use zwerm_wire::{TopicFilter, TopicName};

use crate::fixture::{World, soon, until};
use crate::recorder::App;

/// Sets a route and waits for the promise.
pub async fn route(world: &World<App>, node: NodeId, filter: &str, members: u32) {
    let permit = world.cluster(node).routes.permit().await.unwrap();
    let routed = permit.set(TopicFilter::new(filter).unwrap(), Interest::of(members));
    soon("a route holds", routed).await.unwrap();
}

/// The nodes that `node` would forward a topic to.
fn routes(world: &World<App>, node: NodeId, topic: &str) -> Vec<NodeId> {
    let mut found = Matches::new();
    world.cluster(node).control.routes().matches(&TopicName::new(topic).unwrap(), &mut found);
    let mut nodes: Vec<NodeId> = found.plain.iter().filter_map(|(to, _)| node_of(*to)).collect();
    nodes.sort_unstable();
    nodes
}

fn node_of(destination: Destination) -> Option<NodeId> {
    match destination {
        Destination::Node(node) => Some(node),
        Destination::Shard(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_promised_is_known_to_every_node() {
    let world = World::formed().await;
    for round in 0..30 {
        let owner = round % 3 + 1;
        route(&world, owner, &format!("r/{round}"), 1).await;
        for node in 1..=3 {
            assert_eq!(routes(&world, node, &format!("r/{round}")), [owner]);
        }
    }
    route(&world, 1, "r/0", 0).await;
    for node in 1..=3 {
        assert!(routes(&world, node, "r/0").is_empty());
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_routes_at_once_share_commands_and_all_hold() {
    let world = World::formed().await;
    let mut promised = Vec::new();
    for number in 0..5_000 {
        let permit = world.cluster(2).routes.permit().await.unwrap();
        promised.push(permit.set(TopicFilter::new(format!("many/{number}")).unwrap(), Interest::of(1)));
    }
    for routed in promised {
        soon("a route holds", routed).await.unwrap();
    }
    for node in 1..=3 {
        assert_eq!(world.cluster(node).control.routes().len(), 5_000);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_loses_its_lease_and_comes_back_as_a_new_incarnation_with_its_routes() {
    let world = World::formed().await;
    route(&world, 3, "a/b", 1).await;
    route(&world, 3, "$share/g/c", 4).await;
    let cut_off = world.cluster(3);
    let before = cut_off.own.incarnation();
    world.isolate(3);
    until("the lease is lost", || !cut_off.lease.is_valid()).await;
    until("it is declared down", || !world.cluster(1).is_up(3, before)).await;
    assert!(routes(&world, 1, "a/b").is_empty());
    // A promise does not wait for a node that is down.
    route(&world, 1, "meanwhile", 1).await;
    assert_eq!(cut_off.own.incarnation(), before, "it does not know");

    world.rejoin(3);
    until("it rises", || cut_off.own.incarnation() > before).await;
    world.ready().await;
    assert_eq!(world.recorder(3).fenced.load(Ordering::SeqCst), 1);
    until("its routes are back", || routes(&world, 1, "a/b") == [3]).await;
    let shared = || routes_of_group(&world, 2) == [(3, 4)];
    until("its groups are back", shared).await;
    until("it may route again", || cut_off.lease.routing() == Some(cut_off.own.incarnation())).await;
    assert_eq!(routes(&world, 3, "meanwhile"), [1], "it routes only when it knows what it has missed");
    route(&world, 3, "new", 1).await;
    world.stop().await;
}

fn routes_of_group(world: &World<App>, node: NodeId) -> Vec<(NodeId, u32)> {
    let mut found = Matches::new();
    world.cluster(node).control.routes().matches(&TopicName::new("c").unwrap(), &mut found);
    let members = found.shared.iter().flat_map(|group| group.members.iter());
    members.filter_map(|(to, interest)| Some((node_of(*to)?, interest.members))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_is_gone_at_once_and_hands_over() {
    let mut world = World::formed().await;
    for node in 1..=2 {
        let incarnation = world.cluster(node).own.incarnation();
        let stopped = world.nodes.remove(&node).unwrap();
        soon("it stops", stopped.cluster.stop()).await;
        assert!(!world.cluster(3).is_up(node, incarnation));
        let after = world.cluster(3).control.state().node(node).cloned().unwrap();
        assert_eq!((after.incarnation, after.up), (incarnation, false), "it did not come back");
        if node == 1 {
            // Two of three go on.
            route(&world, 3, "after", 1).await;
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stops_although_routes_change_all_the_time() {
    let mut world = World::formed().await;
    let changing = world.cluster(1).clone();
    let changes = tokio::spawn(async move {
        for number in 0.. {
            let Some(permit) = changing.routes.permit().await else { return };
            let filter = TopicFilter::new(format!("busy/{}", number % 50)).unwrap();
            if permit.set(filter, Interest::of(number % 2)).await.is_err() {
                return;
            }
        }
    });
    let stopped = world.nodes.remove(&3).unwrap();
    soon("it stops", stopped.cluster.stop()).await;
    changes.abort();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_leads_only_what_nobody_else_can_lead() {
    let mut world = World::formed().await;
    let groups = 1 + usize::try_from(world.cluster(1).control.state().shards()).unwrap();
    let all_know = |world: &World<App>, draining: bool| {
        let mut states = world.nodes.values().map(|node| node.cluster.control.state());
        states.all(|state| state.node(1).is_some_and(|node| node.draining == draining))
    };
    world.cluster(1).set_draining(true);
    until("it leads nothing", || world.cluster(1).groups_led() == 0).await;
    until("all know", || all_know(&world, true)).await;
    let elsewhere: Vec<NodeId> = world.cluster(2).alternatives().iter().map(|node| node.id).collect();
    assert_eq!(elsewhere, [3], "no client and no leadership is sent to it");

    // Node 1 may be elected when node 2 dies, but not for long.
    world.kill(2).await;
    until("the one that stays leads all", || world.cluster(3).groups_led() == groups).await;
    until("and it knows", || world.cluster(1).groups_led() == 0).await;

    // It is better than nobody, and as good as any when it drains no more.
    world.cluster(3).set_draining(true);
    until("it has nowhere to go", || world.cluster(1).alternatives().is_empty()).await;
    assert!(world.cluster(3).groups_led() + world.cluster(1).groups_led() >= groups);
    world.cluster(1).set_draining(false);
    until("it takes over", || world.cluster(1).groups_led() == groups).await;
    until("all know that", || all_know(&world, false)).await;
    world.stop().await;
}
