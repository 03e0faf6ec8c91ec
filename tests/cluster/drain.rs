//! Nodes are drained, by `zwerm ctl` and by SIGTERM, while clients publish and subscribe: nothing that was acknowledged
//! is lost.
//!
//! How long clients were without messages is printed, not asserted.

mod ctl;
mod rolling;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ctl::{ctl_fails, ctl_json};
use rolling::{Load, version};
use serde_json::Value;
use tokio::net::TcpStream;
use zwerm_tests::{Client, Cluster, DEADLINE, Options, QoS, Signal, Version, get, send_signal, until};

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

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let load = Load::begin((1..=3).map(|node| cluster.mqtt(node)).collect()).await;
    let mut took = Vec::new();
    for number in 1..=3 {
        load.goes_on().await?;
        let began = Instant::now();
        let status = cluster.node_mut(number).terminate(2 * DEADLINE).await?;
        ensure!(status.success(), "node {number} ended with {status}");
        took.push(began.elapsed());
        let log = std::fs::read_to_string(cluster.node(number).log_path())?;
        ensure!(log.contains("drained: no client is left"), "node {number} did not drain");
        cluster.node_mut(number).start()?;
        cluster.all_ready().await?;
    }
    load.goes_on().await?;
    println!("rolling restart: {}; nodes stopped within {took:.2?}", load.end().await?);
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
