//! rumqttc, the foreign client in Rust, behind calls that return when the broker has answered.
//!
//! The same calls for 3.1.1 and 5.0. It never reconnects by itself: a lost connection is an error the test
//! sees. Start at [`Client::connect`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rumqttc::v5::mqttbytes as m5;
use rumqttc::{self as v4, v5};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::DEADLINE;

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QoS {
    /// Unacknowledged.
    Zero,
    /// Acknowledged.
    One,
    /// Four-way.
    Two,
}

impl QoS {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Zero, Self::One, Self::Two];

    fn v4(self) -> v4::QoS {
        match self {
            Self::Zero => v4::QoS::AtMostOnce,
            Self::One => v4::QoS::AtLeastOnce,
            Self::Two => v4::QoS::ExactlyOnce,
        }
    }

    fn v5(self) -> m5::QoS {
        match self {
            Self::Zero => m5::QoS::AtMostOnce,
            Self::One => m5::QoS::AtLeastOnce,
            Self::Two => m5::QoS::ExactlyOnce,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Zero,
            1 => Self::One,
            _ => Self::Two,
        }
    }
}

/// Protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// A will.
#[derive(Debug, Clone)]
pub struct Will {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: String,
    /// With which quality of service.
    pub qos: QoS,
    /// Whether it is kept.
    pub retain: bool,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    address: SocketAddr,
    id: String,
    version: Version,
    will: Option<Will>,
    durable: bool,
    acknowledges_itself: bool,
    tls: Option<Arc<ClientConfig>>,
}

/// What a durable client asks for in 5.0: an hour, longer than any test. (In 3.1.1 there is nothing to ask.)
const SESSION_EXPIRY: u32 = 3_600;

impl Options {
    /// A clean session with keep-alive 30 s.
    #[must_use]
    pub fn new(address: SocketAddr, id: &str, version: Version) -> Self {
        let (will, durable, acknowledges_itself, tls) = (None, false, false, None);
        Self { address, id: id.to_owned(), version, will, durable, acknowledges_itself, tls }
    }

    /// The same to another address.
    fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Over TLS.
    #[must_use]
    pub fn over_tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    fn transport(&self) -> v4::Transport {
        let secured = |config: &Arc<ClientConfig>| {
            v4::Transport::tls_with_config(v4::TlsConfiguration::Rustls(Arc::clone(config)))
        };
        self.tls.as_ref().map_or_else(v4::Transport::tcp, secured)
    }

    /// A session that outlives its connection and is continued if it is there.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// The test acknowledges messages with [`Client::acknowledge`]; otherwise rumqttc does so at once.
    #[must_use]
    pub fn acknowledging_itself(mut self) -> Self {
        self.acknowledges_itself = true;
        self
    }

    /// The same with a will.
    #[must_use]
    pub fn with_will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }
}

/// A message as a subscriber got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service of the delivery.
    pub qos: QoS,
    /// Retain flag of the delivery.
    pub retain: bool,
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Packet identifier; 0 for QoS 0.
    pub packet_id: u16,
}

impl Message {
    /// The payload as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// What the connection's task tells.
enum Event {
    /// CONNACK with whether a session is continued.
    Connected(bool),
    /// SUBACK with whether all filters were granted.
    Subscribed(bool),
    Unsubscribed,
    /// PUBACK or PUBCOMP.
    Published,
    Message(Message),
    Closed(String),
}

enum Inner {
    V311(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// One connection. Dropping it closes the socket without a DISCONNECT, so its will is published.
pub struct Client {
    inner: Inner,
    events: mpsc::Receiver<Event>,
    waiting: VecDeque<Message>,
    session_present: bool,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and waits for CONNACK.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub async fn connect(options: Options) -> Result<Self> {
        let (sender, events) = mpsc::channel(64);
        let (inner, task) = match options.version {
            Version::V311 => connect_v311(&options, sender),
            Version::V5 => connect_v5(&options, sender),
        };
        let mut client = Self { inner, events, waiting: VecDeque::new(), session_present: false, task };
        let connected = client
            .expect("CONNACK", |event| matches!(event, Event::Connected(_)))
            .await
            .with_context(|| format!("connecting {} to {}", options.id, options.address))?;
        client.session_present = matches!(connected, Event::Connected(true));
        Ok(client)
    }

    /// Connects to one of these nodes, from the one with this number on; the next one if that does not let it in, and
    /// so on.
    ///
    /// # Errors
    /// When none does for long.
    pub async fn connect_to_any(nodes: &[SocketAddr], first: usize, options: Options) -> Result<Self> {
        let began = Instant::now();
        for at in nodes.iter().cycle().skip(first) {
            if let Ok(client) = Self::connect(options.clone().at(*at)).await {
                return Ok(client);
            }
            ensure!(began.elapsed() < 2 * DEADLINE, "{} is not let in by any node", options.id);
            sleep(AGAIN).await;
        }
        bail!("there are no nodes")
    }

    /// Whether the broker continues a session.
    #[must_use]
    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// Subscribes and waits for SUBACK.
    ///
    /// # Errors
    /// When it is refused or does not come.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        match &self.inner {
            Inner::V311(client) => client.subscribe(filter, qos.v4()).await?,
            Inner::V5(client) => client.subscribe(filter, qos.v5()).await?,
        }
        let answer = self.expect("SUBACK", |event| matches!(event, Event::Subscribed(_))).await?;
        ensure!(matches!(answer, Event::Subscribed(true)), "subscription to {filter} refused");
        Ok(())
    }

    /// Unsubscribes and waits for UNSUBACK.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn unsubscribe(&mut self, filter: &str) -> Result<()> {
        match &self.inner {
            Inner::V311(client) => client.unsubscribe(filter).await?,
            Inner::V5(client) => client.unsubscribe(filter).await?,
        }
        self.expect("UNSUBACK", |event| matches!(event, Event::Unsubscribed)).await?;
        Ok(())
    }

    /// Publishes and, for QoS 1 and 2, waits for PUBACK or PUBCOMP.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, retain: bool) -> Result<()> {
        match &self.inner {
            Inner::V311(client) => client.publish(topic, qos.v4(), retain, payload).await?,
            Inner::V5(client) => {
                client.publish(topic, qos.v5(), retain, Bytes::copy_from_slice(payload)).await?;
            }
        }
        if qos != QoS::Zero {
            self.expect("acknowledgement", |event| matches!(event, Event::Published))
                .await
                .with_context(|| format!("publishing to {topic}"))?;
        }
        Ok(())
    }

    /// Publishes all payloads in order, a window of them unacknowledged, and waits for every acknowledgement.
    ///
    /// # Errors
    /// When one does not come.
    pub async fn publish_all(
        &mut self,
        topic: &str,
        payloads: impl IntoIterator<Item = Vec<u8>>,
        qos: QoS,
    ) -> Result<()> {
        let mut waiting = 0;
        for payload in payloads {
            if waiting == WINDOW {
                self.expect("acknowledgement", |event| matches!(event, Event::Published)).await?;
                waiting -= 1;
            }
            match &self.inner {
                Inner::V311(client) => client.publish(topic, qos.v4(), false, payload).await?,
                Inner::V5(client) => client.publish(topic, qos.v5(), false, payload).await?,
            }
            waiting += u32::from(qos != QoS::Zero);
        }
        for _ in 0..waiting {
            self.expect("acknowledgement", |event| matches!(event, Event::Published)).await?;
        }
        Ok(())
    }

    /// PUBACK or PUBREC of a message, when the client was told to leave that to the test.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn acknowledge(&mut self, message: &Message) -> Result<()> {
        match &self.inner {
            Inner::V311(client) => {
                let mut publish = v4::Publish::new(&message.topic, message.qos.v4(), Vec::new());
                publish.pkid = message.packet_id;
                client.ack(&publish).await?;
            }
            Inner::V5(client) => {
                let mut publish = m5::v5::Publish::new(&message.topic, message.qos.v5(), Bytes::new(), None);
                publish.pkid = message.packet_id;
                client.ack(&publish).await?;
            }
        }
        Ok(())
    }

    /// The next message.
    ///
    /// # Errors
    /// When none comes in time, or the connection ends.
    pub async fn next(&mut self) -> Result<Message> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(message);
        }
        match self.expect("a message", |event| matches!(event, Event::Message(_))).await? {
            Event::Message(message) => Ok(message),
            _ => bail!("only a message was waited for"),
        }
    }

    /// The messages before the one whose payload is `fence`.
    ///
    /// # Errors
    /// As for [`Client::next`].
    pub async fn until_fence(&mut self, fence: &str) -> Result<Vec<Message>> {
        let mut seen = Vec::new();
        loop {
            let message = self.next().await?;
            if message.payload == fence.as_bytes() {
                return Ok(seen);
            }
            seen.push(message);
        }
    }

    /// Waits until the connection ends; says what rumqttc gave as the cause.
    ///
    /// # Errors
    /// When it does not.
    pub async fn closed(&mut self) -> Result<String> {
        match self.expect("the end of the connection", |event| matches!(event, Event::Closed(_))).await? {
            Event::Closed(cause) => Ok(cause),
            _ => bail!("only an end was waited for"),
        }
    }

    /// DISCONNECT, and waits until the socket is closed.
    ///
    /// # Errors
    /// When it is not closed in time.
    pub async fn close(mut self) -> Result<()> {
        match &self.inner {
            Inner::V311(client) => client.disconnect().await?,
            Inner::V5(client) => client.disconnect().await?,
        }
        self.closed().await.map(drop)
    }

    /// The next event that `wanted` accepts; messages on the way are kept.
    async fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        timeout(DEADLINE, async {
            loop {
                let event = self.events.recv().await.context("the connection has ended")?;
                if wanted(&event) {
                    return Ok(event);
                }
                match event {
                    Event::Message(message) => self.waiting.push_back(message),
                    Event::Closed(cause) => bail!("waiting for {what}, the connection ended: {cause}"),
                    _ => {}
                }
            }
        })
        .await
        .with_context(|| format!("{what} did not come within {} s", DEADLINE.as_secs()))?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(10);
/// Messages of a client that may be unacknowledged at a time.
const INFLIGHT: u16 = 100;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const LARGEST: u32 = 8 << 20;
/// Requests rumqttc queues: more than the messages a broker sends unacknowledged, or its loop and the test,
/// which acknowledges, could wait for each other.
const REQUESTS: usize = 1_024;
/// Messages published and not yet acknowledged; fewer than the events that fit.
const WINDOW: u32 = 32;

fn connect_v311(options: &Options, events: mpsc::Sender<Event>) -> (Inner, JoinHandle<()>) {
    let mut raw = v4::MqttOptions::new(&options.id, options.address.ip().to_string(), options.address.port());
    raw.set_keep_alive(KEEP_ALIVE).set_max_packet_size(LARGEST as usize, LARGEST as usize);
    raw.set_transport(options.transport());
    raw.set_clean_session(!options.durable).set_manual_acks(options.acknowledges_itself);
    if let Some(will) = &options.will {
        raw.set_last_will(v4::LastWill::new(
            &will.topic,
            will.payload.as_bytes(),
            will.qos.v4(),
            will.retain,
        ));
    }
    let (client, mut eventloop) = v4::AsyncClient::new(raw, REQUESTS);
    let task = tokio::spawn(async move {
        loop {
            let event = match eventloop.poll().await {
                Ok(v4::Event::Incoming(packet)) => from_v311(packet),
                Ok(v4::Event::Outgoing(_)) => None,
                Err(error) => Some(Event::Closed(error.to_string())),
            };
            if !forward(&events, event).await {
                return;
            }
        }
    });
    (Inner::V311(client), task)
}

fn connect_v5(options: &Options, events: mpsc::Sender<Event>) -> (Inner, JoinHandle<()>) {
    let mut raw = v5::MqttOptions::new(&options.id, options.address.ip().to_string(), options.address.port());
    raw.set_keep_alive(KEEP_ALIVE).set_max_packet_size(Some(LARGEST));
    // Unless it is told otherwise it has room for 65,535 messages from the beginning: 11 MB.
    raw.set_outgoing_inflight_upper_limit(INFLIGHT);
    raw.set_transport(options.transport());
    raw.set_clean_start(!options.durable).set_manual_acks(options.acknowledges_itself);
    raw.set_session_expiry_interval(options.durable.then_some(SESSION_EXPIRY));
    if let Some(will) = &options.will {
        let (topic, qos) = (&will.topic, will.qos.v5());
        raw.set_last_will(m5::v5::LastWill::new(topic, will.payload.as_bytes(), qos, will.retain, None));
    }
    let (client, mut eventloop) = v5::AsyncClient::new(raw, REQUESTS);
    let task = tokio::spawn(async move {
        loop {
            let event = match eventloop.poll().await {
                Ok(v5::Event::Incoming(packet)) => from_v5(packet),
                Ok(v5::Event::Outgoing(_)) => None,
                Err(error) => Some(Event::Closed(error.to_string())),
            };
            if !forward(&events, event).await {
                return;
            }
        }
    });
    (Inner::V5(client), task)
}

/// Hands an event on; false when the connection is over or nobody listens.
async fn forward(events: &mpsc::Sender<Event>, event: Option<Event>) -> bool {
    let Some(event) = event else { return true };
    let closed = matches!(event, Event::Closed(_));
    events.send(event).await.is_ok() && !closed
}

fn from_v311(packet: v4::Packet) -> Option<Event> {
    match packet {
        v4::Packet::ConnAck(ack) => Some(Event::Connected(ack.session_present)),
        v4::Packet::SubAck(ack) => Some(Event::Subscribed(
            ack.return_codes.iter().all(|code| matches!(code, v4::SubscribeReasonCode::Success(_))),
        )),
        v4::Packet::UnsubAck(_) => Some(Event::Unsubscribed),
        v4::Packet::PubAck(_) | v4::Packet::PubComp(_) => Some(Event::Published),
        v4::Packet::Publish(publish) => Some(Event::Message(Message {
            topic: publish.topic,
            payload: publish.payload,
            qos: QoS::from_number(publish.qos as u8),
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
        })),
        _ => None,
    }
}

fn from_v5(packet: m5::v5::Packet) -> Option<Event> {
    use m5::v5::{Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(ack) => Some(Event::Connected(ack.session_present)),
        Packet::SubAck(ack) => Some(Event::Subscribed(
            ack.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))),
        )),
        Packet::UnsubAck(_) => Some(Event::Unsubscribed),
        Packet::PubAck(_) | Packet::PubComp(_) => Some(Event::Published),
        Packet::Publish(publish) => Some(Event::Message(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            qos: QoS::from_number(publish.qos as u8),
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
        })),
        _ => None,
    }
}
