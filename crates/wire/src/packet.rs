//! The one packet model for all three protocol versions; what only 5.0 has is optional.
//!
//! Knows no bytes: the codec fills and reads it. Start at [`Packet`].

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use crate::{ReasonCode, TopicFilter, TopicName};

/// The protocol version a connection speaks, fixed by its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5.0 (`MQTT`, level 5).
    V5,
}

/// Quality of service, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// 0: sent once, never acknowledged.
    #[default]
    AtMostOnce = 0,
    /// 1: acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// 2: the four-packet handshake.
    ExactlyOnce = 2,
}

/// A packet identifier; never zero (MQTT 5.0 section 2.2.1).
pub type PacketId = NonZeroU16;

/// User properties in the order they were sent; names may repeat.
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// One control packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Client asks for a connection.
    Connect(Box<Connect>),
    /// Server answers CONNECT.
    ConnAck(Box<ConnAck>),
    /// An application message, either way.
    Publish(Publish),
    /// Answer to a QoS 1 PUBLISH.
    PubAck(Ack),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Ack),
    /// Second step of QoS 2.
    PubRel(Ack),
    /// Last step of QoS 2.
    PubComp(Ack),
    /// Client asks for subscriptions.
    Subscribe(Subscribe),
    /// Server answers SUBSCRIBE.
    SubAck(SubAck),
    /// Client gives subscriptions up.
    Unsubscribe(Unsubscribe),
    /// Server answers UNSUBSCRIBE.
    UnsubAck(SubAck),
    /// Client asks for a sign of life.
    PingReq,
    /// Server gives it.
    PingResp,
    /// Either side ends the connection.
    Disconnect(Disconnect),
    /// Enhanced authentication (5.0 only).
    Auth(Auth),
}

/// CONNECT (section 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Version asked for.
    pub protocol: Protocol,
    /// Level bit 7: the client is a bridge (a mosquitto habit), so it is sent retain as published.
    pub bridge: bool,
    /// Clean Session (3.x) or Clean Start (5.0).
    pub clean_start: bool,
    /// Seconds; 0 switches it off.
    pub keep_alive: u16,
    /// May be empty: then the server assigns one.
    pub client_id: ByteString,
    /// The will, if any.
    pub will: Option<Will>,
    /// User name, may be present and empty.
    pub username: Option<ByteString>,
    /// Password: binary.
    pub password: Option<Bytes>,
    /// 5.0 properties; defaults for 3.x.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT (section 3.1.2.11).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectProperties {
    /// Seconds the session outlives the connection; `u32::MAX` for ever. `None` is 0.
    pub session_expiry: Option<u32>,
    /// QoS 1/2 messages the client takes unacknowledged. `None` is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Largest packet the client takes, in bytes. `None`: no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Aliases the client takes. `None` is 0.
    pub topic_alias_maximum: Option<u16>,
    /// Client wants Response Information in CONNACK.
    pub request_response_information: Option<bool>,
    /// `Some(false)`: reason strings and user properties only on PUBLISH, CONNACK, DISCONNECT.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user: UserProperties,
    /// Enhanced authentication method.
    pub authentication_method: Option<ByteString>,
    /// Data for the method; only with one.
    pub authentication_data: Option<Bytes>,
}

/// A will as CONNECT carries it (section 3.1.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// With which quality of service.
    pub qos: QoS,
    /// Whether it is kept.
    pub retain: bool,
    /// Seconds to wait after the connection ended.
    pub delay: u32,
    /// What is forwarded with it.
    pub properties: Option<Box<MessageProperties>>,
}

/// CONNACK (section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// The server has the session of an earlier connection.
    pub session_present: bool,
    /// Success or why not; mapped to the return codes of 3.x when encoded for them.
    pub reason: ReasonCode,
    /// 5.0 properties.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK (section 3.2.2.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnAckProperties {
    /// Overrules what the client asked for.
    pub session_expiry: Option<u32>,
    /// QoS 1/2 messages the server takes unacknowledged.
    pub receive_maximum: Option<NonZeroU16>,
    /// `Some(AtMostOnce | AtLeastOnce)` when 2 is not supported.
    pub maximum_qos: Option<QoS>,
    /// Whether retained messages are supported.
    pub retain_available: Option<bool>,
    /// Largest packet the server takes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Id given to a client that sent none.
    pub assigned_client_id: Option<ByteString>,
    /// Aliases the server takes.
    pub topic_alias_maximum: Option<u16>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user: UserProperties,
    /// Whether wildcard subscriptions are supported.
    pub wildcard_subscriptions: Option<bool>,
    /// Whether subscription identifiers are supported.
    pub subscription_identifiers: Option<bool>,
    /// Whether shared subscriptions are supported.
    pub shared_subscriptions: Option<bool>,
    /// Seconds; overrules the client's.
    pub server_keep_alive: Option<u16>,
    /// Basis for response topics.
    pub response_information: Option<ByteString>,
    /// Another server to use.
    pub server_reference: Option<ByteString>,
    /// Enhanced authentication method.
    pub authentication_method: Option<ByteString>,
    /// Data of the method.
    pub authentication_data: Option<Bytes>,
}

/// PUBLISH (section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// A re-delivery.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Keep it (to the server); it was kept (from the server).
    pub retain: bool,
    /// Present exactly when `qos` is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// `None` only with a topic alias (5.0).
    pub topic: Option<TopicName>,
    /// Topic alias (5.0), never zero.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription identifiers; only from server to client.
    pub subscription_ids: Vec<NonZeroU32>,
    /// Properties that travel with the message; `None` when it has none.
    pub properties: Option<Box<MessageProperties>>,
    /// A slice of the buffer it was read into.
    pub payload: Bytes,
}

/// Properties that a server forwards with a message unaltered (section 3.3.2.3), and its expiry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageProperties {
    /// `Some(true)`: the payload is UTF-8.
    pub payload_format: Option<bool>,
    /// Seconds the message lives; what is left of them when forwarded.
    pub message_expiry: Option<u32>,
    /// MIME type or whatever the two sides agreed.
    pub content_type: Option<ByteString>,
    /// Where an answer goes.
    pub response_topic: Option<TopicName>,
    /// What an answer carries.
    pub correlation_data: Option<Bytes>,
    /// User properties, in order.
    pub user: UserProperties,
}

impl MessageProperties {
    /// They say that the payload is text, and it is no UTF-8 (section 3.3.2.3.2).
    #[must_use]
    pub fn belie(&self, payload: &[u8]) -> bool {
        self.payload_format == Some(true) && std::str::from_utf8(payload).is_err()
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The PUBLISH it answers.
    pub packet_id: PacketId,
    /// Success in 3.x.
    pub reason: ReasonCode,
    /// `None` when it has none.
    pub properties: Option<Box<ReasonProperties>>,
}

impl Ack {
    /// A successful one.
    #[must_use]
    pub fn success(packet_id: PacketId) -> Self {
        Self { packet_id, reason: ReasonCode::Success, properties: None }
    }
}

/// What acknowledgements may say besides their code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReasonProperties {
    /// For people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user: UserProperties,
}

/// SUBSCRIBE (section 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered by the SUBACK with the same id.
    pub packet_id: PacketId,
    /// Subscription identifier, 1 to 268,435,455 (5.0).
    pub subscription_id: Option<NonZeroU32>,
    /// User properties.
    pub user: UserProperties,
    /// At least one; in order.
    pub filters: Vec<SubscribeFilter>,
}

/// One line of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// Filter, maybe shared.
    pub filter: TopicFilter,
    /// How to deliver.
    pub options: SubscribeOptions,
}

/// Subscription options (section 3.8.3.1); 3.x has only the QoS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeOptions {
    /// Highest QoS to deliver with.
    pub qos: QoS,
    /// Do not send me what I published.
    pub no_local: bool,
    /// Keep the retain flag as the publisher set it.
    pub retain_as_published: bool,
    /// Which retained messages to send at subscribe time.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent at subscribe time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every subscribe.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// SUBACK or UNSUBACK (sections 3.9, 3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE or UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One per filter, in order. Not on the wire in a 3.x UNSUBACK.
    pub reasons: Vec<ReasonCode>,
    /// `None` when it has none.
    pub properties: Option<Box<ReasonProperties>>,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered by the UNSUBACK with the same id.
    pub packet_id: PacketId,
    /// User properties.
    pub user: UserProperties,
    /// At least one; in order.
    pub filters: Vec<TopicFilter>,
}

/// DISCONNECT (section 3.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; `Success` is normal disconnection and the only one in 3.x.
    pub reason: ReasonCode,
    /// Client only: a new session expiry.
    pub session_expiry: Option<u32>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user: UserProperties,
    /// Server only: another server to use.
    pub server_reference: Option<ByteString>,
}

impl Disconnect {
    /// One that only says why.
    #[must_use]
    pub fn because(reason: ReasonCode) -> Self {
        Self { reason, session_expiry: None, reason_string: None, user: Vec::new(), server_reference: None }
    }
}

/// AUTH (section 3.15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, ContinueAuthentication or ReAuthenticate.
    pub reason: ReasonCode,
    /// Method of the exchange; absent only in the two-byte form.
    pub method: Option<ByteString>,
    /// Its data.
    pub data: Option<Bytes>,
    /// For people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user: UserProperties,
}
