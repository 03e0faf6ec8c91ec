//! Shared subscriptions over nodes.

use zwerm_broker::{Config, SharedStrategy};
use zwerm_wire::QoS;

use crate::client::{Brokers, Client, line, numbers, publish};
use crate::fixture::until;

const MESSAGES: u16 = 300;

/// Members on nodes: two on the first, one on the second, three on the third.
const MEMBERS: [u64; 6] = [1, 1, 2, 3, 3, 3];

/// Publishes on node 1, each message to a topic of its own; how many each member got.
async fn spread(strategy: SharedStrategy) -> Vec<usize> {
    let world = Brokers::formed(Config { shared_strategy: strategy, ..Config::default() }).await;
    let mut members: Vec<Client> = Vec::new();
    for (number, node) in MEMBERS.into_iter().enumerate() {
        let mut member = world.client(node, &format!("member-{number}")).await;
        member.subscribe(vec![line("$share/g/t/+", QoS::AtLeastOnce)], 0).await;
        members.push(member);
    }
    let mut publisher = world.client(1, "publisher").await;
    for number in 0..MESSAGES {
        let topic = format!("t/{number}");
        publisher.offer(publish(&topic, &number.to_string(), QoS::AtLeastOnce, number + 1));
    }
    publisher.until("all are acknowledged", |client| client.accepted.len() == usize::from(MESSAGES)).await;
    until("all have arrived", || {
        members.iter_mut().for_each(Client::take);
        members.iter().map(|member| member.taken.len()).sum::<usize>() >= MESSAGES.into()
    })
    .await;
    let mut all: Vec<String> = members.iter().flat_map(Client::taken_payloads).collect();
    all.sort_unstable_by_key(|text| text.parse::<u16>().unwrap());
    assert_eq!(all, numbers(0..MESSAGES), "each message exactly once");
    world.end().await;
    members.iter().map(|member| member.taken.len()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_is_even_over_members_of_all_nodes_whatever_the_topics() {
    let counts = spread(SharedStrategy::RoundRobin).await;
    // Two lanes take turns of their own.
    assert!(counts.iter().all(|count| (48..=52).contains(count)), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chance_and_hashes_weigh_members_of_all_nodes_alike() {
    for strategy in [SharedStrategy::Random, SharedStrategy::HashTopic] {
        let counts = spread(strategy).await;
        // 300 over 6: 50 each, with a standard deviation of about 6.5.
        assert!(counts.iter().all(|count| (15..=95).contains(count)), "{strategy:?}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_takes_members_of_the_publishers_node_in_turn() {
    assert_eq!(spread(SharedStrategy::Local).await, [150, 150, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sticky_and_the_hash_of_the_client_take_one_member() {
    for strategy in [SharedStrategy::Sticky, SharedStrategy::HashClient] {
        let counts = spread(strategy).await;
        assert_eq!(counts.iter().filter(|count| **count > 0).count(), 1, "{strategy:?}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_on_its_way_to_a_member_whose_node_dies_goes_to_another() {
    let world = Brokers::formed(Config::default()).await;
    let group = || vec![line("$share/g/t", QoS::AtLeastOnce)];
    let mut dying = world.client(3, "dying").await;
    dying.subscribe(group(), 0).await;
    let mut away = world.durable(2, "away").await;
    away.subscribe(group(), 0).await;
    away.leave().await;
    let mut publisher = world.client(1, "p").await;
    world.isolate(3);
    publisher.offer(publish("t", "x", QoS::AtLeastOnce, 1));
    publisher.until("the acknowledgement", |client| !client.accepted.is_empty()).await;
    let mut away = world.durable(2, "away").await;
    assert_eq!(away.payloads(1).await, ["x"]);
    world.rejoin(3);
    world.ready().await;
    world.end().await;
}
