//! One node that serves links in memory, and a client that speaks to it in packets. Start at [`Server::start`] and
//! [`Client::connect`].

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zwerm_broker::{Broker, Unstarted};
use zwerm_cluster::Local;
use zwerm_gateway::{Config, Connections, Link, MemoryLink};
use zwerm_wire::{
    Ack, ConnAck, Connect, ConnectProperties, Decoder, Packet, PacketId, Protocol, Publish, QoS, ReasonCode,
    RetainHandling, Role, Subscribe, SubscribeFilter, SubscribeOptions, TopicFilter, TopicName, encode,
};

use crate::fixture::{World, soon, until};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// A cluster of one node and what serves its clients.
pub struct Server {
    world: World<Broker>,
    pub connections: Connections,
    /// What the cluster says to the broker.
    pub fence: Arc<dyn Local>,
    pub stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    pub async fn start_with(config: Config) -> Self {
        let mut world = World::new(1);
        let unstarted = Unstarted::new(zwerm_broker::Config::default());
        let door = unstarted.door();
        let fence = Arc::clone(&door);
        world.start_with(1, door, |cluster, outbox| Broker::start(unstarted, cluster.clone(), outbox)).await;
        world.ready().await;
        until("it routes", || world.cluster(1).lease.routing().is_some()).await;
        // tests end while their clients listen: a node that stops need not wait for these to go
        let config = Config { close_timeout: Duration::from_millis(100), ..config };
        let connections = Connections::new(config, world.app(1).clone());
        Self { world, connections, fence, stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    pub fn broker(&self) -> Broker {
        self.world.app(1).clone()
    }

    /// The client's end of a connection that is served.
    fn open(&self) -> MemoryLink {
        let (near, far) = MemoryLink::pair(64 * 1024);
        self.serve(far);
        near
    }

    /// Serves a connection over this end of it.
    pub fn serve(&self, link: impl Link + Sync) {
        let (connections, stop) = (self.connections.clone(), self.stop.child_token());
        self.tasks.spawn(async move { connections.serve(link, PEER, stop).await });
    }

    /// Waits until so many connections are open.
    pub async fn left_with(&self, count: u64) {
        let counters = self.connections.counters();
        until(&format!("{count} connections"), || counters.connections_current.get() == count).await;
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        soon("all connections end", self.tasks.wait()).await;
        soon("the broker stops", self.world.app(1).stop()).await;
        self.world.stop().await;
    }
}

/// A transient client.
pub fn transient(protocol: Protocol, id: &'static str) -> Connect {
    Connect {
        protocol,
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

/// A client whose session outlives its connections, in the words of its version.
pub fn durable(protocol: Protocol, id: &'static str) -> Connect {
    let session_expiry = (protocol == Protocol::V5).then_some(3600);
    let properties = ConnectProperties { session_expiry, ..ConnectProperties::default() };
    Connect { clean_start: false, properties, ..transient(protocol, id) }
}

pub fn publish(topic: &'static str, payload: &str, qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(packet_id),
        topic: Some(TopicName::new(topic).unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub fn subscription(filter: &'static str, qos: QoS) -> Subscribe {
    let options = SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    let filters = vec![SubscribeFilter { filter: TopicFilter::new(filter).unwrap(), options }];
    Subscribe { packet_id: id(1), subscription_id: None, user: Vec::new(), filters }
}

pub fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub fn ack(packet_id: PacketId) -> Ack {
    Ack::success(packet_id)
}

/// The other end.
pub struct Client {
    link: MemoryLink,
    protocol: Protocol,
    decoder: Decoder,
    bytes: BytesMut,
}

impl Client {
    /// Connects; CONNACK says yes.
    pub async fn connect(server: &Server, connect: Connect) -> (Self, ConnAck) {
        Self::connect_over(server.open(), connect).await
    }

    /// The same over an end of its own.
    pub async fn connect_over(link: MemoryLink, connect: Connect) -> (Self, ConnAck) {
        let mut client = Self::ask_over(link, connect).await;
        let connack = client.answer().await;
        assert_eq!(connack.reason, ReasonCode::Success);
        (client, connack)
    }

    /// Sends CONNECT.
    pub async fn ask(server: &Server, connect: Connect) -> Self {
        Self::ask_over(server.open(), connect).await
    }

    async fn ask_over(link: MemoryLink, connect: Connect) -> Self {
        let protocol = connect.protocol;
        let mut decoder = Decoder::new(Role::Client, u32::MAX);
        decoder.set_protocol(protocol);
        let mut client = Self { link, protocol, decoder, bytes: BytesMut::new() };
        client.send(Packet::Connect(Box::new(connect))).await;
        client
    }

    /// CONNACK, whatever it says.
    pub async fn answer(&mut self) -> ConnAck {
        let Packet::ConnAck(connack) = self.next().await else { panic!("no CONNACK") };
        *connack
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.protocol, &mut bytes).unwrap();
        while !bytes.is_empty() {
            soon("room", poll_fn(|context| self.link.poll_writable(context))).await.unwrap();
            let written = self.link.write(&[IoSlice::new(&bytes)]).unwrap();
            drop(bytes.split_to(written));
        }
    }

    /// The next packet; `None` at the end.
    pub async fn next_or_end(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.bytes).unwrap() {
                return Some(packet);
            }
            soon("a packet", poll_fn(|context| self.link.poll_readable(context))).await.unwrap();
            self.bytes.reserve(1024);
            if self.link.read(&mut self.bytes).unwrap() == 0 {
                return None;
            }
        }
    }

    pub async fn next(&mut self) -> Packet {
        self.next_or_end().await.expect("a packet, not the end")
    }

    pub async fn next_publish(&mut self) -> Publish {
        match self.next().await {
            Packet::Publish(publish) => publish,
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    /// Nothing but the answer comes before the answer to a PINGREQ.
    pub async fn assert_silence(&mut self) {
        self.send(Packet::PingReq).await;
        assert_eq!(self.next().await, Packet::PingResp);
    }

    pub async fn subscribe(&mut self, filter: &'static str, qos: QoS) {
        self.send(Packet::Subscribe(subscription(filter, qos))).await;
        let Packet::SubAck(suback) = self.next().await else { panic!("no SUBACK") };
        assert!(!suback.reasons[0].is_error());
    }

    /// Publishes with QoS 1 and waits for PUBACK.
    pub async fn publish(&mut self, topic: &'static str, payload: &str) {
        self.send(Packet::Publish(publish(topic, payload, QoS::AtLeastOnce, 1))).await;
        assert_eq!(self.next().await, Packet::PubAck(ack(id(1))));
    }

    /// Loses the connection.
    pub fn cut(self) {
        self.link.cut();
    }
}
