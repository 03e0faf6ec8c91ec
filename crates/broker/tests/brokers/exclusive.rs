//! `$exclusive/filter`: at most one client of the cluster has it, whatever happens to clients and nodes.

use std::collections::BTreeMap;

use futures::future::join_all;
use zwerm_broker::{Config, Counter};
use zwerm_machine::records::Holder;
use zwerm_wire::{
    Connect, ConnectProperties, Publish, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions,
    TopicFilter, Unsubscribe,
};

use crate::client::{Brokers, Client, connect, connect_durable, line, publish};
use crate::fixture::{soon, until};

const FILTER: &str = "$exclusive/t/+";

impl Client {
    /// The code of a SUBSCRIBE with the filter alone.
    async fn asks(&mut self) -> ReasonCode {
        self.subscribe(vec![line(FILTER, QoS::AtLeastOnce)], 0).await[0]
    }

    async fn gets(&mut self) {
        assert_eq!(self.asks().await, ReasonCode::GrantedQoS1);
    }

    async fn is_refused(&mut self) {
        assert_eq!(self.asks().await, ReasonCode::QuotaExceeded);
    }

    /// Asks until it has the filter; it is refused before.
    async fn gets_in_the_end(&mut self) {
        soon("the filter becomes free", async {
            loop {
                match self.asks().await {
                    ReasonCode::GrantedQoS1 => return,
                    other => assert_eq!(other, ReasonCode::QuotaExceeded),
                }
            }
        })
        .await;
    }
}

async fn publishes(world: &Brokers, payload: &str) {
    let mut publisher = world.client(3, "publisher").await;
    publisher.publish_accepted(publish("t/1", payload, QoS::AtLeastOnce, 1)).await;
    publisher.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_client_is_refused_on_any_node_until_the_first_unsubscribes() {
    let world = Brokers::formed(Config::default()).await;
    let (mut one, mut two) = (world.client(1, "one").await, world.client(2, "two").await);
    let mut plain = world.client(2, "plain").await;
    plain.subscribe(vec![line("t/#", QoS::AtLeastOnce)], 0).await;
    one.gets().await;
    two.is_refused().await;
    let lines = ["a", FILTER, "$exclusive/t/1", "b"].map(|filter| line(filter, QoS::AtMostOnce));
    let codes = two.subscribe(lines.into(), 0).await;
    let granted = ReasonCode::Success;
    assert_eq!(codes, [granted, ReasonCode::QuotaExceeded, granted, granted], "by the filter's text");
    two.unsubscribe("$exclusive/t/1").await;
    one.gets().await;
    publishes(&world, "x").await;
    assert_eq!(one.payloads(1).await, ["x"]);
    assert_eq!(plain.payloads(1).await, ["x"]);
    let unsubscribe = Unsubscribe {
        packet_id: 1.try_into().unwrap(),
        user: Vec::new(),
        filters: ["a", FILTER, "t/+"].map(|filter| TopicFilter::new(filter).unwrap()).into(),
    };
    let codes = soon("an UNSUBACK", two.attachment.unsubscribe(unsubscribe)).await;
    assert_eq!(codes, [granted, ReasonCode::NoSubscriptionExisted, ReasonCode::NoSubscriptionExisted]);
    two.is_refused().await;

    one.unsubscribe(FILTER).await;
    two.gets().await;
    one.is_refused().await;
    publishes(&world, "y").await;
    assert_eq!(two.payloads(1).await, ["y"], "nothing came before");
    assert_eq!(plain.payloads(2).await, ["x", "y"]);
    one.take();
    assert_eq!(one.taken_payloads(), ["x"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_transient_session_frees_it_however_it_ends() {
    let mut world = Brokers::formed(Config::default()).await;
    let mut next = world.client(2, "next").await;
    for holder in ["leaves", "dropped"] {
        let mut client = world.client(1, holder).await;
        client.gets().await;
        next.is_refused().await;
        if holder == "leaves" {
            client.leave().await
        } else {
            drop(client)
        }
        next.gets_in_the_end().await;
        next.unsubscribe(FILTER).await;
    }
    let mut killed = world.client(3, "killed").await;
    killed.gets().await;
    world.kill(3).await;
    next.gets_in_the_end().await;
    world.start(3, Config::default()).await;
    world.ready().await;
    world.end().await;
}

/// However the old connection is about to end, it has ended when another client has the filter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_taken_over_is_told_before_another_client_has_the_filter() {
    let world = Brokers::formed(Config::default()).await;
    let mut one = world.client(1, "one").await;
    one.gets().await;
    let mut again = world.client(2, "one").await;
    let mut two = world.client(3, "two").await;
    two.gets().await;
    assert_eq!(one.attachment.kicked(), Some(ReasonCode::SessionTakenOver));
    assert_eq!(again.attachment.kicked(), None);
    again.is_refused().await;
    let taken_over = |node| Counter::get(&world.app(node).counters().kicked_taken_over);
    assert_eq!([1, 2, 3].map(taken_over), [1, 0, 0]);
    // The end of the first connection takes nothing from whoever has it now.
    one.leave().await;
    again.is_refused().await;
    two.leave().await;
    again.gets().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_session_keeps_it_while_it_is_away_and_on_other_nodes_until_it_ends() {
    let world = Brokers::formed(Config::default()).await;
    let mut other = world.client(3, "other").await;
    let mut holder = world.durable(1, "holder").await;
    holder.gets().await;
    other.is_refused().await;
    holder.leave().await;
    other.is_refused().await;
    publishes(&world, "away").await;
    let mut holder = world.durable(2, "holder").await;
    assert_eq!(holder.payloads(1).await, ["away"]);
    other.is_refused().await;
    let mut taken_over = std::mem::replace(&mut holder, world.durable(1, "holder").await);
    assert_eq!(taken_over.kicked().await, ReasonCode::SessionTakenOver);
    other.is_refused().await;
    taken_over.leave().await;
    holder.unsubscribe(FILTER).await;
    other.gets().await;
    holder.is_refused().await;
    other.unsubscribe(FILTER).await;
    holder.gets().await;
    // Continued, so that the holder that the shard knows is one that was.
    holder.leave().await;
    let properties = ConnectProperties { session_expiry: Some(1), ..ConnectProperties::default() };
    let holder = Client::attach(world.app(3), Connect { properties, ..connect_durable("holder") }).await;
    other.is_refused().await;
    holder.leave().await;
    other.gets_in_the_end().await;
    other.leave().await;

    let mut holder = world.durable(1, "holder").await;
    holder.gets().await;
    holder.leave().await;
    let clean = world.client(2, "holder").await;
    let mut other = world.client(3, "other").await;
    other.gets().await;
    drop(clean);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_of_a_durable_holder_may_die() {
    let mut world = Brokers::formed(Config::default()).await;
    let mut holder = world.durable(3, "holder").await;
    holder.gets().await;
    let incarnation = world.cluster(3).own.incarnation();
    world.kill(3).await;
    until("node 3 is down", || !world.cluster(1).is_up(3, incarnation)).await;
    let mut other = world.client(1, "other").await;
    other.is_refused().await;
    let mut holder = world.durable(2, "holder").await;
    assert!(holder.session_present);
    holder.gets().await;
    other.is_refused().await;
    holder.unsubscribe(FILTER).await;
    other.gets().await;
    world.start(3, Config::default()).await;
    world.ready().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_on_a_node_that_is_cut_off_serves_no_more_when_another_has_it() {
    let config = Config { lease_patience: std::time::Duration::from_secs(600), ..Config::default() };
    let world = Brokers::formed(config).await;
    let mut holder = world.client(3, "holder").await;
    holder.gets().await;
    let mut other = world.client(1, "other").await;
    world.isolate(3);
    other.gets_in_the_end().await;
    assert!(!world.cluster(3).lease.is_valid());
    let mut publisher = world.client(2, "p").await;
    publisher.publish_accepted(publish("t/1", "x", QoS::AtLeastOnce, 1)).await;
    assert_eq!(other.payloads(1).await, ["x"]);
    world.rejoin(3);
    assert_eq!(holder.kicked().await, ReasonCode::UseAnotherServer);
    holder.take();
    assert!(holder.taken.is_empty());
    world.ready().await;
    world.end().await;
}

/// Every round somebody else has it: by chance, and by every way that it becomes free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_clients_that_ask_at_once_exactly_one_gets_it() {
    const ROUNDS: u64 = 40;
    let world = Brokers::formed(Config::default()).await;
    let mut winners = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut clients = Vec::new();
        for number in 0..6_u64 {
            let id = format!("{round}-{number}");
            let is_durable = (number + round).is_multiple_of(2);
            let connect = if is_durable { connect_durable(&id) } else { connect(&id) };
            clients.push(Client::attach(world.app(number % 3 + 1), connect).await);
        }
        let asking = clients.into_iter().map(|mut client| {
            tokio::spawn(async move {
                let code = client.asks().await;
                (client, code)
            })
        });
        let asked: Vec<_> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
        let is_winner = |code| code == ReasonCode::GrantedQoS1;
        assert!(asked.iter().all(|(_, code)| is_winner(*code) || *code == ReasonCode::QuotaExceeded));
        let won: Vec<_> = asked.iter().map(|(_, code)| is_winner(*code)).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}: {won:?}");
        *winners.entry(won.iter().position(|won| *won).unwrap() % 3 + 1).or_insert(0) += 1;
        for (mut client, code) in asked {
            if is_winner(code) && round.is_multiple_of(2) {
                client.unsubscribe(FILTER).await;
            }
            // A durable winner stays holder: it goes with a clean start.
            let id = client.attachment.client_id().to_string();
            client.leave().await;
            world.client(1, &id).await.leave().await;
        }
    }
    assert_eq!(winners.values().sum::<u64>(), ROUNDS);
    world.end().await;
}

/// A connection's own requests count in their order, whichever answer is waited for first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_asks_for_later_does_not_overtake() {
    let world = Brokers::formed(Config::default()).await;
    let mut other = world.client(2, "other").await;
    for durable in [false, true] {
        let mut client = if durable { world.durable(1, "c").await } else { world.client(1, "c").await };
        for kept in [true, false] {
            let mut asked = Vec::new();
            for step in 0..if kept { 5 } else { 6 } {
                let (packet_id, user) = (1.try_into().unwrap(), Vec::new());
                asked.push(if step % 2 == 0 {
                    let filters = vec![line(FILTER, QoS::AtLeastOnce)];
                    client.attachment.subscribe(Subscribe { packet_id, subscription_id: None, user, filters })
                } else {
                    let filters = vec![TopicFilter::new(FILTER).unwrap()];
                    client.attachment.unsubscribe(Unsubscribe { packet_id, user, filters })
                });
            }
            asked.reverse();
            let codes = soon("answers", join_all(asked)).await;
            assert!(codes.iter().flatten().all(|code| !code.is_error()), "{codes:?}");
            if kept {
                other.is_refused().await;
                publishes(&world, "x").await;
                client.payloads(1).await;
            } else {
                other.gets().await;
                other.unsubscribe(FILTER).await;
            }
        }
        client.leave().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_options_are_those_of_an_ordinary_subscription_beside_which_it_stands() {
    let world = Brokers::formed(Config::default()).await;
    let mut publisher = world.client(2, "publisher").await;
    let kept = Publish { retain: true, ..publish("t/kept", "kept", QoS::AtLeastOnce, 1) };
    publisher.publish_accepted(kept.clone()).await;
    for durable in [false, true] {
        let mut client = if durable { world.durable(1, "c").await } else { world.client(1, "c").await };
        let options = SubscribeOptions {
            no_local: true,
            retain_as_published: true,
            ..line(FILTER, QoS::AtLeastOnce).options
        };
        let filter = TopicFilter::new(FILTER).unwrap();
        let codes = client.subscribe(vec![SubscribeFilter { filter, options }], 7).await;
        assert_eq!(codes, [ReasonCode::GrantedQoS1]);
        client.until("the retained message", |client| client.taken.len() == 1).await;
        assert!(client.taken[0].retain);
        client.publish_accepted(publish("t/1", "own", QoS::AtLeastOnce, 1)).await;
        publisher.publish_accepted(kept.clone()).await;
        client.until("a live one", |client| client.taken.len() == 2).await;
        assert!(client.taken.iter().all(|taken| taken.subscription_ids[0].get() == 7));
        assert!(client.taken[1].retain, "as published");
        assert_eq!(client.taken_payloads(), ["kept", "kept"], "not its own");
        // The same filter without exclusiveness is another subscription.
        client.subscribe(vec![line("t/+", QoS::AtMostOnce)], 0).await;
        client.until("the retained message", |client| client.taken.len() == 3).await;
        client.unsubscribe("t/+").await;
        publisher.publish_accepted(publish("t/2", "still", QoS::AtLeastOnce, 1)).await;
        assert_eq!(client.payloads(4).await.last().unwrap(), "still");
        client.unsubscribe(FILTER).await;
        client.leave().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_that_are_gone_are_forgotten_and_no_others() {
    let world = Brokers::formed(Config::default()).await;
    let subscribe = async |client: &mut Client, filter: &str| {
        client.subscribe(vec![line(filter, QoS::AtLeastOnce)], 0).await;
    };
    let mut transient = world.client(1, "transient").await;
    subscribe(&mut transient, "$exclusive/connected").await;
    let mut durable = world.durable(2, "durable").await;
    for number in 0..20 {
        subscribe(&mut durable, &format!("$exclusive/kept/{number}")).await;
    }
    durable.leave().await;
    let mut gone = world.durable(3, "gone").await;
    for number in 0..20 {
        subscribe(&mut gone, &format!("$exclusive/gone/{number}")).await;
    }
    gone.leave().await;
    // A clean start ends the session, and gives back nothing of it.
    world.client(1, "gone").await.leave().await;
    let held = || -> Vec<String> {
        let views = world.cluster(1).shard_views();
        let states: Vec<_> = views.values().map(|view| view.state()).collect();
        let name = |(filter, _): (&str, &Holder)| filter.to_owned();
        states.iter().flat_map(|state| state.exclusives("").map(name).collect::<Vec<_>>()).collect()
    };
    until("all are known here", || held().len() == 41).await;
    // Again and again: a shard whose leader moves meanwhile is swept by neither.
    let forgotten = async {
        while held().len() != 21 {
            for node in 1..=3 {
                world.cluster(node).sweep_exclusive(&mut BTreeMap::new()).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    };
    soon("they are forgotten here", forgotten).await;
    assert!(held().iter().all(|filter| !filter.contains("gone")));
    world.end().await;
}
