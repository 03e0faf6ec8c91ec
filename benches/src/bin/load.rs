//! Throughput of a cluster with its proof: messages a second, processor time of the nodes, loss, repeats, order.
//!
//! Publishers and subscribers are spread over the nodes so that each message crosses from one node to another.
//! A fixed number of messages is sent; run with `--release`, the nodes are the `zwerm` beside this program.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use mqttbytes::QoS;
use tokio::task::JoinSet;
use zwerm_benches::{Connection, Delivery, Publisher, collect, cpu_seconds, raise_open_files};
use zwerm_tests::Cluster;

/// Unacknowledged messages of a publisher; for QoS 0 the messages of one write.
const WINDOW: u32 = 64;

#[derive(Debug, Clone, Parser)]
#[command(about = "Throughput of a cluster on this machine, with proof of loss, repeats and order")]
struct Arguments {
    /// Nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=6))]
    nodes: u16,
    /// Send to these brokers instead of starting nodes (host:port, comma-separated).
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<SocketAddr>,
    /// Publishing connections.
    #[arg(long, default_value_t = 4)]
    publishers: u32,
    /// Subscribing connections.
    #[arg(long, default_value_t = 4)]
    subscribers: u32,
    /// 0, 1 or 2, for publishing and subscribing.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Bytes of a payload, at least 16.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Messages of each publisher.
    #[arg(long, default_value_t = 50_000)]
    messages: u32,
    /// Subscriber i hears publisher i only, instead of all.
    #[arg(long)]
    pairs: bool,
}

impl Arguments {
    fn qos(&self) -> QoS {
        match self.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    fn publisher(&self, number: u32) -> Publisher {
        let Self { size, messages, .. } = *self;
        Publisher { number, topic: format!("load/{number}"), qos: self.qos(), size, messages, window: WINDOW }
    }

    fn filter(&self, subscriber: u32) -> String {
        if self.pairs { format!("load/{}", subscriber % self.publishers.max(1)) } else { "load/+".to_owned() }
    }

    /// Messages one subscriber must get.
    fn expected(&self) -> u64 {
        u64::from(self.messages) * if self.pairs { 1 } else { u64::from(self.publishers) }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_open_files()?;
    if !arguments.endpoints.is_empty() {
        return measure(&arguments, &arguments.endpoints, &[]).await;
    }
    let cluster = Cluster::start(arguments.nodes).await?;
    let endpoints: Vec<SocketAddr> = cluster.nodes().iter().map(zwerm_tests::Node::mqtt).collect();
    let pids: Vec<u32> = cluster.nodes().iter().filter_map(zwerm_tests::Node::pid).collect();
    measure(&arguments, &endpoints, &pids).await?;
    cluster.finish().await
}

async fn measure(arguments: &Arguments, endpoints: &[SocketAddr], pids: &[u32]) -> Result<()> {
    let place = |number: u32| endpoints[number as usize % endpoints.len()];
    let shared = Arc::new(arguments.clone());
    let start = Instant::now();
    let mut subscribers = JoinSet::new();
    for number in 0..arguments.subscribers {
        // One node further than the publisher of the same number.
        let mut connection = Connection::open(place(number + 1), &format!("load-s{number}")).await?;
        connection.subscribe(&arguments.filter(number), arguments.qos()).await?;
        subscribers.spawn(subscribe(connection, Arc::clone(&shared), start));
    }
    let mut publishers = JoinSet::new();
    let cpu_before = cpu_of(pids)?;
    let began = Instant::now();
    for number in 0..arguments.publishers {
        let connection = Connection::open(place(number), &format!("load-p{number}")).await?;
        publishers.spawn(arguments.publisher(number).run(connection, start));
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let published = began.elapsed();
    let mut all = Delivery::new(0, 0)?;
    while let Some(done) = subscribers.join_next().await {
        all.add(&done??)?;
    }
    let cpu: Vec<Duration> =
        cpu_of(pids)?.iter().zip(cpu_before).map(|(after, before)| *after - before).collect();
    report(arguments, &all, published, began.elapsed(), &cpu);
    let expected = arguments.expected() * u64::from(arguments.subscribers);
    ensure!(arguments.qos == 0 || all.received == expected, "messages were lost");
    ensure!(all.disordered == 0, "messages came out of order");
    ensure!(arguments.qos == 1 || all.repeated == 0, "messages came twice");
    Ok(())
}

fn cpu_of(pids: &[u32]) -> Result<Vec<Duration>> {
    pids.iter().map(|pid| cpu_seconds(*pid)).collect()
}

async fn subscribe(
    mut connection: Connection,
    arguments: Arc<Arguments>,
    start: Instant,
) -> Result<Delivery> {
    let mut delivery = Delivery::new(arguments.publishers as usize, arguments.messages as usize)?;
    collect(&mut connection, &mut delivery, arguments.expected(), start).await?;
    Ok(delivery)
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn report(arguments: &Arguments, all: &Delivery, published: Duration, whole: Duration, cpu: &[Duration]) {
    let sent = u64::from(arguments.messages) * u64::from(arguments.publishers);
    let expected = arguments.expected() * u64::from(arguments.subscribers);
    let used: f64 = cpu.iter().map(Duration::as_secs_f64).sum();
    println!("{arguments:?}");
    println!(
        "published {sent} in {:.2} s: {:.0}/s",
        published.as_secs_f64(),
        sent as f64 / published.as_secs_f64()
    );
    println!(
        "delivered {} of {expected} in {:.2} s: {:.0}/s; lost {}, repeated {}, out of order {}",
        all.received,
        whole.as_secs_f64(),
        all.received as f64 / whole.as_secs_f64(),
        expected - all.received,
        all.repeated,
        all.disordered,
    );
    let micros = |quantile| all.latency.value_at_quantile(quantile);
    println!(
        "latency us: p50 {}, p99 {}, p99.9 {}, max {}",
        micros(0.5),
        micros(0.99),
        micros(0.999),
        all.latency.max()
    );
    if !cpu.is_empty() {
        let each: Vec<String> = cpu.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
        let per_message = used * 1e6 / (sent + all.received).max(1) as f64;
        println!("node cpu s: {} (all {used:.2}); {per_message:.2} us per message in or out", each.join(" "));
    }
}
