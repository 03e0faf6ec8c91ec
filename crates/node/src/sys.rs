//! The values of `$SYS` topics, every `mqtt.sys_interval` seconds: those that mosquitto has, as far as they mean
//! something here, and a few more.
//!
//! Knows not who is told: that is `zwerm_broker::Teller`. Start at [`tell`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use zwerm_admin::{NodeStatus, NodeView as _};
use zwerm_broker::{Broker, Reach, Teller};
use zwerm_gateway::Counters;
use zwerm_wire::TopicName;

use crate::view::View;

/// Minutes over which loads are averaged.
const MINUTES: [u32; 3] = [1, 5, 15];

/// Tells until `stop`.
pub(crate) async fn tell(
    broker: Broker,
    view: Arc<View>,
    gateway: Arc<Counters>,
    every: Duration,
    stop: CancellationToken,
) {
    let mut teller = Teller::new(&broker);
    let mut loads = Loads::default();
    let mut maximum = 0;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let status = view.status();
        let now = Instant::now();
        loads.add(&totals(&status, &gateway), now.saturating_duration_since(last));
        last = now;
        maximum = maximum.max(status.sessions.connected);
        let mut values = values(&status, &gateway, maximum);
        values.extend(loads.values());
        let name = status.node.name.clone();
        teller.tell(values.iter().flat_map(|(topic, value)| {
            let here = TopicName::new(format!("$SYS/broker/{topic}")).ok();
            let everywhere = TopicName::new(format!("$SYS/brokers/{name}/{topic}")).ok();
            let here = here.map(|topic| (topic, Reach::Node, value.clone()));
            let everywhere = everywhere.map(|topic| (topic, Reach::Cluster, value.clone()));
            here.into_iter().chain(everywhere)
        }));
    }
}

/// What is there now, by the rest of the topic.
fn values(status: &NodeStatus, gateway: &Counters, maximum: u64) -> Vec<(String, String)> {
    let sum =
        |of: fn(&zwerm_admin::GroupRow) -> Option<u64>| -> u64 { status.groups.iter().filter_map(of).sum() };
    let (sessions, totals) = (&status.sessions, &status.totals);
    let waiting = sum(|group| group.waiting);
    let stored = sum(|group| group.queued_messages);
    let up = status.nodes.iter().filter(|node| node.state == zwerm_admin::NodeState::Up).count();
    let ready = u64::from(status.readiness.ready);
    let number = |topic: &str, value: u64| (topic.to_owned(), value.to_string());
    vec![
        ("version".to_owned(), format!("zwerm version {}", status.version)),
        ("uptime".to_owned(), format!("{} seconds", status.node.uptime_s)),
        number("clients/connected", sessions.connected),
        number("clients/active", sessions.connected),
        number("clients/disconnected", waiting),
        number("clients/inactive", waiting),
        number("clients/total", sessions.connected + waiting),
        number("clients/maximum", maximum),
        number("subscriptions/count", sessions.subscriptions),
        number("retained messages/count", sum(|group| group.retained)),
        number("messages/received", gateway.packets_received_total.get()),
        number("messages/sent", gateway.packets_sent_total.get()),
        number("messages/stored", stored),
        number("store/messages/count", stored),
        number("store/messages/bytes", sum(|group| group.queued_bytes)),
        number("publish/messages/received", totals.messages_in),
        number("publish/messages/sent", totals.messages_out),
        number("publish/messages/dropped", totals.messages_dropped),
        number("bytes/received", totals.bytes_in),
        number("bytes/sent", totals.bytes_out),
        number("cluster/nodes/total", status.nodes.len() as u64),
        number("cluster/nodes/up", up as u64),
        number("cluster/routes", sessions.routes),
        number("cluster/ready", ready),
    ]
}

/// What loads are taken of, with the name of the load.
fn totals(status: &NodeStatus, gateway: &Counters) -> [(&'static str, u64); 7] {
    [
        ("connections", status.totals.connects),
        ("messages/received", gateway.packets_received_total.get()),
        ("messages/sent", gateway.packets_sent_total.get()),
        ("publish/received", status.totals.messages_in),
        ("publish/sent", status.totals.messages_out),
        ("bytes/received", status.totals.bytes_in),
        ("bytes/sent", status.totals.bytes_out),
    ]
}

/// Moving averages per minute, as mosquitto's `$SYS/broker/load/...`.
#[derive(Debug, Default)]
struct Loads(Vec<(&'static str, u64, [f64; MINUTES.len()])>);

impl Loads {
    /// Takes totals that were counted so long after those before. The first ones have nothing before them.
    fn add(&mut self, totals: &[(&'static str, u64)], passed: Duration) {
        if self.0.is_empty() {
            self.0 = totals.iter().map(|(name, total)| (*name, *total, [0.0; MINUTES.len()])).collect();
            return;
        }
        let seconds = passed.as_secs_f64().max(f64::EPSILON);
        for ((_, before, averages), (_, total)) in self.0.iter_mut().zip(totals) {
            let per_minute = total.saturating_sub(*before) as f64 * 60.0 / seconds;
            *before = *total;
            for (average, minutes) in averages.iter_mut().zip(MINUTES) {
                let weight = 1.0 - (-seconds / (60.0 * f64::from(minutes))).exp();
                *average += (per_minute - *average) * weight;
            }
        }
    }

    fn values(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().flat_map(|(name, _, averages)| {
            let averages = averages.iter().zip(MINUTES);
            averages
                .map(move |(average, minutes)| (format!("load/{name}/{minutes}min"), format!("{average:.2}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_comes_near_to_what_it_is_and_the_short_one_first() {
        let mut loads = Loads::default();
        for step in 0..=60 {
            // 5 a second, every 10 seconds
            loads.add(&[("publish/received", step * 50)], Duration::from_secs(10));
        }
        let values: Vec<f64> = loads.values().map(|(_, value)| value.parse().unwrap()).collect();
        assert!((299.0..300.1).contains(&values[0]), "{values:?}");
        assert!((255.0..265.0).contains(&values[1]), "{values:?}");
        assert!((140.0..150.0).contains(&values[2]), "{values:?}");
        loads.add(&[("publish/received", 60 * 50)], Duration::from_secs(600));
        let values: Vec<(String, String)> = loads.values().collect();
        assert_eq!(values[0], ("load/publish/received/1min".into(), "0.01".into()));
    }
}
