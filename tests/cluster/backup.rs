//! `zwerm ctl backup` of a cluster that is published to, and a new cluster from the file: what was acknowledged before is
//! there, once and in order.
//!
//! Publishers with QoS 2 and halves of exchanges are driven packet by packet, over MQTT 3.1.1.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zwerm_tests::{Client, Cluster, DEADLINE, Message, Options, QoS, Version, Will, until, zwerm_binary};

/// Durable subscribers; they are away.
const READERS: usize = 5;
const PUBLISHERS: usize = 8;
/// Of those, the first so many publish with QoS 1 where both kinds are wanted.
const PLAIN: usize = 4;
/// Backups that are taken while messages go from shard to shard, and restored each.
const BACKUPS: usize = 5;
/// Messages of each that are acknowledged before the backup, and more while and after it is taken.
const BEFORE: usize = 100;
const AFTER: usize = 30;
const RETAINED: usize = 40;
/// What the last message of a queue says.
const FENCE: &str = "fence";

async fn zwerm(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(zwerm_binary()?);
    command.args(arguments).kill_on_drop(true);
    timeout(4 * DEADLINE, command.output()).await?.with_context(|| format!("zwerm {arguments:?}"))
}

async fn said(arguments: &[&str]) -> Result<Value> {
    let done = zwerm(&[arguments, &["--json"]].concat()).await?;
    ensure!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

async fn fails(arguments: &[&str], why: &str) -> Result<()> {
    let done = zwerm(arguments).await?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.code() == Some(1), "{arguments:?} ended with {}: {said}", done.status);
    ensure!(said.contains(why) && said.trim_end().lines().count() == 1, "{why:?} is not said: {said}");
    Ok(())
}

fn http(cluster: &Cluster, node: usize) -> String {
    format!("http://{}", cluster.node(node).http())
}

/// A 3.1.1 client with a durable session, packet by packet; packets are short.
struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Type and flags of a packet, and what follows its length.
type Packet = (u8, Vec<u8>);

const PUBLISH_QOS2: u8 = 0x34;
const DUP: u8 = 0x08;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

impl Raw {
    /// Whether the session was there.
    async fn connect(cluster: &Cluster, node: usize, id: &str) -> Result<(Self, bool)> {
        let stream = TcpStream::connect(cluster.mqtt(node)).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, buffer: Vec::new() };
        let mut connect = b"\x00\x04MQTT\x04\x00\x00\x3c".to_vec();
        connect.extend(text(id));
        client.send(0x10, &connect).await?;
        let (kind, connack) = client.next().await?;
        ensure!(kind == 0x20 && connack[1] == 0, "{id} is refused: {connack:?}");
        Ok((client, connack[0] == 1))
    }

    async fn send(&mut self, first: u8, rest: &[u8]) -> Result<()> {
        let length = u8::try_from(rest.len()).ok().filter(|length| *length < 128).context("too long")?;
        self.stream.write_all(&[&[first, length], rest].concat()).await.context("sending")
    }

    async fn next(&mut self) -> Result<Packet> {
        loop {
            if let [first, length, rest @ ..] = &self.buffer[..]
                && rest.len() >= usize::from(*length)
            {
                let packet = (*first, rest[..usize::from(*length)].to_vec());
                self.buffer.drain(..2 + packet.1.len());
                return Ok(packet);
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await??;
            ensure!(read > 0, "the connection has ended");
        }
    }

    /// Waits for an acknowledgement of this kind and packet identifier.
    async fn acknowledged(&mut self, kind: u8, id: u16) -> Result<()> {
        let packet = self.next().await?;
        ensure!(packet == (kind, id.to_be_bytes().to_vec()), "{kind:x} of {id} was due: {packet:x?}");
        Ok(())
    }

    async fn publish(&mut self, flags: u8, topic: &str, id: u16, payload: &str) -> Result<()> {
        let rest = [&text(topic)[..], &id.to_be_bytes(), payload.as_bytes()].concat();
        self.send(PUBLISH_QOS2 | flags, &rest).await
    }

    /// A whole exchange.
    async fn publish_whole(&mut self, topic: &str, id: u16, payload: &str) -> Result<()> {
        self.publish(0, topic, id, payload).await?;
        self.acknowledged(PUBREC, id).await?;
        self.release(id).await
    }

    async fn release(&mut self, id: u16) -> Result<()> {
        self.send(PUBREL, &id.to_be_bytes()).await?;
        self.acknowledged(PUBCOMP, id).await
    }
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap_or_default().to_be_bytes()[..], text.as_bytes()].concat()
}

fn durable(cluster: &Cluster, node: usize, id: &str, version: Version) -> Options {
    Options::new(cluster.mqtt(node), id, version).durable()
}

fn reader_id(reader: usize) -> String {
    format!("reader-{reader}")
}

fn version(number: usize) -> Version {
    if number.is_multiple_of(2) { Version::V311 } else { Version::V5 }
}

/// Subscribes durably, and goes.
async fn subscribe(cluster: &Cluster, id: &str, version: Version, filter: &str) -> Result<()> {
    let mut client = Client::connect(durable(cluster, 1, id, version)).await?;
    client.subscribe(filter, QoS::Two).await?;
    client.close().await
}

/// Publishers that go on until they are told to stop: the first with QoS 1, the others with QoS 2 and a durable session.
struct Load {
    /// Messages of each publisher that were acknowledged.
    acknowledged: Arc<Vec<AtomicUsize>>,
    stop: Arc<AtomicBool>,
    publishers: JoinSet<Result<()>>,
}

fn topic(publisher: usize) -> String {
    format!("load/{publisher}")
}

fn publisher_id(publisher: usize) -> String {
    format!("publisher-{publisher}")
}

/// Packet identifiers that a publisher uses, one after the other.
const IDS: u16 = 4;

fn id_of(number: usize) -> u16 {
    1 + u16::try_from(number).unwrap_or_default() % IDS
}

impl Load {
    async fn start(cluster: &Cluster, plain: usize) -> Result<Self> {
        let acknowledged: Vec<AtomicUsize> = (0..PUBLISHERS).map(|_| AtomicUsize::new(0)).collect();
        let acknowledged = Arc::new(acknowledged);
        let stop = Arc::new(AtomicBool::new(false));
        let mut publishers = JoinSet::new();
        for publisher in 0..PUBLISHERS {
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            let node = 1 + publisher % 3;
            if publisher < plain {
                let options = Options::new(cluster.mqtt(node), &publisher_id(publisher), Version::V5);
                let mut client = Client::connect(options).await?;
                publishers.spawn(async move {
                    for number in (0..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                        let payload = number.to_string();
                        client.publish(&topic(publisher), payload.as_bytes(), QoS::One, false).await?;
                        acknowledged[publisher].store(number + 1, Ordering::SeqCst);
                    }
                    client.close().await
                });
            } else {
                let (mut client, _) = Raw::connect(cluster, node, &publisher_id(publisher)).await?;
                publishers.spawn(async move {
                    for number in (0_usize..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                        let payload = number.to_string();
                        client.publish_whole(&topic(publisher), id_of(number), &payload).await?;
                        acknowledged[publisher].store(number + 1, Ordering::SeqCst);
                    }
                    Ok(())
                });
            }
        }
        Ok(Self { acknowledged, stop, publishers })
    }

    fn counts(&self) -> Vec<usize> {
        self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// Waits until each has so many more acknowledged than it had.
    async fn advance(&mut self, from: &[usize], by: usize) -> Result<()> {
        until("the publishers go on", 4 * DEADLINE, async || {
            self.counts().iter().zip(from).all(|(now, from)| *now >= from + by).then_some(())
        })
        .await?;
        if let Some(ended) = self.publishers.try_join_next() {
            bail!("a publisher ended: {ended:?}");
        }
        Ok(())
    }

    async fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.publishers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Before the backup: halves of exchanges, in both directions.
async fn begin_exchanges(cluster: &Cluster) -> Result<()> {
    // From a client: PUBREC was sent, PUBREL has not come.
    let (mut half, _) = Raw::connect(cluster, 1, "half-in").await?;
    half.publish(0, "half/in", 7, "once").await?;
    half.acknowledged(PUBREC, 7).await?;
    // To a client: PUBREC came and its PUBREL was sent, PUBCOMP has not come.
    let (mut taker, _) = Raw::connect(cluster, 2, "half-out").await?;
    taker.send(0x82, &[&[0, 1][..], &text("half/out"), &[2]].concat()).await?;
    let (kind, _) = taker.next().await?;
    ensure!(kind == 0x90, "no SUBACK");
    let mut giver = Client::connect(Options::new(cluster.mqtt(3), "giver", Version::V5)).await?;
    giver.publish("half/out", b"taken", QoS::Two, false).await?;
    let (kind, publish) = taker.next().await?;
    ensure!(kind == PUBLISH_QOS2 && publish.ends_with(b"taken"), "{kind:x} {publish:x?}");
    let id = publish[10..12].to_vec();
    taker.send(PUBREC, &id).await?;
    ensure!(taker.next().await? == (PUBREL, id), "no PUBREL");
    giver.close().await
}

/// After the restore they end, and nothing comes twice.
async fn end_exchanges(cluster: &Cluster) -> Result<()> {
    let (mut half, present) = Raw::connect(cluster, 2, "half-in").await?;
    ensure!(present, "the session of the publisher is gone");
    half.publish(DUP, "half/in", 7, "once").await?;
    half.acknowledged(PUBREC, 7).await?;
    half.release(7).await?;
    let (mut taker, present) = Raw::connect(cluster, 3, "half-out").await?;
    ensure!(present, "the session of the subscriber is gone");
    let (kind, id) = taker.next().await?;
    ensure!(kind == PUBREL, "PUBREL was due: {kind:x} {id:x?}");
    taker.send(PUBCOMP, &id).await?;
    let mut giver = Client::connect(Options::new(cluster.mqtt(1), "giver", Version::V5)).await?;
    giver.publish("half/out", FENCE.as_bytes(), QoS::Two, false).await?;
    let (kind, publish) = taker.next().await?;
    ensure!(kind == PUBLISH_QOS2 && publish.ends_with(FENCE.as_bytes()), "{kind:x} {publish:x?}");
    giver.close().await
}

/// All that is in the queue of a durable client.
async fn drained(cluster: &Cluster, node: usize, id: &str, version: Version) -> Result<Vec<Message>> {
    let mut client = Client::connect(durable(cluster, node, id, version)).await?;
    ensure!(client.session_present(), "the session of {id} is gone");
    let seen = client.until_fence(FENCE).await.with_context(|| id.to_owned())?;
    client.close().await?;
    Ok(seen)
}

/// Of each publisher the first so many, at least those that were acknowledged before, once and in order.
fn check_load(reader: &str, seen: &[Message], before: &[usize]) -> Result<()> {
    for (publisher, before) in before.iter().enumerate() {
        let topic = topic(publisher);
        let of_it = seen.iter().filter(|message| message.topic == topic);
        let numbers: Vec<String> = of_it.map(Message::text).collect();
        let wanted: Vec<String> = (0..numbers.len()).map(|number| number.to_string()).collect();
        ensure!(numbers == wanted, "{reader}: messages of {topic}: {numbers:?}");
        ensure!(numbers.len() >= *before, "{reader}: {} of {before} acknowledged of {topic}", numbers.len());
    }
    Ok(())
}

/// A node with an empty data directory.
fn emptied(cluster: &Cluster, node: usize) -> Result<PathBuf> {
    let dir = cluster.node(node).data_dir();
    std::fs::remove_dir_all(&dir)?;
    Ok(dir)
}

/// Waits until the shards have published what they had to: another backup says so.
async fn all_published(cluster: &Cluster, node: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("glance");
    until("the shards have published everything", 4 * DEADLINE, async || {
        let glance = said(&["ctl", "backup", file.to_str()?, "--http", &http(cluster, node)]).await.ok()?;
        std::fs::remove_file(&file).ok()?;
        (glance["outbox"] == 0 && glance["delayed"] == 0).then_some(())
    })
    .await?;
    Ok(())
}

/// All shards have so many voters.
async fn placed_on(cluster: &Cluster, voters: usize) -> Result<()> {
    until("all shards are placed", 4 * DEADLINE, async || {
        let status = cluster.node(1).status().await.ok()?;
        let groups = status["groups"].as_array()?;
        let placed = |group: &Value| group["voters"].as_array().is_some_and(|all| all.len() == voters);
        groups.iter().all(placed).then_some(())
    })
    .await?;
    Ok(())
}

async fn prepare(cluster: &Cluster) -> Result<()> {
    for reader in 0..READERS {
        subscribe(cluster, &reader_id(reader), version(reader), "load/#").await?;
    }
    for (id, filter) in [("half-reader", "half/in"), ("later-reader", "later/#"), ("will-reader", "wills/#")]
    {
        subscribe(cluster, id, Version::V5, filter).await?;
    }
    let mut client = Client::connect(Options::new(cluster.mqtt(1), "keeper", Version::V5)).await?;
    for number in 0..RETAINED {
        let payload = format!("value {number}");
        client.publish(&format!("retained/{number}"), payload.as_bytes(), QoS::One, true).await?;
    }
    client.publish("$delayed/20/later/x", b"later", QoS::One, false).await?;
    client.close().await?;
    begin_exchanges(cluster).await
}

fn will(id: &str) -> Will {
    Will { topic: format!("wills/{id}"), payload: "gone".into(), qos: QoS::One, retain: false }
}

/// What was under way of the publishers with QoS 2 is completed, if it was.
async fn release_all(cluster: &Cluster, node: usize, plain: usize) -> Result<()> {
    for publisher in plain..PUBLISHERS {
        let (mut client, present) = Raw::connect(cluster, node, &publisher_id(publisher)).await?;
        ensure!(present, "the session of publisher {publisher} is gone");
        for id in 1..=IDS {
            client.release(id).await?;
        }
    }
    Ok(())
}

async fn check_restored(cluster: &Cluster, before: &[usize]) -> Result<()> {
    end_exchanges(cluster).await?;
    release_all(cluster, 2, PLAIN).await?;
    let mut late = Client::connect(Options::new(cluster.mqtt(3), "late", Version::V5)).await?;
    late.subscribe("retained/#", QoS::One).await?;
    let mut values = Vec::new();
    for _ in 0..RETAINED {
        let message = late.next().await?;
        ensure!(message.retain, "{message:?}");
        values.push((message.topic.clone(), message.text()));
    }
    for number in 0..RETAINED {
        let wanted = (format!("retained/{number}"), format!("value {number}"));
        ensure!(values.contains(&wanted), "{wanted:?} is missing");
    }
    all_published(cluster, 2).await?;
    for topic in ["load", "half/in", "wills"] {
        late.publish(topic, FENCE.as_bytes(), QoS::One, false).await?;
    }
    for reader in 0..READERS {
        let id = reader_id(reader);
        let seen = drained(cluster, 1 + reader % 3, &id, version(reader)).await?;
        check_load(&id, &seen, before)?;
    }
    let halves = drained(cluster, 1, "half-reader", Version::V5).await?;
    ensure!(halves.iter().map(Message::text).eq(["once"]), "{halves:?}");
    let mut wills: Vec<String> =
        drained(cluster, 2, "will-reader", Version::V5).await?.into_iter().map(|will| will.topic).collect();
    wills.sort_unstable();
    ensure!(wills == ["wills/durable", "wills/transient"], "{wills:?}");
    let mut client = Client::connect(durable(cluster, 3, "later-reader", Version::V5)).await?;
    let message = client.next().await?;
    ensure!((message.topic.as_str(), message.text().as_str()) == ("later/x", "later"), "{message:?}");
    client.close().await?;
    late.close().await
}

#[tokio::test]
async fn a_cluster_that_is_published_to_comes_back_from_its_backup_on_new_nodes() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("cluster.zwermbak");
    let file = file.to_str().context("a path")?;
    prepare(&cluster).await?;
    // They are connected when the backup is taken, and go with the cluster.
    let transient = Options::new(cluster.mqtt(1), "transient", Version::V311).with_will(will("transient"));
    let transient = Client::connect(transient).await?;
    let online = durable(&cluster, 3, "online", Version::V5).with_will(will("durable"));
    let online = Client::connect(online).await?;
    let mut load = Load::start(&cluster, PLAIN).await?;
    load.advance(&[0; PUBLISHERS], BEFORE).await?;
    let before = load.counts();
    let taken = said(&["ctl", "backup", file, "--http", &http(&cluster, 2)]).await?;
    let after = load.counts();
    load.advance(&after, AFTER).await?;
    load.end().await?;
    println!("acknowledged before the backup {before:?}, when it was whole {after:?}: {taken}");
    ensure!(taken["retained"] == RETAINED && taken["nodes"].as_array().is_some_and(|all| all.len() == 3));
    // Readers, the others of this test, and the publishers with QoS 2.
    ensure!(taken["sessions"] == READERS + 3 + 2 + 1 + (PUBLISHERS - PLAIN), "{taken}");
    ensure!(said(&["ctl", "backup", "verify", file]).await? == taken, "it is not what it was");
    refused(&cluster, dir.path(), file).await?;

    for node in 1..=3 {
        cluster.node_mut(node).kill().await?;
    }
    drop((transient, online));
    for node in 2..=3 {
        emptied(&cluster, node)?;
    }
    let data = emptied(&cluster, 1)?;
    let data = data.to_str().context("a path")?;
    let restored = said(&["restore", file, "--data-dir", data]).await?;
    ensure!(restored["new_cluster_id"] != restored["cluster_id"], "{restored}");
    fails(&["restore", file, "--data-dir", data], "is not empty").await?;
    cluster.node_mut(1).start()?;
    cluster.all_ready().await?;
    for node in 2..=3 {
        cluster.node_mut(node).start()?;
    }
    cluster.all_ready().await?;
    placed_on(&cluster, 3).await?;
    let status = cluster.node(3).status().await?;
    ensure!(status["cluster_id"] == restored["new_cluster_id"], "{}", status["cluster_id"]);
    check_restored(&cluster, &before).await?;
    // The new cluster is one like any other: it can be backed up, too.
    let again = dir.path().join("again");
    let again = again.to_str().context("a path")?;
    let taken_again = said(&["ctl", "backup", again, "--http", &http(&cluster, 3)]).await?;
    // The last message for the subscriber of the half exchange was not acknowledged.
    ensure!(taken_again["sessions"] == taken["sessions"] && taken_again["queued"] == 1, "{taken_again}");
    cluster.finish().await
}

#[tokio::test]
async fn backups_while_messages_go_from_shard_to_shard_lose_none_and_repeat_none() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let dir = tempfile::tempdir()?;
    for reader in 0..READERS {
        subscribe(&cluster, &reader_id(reader), version(reader), "load/#").await?;
    }
    // Each message is in the shard of its publisher first, then in its outbox, then in those of the readers.
    let mut load = Load::start(&cluster, 0).await?;
    let mut taken = Vec::new();
    let mut last = vec![0; PUBLISHERS];
    for number in 0..BACKUPS {
        load.advance(&last, AFTER).await?;
        last = load.counts();
        let file = dir.path().join(number.to_string()).to_str().context("a path")?.to_owned();
        let said = said(&["ctl", "backup", &file, "--http", &http(&cluster, 1 + number % 3)]).await?;
        println!("{} messages of {last:?} or more were in outboxes", said["outbox"]);
        taken.push((file, last.clone()));
    }
    load.end().await?;
    for node in 1..=3 {
        cluster.node_mut(node).kill().await?;
    }
    for (file, before) in taken {
        let data = emptied(&cluster, 1)?;
        said(&["restore", &file, "--data-dir", data.to_str().context("a path")?]).await?;
        cluster.node_mut(1).start()?;
        cluster.all_ready().await?;
        release_all(&cluster, 1, 0).await?;
        all_published(&cluster, 1).await?;
        let mut late = Client::connect(Options::new(cluster.mqtt(1), "late", Version::V5)).await?;
        late.publish("load", FENCE.as_bytes(), QoS::One, false).await?;
        late.close().await?;
        let mut last = None;
        for reader in 0..READERS {
            let id = reader_id(reader);
            let seen = drained(&cluster, 1, &id, version(reader)).await?;
            check_load(&id, &seen, &before)?;
            // It came to all of them or is still to come to all of them, so now all have the same.
            let count = seen.len();
            ensure!(*last.get_or_insert(count) == count, "{id} got {count}, another {last:?}");
        }
        cluster.node_mut(1).kill().await?;
    }
    cluster.finish().await
}

/// What is no backup, or not whole, or not to be overwritten.
async fn refused(cluster: &Cluster, dir: &Path, file: &str) -> Result<()> {
    let at = &http(cluster, 1);
    fails(&["ctl", "backup", file, "--http", at], "is there already").await?;
    let nowhere = dir.join("missing/cluster.zwermbak");
    fails(&["ctl", "backup", nowhere.to_str().context("a path")?, "--http", at], "cannot write").await?;
    let bytes = std::fs::read(file)?;
    let mut newer = bytes.clone();
    newer[8] += 1;
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let cut = &bytes[..bytes.len() - 10];
    let files = [
        (&b"hello"[..], "this is no backup of zwerm"),
        (&newer, "the archive has format 2, this version reads up to 1"),
        (cut, "the archive is cut off at byte"),
        (&flipped, "the archive is damaged at byte"),
    ];
    let (wrong, data) = (dir.join("wrong"), dir.join("data"));
    let (wrong_path, data_path) = (wrong.to_str().context("a path")?, data.to_str().context("a path")?);
    for (bytes, why) in files {
        std::fs::write(&wrong, bytes)?;
        fails(&["ctl", "backup", "verify", wrong_path], why).await?;
        fails(&["restore", wrong_path, "--data-dir", data_path], why).await?;
        ensure!(!data.exists(), "a restore that was refused left something");
    }
    fails(&["restore", file, "--data-dir", dir.to_str().context("a path")?], "is not empty").await?;
    let left: Vec<_> =
        std::fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    ensure!(left.len() == 2, "{left:?} are there");
    Ok(())
}
