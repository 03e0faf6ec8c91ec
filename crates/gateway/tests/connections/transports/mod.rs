//! Transports as clients see them: sockets on loopback, foreign TLS and WebSocket clients, on a cluster of one node.
//!
//! Clients block, on threads of their own, with a deadline on every read. Start at [`Node::start`].

mod certificates;
mod log;
mod proxy;
mod tls;
mod unix;
mod websocket;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use zwerm_gateway::{Bind, Config, Gateway, ListenerConfig};
use zwerm_wire::{ConnAck, Decoder, Packet, Protocol, Publish, QoS, ReasonCode, Role, encode};

use crate::client::{Server, id, publish, subscription, transient};
use crate::fixture::{soon, until};

/// What any blocking client waits at most.
const PATIENCE: Duration = Duration::from_secs(30);

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// One node with listeners.
pub struct Node {
    server: Server,
    gateway: Gateway,
}

impl Node {
    /// Serves at these listeners.
    pub async fn start(listeners: Vec<ListenerConfig>) -> Self {
        Self::start_with(Config { listeners, ..Config::default() }).await
    }

    pub async fn start_with(config: Config) -> Self {
        let server = Server::start().await;
        let quick = Duration::from_millis(10);
        let config = Config { close_timeout: Duration::from_millis(500), file_interval: quick, ..config };
        let gateway = Gateway::start(config, server.broker(), &server.stop).unwrap();
        Self { server, gateway }
    }

    /// The address of the only listener.
    pub fn address(&self) -> SocketAddr {
        self.gateway.addresses()[0].tcp().unwrap()
    }

    pub fn binds(&self) -> &[Bind] {
        self.gateway.addresses()
    }

    /// How many handshakes were refused for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        let counters = self.gateway.counters();
        counters.handshakes_refused_total().find(|(name, _)| *name == reason).unwrap().1
    }

    /// Waits until so many were refused for this reason, and checks that none was for another.
    pub async fn has_refused(&self, reason: &str, count: u64) {
        until(&format!("{count} refused: {reason}"), || self.refused(reason) == count).await;
        let others = self.gateway.counters();
        let others = others.handshakes_refused_total().filter(|(name, count)| *name != reason && *count > 0);
        assert_eq!(others.collect::<Vec<_>>(), []);
    }

    pub fn counters(&self) -> std::sync::Arc<zwerm_gateway::Counters> {
        self.gateway.counters()
    }

    pub async fn end(self) {
        self.server.stop.cancel();
        soon("the gateway stops", self.gateway.stopped()).await;
        self.server.end().await;
    }
}

/// MQTT over plain TCP, or what is put around it.
pub fn listener() -> ListenerConfig {
    ListenerConfig::new(LOOPBACK)
}

/// Runs a blocking client.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    soon("a client", tokio::task::spawn_blocking(work)).await.unwrap()
}

/// A socket whose reads have a deadline.
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What a listener sees to before MQTT is seen to by the stream below.
pub struct Mqtt<S> {
    pub stream: S,
    decoder: Decoder,
    bytes: BytesMut,
}

pub fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, Protocol::V5, &mut bytes).unwrap();
    bytes.to_vec()
}

pub fn connect_packet(client_id: &'static str) -> Packet {
    Packet::Connect(Box::new(transient(Protocol::V5, client_id)))
}

impl<S: Read + Write> Mqtt<S> {
    pub fn new(stream: S) -> Self {
        let mut decoder = Decoder::new(Role::Client, u32::MAX);
        decoder.set_protocol(Protocol::V5);
        Self { stream, decoder, bytes: BytesMut::new() }
    }

    /// Connects; CONNACK says yes.
    pub fn connect(stream: S, client_id: &'static str) -> Self {
        let mut client = Self::new(stream);
        client.send(&connect_packet(client_id));
        assert_eq!(client.connack().reason, ReasonCode::Success);
        client
    }

    /// Connects; whether it is taken. False: the connection ends before there is a CONNACK.
    pub fn try_connect(mut stream: S, client_id: &'static str) -> bool {
        let said = stream.write_all(&bytes_of(&connect_packet(client_id))).and_then(|()| stream.flush());
        said.and_then(|()| stream.read(&mut [0; 16])).is_ok_and(|count| count > 0)
    }

    pub fn connack(&mut self) -> ConnAck {
        match self.next() {
            Packet::ConnAck(connack) => *connack,
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    pub fn send(&mut self, packet: &Packet) {
        self.stream.write_all(&bytes_of(packet)).unwrap();
        self.stream.flush().unwrap();
    }

    pub fn next(&mut self) -> Packet {
        let mut chunk = [0; 4096];
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.bytes).unwrap() {
                return packet;
            }
            let count = self.stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "a packet, not the end");
            self.bytes.extend_from_slice(&chunk[..count]);
        }
    }

    pub fn ping(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.next(), Packet::PingResp);
    }

    pub fn subscribe(&mut self, filter: &'static str) {
        self.send(&Packet::Subscribe(subscription(filter, QoS::AtLeastOnce)));
        assert!(matches!(self.next(), Packet::SubAck(suback) if !suback.reasons[0].is_error()));
    }

    /// Subscribes, publishes to itself, and gets it back whole: both ways carry more than any buffer.
    pub fn exchange(&mut self, topic: &'static str, size: usize) {
        self.subscribe(topic);
        let payload: String =
            (0..size).map(|place| char::from(b'a' + u8::try_from(place % 26).unwrap())).collect();
        self.send(&Packet::Publish(publish(topic, &payload, QoS::AtLeastOnce, 1)));
        let mut seen = [self.next(), self.next()];
        seen.sort_by_key(|packet| matches!(packet, Packet::Publish(_)));
        assert!(matches!(&seen[0], Packet::PubAck(ack) if ack.packet_id == id(1)), "{:?}", seen[0]);
        let Packet::Publish(Publish { payload: back, .. }) = &seen[1] else { panic!("no PUBLISH") };
        assert!(*back == payload.as_bytes(), "{} bytes of {size}", back.len());
    }

    /// DISCONNECT.
    pub fn goodbye(mut self) -> S {
        self.stream.write_all(&[0xe0, 0]).unwrap();
        self.stream.flush().unwrap();
        self.stream
    }
}

/// Reads to the end; a reset is an end too.
pub fn rest(mut stream: impl Read) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return seen,
            Ok(count) => seen.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no end, but {seen:?}"),
            Err(_) => return seen,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_are_served_side_by_side() {
    let authority = certificates::Authority::new("zwerm test");
    let files = certificates::Files::new(&authority.server());
    let websocket = || Some("/mqtt".to_owned());
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(vec![
        listener(),
        ListenerConfig { tls: Some(files.config()), ..listener() },
        ListenerConfig { websocket: websocket(), ..listener() },
        ListenerConfig { tls: Some(files.config()), websocket: websocket(), ..listener() },
        ListenerConfig::new(Bind::Unix(dir.path().join("mqtt.sock"))),
        ListenerConfig {
            websocket: websocket(),
            ..ListenerConfig::new(Bind::Unix(dir.path().join("ws.sock")))
        },
    ])
    .await;
    let binds = node.binds().to_vec();
    let unix = |bind: &Bind| match bind {
        Bind::Unix(path) => std::os::unix::net::UnixStream::connect(path).unwrap(),
        Bind::Tcp(_) => panic!("a Unix socket was asked for"),
    };
    blocking(move || {
        let tls = |bind: &Bind| authority.trusting().dial(bind.tcp().unwrap());
        const SIZE: usize = 500_000;
        let mut tcp = Mqtt::connect(dial(binds[0].tcp().unwrap()), "mqtt");
        let mut mqtts = Mqtt::connect(tls(&binds[1]), "mqtts");
        let mut ws = Mqtt::connect(websocket::Ws::open(dial(binds[2].tcp().unwrap())), "ws");
        let mut wss = Mqtt::connect(websocket::Ws::open(tls(&binds[3])), "wss");
        let mut local = Mqtt::connect(unix(&binds[4]), "unix");
        let mut local_ws = Mqtt::connect(websocket::Ws::open(unix(&binds[5])), "unix-ws");
        tcp.exchange("mqtt", SIZE);
        mqtts.exchange("mqtts", SIZE);
        ws.exchange("ws", SIZE);
        wss.exchange("wss", SIZE);
        local.exchange("unix", SIZE);
        local_ws.exchange("unix-ws", SIZE);
        // each reaches each
        tcp.subscribe("all");
        mqtts.send(&qos0("from mqtts"));
        assert_eq!(text_of(&tcp.next()), "from mqtts");
        ws.send(&qos0("from ws"));
        assert_eq!(text_of(&tcp.next()), "from ws");
        wss.send(&qos0("from wss"));
        assert_eq!(text_of(&tcp.next()), "from wss");
        local.send(&qos0("from unix"));
        assert_eq!(text_of(&tcp.next()), "from unix");
        local_ws.send(&qos0("from unix-ws"));
        assert_eq!(text_of(&tcp.next()), "from unix-ws");
    })
    .await;
    assert_eq!(node.counters().connections_total.get(), 6);
    assert!(node.counters().handshakes_refused_total().all(|(_, count)| count == 0));
    node.end().await;
}

/// A subscriber and a publisher over one kind: eight megabytes, more than sockets and buffers hold, are on the way before
/// the first message is read.
fn read_slowly<S: Read + Write>(open: impl Fn() -> S) {
    const COUNT: usize = 400;
    let text = |number: usize| format!("{number} {}", "x".repeat(20_000));
    let mut slow = Mqtt::connect(open(), "slow");
    slow.subscribe("t");
    let mut fast = Mqtt::connect(open(), "fast");
    for number in 0..COUNT {
        fast.send(&Packet::Publish(publish("t", &text(number), QoS::AtMostOnce, 0)));
    }
    fast.ping();
    for number in 0..COUNT {
        let Packet::Publish(seen) = slow.next() else { panic!("no PUBLISH") };
        assert!(seen.payload == text(number).as_bytes(), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_gets_all_in_order() {
    let authority = certificates::Authority::new("zwerm test");
    let files = certificates::Files::new(&authority.server());
    let (tls, websocket) = (Some(files.config()), Some("/mqtt".to_owned()));
    let node = Node::start(vec![
        ListenerConfig { tls: tls.clone(), ..listener() },
        ListenerConfig { websocket: websocket.clone(), ..listener() },
        ListenerConfig { tls, websocket, ..listener() },
    ])
    .await;
    let addresses: Vec<SocketAddr> = node.binds().iter().filter_map(Bind::tcp).collect();
    blocking(move || {
        let client = authority.trusting();
        read_slowly(|| client.dial(addresses[0]));
        read_slowly(|| websocket::Ws::open(dial(addresses[1])));
        read_slowly(|| websocket::Ws::open(client.dial(addresses[2])));
    })
    .await;
    node.end().await;
}

fn qos0(text: &str) -> Packet {
    Packet::Publish(publish("all", text, QoS::AtMostOnce, 0))
}

fn text_of(packet: &Packet) -> String {
    let Packet::Publish(publish) = packet else { panic!("no PUBLISH but {packet:?}") };
    String::from_utf8(publish.payload.to_vec()).unwrap()
}
