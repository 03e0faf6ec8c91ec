//! What `kubectl scale` does, under load: pods that are new join the cluster, pods that are wanted no more leave it (one
//! is killed before it has left), and one that is only restarted stays a member.
//!
//! Twice: first the pods that are not wanted end one after the other, the highest ordinal first, as with
//! `podManagementPolicy: OrderedReady`; then together, as with the chart's `Parallel`. The second time the new pods find
//! the volumes of those that have left. Start at [`scale`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use tokio::time::Instant;
use zwerm_tests::QoS;

use super::backlog::Backlog;
use super::stateful_set::{End, StatefulSet, pod_name};
use super::stream::{Published, Stream};
use super::{REPLICAS, arrivals, reach, told};

/// Replicas from [`REPLICAS`], and back.
const GROWN: usize = 5;

/// Grows the set and makes it smaller again while messages flow between the pods that stay.
///
/// # Errors
/// When a pod does not join, leaves though it is wanted, stays though it is not, or a message is missing.
pub(super) async fn scale(set: &mut StatefulSet, random: &mut StdRng) -> Result<()> {
    let mut streams = Vec::new();
    for from in 0..REPLICAS {
        let to = (from + 1) % REPLICAS;
        streams.push(stream(set, "stays", QoS::Two, from, &[to]).await?);
    }
    let mut ids = BTreeSet::new();
    for together in [1, GROWN - REPLICAS] {
        let small = Backlog::lay(&format!("small-{together}"), &set.brokers()).await?;
        grow(set, random, &mut ids).await?;
        small.take(&set.brokers()).await?;
        let grown = Backlog::lay(&format!("grown-{together}"), &set.brokers()).await?;
        restart(set, random).await?;
        cut_short(set, random, &mut ids).await?;
        shrink(set, together).await?;
        grown.take(&set.brokers()).await?;
    }
    let Published { acknowledged, longest } = finish(streams).await?;
    let (waiting, _) = Backlog::SIZE;
    println!(
        "scaled under load: {acknowledged} messages with QoS 2 between the pods that stay, each delivered once and in \
         order, the longest waited {:.2} s; {waiting} messages of durable sessions over each change likewise",
        longest.as_secs_f64(),
    );
    Ok(())
}

/// Messages from a pod to a subscriber at one of `to` after the other.
async fn stream(set: &StatefulSet, name: &str, qos: QoS, from: usize, to: &[usize]) -> Result<Stream> {
    let name = format!("{name}-{from}-{to:?}");
    let to = to.iter().map(|pod| Ok(set.pod(*pod)?.mqtt())).collect::<Result<Vec<_>>>()?;
    Stream::start(&name, qos, set.pod(from)?.mqtt(), &to).await
}

/// How many messages all of them were, and the longest that one of them waited.
async fn finish(streams: Vec<Stream>) -> Result<Published> {
    let mut all = Published { acknowledged: 0, longest: Duration::ZERO };
    for stream in streams {
        let one = stream.finish().await?;
        all.acknowledged += one.acknowledged;
        all.longest = all.longest.max(one.longest);
    }
    Ok(all)
}

/// The new pods start; each is a member that no other was, votes, and leads its share.
async fn grow(set: &mut StatefulSet, random: &mut StdRng, ids: &mut BTreeSet<String>) -> Result<()> {
    let before = set.cluster().await?;
    let new: Vec<usize> = (REPLICAS..GROWN).collect();
    set.scale(GROWN)?;
    let arrivals = arrivals(&new, random);
    set.rollout(&arrivals).await?;
    let ready = set.ready().await?;
    let begin = Instant::now();
    ensure!(set.cluster().await? == before, "another cluster than before");
    for pod in new {
        let (old, new) = (set.pod(0)?.mqtt(), set.pod(pod)?.mqtt());
        reach(new, old, "from-new").await?;
        reach(old, new, "to-new").await?;
        is_new(set, pod, ids).await?;
    }
    let reached = begin.elapsed();
    let leads = set.settled().await?;
    println!(
        "scaled from {REPLICAS} to {GROWN}: {}; joined and ready {:.1} s after the last step, messages to and from \
         the new pods within {:.1} s, everything in its place after {:.1} s; they lead {leads:?}",
        told(&arrivals),
        ready.as_secs_f64(),
        reached.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// The pod that would be the first to go is restarted: it is wanted, so it stays who it is.
async fn restart(set: &mut StatefulSet, random: &mut StdRng) -> Result<()> {
    let pod = GROWN - 1;
    let before = set.members(0).await?;
    let begin = Instant::now();
    set.end(&[pod], End::Deleted).await?;
    let ended = begin.elapsed();
    ensure!(set.members(0).await? == before, "{} left, though it was only restarted", pod_name(pod));
    set.rollout(&arrivals(&[pod], random)).await?;
    let took = set.ready().await?;
    set.cluster().await?;
    ensure!(set.members(0).await? == before, "{} is another member than before", pod_name(pod));
    println!(
        "{} restarted while {GROWN} are wanted ({:.1} s): it stayed a member; ready after {:.1} s",
        pod_name(pod),
        ended.as_secs_f64(),
        took.as_secs_f64(),
    );
    Ok(())
}

/// A pod that leaves is killed before it has left, as when its grace is over: the others finish without it, and its
/// volume is no member's any more.
async fn cut_short(set: &mut StatefulSet, random: &mut StdRng, ids: &mut BTreeSet<String>) -> Result<()> {
    let pod = GROWN - 1;
    let before = set.cluster().await?;
    set.scale(pod)?;
    set.begin_to_leave(pod, 0).await?;
    set.end(&[pod], End::Lost).await?;
    let begin = Instant::now();
    ensure!(set.cluster().await? == before, "another cluster than before");
    let gone = begin.elapsed();
    set.scale(GROWN)?;
    set.rollout(&arrivals(&[pod], random)).await?;
    set.revived(pod).await?;
    ensure!(set.cluster().await? == before, "another cluster than before");
    is_new(set, pod, ids).await?;
    set.settled().await?;
    println!(
        "{} killed while it left: no member {:.1} s later; with its old volume it came back as a new one",
        pod_name(pod),
        gone.as_secs_f64(),
    );
    Ok(())
}

/// Whether a pod is a member that no other was.
async fn is_new(set: &StatefulSet, pod: usize, ids: &mut BTreeSet<String>) -> Result<()> {
    let id = set.members(0).await?.remove(&pod_name(pod)).context("the new pod is no member")?;
    ensure!(ids.insert(id), "{} is who it was before", pod_name(pod));
    Ok(())
}

/// The pods that are not wanted any more end, so many at a time, the highest ordinals first; each is no member then,
/// and its clients go on elsewhere.
async fn shrink(set: &mut StatefulSet, together: usize) -> Result<()> {
    let before = set.cluster().await?;
    set.scale(REPLICAS)?;
    let gone: Vec<usize> = (REPLICAS..GROWN).rev().collect();
    let mut streams = Vec::new();
    for &pod in &gone {
        let name = format!("moves-{together}");
        streams.push(stream(set, &name, QoS::One, 0, &[pod, pod % REPLICAS]).await?);
    }
    let mut said = String::new();
    for pods in gone.chunks(together) {
        let begin = Instant::now();
        set.end(pods, End::Deleted).await?;
        let took = begin.elapsed().as_secs_f64();
        ensure!(set.cluster().await? == before, "another cluster than before");
        let names: Vec<String> = pods.iter().map(|pod| pod_name(*pod)).collect();
        write!(said, "{} left after {took:.1} s, ", names.join(" and "))?;
    }
    let begin = Instant::now();
    let leads = set.settled().await?;
    ensure!(set.members(0).await?.len() == REPLICAS, "not {REPLICAS} members");
    let moved = begin.elapsed();
    let Published { acknowledged, longest } = finish(streams).await?;
    println!(
        "scaled from {GROWN} to {REPLICAS}, {together} at a time: {said}everything in its place {:.1} s later; \
         {REPLICAS} members lead {leads:?}; {acknowledged} messages to clients that were on the pods that left and went \
         on elsewhere, none missing and in order, the longest waited {:.2} s",
        moved.as_secs_f64(),
        longest.as_secs_f64(),
    );
    Ok(())
}
