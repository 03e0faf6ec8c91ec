//! A session with a clock that only the test moves, and short ways to write packets.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zwerm_session::{Attached, Cause, Input, Limits, Output, Session};
use zwerm_wire::{
    Ack, ConnAck, Connect, ConnectProperties, Disconnect, Packet, PacketId, Protocol, Publish, QoS,
    ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions, TopicFilter, TopicName, Unsubscribe, Will,
};

pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::V31, Protocol::V311, Protocol::V5];

pub(crate) struct Stage {
    pub(crate) session: Session,
    pub(crate) now: Instant,
}

impl Stage {
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self { session: Session::new(limits, now), now }
    }

    /// A session that was attached without anything special.
    pub(crate) fn open(protocol: Protocol, limits: Limits) -> Self {
        Self::open_with(connect(protocol), limits)
    }

    pub(crate) fn open_with(connect: Connect, limits: Limits) -> Self {
        let mut stage = Self::new(limits);
        let expiry = connect.properties.session_expiry.unwrap_or(0);
        assert!(matches!(stage.packet(Packet::Connect(Box::new(connect))).as_slice(), [Output::Attach(_)]));
        let connack = stage.feed(Input::Attached(Attached { session_expiry: expiry, ..Attached::default() }));
        assert!(
            matches!(connack.as_slice(), [Output::Send(Packet::ConnAck(ack))] if ack.reason == ReasonCode::Success)
        );
        stage
    }

    /// A session that was attached like this, and what it put out behind CONNACK.
    pub(crate) fn attached(protocol: Protocol, limits: Limits, attached: Attached) -> (Self, Vec<Output>) {
        let mut stage = Self::new(limits);
        stage.packet(Packet::Connect(Box::new(connect(protocol))));
        let mut outputs = stage.feed(Input::Attached(attached));
        assert!(matches!(outputs.remove(0), Output::Send(Packet::ConnAck(_))));
        (stage, outputs)
    }

    pub(crate) fn feed(&mut self, input: Input) -> Vec<Output> {
        self.session.handle(input, self.now);
        std::iter::from_fn(|| self.session.poll()).collect()
    }

    pub(crate) fn packet(&mut self, packet: Packet) -> Vec<Output> {
        self.feed(Input::Packet(packet))
    }

    pub(crate) fn accepted(&mut self, packet_id: u16, reason: ReasonCode) -> Vec<Output> {
        self.feed(Input::Accepted { packet_id: id(packet_id), reason })
    }

    pub(crate) fn after(&mut self, wait: Duration) -> Vec<Output> {
        self.now += wait;
        self.feed(Input::Tick)
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        self.session.ending().map(|ending| ending.cause)
    }

    /// The input ended the connection for this violation: 5.0 is told, 3.x is not.
    pub(crate) fn assert_violation(&self, outputs: &[Output], reason: ReasonCode) {
        assert_eq!(self.cause(), Some(Cause::Violation(reason)));
        match self.session.protocol() {
            Some(Protocol::V5) => assert_eq!(outputs, [disconnect(reason), Output::Close]),
            _ => assert_eq!(outputs, [Output::Close]),
        }
    }
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub(crate) fn most(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(crate) fn topic(text: &'static str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub(crate) fn connect(protocol: Protocol) -> Connect {
    Connect {
        protocol,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: "client".into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub(crate) fn will(qos: QoS, retain: bool) -> Will {
    let payload = Bytes::from_static(b"gone");
    Will { topic: topic("will"), payload, qos, retain, delay: 0, properties: None }
}

pub(crate) fn publish(qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(packet_id),
        topic: Some(topic("a/b")),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from_static(b"payload"),
    }
}

pub(crate) fn subscribe(packet_id: u16, filters: &[(&'static str, SubscribeOptions)]) -> Subscribe {
    let line = |(filter, options): &(&'static str, SubscribeOptions)| SubscribeFilter {
        filter: TopicFilter::new(*filter).unwrap(),
        options: *options,
    };
    Subscribe {
        packet_id: id(packet_id),
        subscription_id: None,
        user: Vec::new(),
        filters: filters.iter().map(line).collect(),
    }
}

pub(crate) fn unsubscribe(packet_id: u16, filter: &'static str) -> Unsubscribe {
    let filters = vec![TopicFilter::new(filter).unwrap()];
    Unsubscribe { packet_id: id(packet_id), user: Vec::new(), filters }
}

pub(crate) fn ack(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack { packet_id: id(packet_id), reason, properties: None }
}

pub(crate) fn success(packet_id: u16) -> Ack {
    ack(packet_id, ReasonCode::Success)
}

pub(crate) fn disconnect(reason: ReasonCode) -> Output {
    Output::Send(Packet::Disconnect(Disconnect::because(reason)))
}

/// The one CONNACK among the outputs.
pub(crate) fn connack(outputs: &[Output]) -> &ConnAck {
    match outputs.first() {
        Some(Output::Send(Packet::ConnAck(connack))) => connack,
        other => panic!("no CONNACK but {other:?}"),
    }
}
