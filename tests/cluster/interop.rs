//! Foreign clients across nodes: what is published on one is received on another, for every pair of nodes.
//!
//! paho-mqtt and MQTT.js run their matrix in one program each (`tests/clients/`); mosquitto_pub, mosquitto_sub
//! and rumqttc are driven from here. `ZWERM_TEST_ENDPOINTS` points all of them at another broker.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zwerm_tests::{
    Brokers, Client, Cluster, DEADLINE, MosquittoSub, Options, Program, QoS, Version, Will, clients_dir,
    mosquitto_pub, node_js, python, until, zwerm_binary,
};

#[tokio::test]
async fn paho_passes_its_matrix_in_3_1_1_and_5_0() -> Result<()> {
    let brokers = Brokers::three().await?;
    let script = clients_dir().join("paho_suite.py");
    let checks = Program::start(&python()?, &script, &brokers.endpoints(), &[])?.finish().await?;
    println!("paho-mqtt: {} checks", checks.len());
    brokers.finish().await
}

#[tokio::test]
async fn mqtt_js_passes_its_matrix_in_3_1_1_and_5_0() -> Result<()> {
    let brokers = Brokers::three().await?;
    let script = clients_dir().join("js/suite.mjs");
    let checks = Program::start(&node_js()?, &script, &brokers.endpoints(), &[])?.finish().await?;
    println!("MQTT.js: {} checks", checks.len());
    brokers.finish().await
}

#[tokio::test]
async fn rumqttc_passes_between_every_pair_of_nodes() -> Result<()> {
    let brokers = Brokers::three().await?;
    for version in [Version::V311, Version::V5] {
        for (source, target) in pairs(&brokers.endpoints()) {
            rumqttc_cells(source, target, version).await?;
            rumqttc_retained(source, target, version).await?;
            rumqttc_takeover(source, target, version).await?;
            rumqttc_will(source, target, version).await?;
        }
    }
    brokers.finish().await
}

#[tokio::test]
async fn mosquitto_passes_between_every_pair_of_nodes() -> Result<()> {
    let brokers = Brokers::three().await?;
    for version in ["31", "311", "5"] {
        for (target, &address) in brokers.endpoints().iter().enumerate() {
            mosquitto_row(version, target, address, &brokers.endpoints()).await?;
        }
    }
    brokers.finish().await
}

#[tokio::test]
async fn mosquitto_sees_retained_messages_wills_wildcards_and_groups() -> Result<()> {
    let brokers = Brokers::three().await?;
    let ends = brokers.endpoints();
    for version in ["311", "5"] {
        mosquitto_retained(version, ends[0], ends[2]).await?;
        mosquitto_will(version, ends[1], ends[0]).await?;
        mosquitto_wildcards(version, ends[2], ends[1]).await?;
    }
    mosquitto_shared(&ends).await?;
    brokers.finish().await
}

#[tokio::test]
async fn mosquitto_logs_in_with_what_zwerm_passwd_wrote_and_reads_sys_topics() -> Result<()> {
    let dir = TempDir::with_prefix("zwerm-users-")?;
    let users = dir.path().join("users");
    add_user(&users, "anna", "a pencil").await?;
    let setting = format!("auth.users_file={}", users.display());
    let cluster =
        Cluster::start_with(3, &[&setting, "mqtt.allow_anonymous=false", "mqtt.sys_interval=1"]).await?;
    let lines = ["told".to_owned()];
    let anna = ["-u", "anna", "-P", "a pencil"];
    for version in ["31", "311", "5"] {
        let mut subscriber = MosquittoSub::start(cluster.mqtt(1), version, "told", 1, &anna).await?;
        for nobody in [&["-u", "anna", "-P", "a pen"][..], &["-u", "ben", "-P", "a pencil"], &[]] {
            let refused = mosquitto_pub(cluster.mqtt(2), version, "told", 1, &lines, nobody).await;
            ensure!(refused.is_err(), "{nobody:?} could connect");
        }
        mosquitto_pub(cluster.mqtt(3), version, "told", 1, &lines, &anna).await?;
        let got = subscriber.next().await?;
        ensure!(got == "told 0 1 told", "{got}");
    }
    // added while the nodes run
    add_user(&users, "ben", "a brush").await?;
    let ben = ["-u", "ben", "-P", "a brush"];
    until("ben may connect", DEADLINE, async || {
        mosquitto_pub(cluster.mqtt(2), "5", "told", 1, &lines, &ben).await.ok()
    })
    .await?;
    let version = concat!("zwerm version ", env!("CARGO_PKG_VERSION"));
    let mut sys = MosquittoSub::start(cluster.mqtt(1), "311", "$SYS/broker/version", 0, &anna).await?;
    let got = sys.next().await?;
    ensure!(got == format!("$SYS/broker/version 1 0 {version}"), "{got}");
    let filter = "$SYS/brokers/node-3/uptime";
    let mut sys = MosquittoSub::start(cluster.mqtt(1), "5", filter, 0, &anna).await?;
    let got = sys.next().await?;
    ensure!(got.starts_with(&format!("{filter} 0 0 ")) && got.ends_with(" seconds"), "{got}");
    drop(sys);
    cluster.finish().await
}

/// `zwerm passwd`, with the password on its standard input.
async fn add_user(file: &Path, name: &str, password: &str) -> Result<()> {
    let mut command = Command::new(zwerm_binary()?);
    command.arg("passwd").arg(file).arg(name).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(format!("{password}\n").as_bytes()).await?;
    drop(stdin);
    let status = child.wait().await?;
    ensure!(status.success(), "zwerm passwd ended with {status}");
    Ok(())
}

/// Every ordered pair, each with itself too.
fn pairs(ends: &[SocketAddr]) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + use<> {
    let ends = ends.to_vec();
    (0..ends.len() * ends.len()).map(move |pair| (ends[pair / ends.len()], ends[pair % ends.len()]))
}

/// A name nobody else uses.
fn unique(what: &str, source: SocketAddr, target: SocketAddr, version: impl std::fmt::Debug) -> String {
    let run = std::process::id();
    format!("{what}-{run}-{}-{}-{version:?}", source.port(), target.port()).replace('"', "")
}

async fn rumqttc(address: SocketAddr, id: &str, version: Version) -> Result<Client> {
    Client::connect(Options::new(address, id, version)).await
}

async fn rumqttc_cells(source: SocketAddr, target: SocketAddr, version: Version) -> Result<()> {
    let base = unique("cells", source, target, version);
    let mut publisher = rumqttc(source, &format!("{base}-p"), version).await?;
    let mut subscriber = rumqttc(target, &format!("{base}-s"), version).await?;
    for qos in QoS::ALL {
        let topic = format!("{base}/{qos:?}");
        subscriber.subscribe(&topic, qos).await?;
        let sent: Vec<String> = (0..5).map(|number| format!("message {number}")).collect();
        for text in &sent {
            publisher.publish(&topic, text.as_bytes(), qos, false).await?;
        }
        for text in &sent {
            let seen = subscriber.next().await?;
            ensure!(seen.text() == *text, "{topic}: {text:?} expected, {seen:?} came");
            ensure!((&seen.topic, seen.qos, seen.retain) == (&topic, qos, false), "{topic}: {seen:?}");
        }
        subscriber.unsubscribe(&topic).await?;
    }
    publisher.close().await?;
    subscriber.close().await
}

async fn rumqttc_retained(source: SocketAddr, target: SocketAddr, version: Version) -> Result<()> {
    let topic = unique("kept", source, target, version);
    let mut publisher = rumqttc(source, &format!("{topic}-p"), version).await?;
    publisher.publish(&topic, b"kept", QoS::One, true).await?;
    let mut subscriber = rumqttc(target, &format!("{topic}-s"), version).await?;
    subscriber.subscribe(&topic, QoS::One).await?;
    let seen = subscriber.next().await?;
    ensure!(seen.text() == "kept" && seen.retain, "{seen:?}");
    subscriber.close().await?;
    publisher.publish(&topic, b"", QoS::One, true).await?;
    let mut late = rumqttc(target, &format!("{topic}-l"), version).await?;
    late.subscribe(&topic, QoS::One).await?;
    publisher.publish(&topic, b"fence", QoS::One, false).await?;
    let before = late.until_fence("fence").await?;
    ensure!(before.is_empty(), "deleted, but {before:?} came");
    late.close().await?;
    publisher.close().await
}

async fn rumqttc_takeover(first: SocketAddr, second: SocketAddr, version: Version) -> Result<()> {
    let id = unique("same", first, second, version);
    let mut old = rumqttc(first, &id, version).await?;
    let mut new = rumqttc(second, &id, version).await?;
    let cause = old.closed().await?;
    println!("{id}: the old connection ended with {cause:?}");
    new.subscribe(&id, QoS::One).await?;
    new.publish(&id, b"mine", QoS::One, false).await?;
    ensure!(new.next().await?.text() == "mine");
    new.close().await
}

async fn rumqttc_will(source: SocketAddr, target: SocketAddr, version: Version) -> Result<()> {
    let topic = unique("will", source, target, version);
    let mut watcher = rumqttc(target, &format!("{topic}-w"), version).await?;
    watcher.subscribe(&topic, QoS::One).await?;
    let will = Will { topic: topic.clone(), payload: "gone".to_owned(), qos: QoS::One, retain: false };
    let options = Options::new(source, &format!("{topic}-d"), version).with_will(will.clone());
    Client::connect(options.clone()).await?.close().await?;
    watcher.publish(&topic, b"fence", QoS::One, false).await?;
    let after_goodbye = watcher.until_fence("fence").await?;
    ensure!(after_goodbye.is_empty(), "a will after DISCONNECT: {after_goodbye:?}");
    drop(Client::connect(options).await?);
    ensure!(watcher.next().await?.text() == "gone");
    watcher.close().await
}

/// All nodes publish to subscribers of one node, one for each QoS.
async fn mosquitto_row(version: &str, target: usize, address: SocketAddr, ends: &[SocketAddr]) -> Result<()> {
    let base = unique("row", address, address, version);
    for qos in 0..=2 {
        let filter = format!("{base}/{target}/+/{qos}");
        let mut subscriber = MosquittoSub::start(address, version, &filter, qos, &[]).await?;
        for (source, &end) in ends.iter().enumerate() {
            let topic = format!("{base}/{target}/{source}/{qos}");
            let sent: Vec<String> = (0..3).map(|number| format!("message {number}")).collect();
            mosquitto_pub(end, version, &topic, qos, &sent, &[]).await?;
            for text in sent {
                let seen = subscriber.next().await?;
                ensure!(
                    seen == format!("{topic} 0 {qos} {text}"),
                    "{topic}, version {version}: {seen:?} came"
                );
            }
        }
    }
    Ok(())
}

async fn mosquitto_retained(version: &str, source: SocketAddr, target: SocketAddr) -> Result<()> {
    let topic = unique("kept", source, target, version);
    mosquitto_pub(source, version, &topic, 1, &["kept".to_owned()], &["-r"]).await?;
    let mut subscriber = MosquittoSub::start(target, version, &topic, 1, &[]).await?;
    let seen = subscriber.next().await?;
    ensure!(seen == format!("{topic} 1 1 kept"), "{seen}");
    Ok(())
}

async fn mosquitto_will(version: &str, source: SocketAddr, target: SocketAddr) -> Result<()> {
    let topic = unique("will", source, target, version);
    let mut watcher = MosquittoSub::start(target, version, &topic, 1, &[]).await?;
    let will = ["--will-topic", &topic, "--will-payload", "gone", "--will-qos", "1"];
    let doomed = MosquittoSub::start(source, version, &format!("{topic}-other"), 0, &will).await?;
    doomed.kill().await?;
    let seen = watcher.next().await?;
    ensure!(seen == format!("{topic} 0 1 gone"), "{seen}");
    Ok(())
}

async fn mosquitto_wildcards(version: &str, source: SocketAddr, target: SocketAddr) -> Result<()> {
    let base = unique("wild", source, target, version);
    let mut deep = MosquittoSub::start(target, version, &format!("{base}/#"), 1, &[]).await?;
    let mut level = MosquittoSub::start(target, version, &format!("{base}/+/t"), 1, &[]).await?;
    for topic in ["a/t", "a/h", "a/b/t", "b/t"] {
        mosquitto_pub(source, version, &format!("{base}/{topic}"), 1, &[topic.to_owned()], &[]).await?;
    }
    for wanted in ["a/t", "a/h", "a/b/t", "b/t"] {
        let seen = deep.next().await?;
        ensure!(seen == format!("{base}/{wanted} 0 1 {wanted}"), "#: {seen}");
    }
    for wanted in ["a/t", "b/t"] {
        let seen = level.next().await?;
        ensure!(seen == format!("{base}/{wanted} 0 1 {wanted}"), "+: {seen}");
    }
    Ok(())
}

/// Two members of a group on different nodes get each message once between them.
async fn mosquitto_shared(ends: &[SocketAddr]) -> Result<()> {
    let topic = unique("shared", ends[0], ends[1], "5");
    let filter = format!("$share/group/{topic}");
    let mut plain = MosquittoSub::start(ends[2], "5", &topic, 1, &[]).await?;
    let mut one = MosquittoSub::start(ends[0], "5", &filter, 1, &[]).await?;
    let mut two = MosquittoSub::start(ends[1], "5", &filter, 1, &[]).await?;
    let sent: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    mosquitto_pub(ends[0], "5", &topic, 1, &sent, &[]).await?;
    for text in &sent {
        let seen = plain.next().await?;
        ensure!(seen == format!("{topic} 0 1 {text}"), "{seen}");
    }
    let mut together = Vec::new();
    while together.len() < sent.len() {
        together.push(tokio::select! { seen = one.next() => seen?, seen = two.next() => seen? });
    }
    together.sort();
    let mut wanted: Vec<String> = sent.iter().map(|text| format!("{topic} 0 1 {text}")).collect();
    wanted.sort();
    ensure!(together == wanted, "the group got {together:?}");
    Ok(())
}
