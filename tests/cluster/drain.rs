//! Nodes are drained, by `zwerm ctl` and by SIGTERM, while clients publish and subscribe: nothing that was acknowledged
//! is lost.
//!
//! How long clients were without messages is printed, not asserted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::interval;
use zwerm_tests::{
    Client, Cluster, DEADLINE, Options, QoS, Signal, Version, get, send_signal, until, zwerm_binary,
};

/// Durable subscribers of the rolling restart.
const SUBSCRIBERS: usize = 12;
const PUBLISHERS: usize = 3;
/// Between two messages of a publisher, and between two attempts to connect.
const PACE: Duration = Duration::from_millis(10);
/// Messages that are acknowledged between two restarts.
const BETWEEN: usize = 150;
/// What ends the stream of each publisher.
const FENCE: &str = "fence";

async fn ctl(cluster: &Cluster, through: usize, arguments: &[&str]) -> Result<Output> {
    let http = format!("http://{}", cluster.node(through).http());
    let mut command = Command::new(zwerm_binary()?);
    command.arg("ctl").args(arguments).args(["--http", &http]).kill_on_drop(true);
    tokio::time::timeout(2 * DEADLINE, command.output()).await?.context("zwerm ctl")
}

/// What it prints as JSON.
async fn ctl_json(cluster: &Cluster, through: usize, arguments: &[&str]) -> Result<Value> {
    let done = ctl(cluster, through, &[arguments, &["--json"]].concat()).await?;
    ensure!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// Why it fails.
async fn ctl_fails(cluster: &Cluster, through: usize, arguments: &[&str]) -> Result<String> {
    let done = ctl(cluster, through, arguments).await?;
    ensure!(done.status.code() == Some(1), "{arguments:?} ended with {}", done.status);
    Ok(String::from_utf8_lossy(&done.stderr).into_owned())
}

fn version(number: usize) -> Version {
    if number.is_multiple_of(2) { Version::V311 } else { Version::V5 }
}

#[tokio::test]
async fn a_node_is_drained_and_let_clients_in_again() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &["node.drain_rate=100"]).await?;
    let mut clients = Vec::new();
    for number in 0..8 {
        let options = Options::new(cluster.mqtt(2), &format!("drained-{number}"), version(number)).durable();
        let mut client = Client::connect(options).await?;
        client.subscribe("drained/#", QoS::One).await?;
        clients.push(client);
    }
    let said = ctl_json(&cluster, 1, &["node", "drain", "node-2"]).await?;
    ensure!(said["state"] == "drained" && said["name"] == "node-2" && said["clients_left"] == 0, "{said}");
    for client in &mut clients {
        client.closed().await?;
    }
    let at = cluster.mqtt(2);
    until("it does not listen", DEADLINE, async || TcpStream::connect(at).await.err()).await?;
    let ready = get(cluster.node(2).http(), "/readyz").await?;
    ensure!(ready.status == 503 && ready.body.contains("drained"), "{ready:?}");
    let metrics = get(cluster.node(2).http(), "/metrics").await?.body;
    ensure!(metrics.contains("zwerm_draining 1\n"), "no zwerm_draining");
    ensure!(metrics.contains("zwerm_clients_kicked_total{reason=\"draining\"} 8\n"), "not 8 were told to go");
    // the others may be electing just now
    until("node 2 is drained and the others are up", DEADLINE, async || {
        let nodes = ctl_json(&cluster, 3, &["node", "list"]).await.ok()?;
        let states: Vec<&str> = nodes.as_array()?.iter().filter_map(|node| node["state"].as_str()).collect();
        (states == ["up", "drained", "up"] && nodes[1]["leads"] == 0).then_some(())
    })
    .await?;

    let mut publisher = Client::connect(Options::new(cluster.mqtt(3), "p", Version::V5)).await?;
    publisher.publish("drained/1", b"meanwhile", QoS::One, false).await?;
    for number in 0..8 {
        let home = if number < 4 { 1 } else { 3 };
        let options =
            Options::new(cluster.mqtt(home), &format!("drained-{number}"), version(number)).durable();
        let mut client = Client::connect(options).await?;
        ensure!(client.session_present(), "client {number} lost its session");
        ensure!(client.next().await?.payload == "meanwhile");
    }

    let why = ctl_fails(&cluster, 1, &["node", "drain", "node-9"]).await?;
    ensure!(why.contains("node-9") && why.contains("node-1, node-2, node-3"), "{why}");
    let said = ctl_json(&cluster, 3, &["node", "undrain", "node-2"]).await?;
    ensure!(said["state"] == "serving", "{said}");
    cluster.all_ready().await?;
    until("node 2 takes clients", DEADLINE, async || {
        Client::connect(Options::new(at, "again", Version::V5)).await.ok()
    })
    .await?;

    // Nobody is left to take them: refused, unless it is forced.
    cluster.node_mut(1).kill().await?;
    ctl_json(&cluster, 2, &["node", "drain", "--no-wait"]).await?;
    let node_3 = cluster.node(3).http();
    until("node 3 stands alone", DEADLINE, async || {
        let status: Value = serde_json::from_str(&get(node_3, "/api/v1/status").await.ok()?.body).ok()?;
        let rows = status["nodes"].as_array()?;
        let gone = rows.iter().filter(|row| row["state"] == "down" || row["draining"] == true).count();
        (gone == 2).then_some(())
    })
    .await?;
    let why = ctl_fails(&cluster, 3, &["node", "drain"]).await?;
    ensure!(why.contains("nowhere to go"), "{why}");
    let said = ctl_json(&cluster, 3, &["node", "drain", "--force"]).await?;
    ensure!(said["state"] == "drained", "{said}");
    cluster.finish().await
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
        let began = Instant::now();
        let mut pace = interval(PACE);
        for attempt in number.. {
            pace.tick().await;
            ensure!(began.elapsed() < 2 * DEADLINE, "{id} is not taken by any node");
            let options = Options::new(self.nodes[attempt % self.nodes.len()], id, version(number));
            let options = if durable { options.durable().acknowledging_itself() } else { options };
            if let Ok(client) = Client::connect(options).await {
                return Ok(client);
            }
        }
        bail!("no attempt is left")
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

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let nodes = (1..=3).map(|node| cluster.mqtt(node)).collect();
    let world = World { nodes, over: Arc::default(), acknowledged: Arc::default() };
    let ready = Arc::new(tokio::sync::Barrier::new(SUBSCRIBERS + 1));
    let mut subscribers = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        subscribers.spawn(subscriber(world.clone(), number, Arc::clone(&ready)));
    }
    ready.wait().await;
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        publishers.spawn(publisher(world.clone(), number));
    }
    let mut took = Vec::new();
    for number in 1..=3 {
        world.goes_on().await?;
        let began = Instant::now();
        let status = cluster.node_mut(number).terminate(2 * DEADLINE).await?;
        ensure!(status.success(), "node {number} ended with {status}");
        took.push(began.elapsed());
        let log = std::fs::read_to_string(cluster.node(number).log_path())?;
        ensure!(log.contains("drained: no client is left"), "node {number} did not drain");
        cluster.node_mut(number).start()?;
        cluster.all_ready().await?;
    }
    world.goes_on().await?;
    world.over.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    while let Some(publisher) = publishers.join_next().await {
        acknowledged.extend(publisher??);
    }
    let mut gaps = Vec::new();
    while let Some(subscriber) = subscribers.join_next().await {
        let (got, gap) = subscriber??;
        let lost: Vec<&String> = acknowledged.difference(&got).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        gaps.push(gap);
    }
    gaps.sort();
    println!(
        "rolling restart: {} messages acknowledged, 0 lost at {SUBSCRIBERS} durable subscribers; their longest gap: median {:.2} s, \
         longest {:.2} s; nodes stopped within {took:.2?}",
        acknowledged.len(),
        gaps[gaps.len() / 2].as_secs_f64(),
        gaps[gaps.len() - 1].as_secs_f64(),
    );
    cluster.finish().await
}

#[tokio::test]
async fn all_nodes_that_stop_at_once_do_not_wait_for_each_other() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &["node.shutdown_grace=600"]).await?;
    let _client = Client::connect(Options::new(cluster.mqtt(1), "c", Version::V311)).await?;
    for number in 1..=3 {
        let pid = cluster.node(number).pid().context("it runs")?;
        send_signal(pid, Signal::TERM)?;
    }
    // far less than the grace, however busy the machine
    for number in 1..=3 {
        let status = cluster.node_mut(number).ended(2 * DEADLINE).await?;
        ensure!(status.success(), "node {number} ended with {status}");
    }
    cluster.finish().await
}
