//! What a run's history says about time: how long nobody could publish, how long takeovers took.
//!
//! Pure. Each fault is responsible for everything until the next one. Start at [`measure`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use zwerm_oracle::{Ending, Event, Stage, What};

use crate::fault::Kind;
use crate::load;
use crate::nemesis::Incident;
use crate::network::Side;
use crate::world::Placed;

/// What one fault did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Messages of QoS 1 and 2 acknowledged until the next fault.
    pub(crate) acknowledged: usize,
    /// The longest time in which a publisher on a node that the fault spared got no acknowledgement.
    pub(crate) unavailable: Duration,
    /// `kill -9`: how long each durable subscriber of the node received nothing, from the kill to its first
    /// message on another node.
    pub(crate) takeovers: Vec<Duration>,
    /// Those that received nothing more until the next fault.
    pub(crate) stranded: usize,
}

/// One connection of a durable subscriber.
struct Stay {
    connection: u32,
    node: Side,
    from: Duration,
    to: Option<Duration>,
}

/// The effect of each incident. `end`: when the load ended.
pub(crate) fn measure(
    events: &[Event],
    placed: &[Placed],
    incidents: &[Incident],
    end: Duration,
) -> Vec<Effect> {
    let mut probes: BTreeMap<Side, Vec<Duration>> = BTreeMap::new();
    let mut acknowledged = Vec::new();
    for event in events {
        if let What::Acknowledged { stage: Stage::PubAck | Stage::PubComp, success: true, .. } = event.what {
            acknowledged.push(event.at);
            if let Some(node) = load::probed_node(&event.client) {
                probes.entry(node).or_default().push(event.at);
            }
        }
    }
    let stays = stays(events, placed);
    let mut effects = Vec::new();
    for (number, incident) in incidents.iter().enumerate() {
        let until = incidents.get(number + 1).map_or(end, |next| next.at);
        let within = |at: &&Duration| (incident.at..until).contains(*at);
        let spared = probes.iter().filter(|(node, _)| incident.fault.spares(**node));
        let gaps = spared.map(|(_, times)| longest_gap(times, incident.at, until));
        let mut effect = Effect {
            acknowledged: acknowledged.iter().filter(within).count(),
            unavailable: gaps.max().unwrap_or_default(),
            ..Effect::default()
        };
        if incident.fault.kind == Kind::Kill {
            takeovers(events, &stays, incident, until, &mut effect);
        }
        effects.push(effect);
    }
    effects
}

/// The longest time without an acknowledgement between two moments.
fn longest_gap(times: &[Duration], from: Duration, until: Duration) -> Duration {
    let within = times.iter().copied().filter(|at| *at >= from && *at < until);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in within.chain([until]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

fn stays<'e>(events: &'e [Event], placed: &[Placed]) -> BTreeMap<&'e str, Vec<Stay>> {
    let nodes: HashMap<(&Arc<str>, u32), Side> =
        placed.iter().map(|placed| ((&placed.client, placed.connection), placed.node)).collect();
    let mut stays: BTreeMap<&str, Vec<Stay>> = BTreeMap::new();
    for event in events.iter().filter(|event| load::is_durable_subscriber(&event.client)) {
        let stays = stays.entry(&event.client).or_default();
        match event.what {
            What::ConnAck { .. } => {
                let connection = event.connection;
                let Some(node) = nodes.get(&(&event.client, connection)) else { continue };
                stays.push(Stay { connection, node: *node, from: event.at, to: None });
            }
            What::End(Ending::Lost | Ending::Disconnected { .. }) => {
                let stay = stays.iter_mut().find(|stay| stay.connection == event.connection);
                if let Some(stay) = stay {
                    stay.to = Some(event.at);
                }
            }
            _ => {}
        }
    }
    stays
}

fn takeovers(
    events: &[Event],
    stays: &BTreeMap<&str, Vec<Stay>>,
    incident: &Incident,
    until: Duration,
    effect: &mut Effect,
) {
    for (client, stays) in stays {
        let is_hit = |stay: &&Stay| {
            stay.node == incident.fault.node
                && stay.from < incident.at
                && stay.to.is_none_or(|to| to >= incident.at)
        };
        let Some(lost) = stays.iter().find(is_hit) else { continue };
        let again = events.iter().find(|event| {
            &*event.client == *client
                && event.connection > lost.connection
                && matches!(event.what, What::Delivered { .. })
        });
        match again.filter(|event| event.at < until) {
            Some(event) => effect.takeovers.push(event.at.saturating_sub(incident.at)),
            None => effect.stranded += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use zwerm_oracle::History;

    use super::*;
    use crate::fault::Fault;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn kill(node: Side, at: u64) -> Incident {
        let fault = Fault { kind: Kind::Kill, node, other: None, lasts: s(3) };
        Incident { fault, at: s(at), healed: s(at + 3), ready: s(at + 4), notes: Vec::new() }
    }

    #[test]
    fn the_longest_gap_counts_from_the_fault_and_to_the_next_one() {
        let times = [s(1), s(9), s(12), s(14)];
        assert_eq!(longest_gap(&times, s(10), s(15)), s(2));
        assert_eq!(longest_gap(&times, s(10), s(30)), s(16));
        assert_eq!(longest_gap(&[], s(10), s(30)), s(20));
    }

    #[test]
    fn only_publishers_on_spared_nodes_count_for_unavailability() {
        let mut history = History::new();
        let ack = || What::Acknowledged { packet_id: 1, stage: Stage::PubAck, success: true };
        for at in 0..20 {
            if at != 11 {
                history.push(s(at), "probe-2", 1, ack());
            }
        }
        let effects = measure(history.events(), &[], &[kill(1, 10)], s(20));
        assert_eq!(effects[0].unavailable, s(2));
        assert_eq!(effects[0].acknowledged, 9);
        let effects = measure(history.events(), &[], &[kill(2, 10)], s(20));
        assert_eq!(effects[0].unavailable, Duration::ZERO);
    }

    #[test]
    fn a_takeover_lasts_from_the_kill_to_the_first_message_of_a_later_connection() {
        let mut history = History::new();
        let delivered = || What::Delivered {
            message: 1,
            topic: "t".into(),
            qos: 1,
            retain: false,
            dup: false,
            packet_id: Some(1),
        };
        let connack = || What::ConnAck { present: true, expiry: None };
        history.push(s(1), "durable-a", 1, connack());
        history.push(s(10), "durable-a", 1, delivered());
        history.push(s(11), "durable-a", 1, What::End(Ending::Lost));
        history.push(s(12), "durable-a", 2, connack());
        history.push(s(13), "durable-a", 2, delivered());
        let place = |connection, node| Placed { client: "durable-a".into(), connection, node };
        let placed = [place(1, 1), place(2, 3)];
        let effects = measure(history.events(), &placed, &[kill(1, 10), kill(1, 20)], s(30));
        assert_eq!((effects[0].takeovers.clone(), effects[0].stranded), (vec![s(3)], 0));
        assert_eq!((effects[1].takeovers.clone(), effects[1].stranded), (vec![], 0));
        let effects = measure(history.events(), &placed, &[kill(1, 10), kill(2, 12)], s(30));
        assert_eq!((effects[0].takeovers.clone(), effects[0].stranded), (vec![], 1));
    }
}
