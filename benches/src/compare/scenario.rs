//! What the brokers are asked to do, and what of it is measured.
//!
//! Knows no broker but by what it cannot do. Start at [`SCENARIOS`].

use crate::broker::Broker;
use crate::work::{Measure, Work};

/// A line of the comparison.
#[derive(Debug)]
pub struct Scenario {
    /// For people.
    pub name: &'static str,
    /// Nodes of each broker.
    pub nodes: u16,
    /// What is done.
    pub work: Work<'static>,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use super::*;
    use crate::work::load;

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
