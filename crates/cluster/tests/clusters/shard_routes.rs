//! Routes to durable sessions: promised when all know them (P4), the same whoever leads the shard, and held up by
//! nothing else that its leader does.

use zwerm_cluster::{NodeId, OutboxMessage};
use zwerm_machine::records::{Claim, Message, Release, Subscribe, Subscription, Unsubscribe, Will};
use zwerm_routing::{Destination, Interest};
use zwerm_wire::TopicFilter;

use crate::fixture::{World, soon, until};
use crate::recorder::App;

/// A durable session at its owner.
struct Session {
    client_id: String,
    node: NodeId,
    shard: u32,
    epoch: u64,
}

impl Session {
    async fn claimed(world: &World<App>, node: NodeId, client_id: &str, will: Option<Will>) -> Self {
        let cluster = world.cluster(node);
        let claim = Claim {
            client_id: client_id.to_owned(),
            node,
            incarnation: cluster.own.incarnation(),
            expiry_s: 1_000,
            will,
            ..Claim::default()
        };
        let epoch = soon("a claim", cluster.claim(claim)).await.unwrap().epoch;
        Self { client_id: client_id.to_owned(), node, shard: cluster.shard_of(client_id).unwrap(), epoch }
    }

    /// Subscribes with QoS 1; since when each filter is in the shard's routes.
    async fn subscribe(&self, world: &World<App>, filters: &[TopicFilter]) -> Vec<u64> {
        let subscription = |filter: &TopicFilter| Subscription {
            filter: filter.as_str().to_owned(),
            qos: 1,
            ..Subscription::default()
        };
        let subscribe = Subscribe {
            client_id: self.client_id.clone(),
            epoch: self.epoch,
            subscriptions: filters.iter().map(subscription).collect(),
            replay: false,
        };
        let subscribed = soon("a subscription", world.cluster(self.node).subscribe(subscribe)).await.unwrap();
        subscribed.lines.iter().map(|line| line.since).collect()
    }

    /// Subscribes to one filter and waits for the promise.
    async fn subscribe_routed(&self, world: &World<App>, text: &str) -> u64 {
        let filter = filter(text);
        let since = self.subscribe(world, std::slice::from_ref(&filter)).await[0];
        assert!(since > 0, "a route is needed");
        let routed = world.cluster(self.node).shard_routed(self.shard, &filter, since);
        assert!(soon("the route holds", routed).await);
        since
    }

    async fn unsubscribe(&self, world: &World<App>, text: &str) {
        let filters = vec![text.to_owned()];
        let unsubscribe = Unsubscribe { client_id: self.client_id.clone(), epoch: self.epoch, filters };
        soon("it unsubscribes", world.cluster(self.node).unsubscribe(unsubscribe)).await.unwrap();
    }

    /// The connection breaks: the will is to fire.
    async fn vanish(&self, world: &World<App>) {
        let (client_id, epoch) = (self.client_id.clone(), self.epoch);
        let release = Release { client_id, epoch, fire_will: true, ..Release::default() };
        soon("a release", world.cluster(self.node).release(release)).await.unwrap();
    }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

/// How a node would route a filter to a shard.
fn interest(world: &World<App>, node: NodeId, shard: u32, text: &str) -> Interest {
    world.cluster(node).control.routes().interest(Destination::Shard(shard), &filter(text))
}

/// A node's route table holds exactly the routes of the shards that it holds.
fn agrees(world: &World<App>, node: NodeId) -> bool {
    let cluster = world.cluster(node);
    let table = cluster.control.routes();
    cluster.shard_views().iter().all(|(shard, view)| {
        let state = view.state();
        let routes = state.routes().iter();
        let routes = routes.map(|(filter, route)| (filter, (route.members, route.online, route.since)));
        let table = table.routes_of(Destination::Shard(*shard));
        routes
            .eq(table.map(|(filter, interest)| (filter, (interest.members, interest.online, interest.since))))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscription_that_is_promised_is_known_to_every_node() {
    let world = World::formed().await;
    for round in 0..12_u64 {
        let (owner, text) = (round % 3 + 1, format!("r/{round}/+"));
        let session = Session::claimed(&world, owner, &format!("c{round}"), None).await;
        session.subscribe_routed(&world, &text).await;
        for node in 1..=3 {
            assert_eq!(interest(&world, node, session.shard, &text).members, 1);
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_removed_before_its_promise_needs_none_and_goes_everywhere() {
    let world = World::formed().await;
    let session = Session::claimed(&world, 1, "c", None).await;
    let since = session.subscribe_routed(&world, "a").await;
    session.unsubscribe(&world, "a").await;
    let is_gone = |node| interest(&world, node, session.shard, "a") == Interest::NONE;
    until("the route goes", || (1..=3).all(is_gone)).await;
    let gone = filter("a");
    let routed = world.cluster(1).shard_routed(session.shard, &gone, since);
    assert!(soon("a promise for what is gone", routed).await);
    let again = session.subscribe_routed(&world, "a").await;
    assert!(again > since, "a route that comes back is promised anew");
    assert_eq!(interest(&world, 3, session.shard, "a").since, again);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_routes_than_one_command_holds_all_arrive() {
    let world = World::formed().await;
    let session = Session::claimed(&world, 2, "c", None).await;
    let filters: Vec<TopicFilter> = (0..5_000).map(|number| filter(&format!("many/{number}"))).collect();
    let since = session.subscribe(&world, &filters).await;
    let cluster = world.cluster(2);
    let promises = filters.iter().zip(&since);
    let promises = promises.map(|(filter, since)| cluster.shard_routed(session.shard, filter, *since));
    let routed = soon("all routes hold", futures::future::join_all(promises)).await;
    assert!(routed.iter().all(|routed| *routed));
    for node in 1..=3 {
        assert_eq!(world.cluster(node).control.routes().len(), 5_000);
    }
    until("all tables agree", || (1..=3).all(|node| agrees(&world, node))).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_waits_for_a_node_that_is_cut_off_until_it_is_down_and_without_a_lease() {
    let world = World::formed().await;
    let session = Session::claimed(&world, 1, "c", None).await;
    let incarnation = world.cluster(3).own.incarnation();
    world.isolate(3);
    session.subscribe_routed(&world, "a").await;
    // The leader of control, who answered; the other one hears it a moment later.
    let is_down = |node| !world.cluster(node).is_up(3, incarnation);
    assert!([1, 2].into_iter().any(is_down), "it may still have acknowledged what it routed without");
    assert!(!world.cluster(3).lease.is_valid());
    assert_eq!(interest(&world, 3, session.shard, "a"), Interest::NONE, "it cannot know");

    world.rejoin(3);
    let cut_off = world.cluster(3);
    until("it rises", || cut_off.own.incarnation() > incarnation).await;
    until("it may route again", || cut_off.lease.routing() == Some(cut_off.own.incarnation())).await;
    assert_eq!(interest(&world, 3, session.shard, "a").members, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_outlive_their_leaders_and_two_that_take_themselves_for_one() {
    let mut world = World::formed().await;
    let mut sessions = Vec::new();
    for number in 0..8 {
        let session = Session::claimed(&world, 2, &format!("c{number}"), None).await;
        session.subscribe_routed(&world, &format!("before/{number}")).await;
        sessions.push(session);
    }
    for cut in [1, 3] {
        // Whatever it leads it goes on leading in its own eyes, while others do.
        world.isolate(cut);
        for (number, session) in sessions.iter().enumerate() {
            session.subscribe_routed(&world, &format!("cut-{cut}/{number}")).await;
            session.unsubscribe(&world, &format!("before/{number}")).await;
        }
        world.rejoin(cut);
        world.ready().await;
        until("all tables agree", || (1..=3).all(|node| agrees(&world, node))).await;
        for (number, session) in sessions.iter().enumerate() {
            session.subscribe_routed(&world, &format!("before/{number}")).await;
        }
    }
    world.kill(1).await;
    for (number, session) in sessions.iter().enumerate() {
        session.subscribe_routed(&world, &format!("killed/{number}")).await;
        assert_eq!(interest(&world, 3, session.shard, &format!("cut-1/{number}")).members, 1);
    }
    world.start(1).await;
    world.ready().await;
    until("all tables agree", || (1..=3).all(|node| agrees(&world, node))).await;
    assert_eq!(world.cluster(1).control.routes().len(), 4 * 8);
    world.stop().await;
}

/// The next message that a shard publishes, on whichever node leads it.
async fn next_of_outbox(world: &World<App>) -> OutboxMessage {
    let mut found = None;
    until("a message of an outbox", || {
        found = world.nodes.values().find_map(|node| node.app.outbox.lock().try_recv().ok());
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_that_nobody_accepts_holds_up_neither_routes_nor_time() {
    let world = World::formed().await;
    let will = |topic: &str, delay_s| {
        let message = Message { topic: topic.to_owned(), payload: "gone".into(), ..Message::default() };
        Some(Will { message: Some(message), delay_s, ..Will::default() })
    };
    let slow = Session::claimed(&world, 1, "slow", will("will/slow", 0)).await;
    let neighbour = |number: &u32| world.cluster(1).shard_of(&format!("n{number}")) == Some(slow.shard);
    let mut neighbours = (0..).filter(neighbour).map(|number| format!("n{number}"));
    slow.vanish(&world).await;
    let held = next_of_outbox(&world).await;
    assert_eq!(held.message.topic, "will/slow");

    let subscriber = Session::claimed(&world, 2, &neighbours.next().unwrap(), None).await;
    subscriber.subscribe_routed(&world, "a").await;
    // Time passes in the shard: this will fires only by it.
    let late = Session::claimed(&world, 3, &neighbours.next().unwrap(), will("will/late", 1)).await;
    late.vanish(&world).await;
    let next = next_of_outbox(&world).await;
    assert_eq!(next.message.topic, "will/late");
    assert!(next.origin.sequence > held.origin.sequence);

    // Published again, since nobody accepted it: it and what was behind it, in order.
    next.published.send(()).unwrap();
    drop(held.published);
    for (topic, origin) in [("will/slow", held.origin), ("will/late", next.origin)] {
        let again = next_of_outbox(&world).await;
        assert_eq!((again.message.topic.as_str(), again.origin), (topic, origin));
        again.published.send(()).unwrap();
    }
    let is_drained = || world.cluster(1).shard_view(slow.shard).unwrap().state().outbox_len() == 0;
    until("the outbox is empty", is_drained).await;
    world.stop().await;
}
