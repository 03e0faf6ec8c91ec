//! A client without a socket: what the gateway does with an attachment, in as few words.

use std::num::NonZeroU32;

use bytes::Bytes;
use tokio::time::Instant;
use zwerm_broker::{
    Accepted, Admission, Attached, Attachment, Broker, Config, Delivery, Detach, Stage, Unstarted,
};
use zwerm_cluster::NodeId;
use zwerm_wire::{
    Connect, ConnectProperties, MessageProperties, PacketId, Protocol, Publish, QoS, ReasonCode,
    RetainHandling, Subscribe, SubscribeFilter, SubscribeOptions, TopicFilter, TopicName, Unsubscribe, Will,
};

use crate::fixture::{DEADLINE, World, soon, until};

pub type Brokers = World<Broker>;

impl Brokers {
    pub async fn start(&mut self, node: NodeId, config: Config) {
        let unstarted = Unstarted::new(config);
        let door = unstarted.door();
        self.start_with(node, door, |cluster, outbox| Broker::start(unstarted, cluster.clone(), outbox))
            .await;
    }

    /// Starts what was not started yet.
    pub async fn form(&mut self, config: &Config) {
        for node in 1..=3 {
            self.start(node, config.clone()).await;
        }
        self.ready().await;
        for node in 1..=3 {
            until("it routes", || self.cluster(node).lease.routing().is_some()).await;
        }
    }

    pub async fn formed(config: Config) -> Self {
        let mut world = Self::new(3);
        world.form(&config).await;
        world
    }

    /// A client that wants its session to be kept.
    pub async fn durable(&self, node: NodeId, id: &str) -> Client {
        Client::attach(self.app(node), connect_durable(id)).await
    }

    pub async fn client(&self, node: NodeId, id: &str) -> Client {
        Client::attach(self.app(node), connect(id)).await
    }

    pub async fn end(self) {
        for node in self.nodes.values() {
            soon("the broker stops", node.app.stop()).await;
        }
        self.stop().await;
    }
}

pub fn connect(id: &str) -> Connect {
    Connect {
        protocol: Protocol::V5,
        bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: id.into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub fn will(topic: &str) -> Will {
    Will {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay: 0,
        properties: None,
    }
}

pub fn publish(topic: &str, payload: &str, qos: QoS, id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: id.try_into().ok().filter(|_| qos != QoS::AtMostOnce),
        topic: Some(TopicName::new(topic).unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub fn line(filter: &str, qos: QoS) -> SubscribeFilter {
    let options = SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    SubscribeFilter { filter: TopicFilter::new(filter).unwrap(), options }
}

/// As a client that wants its session to be kept.
pub fn connect_durable(id: &str) -> Connect {
    let properties = ConnectProperties { session_expiry: Some(3_600), ..ConnectProperties::default() };
    Connect { clean_start: false, properties, ..connect(id) }
}

pub struct Client {
    pub attachment: Attachment,
    pub session_present: bool,
    pub received: Vec<PacketId>,
    pub released: Vec<PacketId>,
    pub taken: Vec<Delivery>,
    pub accepted: Vec<Accepted>,
}

impl Client {
    pub async fn attach(broker: &Broker, connect: Connect) -> Self {
        let attached = soon("a client attaches", broker.attach(&connect)).await.unwrap();
        let Attached { attachment, session_present, received, released, .. } = attached;
        Self { attachment, session_present, received, released, taken: Vec::new(), accepted: Vec::new() }
    }

    pub fn publish(&mut self, publish: Publish) -> Admission {
        self.attachment.publish(publish, Instant::now())
    }

    /// Publishes, whether the broker takes more or not.
    pub fn offer(&mut self, publish: Publish) {
        match self.publish(publish) {
            Admission::Taken | Admission::Busy => {}
        }
    }

    /// Publishes and waits for the acknowledgement.
    pub async fn publish_accepted(&mut self, publish: Publish) -> ReasonCode {
        let before = self.accepted.len();
        assert_eq!(self.publish(publish), Admission::Taken);
        self.until("an acknowledgement", |client| client.accepted.len() > before).await;
        self.accepted.last().unwrap().reason
    }

    pub fn publish_expiring(&mut self, publish: Publish, seconds: u32) {
        let properties = MessageProperties { message_expiry: Some(seconds), ..MessageProperties::default() };
        assert_eq!(
            self.publish(Publish { properties: Some(Box::new(properties)), ..publish }),
            Admission::Taken
        );
    }

    pub async fn subscribe(&mut self, filters: Vec<SubscribeFilter>, id: u32) -> Vec<ReasonCode> {
        let subscribe = Subscribe {
            packet_id: 1.try_into().unwrap(),
            subscription_id: NonZeroU32::new(id),
            user: Vec::new(),
            filters,
        };
        let subscribed = self.attachment.subscribe(subscribe);
        soon("a SUBACK", subscribed).await
    }

    pub async fn unsubscribe(&mut self, filter: &str) {
        let filters = vec![TopicFilter::new(filter).unwrap()];
        let unsubscribe = Unsubscribe { packet_id: 1.try_into().unwrap(), user: Vec::new(), filters };
        let unsubscribed = self.attachment.unsubscribe(unsubscribe);
        assert_eq!(soon("an UNSUBACK", unsubscribed).await, [ReasonCode::Success]);
    }

    /// Takes acknowledgements, but no deliveries.
    pub fn take_accepted(&mut self) {
        self.attachment.take_accepted(&mut self.accepted);
    }

    /// Takes everything there is.
    pub fn take(&mut self) {
        self.attachment.take(usize::MAX, &mut self.taken);
        self.take_accepted();
    }

    /// Takes what comes, woken by its bell alone, until a condition holds.
    pub async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let held = tokio::time::timeout(DEADLINE, async {
            loop {
                self.take();
                if holds(self) {
                    return;
                }
                self.attachment.wait().await;
            }
        });
        let held = held.await.is_ok();
        assert!(held, "waited in vain: {what}; came: {:?}", self.taken_payloads());
    }

    /// Waits for so many deliveries in all; their payloads.
    pub async fn payloads(&mut self, count: usize) -> Vec<String> {
        self.until(&format!("{count} deliveries"), |client| client.taken.len() >= count).await;
        self.taken_payloads()
    }

    pub fn taken_payloads(&self) -> Vec<String> {
        let text = |delivery: &Delivery| String::from_utf8(delivery.message.payload().to_vec()).unwrap();
        self.taken.iter().map(text).collect()
    }

    /// Acknowledges the deliveries taken so far, from the first, as a subscriber with QoS 1 does.
    pub fn acknowledge(&mut self, count: usize) {
        for delivery in &self.taken[..count] {
            self.attachment.acknowledged(delivery.packet_id.unwrap(), Stage::Done);
        }
        assert_eq!(self.attachment.next_received(), None);
    }

    /// The connection breaks.
    pub async fn leave(self) {
        let detach = Detach { fire_will: true, session_expiry: None };
        soon("a client leaves", self.attachment.detach(detach)).await;
    }

    pub async fn kicked(&mut self) -> ReasonCode {
        self.until("the connection is told to end", |client| client.attachment.kicked().is_some()).await;
        self.attachment.kicked().unwrap()
    }
}

pub fn numbers(range: std::ops::Range<u16>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}
