//! A StatefulSet without Kubernetes: what the Helm chart makes of pods, their names and their addresses, done to real
//! processes in network namespaces, with a DNS server and an API server of our own.
//!
//! What is emulated: pods start in parallel; a name resolves only some time after its pod started; every start has
//! a new address; a lost pod's name leads into nothing until it is started elsewhere; the API says how many replicas
//! are wanted. What is not: probes, the disruption budget, scheduling, Kubernetes itself. Start at [`run`].

mod api;
mod backlog;
mod names;
mod scaling;
mod stateful_set;
mod stream;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::time::Instant;
use zwerm_tests::{Client, Options, QoS, Version, zwerm_binary};

use self::backlog::Backlog;
use self::stateful_set::{Arrival, End, StatefulSet, pod_name};
use self::stream::Stream;

/// Pods, as in the rendered configuration.
const REPLICAS: usize = 3;
/// How often a cluster is formed from nothing.
const FORMATIONS: usize = 3;
/// Milliseconds: how late a pod may start, and how late after that its name may resolve.
const LATEST: (u64, u64) = (1_500, 3_000);
/// After all pods were deleted, within this time clients are served.
const SERVING: Duration = Duration::from_secs(30);

/// Runs all scenarios; fails when one does.
///
/// # Errors
/// When a scenario does not end as it should, or something cannot be built.
pub(crate) async fn run(seed: u64, keep: Option<&Path>) -> Result<()> {
    println!("zwerm-chaos: an emulated StatefulSet of {REPLICAS} pods, --seed {seed}");
    let temporary = TempDir::with_prefix("zwerm-pods-")?;
    let dir = keep.unwrap_or(temporary.path());
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let mut set = StatefulSet::new(&dir, &zwerm_binary()?).await?;
    let done = scenarios(&mut set, &dir, &mut StdRng::seed_from_u64(seed)).await;
    if done.is_err() {
        set.show_logs();
    }
    let panics = set.panics();
    ensure!(panics.is_empty(), "a node panicked: {panics:?}");
    done
}

async fn scenarios(set: &mut StatefulSet, dir: &Path, random: &mut StdRng) -> Result<()> {
    for round in 0..FORMATIONS {
        if round > 0 {
            set.end(&all(), End::Lost).await?;
        }
        set.create(REPLICAS, &dir.join(format!("set-{round}")))?;
        form(set, random).await?;
    }
    for how in [End::Deleted, End::Lost] {
        all_at_once(set, random, how).await?;
    }
    for (pod, how) in [(0, End::Lost), (1, End::Deleted), (2, End::Lost)] {
        one_under_load(set, random, pod, how).await?;
    }
    scaling::scale(set, random).await
}

/// All pods start, their names resolve late and in any order: one cluster is formed.
async fn form(set: &mut StatefulSet, random: &mut StdRng) -> Result<()> {
    let arrivals = arrivals(&all(), random);
    set.rollout(&arrivals).await?;
    let took = set.ready().await?;
    let cluster = set.cluster().await?;
    println!(
        "formed once: {}; ready {:.1} s after the last step; cluster {cluster}",
        told(&arrivals),
        took.as_secs_f64()
    );
    Ok(())
}

/// All pods end at the same time and start in any order with new addresses.
async fn all_at_once(set: &mut StatefulSet, random: &mut StdRng, how: End) -> Result<()> {
    let before = set.cluster().await?;
    let backlog = Backlog::lay(&format!("{how:?}"), &set.brokers()).await?;
    let begin = Instant::now();
    set.end(&all(), how).await?;
    let ended = begin.elapsed();
    let arrivals = arrivals(&all(), random);
    set.rollout(&arrivals).await?;
    let started = begin.elapsed();
    set.ready().await?;
    for broker in set.brokers() {
        reach(broker, broker, "again").await?;
    }
    let served = begin.elapsed();
    ensure!(set.cluster().await? == before, "another cluster than before");
    backlog.take(&set.brokers()).await?;
    let (messages, retained) = Backlog::SIZE;
    println!(
        "all pods {how:?} at once ({:.1} s): {}; all serve {:.1} s after the beginning, {:.1} s after the last step; \
         {messages} messages of durable sessions and {retained} retained ones are there, each once and in order",
        ended.as_secs_f64(),
        told(&arrivals),
        served.as_secs_f64(),
        (served - started).as_secs_f64(),
    );
    ensure!(served <= SERVING, "not within {} s", SERVING.as_secs());
    Ok(())
}

/// One pod comes back with another address while messages flow between the two others.
async fn one_under_load(set: &mut StatefulSet, random: &mut StdRng, pod: usize, how: End) -> Result<()> {
    let (from, to) = ((pod + 1) % REPLICAS, (pod + 2) % REPLICAS);
    let broker = |set: &StatefulSet, pod| Ok::<_, anyhow::Error>(set.pod(pod)?.mqtt());
    let stream =
        Stream::start(&format!("past-{pod}"), QoS::One, broker(set, from)?, &[broker(set, to)?]).await?;
    set.end(&[pod], how).await?;
    let begin = Instant::now();
    set.rollout(&arrivals(&[pod], random)).await?;
    let after = begin.elapsed();
    let took = set.ready().await?;
    let back = Instant::now();
    for other in [from, to] {
        reach(broker(set, pod)?, broker(set, other)?, "from").await?;
        reach(broker(set, other)?, broker(set, pod)?, "to").await?;
    }
    let reached = back.elapsed();
    let published = stream.finish().await?;
    println!(
        "{} {how:?} under load, its new name {:.1} s later: ready after {:.1} s more; messages to and from both others \
         within {:.1} s; meanwhile between these {} acknowledged and delivered, the longest waited {:.2} s",
        pod_name(pod),
        after.as_secs_f64(),
        took.as_secs_f64(),
        reached.as_secs_f64(),
        published.acknowledged,
        published.longest.as_secs_f64(),
    );
    Ok(())
}

/// A message from a client of one broker to a client of another.
async fn reach(from: SocketAddr, to: SocketAddr, what: &str) -> Result<()> {
    let topic = format!("reach/{what}/{from}/{to}");
    let mut subscriber =
        Client::connect(Options::new(to, &format!("{topic}-subscriber"), Version::V5)).await?;
    subscriber.subscribe(&topic, QoS::One).await?;
    let mut publisher =
        Client::connect(Options::new(from, &format!("{topic}-publisher"), Version::V5)).await?;
    publisher.publish(&topic, b"here", QoS::One, false).await?;
    let message = subscriber.next().await.with_context(|| format!("from {from} to {to}"))?;
    ensure!(message.text() == "here", "{message:?}");
    publisher.close().await?;
    subscriber.close().await
}

fn all() -> Vec<usize> {
    (0..REPLICAS).collect()
}

/// Starts at any time and in any order, and names that come later.
fn arrivals(pods: &[usize], random: &mut StdRng) -> Vec<Arrival> {
    let mut pods = pods.to_vec();
    pods.shuffle(random);
    let mut arrival = |pod| {
        let starts = Duration::from_millis(random.random_range(0..=LATEST.0));
        let resolves = starts + Duration::from_millis(random.random_range(0..=LATEST.1));
        Arrival { pod, starts, resolves }
    };
    pods.into_iter().map(&mut arrival).collect()
}

fn told(arrivals: &[Arrival]) -> String {
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_by_key(|it| it.starts);
    let each = arrivals.iter().map(|it| {
        let (starts, resolves) = (it.starts.as_secs_f64(), it.resolves.as_secs_f64());
        format!("{} starts at {starts:.1} s, resolves at {resolves:.1} s", pod_name(it.pod))
    });
    each.collect::<Vec<_>>().join(", ")
}
