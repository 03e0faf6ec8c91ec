//! Clients that publish and subscribe while nodes are stopped and started one after the other, and hold what they got
//! against what was acknowledged. Start at [`Load::begin`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::interval;
use zwerm_tests::{Client, DEADLINE, Options, QoS, Version, until};

/// Durable subscribers.
const SUBSCRIBERS: usize = 12;
const PUBLISHERS: usize = 3;
/// Between two messages of a publisher.
const PACE: Duration = Duration::from_millis(10);
/// Messages that are acknowledged between two restarts.
const BETWEEN: usize = 150;
/// What ends the stream of each publisher.
const FENCE: &str = "fence";

/// Of a client, by its number.
pub(crate) fn version(number: usize) -> Version {
    if number.is_multiple_of(2) { Version::V311 } else { Version::V5 }
}

/// Where everybody is, and whether it is over.
#[derive(Clone)]
struct World {
    nodes: Vec<SocketAddr>,
    over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl World {
    /// Waits until some more messages are acknowledged.
    async fn goes_on(&self) -> Result<()> {
        let enough = self.acknowledged.load(Ordering::Relaxed) + BETWEEN;
        until("messages are acknowledged", 2 * DEADLINE, async || {
            (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await
        .map(drop)
    }

    /// Connects to a node, the next one if that does not work, as long as it takes.
    async fn connect(&self, id: &str, number: usize, durable: bool) -> Result<Client> {
        let options = Options::new(self.nodes[0], id, version(number));
        let options = if durable { options.durable().acknowledging_itself() } else { options };
        Client::connect_to_any(&self.nodes, number, options).await
    }
}

/// Publishes numbers until it is over, each until it is acknowledged; those that were.
async fn publisher(world: World, number: usize) -> Result<BTreeSet<String>> {
    let (id, topic) = (format!("rolling-publisher-{number}"), format!("rolling/{number}"));
    let mut client = world.connect(&id, number, false).await?;
    let mut acknowledged = BTreeSet::new();
    let mut pace = interval(PACE);
    for value in 0.. {
        pace.tick().await;
        let is_last = world.over.load(Ordering::Relaxed);
        let payload = if is_last { format!("{FENCE}-{number}") } else { format!("{number}-{value}") };
        let qos = if value % 2 == 0 { QoS::One } else { QoS::Two };
        while client.publish(&topic, payload.as_bytes(), qos, false).await.is_err() {
            client = world.connect(&id, number, false).await?;
        }
        acknowledged.insert(payload);
        world.acknowledged.fetch_add(1, Ordering::Relaxed);
        if is_last {
            break;
        }
    }
    Ok(acknowledged)
}

/// Receives until it has the fence of every publisher; what it got, and its longest time without anything.
async fn subscriber(
    world: World,
    number: usize,
    ready: Arc<tokio::sync::Barrier>,
) -> Result<(BTreeSet<String>, Duration)> {
    let id = format!("rolling-subscriber-{number}");
    let mut client = world.connect(&id, number, true).await?;
    client.subscribe("rolling/+", QoS::One).await?;
    ready.wait().await;
    let (mut got, mut fences) = (BTreeSet::new(), BTreeSet::new());
    let (mut longest, mut last) = (Duration::ZERO, None);
    while fences.len() < PUBLISHERS {
        let Ok(message) = client.next().await else {
            client = world.connect(&id, number, true).await?;
            ensure!(client.session_present(), "{id} lost its session");
            continue;
        };
        let now = Instant::now();
        longest = longest.max(now - last.replace(now).unwrap_or(now));
        if client.acknowledge(&message).await.is_err() {
            continue;
        }
        if message.text().starts_with(FENCE) {
            fences.insert(message.text());
        }
        got.insert(message.text());
    }
    Ok((got, longest))
}

/// Publishers and durable subscribers at work.
pub(crate) struct Load {
    world: World,
    publishers: JoinSet<Result<BTreeSet<String>>>,
    subscribers: JoinSet<Result<(BTreeSet<String>, Duration)>>,
}

impl Load {
    /// Begins when all have subscribed.
    pub(crate) async fn begin(nodes: Vec<SocketAddr>) -> Self {
        let world = World { nodes, over: Arc::default(), acknowledged: Arc::default() };
        let ready = Arc::new(tokio::sync::Barrier::new(SUBSCRIBERS + 1));
        let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for number in 0..SUBSCRIBERS {
            subscribers.spawn(subscriber(world.clone(), number, Arc::clone(&ready)));
        }
        ready.wait().await;
        for number in 0..PUBLISHERS {
            publishers.spawn(publisher(world.clone(), number));
        }
        Self { world, publishers, subscribers }
    }

    /// Waits until some more messages are acknowledged.
    pub(crate) async fn goes_on(&self) -> Result<()> {
        self.world.goes_on().await
    }

    /// Ends it; fails if anything that was acknowledged did not come to every subscriber.
    pub(crate) async fn end(mut self) -> Result<Outcome> {
        self.world.over.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        while let Some(publisher) = self.publishers.join_next().await {
            acknowledged.extend(publisher??);
        }
        let mut gaps = Vec::new();
        while let Some(subscriber) = self.subscribers.join_next().await {
            let (got, gap) = subscriber??;
            let lost: Vec<&String> = acknowledged.difference(&got).collect();
            ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
            gaps.push(gap);
        }
        gaps.sort();
        Ok(Outcome { acknowledged: acknowledged.len(), gaps })
    }
}

/// What it came to.
pub(crate) struct Outcome {
    acknowledged: usize,
    /// The longest time without a message of each subscriber, rising.
    gaps: Vec<Duration>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages acknowledged, 0 lost at {SUBSCRIBERS} durable subscribers; their longest gap: median {:.2} s, \
             longest {:.2} s",
            self.acknowledged,
            self.gaps[self.gaps.len() / 2].as_secs_f64(),
            self.gaps[self.gaps.len() - 1].as_secs_f64(),
        )
    }
}
