//! A rolling restart: each node in turn is told to stop and is started again, under load, with many durable clients that
//! go where they are let in.
//!
//! Asserted: no client loses its session, and every acknowledged message comes to its client, in order. Each client's
//! longest gap is measured: from the moment it loses its connection to its session's continuation, or from a message's
//! publication to its arrival, whatever is longest. `ZWERM_ROLLING_CLIENTS=1000` makes it larger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use zwerm_tests::{Client, Cluster, Options, QoS, Version, percentile};

/// Durable clients, unless the environment says otherwise: few, for CI.
const CLIENTS: usize = 150;
/// Between two messages to the same client.
const PACE: Duration = Duration::from_secs(2);
/// Each sends to so many clients.
const PER_PUBLISHER: usize = 50;
/// What is left when the restarts are over must come in this time.
const DRAINED: Duration = Duration::from_secs(60);
const STOPS: Duration = Duration::from_secs(60);

/// What everybody knows.
struct World {
    nodes: Vec<SocketAddr>,
    began: Instant,
    /// No message is published any more.
    over: AtomicBool,
    /// Last message that was acknowledged, by client; 0: none.
    acknowledged: Vec<AtomicU64>,
}

/// What became of a subscriber.
#[derive(Default)]
struct Course {
    longest_gap: Duration,
    reconnects: u32,
    repeated: u64,
}

fn clients() -> Result<usize> {
    match std::env::var("ZWERM_ROLLING_CLIENTS") {
        Ok(number) => number.parse().context("ZWERM_ROLLING_CLIENTS is no number"),
        Err(_) => Ok(CLIENTS),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_clients_lose_nothing_and_little_time_while_all_nodes_are_restarted_in_turn() -> Result<()> {
    let number = clients()?;
    let mut cluster = Cluster::start(3).await?;
    let world = Arc::new(World {
        nodes: (1..=3).map(|node| cluster.mqtt(node)).collect(),
        began: Instant::now(),
        over: AtomicBool::new(false),
        acknowledged: (0..number).map(|_| AtomicU64::new(0)).collect(),
    });
    let mut subscribers = JoinSet::new();
    let ready = Arc::new(Semaphore::new(0));
    for client in 0..number {
        subscribers.spawn(subscribe(Arc::clone(&world), client, Arc::clone(&ready)));
    }
    let all = ready.acquire_many(u32::try_from(number)?);
    tokio::select! {
        ready = all => drop(ready?),
        ended = subscribers.join_next() => {
            ended.context("there are subscribers")??.context("a subscriber ended early")?;
        }
    }
    let mut publishers = JoinSet::new();
    for first in (0..number).step_by(PER_PUBLISHER) {
        publishers.spawn(publish(Arc::clone(&world), first, number.min(first + PER_PUBLISHER)));
    }
    sleep(PACE * 2).await;
    let restarts = Instant::now();
    for node in 1..=3 {
        let node = cluster.node_mut(node);
        ensure!(node.terminate(STOPS).await?.success());
        node.start()?;
        cluster.all_ready().await?;
    }
    let restarts = restarts.elapsed();
    sleep(PACE * 2).await;
    world.over.store(true, Ordering::Release);
    while let Some(publisher) = publishers.join_next().await {
        publisher??;
    }
    let mut courses = Vec::new();
    while let Some(subscriber) =
        timeout(DRAINED, subscribers.join_next()).await.context("messages are missing")?
    {
        courses.push(subscriber??);
    }
    let mut gaps: Vec<Duration> = courses.iter().map(|course| course.longest_gap).collect();
    let mut seconds = |percent| percentile(&mut gaps, percent).unwrap_or_default().as_secs_f64();
    let acknowledged: u64 = world.acknowledged.iter().map(|last| last.load(Ordering::Acquire)).sum();
    println!(
        "rolling restart of 3 nodes in {:.1} s with {number} durable clients: {acknowledged} messages acknowledged, none \
         lost; {} reconnects, {} repeated deliveries; longest gap of a client p50 {:.2} s, p99 {:.2} s, worst {:.2} s",
        restarts.as_secs_f64(),
        courses.iter().map(|course| course.reconnects).sum::<u32>(),
        courses.iter().map(|course| course.repeated).sum::<u64>(),
        seconds(50),
        seconds(99),
        seconds(100),
    );
    ensure!(courses.iter().any(|course| course.reconnects > 0), "nobody had to go elsewhere");
    cluster.finish().await
}

/// Takes what comes until all that was acknowledged is here.
async fn subscribe(world: Arc<World>, number: usize, ready: Arc<Semaphore>) -> Result<Course> {
    let mut course = Course::default();
    let (mut client, _) = connect(&world, &format!("durable-{number}"), number, true).await?;
    client.subscribe(&topic(number), QoS::One).await?;
    ready.add_permits(1);
    let mut last = 0;
    loop {
        if world.over.load(Ordering::Acquire) && last >= world.acknowledged[number].load(Ordering::Acquire) {
            return Ok(course);
        }
        // Whatever it waits for: whether all is over is looked at now and then.
        let Ok(next) = timeout(PACE, client.next()).await else { continue };
        let Ok(message) = next else {
            let lost = Instant::now();
            let (again, is_continued) =
                connect(&world, &format!("durable-{number}"), number + 1, true).await?;
            ensure!(is_continued, "client {number} has lost its session");
            client = again;
            course.reconnects += 1;
            course.longest_gap = course.longest_gap.max(lost.elapsed());
            continue;
        };
        let (sequence, sent) = parse(&message.payload)?;
        let took = world.began.elapsed().saturating_sub(sent);
        course.longest_gap = course.longest_gap.max(took);
        if sequence <= last {
            course.repeated += 1;
            continue;
        }
        ensure!(sequence == last + 1, "client {number}: {sequence} came after {last}");
        last = sequence;
    }
}

/// Sends to each of these clients in turn; what is not acknowledged is sent again.
async fn publish(world: Arc<World>, first: usize, end: usize) -> Result<()> {
    let id = format!("publisher-{first}");
    let (mut client, _) = connect(&world, &id, first, false).await?;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for sequence in 1_u64.. {
        pace.tick().await;
        if world.over.load(Ordering::Acquire) {
            break;
        }
        for number in first..end {
            let sent = u64::try_from(world.began.elapsed().as_millis())?;
            let payload = [sequence.to_be_bytes(), sent.to_be_bytes()].concat();
            while client.publish(&topic(number), &payload, QoS::One, false).await.is_err() {
                (client, _) = connect(&world, &id, first + 1, false).await?;
            }
            world.acknowledged[number].store(sequence, Ordering::Release);
        }
    }
    Ok(())
}

/// Connects to the node with this number, or the next that lets it in; whether a session is continued.
async fn connect(world: &World, id: &str, first: usize, is_durable: bool) -> Result<(Client, bool)> {
    let options = Options::new(world.nodes[0], id, Version::V5);
    let options = if is_durable { options.durable() } else { options };
    let client = Client::connect_to_any(&world.nodes, first, options).await?;
    let is_continued = client.session_present();
    Ok((client, is_continued))
}

fn topic(number: usize) -> String {
    format!("rolling/{number}")
}

/// Number of a message, and when it was sent.
fn parse(payload: &[u8]) -> Result<(u64, Duration)> {
    let (sequence, sent) = payload.split_at_checked(8).context("a short payload")?;
    let sent = u64::from_be_bytes(sent.try_into()?);
    Ok((u64::from_be_bytes(sequence.try_into()?), Duration::from_millis(sent)))
}
