//! Wills: of connections that break, and of all the clients of a node that is killed.

use anyhow::{Result, ensure};
use zwerm_tests::{Client, Cluster, DEADLINE, Options, QoS, Version, Will};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
/// Clients that die with their node.
const DOOMED: usize = 20;

fn will(topic: &str, retain: bool) -> Will {
    Will { topic: topic.to_owned(), payload: format!("{topic} is gone"), qos: QoS::One, retain }
}

#[tokio::test]
async fn a_broken_connection_publishes_its_will_on_every_node_and_a_goodbye_does_not() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    for version in VERSIONS {
        for home in 1..=3 {
            let topic = format!("wills/{version:?}/{home}");
            let mut watchers = Vec::new();
            for node in 1..=3 {
                let id = format!("watcher-{version:?}-{home}-{node}");
                let mut watcher = Client::connect(Options::new(cluster.mqtt(node), &id, version)).await?;
                watcher.subscribe(&topic, QoS::One).await?;
                watchers.push(watcher);
            }
            let options = Options::new(cluster.mqtt(home), "doomed", version).with_will(will(&topic, false));
            Client::connect(options.clone()).await?.close().await?;
            watchers[0].publish(&topic, b"after goodbye", QoS::One, false).await?;
            drop(Client::connect(options).await?);
            for watcher in &mut watchers {
                let before = watcher.until_fence("after goodbye").await?;
                ensure!(before.is_empty(), "a will after DISCONNECT: {before:?}");
                ensure!(watcher.next().await?.text() == format!("{topic} is gone"));
            }
        }
    }
    cluster.finish().await
}

#[tokio::test]
async fn the_wills_of_a_killed_nodes_clients_are_published_once_each() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for victim in 1..=3 {
        let survivor = victim % 3 + 1;
        let mut doomed = Vec::new();
        for number in 0..DOOMED {
            let topic = format!("nodes/{victim}/{number}");
            let (id, version) = (format!("doomed-{victim}-{number}"), VERSIONS[number % 2]);
            let options =
                Options::new(cluster.mqtt(victim), &id, version).with_will(will(&topic, number % 4 == 0));
            doomed.push(Client::connect(options).await?);
        }
        let id = format!("watcher-{victim}");
        let mut watcher = Client::connect(Options::new(cluster.mqtt(survivor), &id, Version::V5)).await?;
        watcher.subscribe(&format!("nodes/{victim}/+"), QoS::One).await?;
        let killed = std::time::Instant::now();
        cluster.node_mut(victim).kill().await?;
        let mut seen = Vec::new();
        for _ in 0..DOOMED {
            seen.push(watcher.next().await?.text());
        }
        println!("node {victim} killed: the last will came after {:.2} s", killed.elapsed().as_secs_f64());
        cluster.node_mut(victim).start()?;
        cluster.node_mut(victim).ready(2 * DEADLINE).await?;
        watcher.publish(&format!("nodes/{victim}/fence"), b"fence", QoS::One, false).await?;
        seen.extend(watcher.until_fence("fence").await?.iter().map(zwerm_tests::Message::text));
        seen.sort();
        let mut wanted: Vec<String> =
            (0..DOOMED).map(|number| format!("nodes/{victim}/{number} is gone")).collect();
        wanted.sort();
        ensure!(seen == wanted, "wills of node {victim}: {seen:?}");
        watcher.close().await?;
    }
    kept_wills(&cluster).await?;
    cluster.finish().await
}

/// The wills with the retain flag are kept, on every node.
async fn kept_wills(cluster: &Cluster) -> Result<()> {
    for node in 1..=3 {
        let mut late = Client::connect(Options::new(cluster.mqtt(node), "late", Version::V5)).await?;
        late.subscribe("nodes/#", QoS::One).await?;
        for _ in 0..3 * DOOMED.div_ceil(4) {
            let message = late.next().await?;
            ensure!(message.retain && message.text().ends_with("is gone"), "{message:?}");
        }
        late.close().await?;
    }
    Ok(())
}
