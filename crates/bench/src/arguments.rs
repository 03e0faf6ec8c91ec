//! What can be typed after `zwerm bench`.
//!
//! Knows nothing of what the scenarios do. Start at [`Arguments`].

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use mqttbytes::QoS;
use std::net::SocketAddr;

const EXAMPLES: &str = "\
Examples:
  zwerm bench pub-sub                            one pair on localhost:1883, QoS 0, for five seconds
  zwerm bench pub-sub --pairs 50 -q 1            fifty pairs, QoS 1
  zwerm bench pub-sub --rate 20000 --seconds 30  latency at a fixed rate
  zwerm bench fan-out --publish-to n1:1883 --subscribe-to n2:1883,n3:1883
  zwerm bench durable -e n1:1883,n2:1883 --messages 100000 --json

Every message says publisher, sequence and time. Loss, repeats and order are always counted; when messages of
QoS 1 or 2 were lost or came out of order, or at QoS 2 twice, the exit code is 1.
CPU and memory are those of --broker-pid, or of the processes that listen at the endpoints on loopback.";

/// Put load on any MQTT broker and measure it
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The kind of load.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// What all kinds have.
    #[command(flatten)]
    pub common: Common,
}

/// The kinds of load.
#[derive(Debug, Clone, Subcommand)]
pub enum Scenario {
    /// Pairs: each publisher is heard by a subscriber of its own
    #[command(after_help = "Examples:\n  zwerm bench pub-sub --pairs 50 -q 2 -s 256 --messages 10000\n  \
                            zwerm bench pub-sub --pairs 10 --idle-connections 15000\n  \
                            zwerm bench pub-sub --pairs 10 --idle-filters 1000000")]
    PubSub(PubSub),
    /// Few publishers, each heard by all of many subscribers
    #[command(after_help = "Examples:\n  zwerm bench fan-out --subscribers 1000 --messages 1000")]
    FanOut(FanOut),
    /// Many publishers, all heard by each of few subscribers
    #[command(after_help = "Examples:\n  zwerm bench fan-in --publishers 1000 -q 1 --rate 50000")]
    FanIn(FanIn),
    /// Publishers to one shared subscription with many members
    #[command(after_help = "Examples:\n  zwerm bench shared --publishers 50 --subscribers 10 -q 1")]
    Shared(Shared),
    /// Connections: how many a second, and what an idle one costs
    #[command(after_help = "Examples:\n  zwerm bench connect --connections 10000 --at-once 100\n  \
                            zwerm bench connect --connections 2000 --subscribe")]
    Connect(Connect),
    /// Retained messages: stored, then read back by one wildcard subscription
    #[command(after_help = "Examples:\n  zwerm bench retained --topics 100000 -q 1")]
    Retained(Retained),
    /// Durable sessions: queued while they are away, then taken; or online
    #[command(
        after_help = "Examples:\n  zwerm bench durable --publishers 8 --messages 100000 --sessions 4\n  \
                            zwerm bench durable --online -q 2"
    )]
    Durable(Durable),
    /// Clients that connect, subscribe, publish to themselves and go, again and again
    #[command(after_help = "Examples:\n  zwerm bench churn --clients 50 --seconds 10\n  \
                            zwerm bench churn --clients 10 --durable -q 1")]
    Churn(Churn),
}

/// Where the broker is and how the result is told.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Broker and report")]
pub struct Common {
    /// Nodes of the broker; clients are spread over them in turn [default: 127.0.0.1:1883]
    #[arg(short, long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// Nodes for publishers only [default: --endpoint]
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub publish_to: Vec<String>,
    /// Nodes for subscribers only [default: --endpoint, each one node further than the publisher of its number]
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub subscribe_to: Vec<String>,
    /// User name
    #[arg(short, long, global = true, value_name = "NAME")]
    pub username: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", global = true, value_name = "PASSWORD", requires = "username")]
    pub password: Option<String>,
    /// Process of the broker, to be measured; repeat it for each
    #[arg(long, global = true, value_name = "PID", value_delimiter = ',')]
    pub broker_pid: Vec<u32>,
    /// Threads of the load
    #[arg(long, global = true, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Seconds without any progress after which what is missing counts as lost [default: 2 with QoS 0, else 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub patience: Option<u64>,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, global = true)]
    pub quiet: bool,
}

impl Common {
    /// How long nothing may come before what is missing is lost.
    pub(crate) fn patience(&self, qos: u8) -> Duration {
        Duration::from_secs(self.patience.unwrap_or(if qos == 0 { 2 } else { 10 }))
    }

    /// User name and password.
    pub(crate) fn login(&self) -> Option<(String, String)> {
        Some((self.username.clone()?, self.password.clone().unwrap_or_default()))
    }
}

/// Where publishers and subscribers connect.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    publish_to: Vec<SocketAddr>,
    subscribe_to: Vec<SocketAddr>,
    /// By which a subscriber is further than the publisher of its number.
    step: usize,
}

impl Places {
    /// Looks the names up.
    ///
    /// # Errors
    /// When one is not known.
    pub(crate) async fn resolve(common: &Common) -> Result<Self> {
        let Common { endpoint, publish_to, subscribe_to, .. } = common;
        let named = |lists: [&Vec<String>; 3]| {
            let list = lists.into_iter().find(|list| !list.is_empty());
            list.cloned().unwrap_or_else(|| vec!["127.0.0.1:1883".to_owned()])
        };
        Ok(Self {
            publish_to: addresses(&named([publish_to, endpoint, subscribe_to])).await?,
            subscribe_to: addresses(&named([subscribe_to, endpoint, publish_to])).await?,
            step: usize::from(common.subscribe_to.is_empty()),
        })
    }

    /// Where publisher `number` connects.
    pub(crate) fn publisher(&self, number: u32) -> SocketAddr {
        self.publish_to[number as usize % self.publish_to.len()]
    }

    /// Where subscriber `number` connects.
    pub(crate) fn subscriber(&self, number: u32) -> SocketAddr {
        self.subscribe_to[(number as usize + self.step) % self.subscribe_to.len()]
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.publish_to.iter().chain(&self.subscribe_to).copied()
    }
}

async fn addresses(names: &[String]) -> Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for name in names {
        let full = if name.contains(':') { name.clone() } else { format!("{name}:1883") };
        let address =
            tokio::net::lookup_host(&full).await.with_context(|| format!("looking {full} up"))?.next();
        found.push(address.with_context(|| format!("{full} has no address"))?);
    }
    Ok(found)
}

/// What is sent, how fast and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct Traffic {
    /// Quality of service of publishers and subscribers
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Bytes of a payload, at least 16
    #[arg(short, long, default_value_t = 64, value_name = "BYTES")]
    pub size: u32,
    /// Messages a second of all publishers together; 0: as many as possible
    #[arg(short, long, default_value_t = 0.0, value_name = "N")]
    pub rate: f64,
    /// Messages each publisher has under way: QoS 1 and 2 not acknowledged, QoS 0 not arrived (0: no bound)
    /// [default: 100; QoS 0: 1000 divided by the publishers that one subscriber hears]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..65_535))]
    pub inflight: Option<u64>,
    /// Messages of each publisher, instead of --seconds
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub messages: Option<u64>,
    /// How long to publish after the warm-up
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", conflicts_with = "messages")]
    pub seconds: f64,
    /// How long to publish before it is measured (what is published then is verified, too) [default: 1; with --messages 0]
    #[arg(short, long, value_name = "SECONDS")]
    pub warm_up: Option<f64>,
    /// Connections beside the load that do nothing; opened before it, and measured as the phase `idle`
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub idle_connections: u32,
    /// Filters beside the load that nobody publishes to, held by ten connections; subscribed to before it with its QoS,
    /// 500 at a time, and measured as the phase `filters`
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=99_999_999))]
    pub idle_filters: u32,
}

impl Traffic {
    /// The quality of service.
    pub(crate) fn qos(&self) -> QoS {
        quality(self.qos)
    }

    /// Messages a publisher has under way, when so many publishers are heard by one subscriber.
    ///
    /// # Errors
    /// When it is 0 for QoS 1 or 2.
    pub(crate) fn window(&self, heard: u32) -> Result<u64> {
        let default = if self.qos == 0 { (1_000 / u64::from(heard.max(1))).max(1) } else { 100 };
        let window = self.inflight.unwrap_or(default);
        ensure!(self.qos == 0 || window > 0, "--inflight must be at least 1 with QoS {}", self.qos);
        Ok(window)
    }

    /// How long to publish before it is measured.
    ///
    /// # Errors
    /// When a number makes no sense.
    pub(crate) fn warm_up(&self) -> Result<Duration> {
        ensure!(self.rate >= 0.0 && self.rate.is_finite(), "--rate must be a number from 0 on");
        let seconds = self.warm_up.unwrap_or(if self.messages.is_some() { 0.0 } else { 1.0 });
        time(seconds, "--warm-up")
    }

    /// How long to publish; `None`: a number of messages.
    ///
    /// # Errors
    /// When the number makes no sense.
    pub(crate) fn time(&self) -> Result<Option<Duration>> {
        if self.messages.is_some() {
            return Ok(None);
        }
        ensure!(self.seconds > 0.0, "--seconds must be more than 0");
        time(self.seconds, "--seconds").map(Some)
    }
}

/// A quality of service by its number.
pub(crate) fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// Seconds as they were typed.
pub(crate) fn time(seconds: f64, flag: &str) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{flag} {seconds} is no time"))
}

/// Pairs.
#[derive(Debug, Clone, Args)]
pub struct PubSub {
    /// Publishers, and subscribers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    #[command(flatten)]
    pub traffic: Traffic,
}

/// One to many.
#[derive(Debug, Clone, Args)]
pub struct FanOut {
    /// Publishers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Subscribers, each of which hears all publishers
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    #[command(flatten)]
    pub traffic: Traffic,
}

/// Many to one.
#[derive(Debug, Clone, Args)]
pub struct FanIn {
    /// Publishers
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Subscribers, each of which hears all publishers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    #[command(flatten)]
    pub traffic: Traffic,
}

/// A shared subscription.
#[derive(Debug, Clone, Args)]
pub struct Shared {
    /// Publishers
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Members of the shared subscription
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    #[command(flatten)]
    pub traffic: Traffic,
}

/// Connections.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct Connect {
    /// Connections to open and to hold until all are there
    #[arg(short, long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Connections that are being opened at a time
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub at_once: u32,
    /// Each subscribes to a topic of its own before it counts
    #[arg(long)]
    pub subscribe: bool,
    /// Each gets a message, too (implies --subscribe)
    #[arg(long)]
    pub receive: bool,
}

/// Retained messages.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct Retained {
    /// Topics with a retained message each
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99_999_999))]
    pub topics: u32,
    /// Publishers that store them
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Subscribers that read them back at the same time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
    /// Quality of service of publishers and subscribers
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Bytes of a payload, at least 16
    #[arg(short, long, default_value_t = 64, value_name = "BYTES")]
    pub size: u32,
    /// Messages each publisher has under way
    #[arg(short, long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..65_535))]
    pub inflight: u64,
    /// Leave the retained messages where they are
    #[arg(long)]
    pub keep: bool,
}

/// Durable sessions.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct Durable {
    /// Publishers
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Durable sessions, each of which gets every message
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions: u32,
    /// Messages of each publisher
    #[arg(short, long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub messages: u64,
    /// Quality of service of publishers and subscribers
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Bytes of a payload, at least 16
    #[arg(short, long, default_value_t = 64, value_name = "BYTES")]
    pub size: u32,
    /// Messages each publisher has under way
    #[arg(short, long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..65_535))]
    pub inflight: u64,
    /// The sessions take the messages while they are published
    #[arg(long)]
    pub online: bool,
}

/// Clients that come and go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct Churn {
    /// Clients at a time
    #[arg(short, long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Quality of service of the message that each sends to itself
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Their sessions are durable: they are continued, and their subscriptions kept
    #[arg(long)]
    pub durable: bool,
    /// Times each client comes, instead of --seconds
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub messages: Option<u64>,
    /// How long to do it
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", conflicts_with = "messages")]
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Scenario, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.arguments.scenario)
    }

    #[test]
    fn every_scenario_explains_itself_with_examples_that_can_be_typed() {
        Cli::command().debug_assert();
        let mut examples: Vec<String> = EXAMPLES.lines().map(str::to_owned).collect();
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
            examples.extend(help.lines().map(str::to_owned));
        }
        let typed: Vec<&str> = examples
            .iter()
            .filter_map(|line| line.trim().strip_prefix("zwerm ")?.split("   ").next())
            .collect();
        assert!(typed.len() > 10);
        for line in typed {
            assert!(parse(line.split("  ").next().unwrap()).is_ok(), "{line}");
        }
    }

    #[test]
    fn windows_fit_what_a_subscriber_can_take() {
        let window = |line: &str, heard| match parse(line).unwrap() {
            Scenario::PubSub(PubSub { traffic, .. }) => traffic.window(heard),
            other => panic!("{other:?}"),
        };
        assert_eq!(window("bench pub-sub", 1).unwrap(), 1_000);
        assert_eq!(window("bench pub-sub", 3_000).unwrap(), 1);
        assert_eq!(window("bench pub-sub -i 0", 1).unwrap(), 0);
        assert_eq!(window("bench pub-sub -q 1", 50).unwrap(), 100);
        assert!(window("bench pub-sub -q 1 -i 0", 1).is_err());
    }

    #[test]
    fn a_number_of_messages_needs_no_warm_up() {
        let traffic = |line: &str| match parse(line).unwrap() {
            Scenario::PubSub(PubSub { traffic, .. }) => traffic,
            other => panic!("{other:?}"),
        };
        let counted = traffic("bench pub-sub -m 10");
        assert_eq!((counted.warm_up().unwrap(), counted.time().unwrap()), (Duration::ZERO, None));
        let timed = traffic("bench pub-sub --seconds 2");
        assert_eq!(timed.warm_up().unwrap(), Duration::from_secs(1));
        assert_eq!(timed.time().unwrap(), Some(Duration::from_secs(2)));
        assert!(parse("bench pub-sub -m 1 --seconds 2").is_err());
    }

    #[tokio::test]
    async fn subscribers_are_on_another_node_than_their_publishers() {
        let mut common =
            Common { endpoint: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()], ..Common::default() };
        let places = Places::resolve(&common).await.unwrap();
        assert_eq!((places.publisher(0).port(), places.subscriber(0).port()), (1, 2));
        assert_eq!((places.publisher(1).port(), places.subscriber(1).port()), (2, 1));
        common.subscribe_to = vec!["127.0.0.1:3".into()];
        let places = Places::resolve(&common).await.unwrap();
        assert_eq!((places.publisher(1).port(), places.subscriber(1).port()), (2, 3));
        common.endpoint.clear();
        let places = Places::resolve(&common).await.unwrap();
        assert_eq!((places.publisher(1).port(), places.subscriber(1).port()), (3, 3));
        common.publish_to = vec!["nowhere.invalid".into()];
        assert!(Places::resolve(&common).await.unwrap_err().to_string().contains("nowhere.invalid:1883"));
    }
}
