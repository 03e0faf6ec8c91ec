//! Nodes die by `kill -9`: the others go on, what was acknowledged stays, the dead come back from their disks.
//!
//! Correctness is asserted; how long things take is printed beside what the project promises.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;
use zwerm_tests::{Client, Cluster, DEADLINE, Options, QoS, Version, get, until};

/// What the project promises after a node is lost.
const PROMISED: Duration = Duration::from_secs(5);
/// Longest single attempt to use a node, so that one that hangs is seen as hanging and tried again.
const ATTEMPT: Duration = Duration::from_secs(2);
const RETAINED: usize = 60;

#[tokio::test]
async fn any_node_may_die_and_comes_back_with_everything() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut round = 0;
    retain_all(&cluster, 1, round).await?;
    for victim in [1, 2, 3] {
        cluster.node_mut(victim).kill().await?;
        let killed = Instant::now();
        for survivor in (1..=3).filter(|node| *node != victim) {
            serves(&cluster, survivor, killed, victim).await?;
            all_retained_are_at(&cluster, survivor, round).await?;
        }
        round += 1;
        retain_all(&cluster, victim % 3 + 1, round).await?;
        cluster.node_mut(victim).start()?;
        let back = cluster.node_mut(victim).ready(2 * DEADLINE).await?;
        println!("node {victim} is ready {:.2} s after its restart", back.as_secs_f64());
        for node in 1..=3 {
            all_retained_are_at(&cluster, node, round).await?;
        }
        serves(&cluster, victim, Instant::now(), 0).await?;
    }
    cluster.finish().await
}

/// Seconds: enough for a node to die and its shards to have other leaders.
const DELAY: &str = "$delayed/4";

#[tokio::test]
async fn a_delayed_message_outlives_the_node_that_took_it() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut subscriber = Client::connect(Options::new(cluster.mqtt(3), "late", Version::V5)).await?;
    subscriber.subscribe("later/#", QoS::One).await?;
    let mut publisher = Client::connect(Options::new(cluster.mqtt(1), "early", Version::V311)).await?;
    let topics: Vec<String> = (0..8).map(|number| format!("{DELAY}/later/{number}")).collect();
    for topic in &topics {
        publisher.publish(topic, topic.as_bytes(), QoS::One, false).await?;
    }
    cluster.node_mut(1).kill().await?;
    let mut came = std::collections::BTreeSet::new();
    while came.len() < topics.len() {
        let message = subscriber.next().await?;
        let expected = message.text().replace(&format!("{DELAY}/"), "");
        ensure!(message.topic == expected, "{message:?}");
        ensure!(came.insert(message.topic.clone()), "came twice: {message:?}");
    }
    subscriber.close().await?;
    cluster.finish().await
}

#[tokio::test]
async fn all_nodes_may_die_at_once_and_start_in_any_order() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for (round, order) in [[3, 1, 2], [2, 3, 1]].into_iter().enumerate() {
        retain_all(&cluster, order[0], round).await?;
        for node in 1..=3 {
            cluster.node_mut(node).kill().await?;
        }
        let started = Instant::now();
        for node in order {
            cluster.node_mut(node).start()?;
        }
        cluster.all_ready().await?;
        println!("cold start in order {order:?}: ready after {:.2} s", started.elapsed().as_secs_f64());
        for node in 1..=3 {
            all_retained_are_at(&cluster, node, round).await?;
        }
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_lone_survivor_of_three_acknowledges_nothing_and_recovers_with_a_second() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    retain_all(&cluster, 1, 0).await?;
    cluster.node_mut(1).kill().await?;
    cluster.node_mut(2).kill().await?;
    let http = cluster.node(3).http();
    let (_, took) = until("the minority to say that it is not ready", DEADLINE, async || {
        get(http, "/readyz").await.ok().filter(|answer| answer.status != 200)
    })
    .await?;
    println!("a minority says so after {:.2} s", took.as_secs_f64());
    let alone = timeout(ATTEMPT, publish_once(&cluster, 3, "alone")).await;
    ensure!(!matches!(alone, Ok(Ok(()))), "a minority acknowledged a retained publish");
    let restarted = Instant::now();
    cluster.node_mut(2).start()?;
    serves(&cluster, 3, restarted, 0).await?;
    all_retained_are_at(&cluster, 3, 0).await?;
    cluster.node_mut(1).start()?;
    cluster.all_ready().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_subscriber_elsewhere_misses_nothing_while_nodes_die_and_return() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut subscriber = client(&cluster, 2, "steady-s").await?;
    subscriber.subscribe("steady/+", QoS::One).await?;
    let mut publisher = client(&cluster, 1, "steady-p").await?;
    let mut longest = Duration::ZERO;
    for number in 0..300 {
        match number {
            100 => cluster.node_mut(3).kill().await?,
            200 => cluster.node_mut(3).start()?,
            _ => {}
        }
        let sent = Instant::now();
        publisher.publish("steady/t", number.to_string().as_bytes(), QoS::One, false).await?;
        longest = longest.max(sent.elapsed());
    }
    println!(
        "longest wait for a PUBACK: {:.3} s (promised: {} s)",
        longest.as_secs_f64(),
        PROMISED.as_secs()
    );
    for number in 0..300 {
        let seen = subscriber.next().await?.text();
        ensure!(seen == number.to_string(), "{number} expected, {seen} came");
    }
    cluster.all_ready().await?;
    publisher.close().await?;
    subscriber.close().await?;
    cluster.finish().await
}

async fn client(cluster: &Cluster, node: usize, id: &str) -> Result<Client> {
    Client::connect(Options::new(cluster.mqtt(node), id, Version::V5)).await
}

fn retained_topic(number: usize) -> String {
    format!("kept/{}/{number}", number % 7)
}

/// Retains a value of this round under every topic, through one node, each acknowledged.
async fn retain_all(cluster: &Cluster, node: usize, round: usize) -> Result<()> {
    let mut publisher = client(cluster, node, "keeper").await?;
    for number in 0..RETAINED {
        let value = format!("round {round}, value {number}");
        publisher.publish(&retained_topic(number), value.as_bytes(), QoS::One, true).await?;
    }
    publisher.close().await
}

/// A new subscriber of a node gets every retained message with the value last acknowledged.
async fn all_retained_are_at(cluster: &Cluster, node: usize, round: usize) -> Result<()> {
    let mut subscriber = client(cluster, node, &format!("reader-{node}")).await?;
    subscriber.subscribe("kept/#", QoS::One).await?;
    let mut seen = Vec::new();
    for number in 0..RETAINED {
        let message = subscriber
            .next()
            .await
            .with_context(|| format!("node {node}: {number} of {RETAINED} retained messages came"))?;
        ensure!(message.retain, "not retained: {message:?}");
        seen.push((message.topic.clone(), message.text()));
    }
    seen.sort();
    let mut wanted: Vec<_> = (0..RETAINED)
        .map(|number| (retained_topic(number), format!("round {round}, value {number}")))
        .collect();
    wanted.sort();
    ensure!(seen == wanted, "node {node}: retained messages are {seen:?}");
    subscriber.close().await
}

/// Tries until a connect, a subscribe, a publish and its delivery work on a node; prints how long after `since`.
async fn serves(cluster: &Cluster, node: usize, since: Instant, victim: usize) -> Result<()> {
    let mut attempt = 0;
    until(&format!("service of node {node}"), 2 * DEADLINE, async || {
        attempt += 1;
        timeout(ATTEMPT, use_once(cluster, node, attempt)).await.ok()?.ok()
    })
    .await?;
    if victim > 0 {
        let (took, promised) = (since.elapsed().as_secs_f64(), PROMISED.as_secs());
        println!(
            "node {victim} killed: node {node} served a new client after {took:.2} s (promised: {promised} s)"
        );
    }
    Ok(())
}

async fn use_once(cluster: &Cluster, node: usize, attempt: usize) -> Result<()> {
    let topic = format!("probe/{node}/{attempt}");
    let mut probe = client(cluster, node, &format!("probe-{node}-{attempt}")).await?;
    probe.subscribe(&topic, QoS::One).await?;
    probe.publish(&topic, b"alive", QoS::One, false).await?;
    ensure!(probe.next().await?.text() == "alive");
    probe.close().await
}

async fn publish_once(cluster: &Cluster, node: usize, id: &str) -> Result<()> {
    let mut publisher = client(cluster, node, id).await?;
    publisher.publish("alone", b"lost?", QoS::One, true).await
}
