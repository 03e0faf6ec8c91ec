//! Durable sessions: what waits for a client survives the nodes, in order, without a copy too many.
//!
//! rumqttc and mosquitto_sub are driven from here; paho runs its own program, `tests/clients/durable_suite.py`,
//! and asks this one to kill and to start nodes.

use anyhow::{Context, Result, bail, ensure};
use zwerm_tests::{
    Client, Cluster, DEADLINE, Line, Message, MosquittoSub, Node, Options, Program, QoS, Version,
    clients_dir, mosquitto_pub, python,
};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
/// Publishers of the large queue, and messages of each.
const PUBLISHERS: usize = 4;
const EACH: usize = 5_000;

#[tokio::test]
async fn twenty_thousand_messages_outlive_two_killed_nodes_and_come_in_order_and_once() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let reader = durable(&cluster, 1, "reader", Version::V5).await?;
    subscribe_and_leave(reader, "large/+").await?;
    fill(&cluster).await?;
    for victim in [1, 2] {
        cluster.node_mut(victim).kill().await?;
        cluster.node_mut(victim).start()?;
        cluster.all_ready().await?;
    }
    let mut reader = durable(&cluster, 3, "reader", Version::V5).await?;
    ensure!(reader.session_present(), "the session is gone");
    let mut next = [0; PUBLISHERS];
    for _ in 0..PUBLISHERS * EACH {
        let message = reader.next().await.with_context(|| format!("after {next:?} of {EACH} each"))?;
        let (publisher, number) = origin(&message)?;
        ensure!(number == next[publisher], "number {} of {publisher} was due: {message:?}", next[publisher]);
        next[publisher] += 1;
    }
    nothing_more(&cluster, &mut reader, "large/0").await?;
    reader.close().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_node_killed_while_it_delivers_costs_nothing_and_what_comes_again_is_marked() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let reader = durable(&cluster, 2, "reader", Version::V311).await?;
    subscribe_and_leave(reader, "large/+").await?;
    fill(&cluster).await?;
    let mut seen: Vec<Vec<usize>> = vec![Vec::new(); PUBLISHERS];
    for (node, upto) in [(3, 6_000), (1, 13_000), (2, PUBLISHERS * EACH)] {
        let options = Options::new(cluster.mqtt(node), "reader", Version::V311).durable();
        let mut reader = Client::connect(options.acknowledging_itself()).await?;
        ensure!(reader.session_present(), "the session is gone at node {node}");
        let mut repeated = 0;
        while seen.iter().map(Vec::len).sum::<usize>() < upto {
            let message = reader.next().await?;
            let (publisher, number) = origin(&message)?;
            if seen[publisher].last().is_some_and(|last| number <= *last) {
                ensure!(message.dup, "sent again without DUP: {message:?}");
                repeated += 1;
            } else {
                seen[publisher].push(number);
            }
            reader.acknowledge(&message).await?;
        }
        println!("node {node}: {repeated} messages came again, whose acknowledgements were lost with a node");
        if upto < PUBLISHERS * EACH {
            cluster.node_mut(node).kill().await?;
            reader.closed().await?;
            cluster.node_mut(node).start()?;
            cluster.all_ready().await?;
        }
    }
    for (publisher, numbers) in seen.iter().enumerate() {
        ensure!(numbers.iter().copied().eq(0..EACH), "messages of publisher {publisher} are missing");
    }
    cluster.finish().await
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_elsewhere_under_the_same_packet_identifier() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    for version in VERSIONS {
        let id = format!("forgetful-{version:?}");
        let topic = format!("forgetful/{version:?}");
        let mut reader = durable(&cluster, 1, &id, version).await?;
        ensure!(!reader.session_present(), "a session before the first");
        reader.subscribe(&topic, QoS::One).await?;
        drop(reader);
        publish(&cluster, 2, &topic, 0..20).await?;
        let mut first: Vec<Message> = Vec::new();
        for (round, node) in [3, 2, 1].into_iter().enumerate() {
            let options = Options::new(cluster.mqtt(node), &id, version).durable().acknowledging_itself();
            let mut reader = Client::connect(options).await?;
            ensure!(reader.session_present(), "the session is gone at node {node}");
            for number in 0..20 {
                let message = reader.next().await?;
                ensure!(message.text() == number.to_string(), "{number} was due: {message:?}");
                match first.get(number) {
                    None => first.push(message),
                    Some(sent) => {
                        ensure!(message.dup, "round {round}: sent again without DUP: {message:?}");
                        ensure!(message.packet_id == sent.packet_id, "first {sent:?}, then {message:?}");
                    }
                }
            }
        }
        let mut reader = durable(&cluster, 2, &id, version).await?;
        for number in 0..20 {
            ensure!(reader.next().await?.text() == number.to_string());
        }
        nothing_more(&cluster, &mut reader, &topic).await?;
        reader.close().await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn mosquitto_sub_finds_what_it_missed_on_another_node_after_a_kill() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for (version, more) in [("311", &["-c"][..]), ("5", &["-c", "-x", "3600"][..])] {
        for qos in [1, 2] {
            let (id, topic) = (format!("mosquitto-{version}-{qos}"), format!("missed/{version}/{qos}"));
            let flags: Vec<&str> = more.iter().copied().chain(["-i", id.as_str()]).collect();
            MosquittoSub::start(cluster.mqtt(1), version, &topic, qos, &flags).await?.kill().await?;
            let sent: Vec<String> = (0..1_000).map(|number| format!("message {number}")).collect();
            mosquitto_pub(cluster.mqtt(2), version, &topic, qos, &sent, &[]).await?;
            cluster.node_mut(2).kill().await?;
            let mut back = MosquittoSub::start(cluster.mqtt(3), version, &topic, qos, &flags).await?;
            for text in &sent {
                let seen = back.next().await?;
                ensure!(seen == format!("{topic} 0 {qos} {text}"), "{text} was due, {seen:?} came");
            }
            cluster.node_mut(2).start()?;
            cluster.all_ready().await?;
        }
    }
    cluster.finish().await
}

#[tokio::test]
async fn paho_keeps_its_sessions_over_nodes_and_their_deaths() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let ends: Vec<_> = cluster.nodes().iter().map(Node::mqtt).collect();
    let script = clients_dir().join("durable_suite.py");
    let mut program = Program::start(&python()?, &script, &ends, &[])?;
    while let Some(line) = program.next().await? {
        match line {
            Line::Check(check) => println!("{}: {}", check.name, check.detail),
            Line::Event { event, node: Some(node), .. } => {
                match event.as_str() {
                    "kill" => cluster.node_mut(node).kill().await?,
                    "start" => {
                        cluster.node_mut(node).start()?;
                        cluster.node_mut(node).ready(2 * DEADLINE).await?;
                    }
                    other => bail!("the program asks for {other:?}"),
                }
                program.answer("done").await?;
            }
            Line::Event { event, .. } => bail!("the program says {event:?} of no node"),
        }
    }
    let checks = program.finish().await?;
    println!("paho-mqtt, durable: {} checks", checks.len());
    cluster.finish().await
}

async fn durable(cluster: &Cluster, node: usize, id: &str, version: Version) -> Result<Client> {
    Client::connect(Options::new(cluster.mqtt(node), id, version).durable()).await
}

async fn subscribe_and_leave(mut client: Client, filter: &str) -> Result<()> {
    client.subscribe(filter, QoS::One).await?;
    client.close().await
}

/// [`PUBLISHERS`] clients on all nodes publish [`EACH`] messages, all acknowledged.
async fn fill(cluster: &Cluster) -> Result<()> {
    let began = std::time::Instant::now();
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (address, id) = (cluster.mqtt(publisher % 3 + 1), format!("writer-{publisher}"));
        publishers.spawn(async move {
            let mut client = Client::connect(Options::new(address, &id, Version::V5)).await?;
            let payloads = (0..EACH).map(|number| format!("{publisher} {number}").into_bytes());
            client.publish_all(&format!("large/{publisher}"), payloads, QoS::One).await?;
            client.close().await
        });
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    println!("{} messages acknowledged after {:.2} s", PUBLISHERS * EACH, began.elapsed().as_secs_f64());
    Ok(())
}

/// Which publisher sent it, and as which of its messages.
fn origin(message: &Message) -> Result<(usize, usize)> {
    let text = message.text();
    let (publisher, number) = text.split_once(' ').with_context(|| format!("not ours: {message:?}"))?;
    let (publisher, number) = (publisher.parse()?, number.parse()?);
    ensure!(publisher < PUBLISHERS && number < EACH, "not ours: {message:?}");
    Ok((publisher, number))
}

async fn publish(cluster: &Cluster, node: usize, topic: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut publisher = Client::connect(Options::new(cluster.mqtt(node), "writer", Version::V5)).await?;
    publisher.publish_all(topic, numbers.map(|number| number.to_string().into_bytes()), QoS::One).await?;
    publisher.close().await
}

/// The next message of `topic` is one that is published now.
async fn nothing_more(cluster: &Cluster, reader: &mut Client, topic: &str) -> Result<()> {
    let mut publisher = Client::connect(Options::new(cluster.mqtt(1), "fence", Version::V5)).await?;
    publisher.publish(topic, b"fence", QoS::One, false).await?;
    let before = reader.until_fence("fence").await?;
    ensure!(before.is_empty(), "{} messages too many, the first is {:?}", before.len(), before.first());
    publisher.close().await
}
