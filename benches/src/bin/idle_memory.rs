//! Resident memory of one node per idle connection.
//!
//! Starts a node, opens connections and reads the node's VmRSS: fresh, after each has subscribed, and after each
//! has received a message. Run with `--release`; the node is the `zwerm` beside this program.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, Publish};
use zwerm_benches::{Connection, raise_open_files, resident_bytes};
use zwerm_tests::Cluster;

#[derive(Debug, Parser)]
#[command(about = "Resident memory of one node per idle connection")]
struct Arguments {
    /// Connections to hold.
    #[arg(long, default_value_t = 2000)]
    connections: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { connections } = Arguments::parse();
    ensure!(connections > 0, "--connections must be at least 1");
    raise_open_files()?;
    let cluster = Cluster::start(1).await?;
    let address = cluster.mqtt(1);
    let pid = cluster.node(1).pid().context("the node does not run")?;
    // One use of everything first, so that what the node allocates once is not counted per connection.
    let mut warm = open(address, 0..10, "warm").await?;
    subscribe_and_receive(&mut warm, address).await?;
    drop(warm);

    let before = resident_bytes(pid)?;
    let report = |what: &str| -> Result<()> {
        let grown = resident_bytes(pid)?.saturating_sub(before);
        println!("{what:<34} {:>6} bytes each, {:.1} MiB in all", grown / connections, mib(grown));
        Ok(())
    };
    println!("node without connections: {:.1} MiB; {connections} connections:", mib(before));
    let mut idle = open(address, 0..connections, "idle").await?;
    report("connected, idle")?;
    for (number, connection) in idle.iter_mut().enumerate() {
        connection.subscribe(&format!("idle/{number}"), QoS::AtLeastOnce).await?;
    }
    report("each with a subscription of its own")?;
    let mut publisher = Connection::open(address, "publisher").await?;
    for (number, connection) in idle.iter_mut().enumerate() {
        publish(&mut publisher, &format!("idle/{number}")).await?;
        ensure!(matches!(connection.receive().await?, Packet::Publish(_)), "no message");
    }
    report("after a message to each")?;
    drop((idle, publisher));
    cluster.finish().await
}

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn open(address: SocketAddr, numbers: std::ops::Range<u64>, name: &str) -> Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for number in numbers {
        let opened = Connection::open(address, &format!("{name}-{number}")).await;
        connections.push(opened.with_context(|| format!("connection {number}"))?);
    }
    Ok(connections)
}

async fn subscribe_and_receive(connections: &mut [Connection], address: SocketAddr) -> Result<()> {
    let mut publisher = Connection::open(address, "warm-publisher").await?;
    for connection in connections {
        connection.subscribe("warm", QoS::AtMostOnce).await?;
        publish(&mut publisher, "warm").await?;
        connection.receive().await?;
    }
    Ok(())
}

async fn publish(publisher: &mut Connection, topic: &str) -> Result<()> {
    publisher.queue(&Packet::Publish(Publish::new(topic, QoS::AtMostOnce, vec![0; 256])))?;
    publisher.flush().await
}
