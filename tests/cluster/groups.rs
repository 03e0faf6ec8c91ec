//! Shared subscriptions of durable clients: online members first, nothing lost, what is left moves on.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use tokio::select;
use zwerm_tests::{Client, Cluster, Message, Options, QoS, Version};

const FILTER: &str = "$share/workers/jobs/+";
const TOPIC: &str = "jobs/new";
/// Messages of a round, and rounds until all nodes must know who is away: seconds.
const ROUND: u32 = 10;
const MOST_ROUNDS: u32 = 500;
/// Of another shared subscription.
const OTHER: (&str, &str) = ("$share/workers/more/+", "more/new");

#[tokio::test]
async fn a_group_gets_each_message_once_whoever_of_its_members_is_there() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let mut one = member(&cluster, 1, "one").await?;
    let mut two = member(&cluster, 2, "two").await?;
    one.subscribe(FILTER, QoS::One).await?;
    two.subscribe(FILTER, QoS::One).await?;

    publish(&cluster, TOPIC, 0..100).await?;
    together(&mut one, &mut two, numbers(0..100)).await?;

    one.close().await?;
    let (published, mut waiting) = until_alone(&cluster, &mut two, 100).await?;

    two.close().await?;
    publish(&cluster, TOPIC, published..published + 50).await?;
    waiting.extend(published..published + 50);
    let mut one = member(&cluster, 3, "one").await?;
    let mut two = member(&cluster, 1, "two").await?;
    ensure!(one.session_present() && two.session_present(), "a member's session is gone");
    together(&mut one, &mut two, waiting).await?;

    nothing_more(&cluster, &mut one, &mut two).await?;
    one.close().await?;
    two.close().await?;
    cluster.finish().await
}

#[tokio::test]
async fn what_a_member_did_not_acknowledge_goes_to_another_when_its_session_ends() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut one = holding(&cluster, 1, "one").await?;
    one.subscribe(FILTER, QoS::One).await?;
    publish(&cluster, TOPIC, 0..20).await?;
    let held = take(&mut one, 20).await?;
    ensure!(held == numbers(0..20), "the only member got {held:?}");
    drop(one);
    let mut two = member(&cluster, 3, "two").await?;
    two.subscribe(FILTER, QoS::One).await?;
    // A clean start ends the session of the first one, wherever it was; 3.1.1 says it in the CONNECT alone.
    let clean = Client::connect(Options::new(cluster.mqtt(2), "one", Version::V311)).await?;
    let moved = take(&mut two, 20).await?;
    ensure!(moved == numbers(0..20), "{moved:?} moved on");
    clean.close().await?;

    // And again when the node dies that the member of a transient session is connected to.
    let mut third =
        Client::connect(Options::new(cluster.mqtt(1), "third", Version::V5).acknowledging_itself()).await?;
    third.subscribe(OTHER.0, QoS::One).await?;
    publish(&cluster, OTHER.1, 20..40).await?;
    let held = take(&mut third, 20).await?;
    ensure!(held == numbers(20..40), "the only member got {held:?}");
    two.subscribe(OTHER.0, QoS::One).await?;
    third.close().await?;
    let moved = take(&mut two, 20).await?;
    ensure!(moved == numbers(20..40), "{moved:?} moved on");
    cluster.node_mut(1).kill().await?;
    two.close().await?;
    cluster.finish().await
}

async fn member(cluster: &Cluster, node: usize, id: &str) -> Result<Client> {
    Client::connect(Options::new(cluster.mqtt(node), id, Version::V5).durable()).await
}

/// A member that acknowledges nothing.
async fn holding(cluster: &Cluster, node: usize, id: &str) -> Result<Client> {
    let options = Options::new(cluster.mqtt(node), id, Version::V5).durable();
    Client::connect(options.acknowledging_itself()).await
}

async fn publish(cluster: &Cluster, topic: &str, numbers: std::ops::Range<u32>) -> Result<()> {
    let mut publisher = Client::connect(Options::new(cluster.mqtt(3), "boss", Version::V5)).await?;
    publisher.publish_all(topic, numbers.map(|number| number.to_string().into_bytes()), QoS::One).await?;
    publisher.close().await
}

fn numbers(range: std::ops::Range<u32>) -> BTreeSet<u32> {
    range.collect()
}

/// The next messages of a member, each another one.
async fn take(client: &mut Client, count: usize) -> Result<BTreeSet<u32>> {
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        note(&mut seen, &client.next().await?)?;
    }
    Ok(seen)
}

fn note(seen: &mut BTreeSet<u32>, message: &Message) -> Result<()> {
    ensure!(seen.insert(message.text().parse()?), "came twice: {message:?}");
    Ok(())
}

/// Publishes numbers from `first` until a round of them goes to one member alone: all nodes know then that the
/// other one is away. Returns the number after the last, and those that wait for the other one.
async fn until_alone(cluster: &Cluster, member: &mut Client, first: u32) -> Result<(u32, BTreeSet<u32>)> {
    let mut waiting = BTreeSet::new();
    for round in 0..MOST_ROUNDS {
        let sent = first + round * ROUND..first + (round + 1) * ROUND;
        publish(cluster, TOPIC, sent.clone()).await?;
        let mut came = BTreeSet::new();
        for message in before_a_fence(cluster, member).await? {
            note(&mut came, &message)?;
        }
        let missing: Vec<u32> = sent.clone().filter(|number| !came.contains(number)).collect();
        if missing.is_empty() {
            return Ok((sent.end, waiting));
        }
        waiting.extend(missing);
    }
    bail!("after {MOST_ROUNDS} rounds the member that is away is still given messages: {waiting:?}");
}

/// Two members get these messages between them, each once.
async fn together(one: &mut Client, two: &mut Client, wanted: BTreeSet<u32>) -> Result<()> {
    let mut seen = BTreeSet::new();
    while seen.len() < wanted.len() {
        let message = select! { message = one.next() => message?, message = two.next() => message? };
        note(&mut seen, &message)?;
    }
    ensure!(seen == wanted, "the group got {seen:?}");
    Ok(())
}

/// Both members' next message is one that is published now, outside the group.
async fn nothing_more(cluster: &Cluster, one: &mut Client, two: &mut Client) -> Result<()> {
    for client in [one, two] {
        let before = before_a_fence(cluster, client).await?;
        ensure!(before.is_empty(), "too many: {before:?}");
    }
    Ok(())
}

/// What a member is given before a message that is published now, outside the group.
async fn before_a_fence(cluster: &Cluster, member: &mut Client) -> Result<Vec<Message>> {
    member.subscribe("fence", QoS::One).await?;
    let mut publisher = Client::connect(Options::new(cluster.mqtt(2), "fence", Version::V5)).await?;
    publisher.publish("fence", b"fence", QoS::One, false).await?;
    let before = member.until_fence("fence").await?;
    member.unsubscribe("fence").await?;
    publisher.close().await?;
    Ok(before)
}
