//! A cluster is taken from one feature level to the next, node by node under load, and one node tries to go back.
//!
//! `cluster.max_level` makes of this program the one before: it can no more than that program could.

mod ctl;
mod rolling;

use anyhow::{Result, ensure};
use ctl::{ctl_fails, ctl_json};
use rolling::{Load, version};
use serde_json::{Value, json};
use zwerm_tests::{Client, Cluster, DEADLINE, Options, get, until};

const BEFORE: &[&str] = &["cluster.max_level=1", "cluster.shards=4"];
const NOW: &[&str] = &["cluster.shards=4"];
const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Waits until a node that was asked says what it should of the levels.
async fn levels(cluster: &Cluster, node: usize, level: u64, held_back_by: &[&str]) -> Result<()> {
    let wanted = |levels: &Value| levels["cluster"] == level && levels["held_back_by"] == json!(held_back_by);
    until(&format!("node {node} to say that the level is {level}"), DEADLINE, async || {
        wanted(&cluster.node(node).status().await.ok()?["levels"]).then_some(())
    })
    .await
    .map(drop)
}

/// Waits until so many nodes vote in each shard, as the leaders of the shards know.
async fn replicas(cluster: &Cluster, replicas: usize) -> Result<()> {
    until(&format!("{replicas} replicas of each shard"), 4 * DEADLINE, async || {
        let mut led = 0;
        for node in cluster.nodes() {
            let status = node.status().await.ok()?;
            let groups = status["groups"].as_array()?.iter().filter(|group| group["state"] == "leader");
            for shard in groups.filter(|group| group["group"] != "control") {
                led += usize::from(shard["voters"].as_array()?.len() == replicas);
            }
        }
        (led == 4).then_some(())
    })
    .await
    .map(drop)
}

#[tokio::test]
async fn a_rolling_upgrade_under_load_loses_nothing_and_brings_the_new_level() -> Result<()> {
    let mut cluster = Cluster::start_with(3, BEFORE).await?;
    let load = Load::begin((1..=3).map(|node| cluster.mqtt(node)).collect()).await;
    levels(&cluster, 2, 1, &[]).await?;
    let why = ctl_fails(&cluster, 2, &["cluster", "replicas", "1"]).await?;
    ensure!(why.contains("needs feature level 2") && why.contains("node-1, node-2, node-3"), "{why}");

    for number in 1..=3 {
        load.goes_on().await?;
        let status = cluster.node_mut(number).terminate(2 * DEADLINE).await?;
        ensure!(status.success(), "node {number} ended with {status}");
        cluster.node_mut(number).set(NOW);
        cluster.node_mut(number).start()?;
        cluster.all_ready().await?;
        if number < 3 {
            levels(&cluster, number, 1, &NAMES[number..]).await?;
            let why = ctl_fails(&cluster, 3, &["cluster", "replicas", "1"]).await?;
            ensure!(why.contains(&format!("{} can no more", NAMES[number..].join(", "))), "{why}");
        }
    }
    for number in 1..=3 {
        levels(&cluster, number, 2, &[]).await?;
    }
    let listed = ctl_json(&cluster, 1, &["node", "list"]).await?;
    for row in listed.as_array().into_iter().flatten() {
        ensure!(row["newest_level"] == 2 && row["cluster_level"] == 2, "{row}");
    }
    let metrics = get(cluster.node(3).http(), "/metrics").await?.body;
    for line in ["zwerm_cluster_level 2\n", "zwerm_cluster_level_held_back 0\n", "zwerm_cluster_replicas 3\n"]
    {
        ensure!(metrics.contains(line), "no {line} in {metrics}");
    }

    for number in [1, 3] {
        let text = number.to_string();
        let said = ctl_json(&cluster, 2, &["cluster", "replicas", &text]).await?;
        ensure!(said["replicas"] == number && said["nodes"] == 3, "{said}");
        replicas(&cluster, number).await?;
        load.goes_on().await?;
    }
    let why = ctl_fails(&cluster, 2, &["cluster", "replicas", "2"]).await?;
    ensure!(why.contains("2 replicas are not possible"), "{why}");

    // Back to the program before: it does not start, and says what to do.
    cluster.node_mut(3).terminate(2 * DEADLINE).await?;
    cluster.node_mut(3).set(BEFORE);
    cluster.node_mut(3).start()?;
    let status = cluster.node_mut(3).ended(DEADLINE).await?;
    let log = cluster.node(3).log_tail(5);
    ensure!(status.code() == Some(1) && log.contains("the cluster is at feature level 2"), "{status}: {log}");
    ensure!(log.contains("cluster.max_level holds it there"), "{log}");
    cluster.node_mut(3).set(NOW);
    cluster.node_mut(3).start()?;
    cluster.all_ready().await?;
    drop(Client::connect(Options::new(cluster.mqtt(3), "back", version(1))).await?);
    load.goes_on().await?;
    println!("rolling upgrade: {}", load.end().await?);
    cluster.finish().await
}
