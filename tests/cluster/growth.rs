//! What is kept does not grow with history: disk, log and restart follow the live data, and a node that was
//! away longer than the log reaches back catches up by snapshot.
//!
//! Levels only: positions in the logs and bytes on the disk, as `/api/v1/status` and the file system tell them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;
use zwerm_tests::{Client, Cluster, DEADLINE, Options, QoS, Version, until};

/// Small, so that a test outruns the log many times; and few shards, so that each gets many entries.
const SETTINGS: [&str; 2] = ["cluster.snapshot_entries=200", "cluster.shards=2"];
const SNAPSHOT_ENTRIES: u64 = 200;
const PAYLOAD: usize = 1_000;
const QUEUED: usize = 20_000;
const ROUNDS: usize = 8;
/// Messages published one by one, so that each is an entry of the log.
const ENTRIES: usize = 700;

#[tokio::test]
async fn disk_and_log_follow_the_live_data_however_much_went_through() -> Result<()> {
    let mut cluster = Cluster::start_with(1, &SETTINGS).await?;
    let mut reader = reader(&cluster, 1).await?;
    reader.subscribe("history/+", QoS::One).await?;
    reader.close().await?;
    let mut sizes = Vec::new();
    for round in 0..ROUNDS {
        fill(&cluster, 1, round).await?;
        drain(&cluster, 1, (round, QUEUED)).await?;
        queue_is_empty(&cluster).await?;
        cluster.node_mut(1).terminate(DEADLINE).await?;
        sizes.push(bytes_under(&cluster.node(1).data_dir())?);
        cluster.node_mut(1).start()?;
        cluster.all_ready().await?;
        log_is_short(&cluster).await?;
    }
    println!(
        "after each of {ROUNDS} rounds of {QUEUED} messages of {PAYLOAD} bytes: {sizes:?} bytes on disk"
    );
    let went_through = (ROUNDS * QUEUED * PAYLOAD) as u64;
    // The database grows and shrinks by segments of 16 MiB, and a few of them are on their way out at any time.
    let largest = sizes.iter().copied().max().unwrap_or_default();
    let grown = largest.saturating_sub(sizes[0]);
    ensure!(grown < went_through / 2, "the disk grew by {grown} bytes while {went_through} went through");
    cluster.finish().await
}

#[tokio::test]
async fn a_node_that_was_away_longer_than_the_log_catches_up_and_serves_the_queue_alone() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &SETTINGS).await?;
    let mut reader = reader(&cluster, 1).await?;
    reader.subscribe("history/+", QoS::One).await?;
    reader.close().await?;
    cluster.node_mut(3).kill().await?;
    let left = positions(&cluster.node(1).status().await?)?;
    fill(&cluster, 1, 0).await?;
    let mut slow = Client::connect(Options::new(cluster.mqtt(2), "slow", Version::V5)).await?;
    for number in 0..ENTRIES {
        slow.publish("history/slow", &payload(0, number), QoS::One, false).await?;
    }
    slow.close().await?;
    outrun(&cluster, &left).await?;
    cluster.node_mut(3).start()?;
    cluster.all_ready().await?;
    until("node 3 to have all that was committed", 2 * DEADLINE, async || {
        let there = positions(&cluster.node(1).status().await.ok()?).ok()?;
        let here = positions(&cluster.node(3).status().await.ok()?).ok()?;
        here.iter().zip(&there).all(|(here, there)| here.applied >= there.applied).then_some(())
    })
    .await?;
    // What node 3 serves now it has from the snapshot: its peer of the time that it missed is gone.
    cluster.node_mut(1).kill().await?;
    drain(&cluster, 3, (0, QUEUED + ENTRIES)).await?;
    cluster.node_mut(1).start()?;
    cluster.all_ready().await?;
    cluster.finish().await
}

async fn reader(cluster: &Cluster, node: usize) -> Result<Client> {
    Client::connect(Options::new(cluster.mqtt(node), "historian", Version::V5).durable()).await
}

/// [`QUEUED`] messages by several publishers, so that they make many entries of the log at once.
async fn fill(cluster: &Cluster, node: usize, round: usize) -> Result<()> {
    const WRITERS: usize = 10;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let address = cluster.mqtt(node);
        writers.spawn(async move {
            let id = format!("writer-{writer}");
            let mut client = Client::connect(Options::new(address, &id, Version::V5)).await?;
            let payloads = (0..QUEUED / WRITERS).map(|number| payload(round, number));
            client.publish_all(&format!("history/{writer}"), payloads, QoS::One).await?;
            client.close().await
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

fn payload(round: usize, number: usize) -> Vec<u8> {
    let mut payload = format!("{round} {number} ").into_bytes();
    payload.resize(PAYLOAD, b'.');
    payload
}

/// Reads the messages that were queued in a round, each publisher's in order.
async fn drain(cluster: &Cluster, node: usize, (round, count): (usize, usize)) -> Result<()> {
    let mut reader = reader(cluster, node).await?;
    ensure!(reader.session_present(), "the session is gone");
    let mut next = std::collections::BTreeMap::new();
    for got in 0..count {
        let message = reader.next().await.with_context(|| format!("round {round}: {got} came"))?;
        let due: &mut usize = next.entry(message.topic.clone()).or_default();
        ensure!(message.payload == payload(round, *due), "{} {due} was due: {message:?}", message.topic);
        *due += 1;
    }
    reader.close().await
}

async fn queue_is_empty(cluster: &Cluster) -> Result<()> {
    until("the acknowledgements of the last messages", DEADLINE, async || {
        let status = cluster.node(1).status().await.ok()?;
        let queued =
            status["groups"].as_array()?.iter().filter_map(|group| group["queued_messages"].as_u64());
        (queued.sum::<u64>() == 0).then_some(())
    })
    .await?;
    Ok(())
}

/// Where a shard's log is on one node.
#[derive(Debug)]
struct Position {
    last: u64,
    applied: u64,
    snapshot: u64,
}

/// Of all shards, in order.
fn positions(status: &Value) -> Result<Vec<Position>> {
    let groups = status["groups"].as_array().context("no groups")?;
    let shards = groups.iter().filter(|group| group["group"].as_str().is_some_and(|name| name != "control"));
    let at = |group: &Value, what: &str| group[what].as_u64().unwrap_or(0);
    let positions: Vec<_> = shards
        .map(|group| Position {
            last: at(group, "last_log"),
            applied: at(group, "applied"),
            snapshot: at(group, "snapshot"),
        })
        .collect();
    ensure!(!positions.is_empty(), "no shard in {status}");
    Ok(positions)
}

/// The busiest shard has snapshots far behind what a node had when it left: the log does not reach back to it.
async fn outrun(cluster: &Cluster, left: &[Position]) -> Result<()> {
    until("snapshots that outran the dead node", 2 * DEADLINE, async || {
        let now = positions(&cluster.node(1).status().await.ok()?).ok()?;
        let far = |(now, left): (&Position, &Position)| now.snapshot > left.last + SNAPSHOT_ENTRIES;
        now.iter().zip(left).any(far).then_some(())
    })
    .await?;
    Ok(())
}

/// A restarted node replays what lies behind its last snapshot, and that is never much more than asked for.
async fn log_is_short(cluster: &Cluster) -> Result<()> {
    for position in positions(&cluster.node(1).status().await?)? {
        let behind = position.applied.saturating_sub(position.snapshot);
        ensure!(behind <= 2 * SNAPSHOT_ENTRIES, "{behind} entries to replay at a restart: {position:?}");
    }
    Ok(())
}

fn bytes_under(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let (entry, path) = entry.map(|entry| (entry.metadata(), entry.path()))?;
        let metadata = entry?;
        bytes += if metadata.is_dir() { bytes_under(&path)? } else { metadata.len() };
    }
    Ok(bytes)
}
