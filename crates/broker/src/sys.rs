//! `$SYS` topics: what a node says of itself to clients.
//!
//! `$SYS/broker/...` is this node's and goes to its own clients only, so that what a client reads there is of the node
//! that it is connected to; `$SYS/brokers/<name>/...` goes to clients of all nodes. All are QoS 0. A new subscription
//! gets this node's last values as retained messages, from memory: nothing of this is stored. Clients cannot publish
//! there. Knows no values. Start at [`Teller::tell`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::time::Instant;
use zwerm_cluster::receipt::Bell;
use zwerm_wire::{Publish, QoS, TopicFilter, TopicName};

use crate::Broker;
use crate::mailbox::Acceptance;
use crate::message::Message;
use crate::pipeline::Pipeline;
use crate::shared::{Pick, Picker};
use crate::targets::Resolver;

/// The first level of these topics.
const LEVEL: &str = "$SYS";

/// Whether a topic or filter is of them.
pub(crate) fn is_sys(text: &str) -> bool {
    text.strip_prefix(LEVEL).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// To whom a value is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Clients of this node.
    Node,
    /// Clients of all nodes.
    Cluster,
}

/// The last values of this node.
#[derive(Debug, Default)]
pub(crate) struct Values(ArcSwap<BTreeMap<TopicName, Arc<Message>>>);

impl Values {
    /// Those that match, in the order of their topics.
    pub(crate) fn matching(&self, filter: &TopicFilter) -> Vec<Arc<Message>> {
        let values = self.0.load();
        values.iter().filter(|(topic, _)| filter.matches(topic)).map(|(_, value)| Arc::clone(value)).collect()
    }
}

/// Tells clients what this node says of itself.
#[derive(Debug)]
pub struct Teller {
    broker: Broker,
    resolver: Resolver,
    picker: Picker,
    bell: Bell,
    pipeline: Pipeline<()>,
}

impl Teller {
    /// For this node.
    #[must_use]
    pub fn new(broker: &Broker) -> Self {
        let (local, cluster) = (Arc::clone(&broker.0.local), broker.0.cluster.clone());
        let (overlapping, strategy) = (local.config.overlapping, local.config.shared_strategy);
        let bell = Bell::new();
        let pipeline = Pipeline::new(local, cluster, bell.clone(), None);
        let resolver = Resolver::new(overlapping, None);
        Self { broker: broker.clone(), resolver, picker: Picker::new(strategy), bell, pipeline }
    }

    /// Tells these values; those that are as they were are only told to new subscriptions.
    pub fn tell(&mut self, values: impl IntoIterator<Item = (TopicName, Reach, String)>) {
        let before = self.broker.0.local.sys.0.load_full();
        let mut now = BTreeMap::new();
        for (topic, reach, value) in values {
            match before.get(&topic).filter(|known| known.payload().as_ref() == value.as_bytes()) {
                Some(known) => {
                    now.insert(topic, Arc::clone(known));
                }
                None => {
                    let Some(message) = message(topic.clone(), value) else { continue };
                    let message = Arc::new(message);
                    now.insert(topic, Arc::clone(&message));
                    match reach {
                        Reach::Node => self.deliver(&message),
                        // QoS 0 waits for nothing
                        Reach::Cluster => self.pipeline.admit(message, None),
                    }
                }
            }
        }
        self.broker.0.local.sys.0.store(Arc::new(now));
    }

    fn deliver(&mut self, message: &Arc<Message>) {
        let local = &self.broker.0.local;
        let targets = self.resolver.resolve(message.topic(), &local.subscriptions);
        let mut acceptance = Acceptance::new(&self.bell);
        local.deliver(&targets.local, message, &mut acceptance);
        for group in &targets.groups {
            if let Some(Pick::Local(index)) = self.picker.pick(group, message, |_| false) {
                local.deliver_member(group, index, message, &mut acceptance);
            }
        }
    }
}

fn message(topic: TopicName, value: String) -> Option<Message> {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: Some(topic),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(value),
    };
    Message::published(publish, LEVEL.into(), Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_level_counts() {
        for (text, expected) in [
            ("$SYS/broker/uptime", true),
            ("$SYS/#", true),
            ("$SYS", true),
            ("$SYSTEM/a", false),
            ("a/$SYS", false),
        ] {
            assert_eq!(is_sys(text), expected, "{text}");
        }
    }
}
