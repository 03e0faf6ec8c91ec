//! What the brokers are asked to do, and what of it is measured.
//!
//! A load is a command line of `zwerm bench`, so that anybody can repeat one alone. Knows no broker but by what
//! it cannot do. Start at [`SCENARIOS`].

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use zwerm_bench::{Arguments, Report, Scenario as Load};

use super::broker::Broker;

/// A line of the comparison.
#[derive(Debug)]
pub struct Scenario {
    /// For people.
    pub name: &'static str,
    /// Nodes of each broker.
    pub nodes: u16,
    /// What is done.
    pub work: Work,
    /// What is measured.
    pub measures: &'static [Measure],
    /// What is special about the load.
    pub needs: Needs,
}

/// What a broker has to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// QoS 0 and 1.
    Little,
    /// QoS 2.
    Qos2,
    /// Shared subscriptions.
    Shared,
}

/// What is done with a broker.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// `zwerm bench` with these arguments; publishers on the first node, subscribers on the second if there is one.
    Bench(&'static str),
    /// Nothing for so many seconds.
    Idle(u64),
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// User and system seconds of all nodes for a million of what a phase counts.
    CpuPerMillion(&'static str),
    /// What a phase counts, a second.
    PerSecond(&'static str),
    /// How long a phase took.
    Seconds(&'static str),
    /// Median latency of a phase, microseconds.
    P50(&'static str),
    /// The latency of a phase that one of a hundred exceeds, microseconds.
    P99(&'static str),
    /// Resident bytes of a connection.
    BytesPerConnection,
    /// Percent of one core that all nodes use together.
    IdlePercent,
}

impl Measure {
    /// For people, with its unit.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::CpuPerMillion(phase) => format!("CPU s per million ({phase})"),
            Self::PerSecond(phase) => format!("per second ({phase})"),
            Self::Seconds(phase) => format!("seconds ({phase})"),
            Self::P50(phase) => format!("p50 latency us ({phase})"),
            Self::P99(phase) => format!("p99 latency us ({phase})"),
            Self::BytesPerConnection => "bytes a connection".to_owned(),
            Self::IdlePercent => "% of a core".to_owned(),
        }
    }

    /// Whether more is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond(_))
    }

    /// The figure of a report, if it has it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn of(self, report: &Report) -> Option<f64> {
        match self {
            Self::CpuPerMillion(phase) => report.phase(phase)?.cpu_seconds_per_million,
            Self::PerSecond(phase) => Some(report.phase(phase)?.per_second),
            Self::Seconds(phase) => Some(report.phase(phase)?.seconds),
            Self::P50(phase) => Some(report.phase(phase)?.latency?.p50 as f64),
            Self::P99(phase) => Some(report.phase(phase)?.latency?.p99 as f64),
            Self::BytesPerConnection => report.bytes_per_connection.map(|bytes| bytes as f64),
            Self::IdlePercent => None,
        }
    }
}

const DELIVERED: &[Measure] = &[Measure::CpuPerMillion("deliver"), Measure::PerSecond("deliver")];
const LATENCY: &[Measure] =
    &[Measure::P50("deliver"), Measure::P99("deliver"), Measure::CpuPerMillion("deliver")];
const CONNECTED: &[Measure] =
    &[Measure::PerSecond("connect"), Measure::CpuPerMillion("connect"), Measure::BytesPerConnection];
const READ: &[Measure] =
    &[Measure::PerSecond("store"), Measure::Seconds("read"), Measure::CpuPerMillion("read")];
const DRAINED: &[Measure] = &[
    Measure::PerSecond("queue"),
    Measure::CpuPerMillion("queue"),
    Measure::PerSecond("take"),
    Measure::CpuPerMillion("take"),
];

const fn bench(
    name: &'static str,
    nodes: u16,
    needs: Needs,
    line: &'static str,
    measures: &'static [Measure],
) -> Scenario {
    Scenario { name, nodes, work: Work::Bench(line), measures, needs }
}

use Needs::{Little, Qos2, Shared};

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    bench("1 to 1, QoS 0", 1, Little, "pub-sub", DELIVERED),
    bench("50 pairs, QoS 0", 1, Little, "pub-sub --pairs 50", DELIVERED),
    bench("50 pairs, QoS 1", 1, Little, "pub-sub --pairs 50 -q 1", DELIVERED),
    bench("50 pairs, QoS 2", 1, Qos2, "pub-sub --pairs 50 -q 2", DELIVERED),
    bench("10 pairs, QoS 2", 1, Qos2, "pub-sub --pairs 10 -q 2", DELIVERED),
    bench("fan-out 1 to 500, QoS 0", 1, Little, "fan-out --subscribers 500", DELIVERED),
    bench("fan-out 1 to 1,000, QoS 0", 1, Little, "fan-out --subscribers 1000", DELIVERED),
    bench("fan-in 100 to 1, QoS 1", 1, Little, "fan-in --publishers 100 -q 1", DELIVERED),
    bench("fan-in 1,000 to 1, QoS 1", 1, Little, "fan-in --publishers 1000 -q 1 -i 10", DELIVERED),
    bench("shared 10 to 10, QoS 1", 1, Shared, "shared --publishers 10 --subscribers 10 -q 1", DELIVERED),
    bench("shared 50 to 10, QoS 1", 1, Shared, "shared --publishers 50 --subscribers 10 -q 1", DELIVERED),
    bench("10 pairs, QoS 0, 20,000/s", 1, Little, "pub-sub --pairs 10 --rate 20000", LATENCY),
    bench("10 pairs, QoS 1, 20,000/s", 1, Little, "pub-sub --pairs 10 --rate 20000 -q 1", LATENCY),
    bench("5,000 connections", 1, Little, "connect --connections 5000", CONNECTED),
    bench("50,000 retained", 1, Little, "retained --topics 50000", READ),
    bench("100,000 retained", 1, Little, "retained --topics 100000", READ),
    bench("durable, 100,000 queued, then taken", 1, Little, "durable --messages 25000", DRAINED),
    bench("durable, QoS 1, in and out", 1, Little, "durable --messages 25000 --online", DELIVERED),
    bench("10 pairs, QoS 0", 1, Little, "pub-sub --pairs 10", DELIVERED),
    bench("10 pairs, QoS 1", 1, Little, "pub-sub --pairs 10 -q 1", DELIVERED),
    bench("three nodes, 10 pairs across, QoS 0", 3, Little, "pub-sub --pairs 10", DELIVERED),
    bench("three nodes, 10 pairs across, QoS 1", 3, Little, "pub-sub --pairs 10 -q 1", DELIVERED),
    bench(
        "three nodes, durable, QoS 1, in and out",
        3,
        Little,
        "durable --messages 25000 --online",
        DELIVERED,
    ),
    Scenario {
        name: "three nodes, idle",
        nodes: 3,
        work: Work::Idle(10),
        measures: &[Measure::IdlePercent],
        needs: Little,
    },
];

impl Scenario {
    /// Why a broker cannot do this; `None`: it can.
    #[must_use]
    pub fn is_beyond(&self, broker: Broker) -> Option<&'static str> {
        match (broker, self.needs) {
            (Broker::Mosquitto | Broker::Rumqttd, _) if self.nodes > 1 => Some("has no cluster"),
            (Broker::Nats, Qos2) => Some("has no QoS 2"),
            (Broker::Nats, Shared) => Some("has no shared subscriptions of MQTT"),
            _ => None,
        }
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// The load of a command line on a broker; `tiny`: only to see that it works.
///
/// # Errors
/// When it is no command line of `zwerm bench`.
pub fn load(line: &str, endpoints: &[SocketAddr], pids: &[u32], tiny: bool) -> Result<Arguments> {
    let parsed = Line::try_parse_from(["bench"].into_iter().chain(line.split(' ')))
        .with_context(|| format!("zwerm bench {line}"))?;
    let mut arguments = parsed.arguments;
    if tiny {
        shrink(&mut arguments.scenario);
    }
    let common = &mut arguments.common;
    let name = |index: usize| endpoints[index % endpoints.len()].to_string();
    common.publish_to = vec![name(0)];
    common.subscribe_to = vec![name(1)];
    common.broker_pid = pids.to_vec();
    common.quiet = true;
    Ok(arguments)
}

fn shrink(load: &mut Load) {
    let traffic = match load {
        Load::PubSub(load) => {
            load.pairs = load.pairs.min(3);
            &mut load.traffic
        }
        Load::FanOut(load) => {
            load.subscribers = load.subscribers.min(10);
            &mut load.traffic
        }
        Load::FanIn(load) => {
            load.publishers = load.publishers.min(10);
            &mut load.traffic
        }
        Load::Shared(load) => {
            (load.publishers, load.subscribers) = (load.publishers.min(3), load.subscribers.min(3));
            &mut load.traffic
        }
        Load::Connect(load) => {
            load.connections = load.connections.min(50);
            return;
        }
        Load::Retained(load) => {
            load.topics = load.topics.min(100);
            return;
        }
        Load::Durable(load) => {
            load.messages = load.messages.min(50);
            return;
        }
        Load::Churn(load) => {
            load.messages = Some(3);
            return;
        }
    };
    if traffic.rate > 0.0 {
        traffic.rate = traffic.rate.min(500.0);
    }
    traffic.messages = Some(100);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_can_be_run_and_has_a_name_of_its_own() {
        let endpoints = [SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2))];
        for scenario in SCENARIOS {
            if let Work::Bench(line) = scenario.work {
                for tiny in [false, true] {
                    let mut arguments = load(line, &endpoints, &[], tiny).unwrap();
                    let common = &mut arguments.common;
                    assert_eq!(
                        (&*common.publish_to[0], &*common.subscribe_to[0]),
                        ("127.0.0.1:1", "127.0.0.1:2")
                    );
                }
            }
        }
        let names: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }

    #[test]
    fn a_broker_without_a_cluster_is_not_asked_for_one() {
        for scenario in SCENARIOS {
            assert_eq!(
                scenario.is_beyond(Broker::Mosquitto).is_some(),
                scenario.nodes > 1,
                "{}",
                scenario.name
            );
            assert_eq!(scenario.is_beyond(Broker::Zwerm), None);
        }
    }
}
