//! rumqttc, in MQTT 3.1.1 and in 5.0, behind one face: packets as they went over the wire.
//!
//! What rumqttc does not do by itself, where a session outlives its connection, is done here and nowhere else:
//! * it forgets at the end of a connection which QoS 2 messages it has received, and then takes the server's PUBREL
//!   for an error, on every reconnect anew: [`Library::prepare`] tells it again;
//! * in 5.0 it sends unacknowledged messages again in the order of their packet ids, not in which they were
//!   published: [`Library::prepare`] sorts them;
//! * requests that were queued while a connection broke are sent on the next one, whatever session that has:
//!   what is no PUBLISH or PUBREL is dropped.
//!
//! Knows packets, not promises. Start at [`Library::poll`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::{self as m5, v5 as p5};
use rumqttc::{self as v4, v5};
use zwerm_oracle::{Granted, Stage, Will};

/// Unacknowledged messages that rumqttc keeps; above what any of the clients lets come together.
const INFLIGHT: u16 = 200;
/// Requests that it queues.
const REQUESTS: usize = 256;
/// Seconds in which a CONNACK must come.
const CONNECTING: u64 = 5;
/// A connection that is silent for twice this long is given up. rumqttc takes no less in 5.0.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

/// How to connect.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) id: Arc<str>,
    pub(crate) version: Version,
    pub(crate) clean: bool,
    /// Seconds; 5.0 only.
    pub(crate) expiry: u32,
    pub(crate) will: Option<Will>,
}

/// What went over the wire.
#[derive(Debug)]
pub(crate) enum Packet {
    ConnAck { present: bool, expiry: Option<u32> },
    SentPublish(u16),
    SentSubscribe(u16),
    SentDisconnect,
    SubAck { packet_id: u16, granted: Vec<Granted> },
    Acknowledged { packet_id: u16, stage: Stage, success: bool },
    Publish(Incoming),
    PubRel(u16),
}

/// A PUBLISH that came.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: u16,
}

/// Why a connection is over, or did not come about.
#[derive(Debug)]
pub(crate) enum Failure {
    /// CONNACK with a reason, as rumqttc names it.
    Refused(String),
    /// The server closed it.
    Closed,
    /// Anything else, as rumqttc names it.
    Broken(String),
}

/// One client of rumqttc.
pub(crate) enum Library {
    V311(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// Where requests to a [`Library`] go while it is polled elsewhere.
#[derive(Debug, Clone)]
pub(crate) enum Requests {
    V311(v4::AsyncClient),
    V5(v5::AsyncClient),
}

impl Library {
    /// One that is not connected.
    pub(crate) fn new(options: &Options, address: SocketAddr) -> (Self, Requests) {
        match options.version {
            Version::V311 => {
                let (client, mut eventloop) = v4::AsyncClient::new(options_v311(options, address), REQUESTS);
                eventloop.network_options.set_connection_timeout(CONNECTING);
                (Self::V311(Box::new(eventloop)), Requests::V311(client))
            }
            Version::V5 => {
                let (client, eventloop) = v5::AsyncClient::new(options_v5(options, address), REQUESTS);
                (Self::V5(Box::new(eventloop)), Requests::V5(client))
            }
        }
    }

    /// Drops the connection, if there is one, and makes ready for the next, at some address. `order` tells the
    /// place of an unacknowledged message by its packet id; `received` are the QoS 2 messages that were received
    /// and that the server may (still, or again) release.
    pub(crate) fn prepare(
        &mut self,
        options: &Options,
        address: SocketAddr,
        order: impl Fn(u16) -> Option<usize>,
        received: &BTreeSet<u16>,
    ) {
        let place = |packet_id: u16| order(packet_id).unwrap_or(usize::MAX);
        match self {
            Self::V311(eventloop) => {
                eventloop.clean();
                eventloop.mqtt_options = options_v311(options, address);
                let pending = std::mem::take(&mut eventloop.pending);
                let mut kept: Vec<_> =
                    pending.into_iter().filter_map(|it| Some((place(id_v311(&it)?), it))).collect();
                kept.sort_by_key(|(place, _)| *place);
                eventloop.pending = kept.into_iter().map(|(_, request)| request).collect();
                for packet_id in received {
                    let mut publish = v4::Publish::new("", v4::QoS::ExactlyOnce, []);
                    publish.pkid = *packet_id;
                    eventloop.state.handle_incoming_packet(v4::Packet::Publish(publish)).ok();
                }
                eventloop.state.events.clear();
            }
            Self::V5(eventloop) => {
                eventloop.clean();
                eventloop.options = options_v5(options, address);
                let pending = std::mem::take(&mut eventloop.pending);
                let mut kept: Vec<_> =
                    pending.into_iter().filter_map(|it| Some((place(id_v5(&it)?), it))).collect();
                kept.sort_by_key(|(place, _)| *place);
                eventloop.pending = kept.into_iter().map(|(_, request)| request).collect();
                for packet_id in received {
                    let mut publish = p5::Publish::new("", m5::QoS::ExactlyOnce, Bytes::new(), None);
                    publish.pkid = *packet_id;
                    eventloop.state.handle_incoming_packet(p5::Packet::Publish(publish)).ok();
                }
                eventloop.state.events.clear();
            }
        }
    }

    /// The next packet; connects first when there is no connection. `None`: one that nobody needs to know of.
    ///
    /// # Errors
    /// When the connection is over; [`Library::rest`] has what came before.
    pub(crate) async fn poll(&mut self) -> Result<Option<Packet>, Failure> {
        match self {
            Self::V311(eventloop) => eventloop.poll().await.map(from_v311).map_err(|error| match error {
                v4::ConnectionError::ConnectionRefused(code) => Failure::Refused(format!("{code:?}")),
                v4::ConnectionError::MqttState(v4::StateError::ConnectionAborted) => Failure::Closed,
                other => Failure::Broken(other.to_string()),
            }),
            Self::V5(eventloop) => eventloop.poll().await.map(from_v5).map_err(|error| match error {
                v5::ConnectionError::ConnectionRefused(code) => Failure::Refused(format!("{code:?}")),
                v5::ConnectionError::MqttState(v5::StateError::ConnectionAborted) => Failure::Closed,
                other => Failure::Broken(other.to_string()),
            }),
        }
    }

    /// Closes the socket, if there is one, without a word.
    pub(crate) fn hang_up(&mut self) {
        match self {
            Self::V311(eventloop) => eventloop.clean(),
            Self::V5(eventloop) => eventloop.clean(),
        }
    }

    /// After the end of a connection: packets of it that were read and not told yet.
    pub(crate) fn rest(&mut self) -> Vec<Packet> {
        match self {
            Self::V311(eventloop) => eventloop.state.events.drain(..).filter_map(from_v311).collect(),
            Self::V5(eventloop) => eventloop.state.events.drain(..).filter_map(from_v5).collect(),
        }
    }
}

impl Requests {
    /// Queues a PUBLISH.
    ///
    /// # Errors
    /// When the queue is full.
    pub(crate) fn publish(&self, topic: &str, qos: u8, retain: bool, payload: String) -> Result<()> {
        match self {
            Self::V311(client) => client.try_publish(topic, qos_v311(qos), retain, payload)?,
            Self::V5(client) => client.try_publish(topic, qos_v5(qos), retain, payload)?,
        }
        Ok(())
    }

    /// Queues a SUBSCRIBE of one filter.
    ///
    /// # Errors
    /// When the queue is full.
    pub(crate) fn subscribe(&self, filter: &str, qos: u8) -> Result<()> {
        match self {
            Self::V311(client) => client.try_subscribe(filter, qos_v311(qos)).context("subscribing"),
            Self::V5(client) => client.try_subscribe(filter, qos_v5(qos)).context("subscribing"),
        }
    }

    /// Queues a DISCONNECT that discards the will.
    ///
    /// # Errors
    /// When the queue is full.
    pub(crate) fn disconnect(&self) -> Result<()> {
        match self {
            Self::V311(client) => client.try_disconnect().context("disconnecting"),
            Self::V5(client) => client.try_disconnect().context("disconnecting"),
        }
    }
}

fn options_v311(options: &Options, address: SocketAddr) -> v4::MqttOptions {
    let mut raw = v4::MqttOptions::new(&*options.id, address.ip().to_string(), address.port());
    raw.set_keep_alive(KEEP_ALIVE).set_clean_session(options.clean).set_inflight(INFLIGHT);
    if let Some(will) = &options.will {
        let payload = will.message.to_string();
        raw.set_last_will(v4::LastWill::new(&*will.topic, payload, qos_v311(will.qos), will.retain));
    }
    raw
}

fn options_v5(options: &Options, address: SocketAddr) -> v5::MqttOptions {
    let mut raw = v5::MqttOptions::new(&*options.id, address.ip().to_string(), address.port());
    raw.set_keep_alive(KEEP_ALIVE).set_clean_start(options.clean).set_connection_timeout(CONNECTING);
    raw.set_session_expiry_interval(Some(options.expiry)).set_outgoing_inflight_upper_limit(INFLIGHT);
    if let Some(will) = &options.will {
        let properties = p5::LastWillProperties {
            delay_interval: Some(will.delay),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let (topic, payload) = (&*will.topic, will.message.to_string());
        raw.set_last_will(p5::LastWill::new(topic, payload, qos_v5(will.qos), will.retain, Some(properties)));
    }
    raw
}

fn qos_v311(qos: u8) -> v4::QoS {
    match qos {
        0 => v4::QoS::AtMostOnce,
        1 => v4::QoS::AtLeastOnce,
        _ => v4::QoS::ExactlyOnce,
    }
}

fn qos_v5(qos: u8) -> m5::QoS {
    match qos {
        0 => m5::QoS::AtMostOnce,
        1 => m5::QoS::AtLeastOnce,
        _ => m5::QoS::ExactlyOnce,
    }
}

/// The packet id of what is sent again on the next connection (0: it has none yet).
fn id_v311(request: &v4::Request) -> Option<u16> {
    match request {
        v4::Request::Publish(publish) => Some(publish.pkid),
        v4::Request::PubRel(pubrel) => Some(pubrel.pkid),
        _ => None,
    }
}

fn id_v5(request: &v5::Request) -> Option<u16> {
    match request {
        v5::Request::Publish(publish) => Some(publish.pkid),
        v5::Request::PubRel(pubrel) => Some(pubrel.pkid),
        _ => None,
    }
}

fn from_v311(event: v4::Event) -> Option<Packet> {
    let packet = match event {
        v4::Event::Outgoing(v4::Outgoing::Publish(id)) => return Some(Packet::SentPublish(id)),
        v4::Event::Outgoing(v4::Outgoing::Subscribe(id)) => return Some(Packet::SentSubscribe(id)),
        v4::Event::Outgoing(v4::Outgoing::Disconnect) => return Some(Packet::SentDisconnect),
        v4::Event::Outgoing(_) => return None,
        v4::Event::Incoming(packet) => packet,
    };
    let acknowledged = |packet_id, stage| Some(Packet::Acknowledged { packet_id, stage, success: true });
    match packet {
        v4::Packet::ConnAck(ack) => Some(Packet::ConnAck { present: ack.session_present, expiry: None }),
        v4::Packet::SubAck(ack) => {
            let granted = ack.return_codes.iter().map(|code| match code {
                v4::SubscribeReasonCode::Success(qos) => Granted::QoS(*qos as u8),
                v4::SubscribeReasonCode::Failure => Granted::Refused,
            });
            Some(Packet::SubAck { packet_id: ack.pkid, granted: granted.collect() })
        }
        v4::Packet::PubAck(ack) => acknowledged(ack.pkid, Stage::PubAck),
        v4::Packet::PubRec(ack) => acknowledged(ack.pkid, Stage::PubRec),
        v4::Packet::PubComp(ack) => acknowledged(ack.pkid, Stage::PubComp),
        v4::Packet::PubRel(pubrel) => Some(Packet::PubRel(pubrel.pkid)),
        v4::Packet::Publish(publish) => Some(Packet::Publish(Incoming {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
        })),
        _ => None,
    }
}

fn from_v5(event: v5::Event) -> Option<Packet> {
    let packet = match event {
        v5::Event::Outgoing(v4::Outgoing::Publish(id)) => return Some(Packet::SentPublish(id)),
        v5::Event::Outgoing(v4::Outgoing::Subscribe(id)) => return Some(Packet::SentSubscribe(id)),
        v5::Event::Outgoing(v4::Outgoing::Disconnect) => return Some(Packet::SentDisconnect),
        v5::Event::Outgoing(_) => return None,
        v5::Event::Incoming(packet) => packet,
    };
    let acknowledged = |packet_id, stage, success| Some(Packet::Acknowledged { packet_id, stage, success });
    match packet {
        p5::Packet::ConnAck(ack) => {
            let expiry = ack.properties.and_then(|properties| properties.session_expiry_interval);
            Some(Packet::ConnAck { present: ack.session_present, expiry })
        }
        p5::Packet::SubAck(ack) => {
            let granted = ack.return_codes.iter().map(|code| match code {
                p5::SubscribeReasonCode::Success(qos) => Granted::QoS(*qos as u8),
                _ => Granted::Refused,
            });
            Some(Packet::SubAck { packet_id: ack.pkid, granted: granted.collect() })
        }
        p5::Packet::PubAck(ack) => {
            let success =
                matches!(ack.reason, p5::PubAckReason::Success | p5::PubAckReason::NoMatchingSubscribers);
            acknowledged(ack.pkid, Stage::PubAck, success)
        }
        p5::Packet::PubRec(ack) => {
            let success =
                matches!(ack.reason, p5::PubRecReason::Success | p5::PubRecReason::NoMatchingSubscribers);
            acknowledged(ack.pkid, Stage::PubRec, success)
        }
        // 0x92, Packet Identifier Not Found: the server had sent PUBCOMP before, and it was lost with a connection.
        p5::Packet::PubComp(ack) => acknowledged(ack.pkid, Stage::PubComp, true),
        p5::Packet::PubRel(pubrel) => Some(Packet::PubRel(pubrel.pkid)),
        p5::Packet::Publish(publish) => Some(Packet::Publish(Incoming {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
        })),
        _ => None,
    }
}
