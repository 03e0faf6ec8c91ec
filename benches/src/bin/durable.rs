//! Queues of durable sessions: what they cost in memory, time and processor, with the proof of what comes out.
//!
//! Messages are published to durable sessions that are away, then the sessions come back on another node and take
//! everything; or, with `--online`, they take it while it is published. Run with `--release`; the nodes are the
//! `zwerm` beside this program.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mqttbytes::QoS;
use tokio::task::JoinSet;
use zwerm_benches::{
    Connection, Delivery, Publisher, collect, cpu_seconds, peak_resident_bytes, raise_open_files,
    resident_bytes,
};
use zwerm_tests::{Cluster, Node};

#[derive(Debug, Clone, Parser)]
#[command(about = "What queues of durable sessions cost, with proof of loss, repeats and order")]
struct Arguments {
    /// Nodes to start.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=6))]
    nodes: u16,
    /// `[storage] sync` of the nodes.
    #[arg(long, default_value = "fsync", value_parser = ["fsync", "os"])]
    sync: String,
    /// Publishing connections.
    #[arg(long, default_value_t = 4)]
    publishers: u32,
    /// Durable sessions; each gets every message.
    #[arg(long, default_value_t = 1)]
    sessions: u32,
    /// 1 or 2, for publishing and subscribing.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    qos: u8,
    /// Bytes of a payload, at least 16.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Messages of each publisher.
    #[arg(long, default_value_t = 25_000)]
    messages: u32,
    /// Unacknowledged messages of each publisher.
    #[arg(long, default_value_t = 512)]
    window: u32,
    /// The sessions take messages while they are published.
    #[arg(long)]
    online: bool,
}

impl Arguments {
    fn qos(&self) -> QoS {
        if self.qos == 1 { QoS::AtLeastOnce } else { QoS::ExactlyOnce }
    }

    fn publisher(&self, number: u32) -> Publisher {
        let Self { size, messages, window, .. } = *self;
        Publisher { number, topic: format!("deep/{number}"), qos: self.qos(), size, messages, window }
    }

    /// Messages published.
    fn published(&self) -> u64 {
        u64::from(self.messages) * u64::from(self.publishers)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("{arguments:?}");
    raise_open_files()?;
    let sync = format!("storage.sync={}", arguments.sync);
    // No bound, so that nothing gives way.
    let settings = [&*sync, "mqtt.session_queue_messages=0", "mqtt.session_queue_bytes=0"];
    let cluster = Cluster::start_with(arguments.nodes, &settings).await?;
    let bench = Bench {
        endpoints: cluster.nodes().iter().map(Node::mqtt).collect(),
        pids: cluster.nodes().iter().filter_map(Node::pid).collect(),
        start: Instant::now(),
        arguments,
    };
    let all = bench.run().await?;
    let expected = bench.arguments.published() * u64::from(bench.arguments.sessions);
    println!("lost {}, repeated {}, out of order {}", expected - all.received, all.repeated, all.disordered);
    ensure!(all.received == expected, "messages were lost");
    ensure!(all.disordered == 0, "messages came out of order");
    ensure!(all.repeated == 0, "messages came twice though no connection was lost");
    cluster.finish().await
}

struct Bench {
    arguments: Arguments,
    endpoints: Vec<SocketAddr>,
    pids: Vec<u32>,
    start: Instant,
}

impl Bench {
    async fn run(&self) -> Result<Delivery> {
        self.memory("nodes without a session")?;
        for number in 0..self.arguments.sessions {
            let mut session = self.session(number).await?;
            session.subscribe("deep/+", self.arguments.qos()).await?;
            session.close().await?;
        }
        if self.arguments.online {
            let work = self.work();
            let (published, all) = tokio::try_join!(self.publish(), self.drain())?;
            work.report("published and taken", self.arguments.published() + all.received)?;
            println!("the last acknowledgement came after {:.2} s", published.as_secs_f64());
            let micros = |quantile| all.latency.value_at_quantile(quantile);
            println!("latency us: p50 {}, p99 {}, max {}", micros(0.5), micros(0.99), all.latency.max());
            self.memory("afterwards")?;
            return Ok(all);
        }
        let work = self.work();
        self.publish().await?;
        work.report("published", self.arguments.published())?;
        self.memory("with the queues full")?;
        let work = self.work();
        let all = self.drain().await?;
        work.report("taken", all.received)?;
        self.memory("with the queues empty")?;
        Ok(all)
    }

    /// A durable session, on the node after the publisher of the same number.
    async fn session(&self, number: u32) -> Result<Connection> {
        let (session, _) = Connection::resume(self.place(number + 1), &format!("deep-s{number}")).await?;
        Ok(session)
    }

    fn place(&self, number: u32) -> SocketAddr {
        self.endpoints[number as usize % self.endpoints.len()]
    }

    async fn publish(&self) -> Result<Duration> {
        let began = Instant::now();
        let mut publishers = JoinSet::new();
        for number in 0..self.arguments.publishers {
            let connection = Connection::open(self.place(number), &format!("deep-p{number}")).await?;
            publishers.spawn(self.arguments.publisher(number).run(connection, self.start));
        }
        while let Some(done) = publishers.join_next().await {
            done??;
        }
        Ok(began.elapsed())
    }

    async fn drain(&self) -> Result<Delivery> {
        let (publishers, messages) = (self.arguments.publishers as usize, self.arguments.messages as usize);
        let (expected, start) = (self.arguments.published(), self.start);
        let mut sessions = JoinSet::new();
        for number in 0..self.arguments.sessions {
            let mut session = self.session(number).await?;
            sessions.spawn(async move {
                let mut delivery = Delivery::new(publishers, messages)?;
                collect(&mut session, &mut delivery, expected, start).await?;
                session.close().await.context("closing a session")?;
                anyhow::Ok(delivery)
            });
        }
        let mut all = Delivery::new(0, 0)?;
        while let Some(done) = sessions.join_next().await {
            all.add(&done??)?;
        }
        Ok(all)
    }

    fn memory(&self, when: &str) -> Result<()> {
        let now: Result<Vec<String>> = self.pids.iter().map(|pid| resident_bytes(*pid).map(mib)).collect();
        let peak: Result<Vec<String>> =
            self.pids.iter().map(|pid| peak_resident_bytes(*pid).map(mib)).collect();
        println!("{when}: resident MiB {}, at most so far {}", now?.join(" "), peak?.join(" "));
        Ok(())
    }

    fn work(&self) -> Work<'_> {
        Work { pids: &self.pids, cpu: cpu_of(&self.pids), began: Instant::now() }
    }
}

/// A phase that is being measured.
struct Work<'a> {
    pids: &'a [u32],
    cpu: Result<Duration>,
    began: Instant,
}

impl Work<'_> {
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    fn report(self, what: &str, messages: u64) -> Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = (cpu_of(self.pids)? - self.cpu?).as_secs_f64();
        println!(
            "{what} {messages} in {seconds:.2} s: {:.0}/s; node cpu {cpu:.2} s, {:.2} us per message in or out",
            messages as f64 / seconds,
            cpu * 1e6 / messages.max(1) as f64
        );
        Ok(())
    }
}

fn cpu_of(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}

fn mib(bytes: u64) -> String {
    (bytes >> 20).to_string()
}
