//! Packets as bytes, whether the specification allows them or not: the suite's own encoder.
//!
//! It shares nothing with `zwerm-wire`, so that an error there cannot hide itself. What it writes is what it is told,
//! right or wrong. Start at [`Connect`], [`Publish`] and [`packet`].

use std::fmt;

/// Protocol version, and whose statements a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Version {
    /// MQTT 3.1, which numbers no statements: the ids are ours.
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

impl Version {
    /// Protocol name and level (section 3.1.2).
    pub(crate) fn name_and_level(self) -> (&'static [u8], u8) {
        match self {
            Self::V31 => (b"MQIsdp", 3),
            Self::V311 => (b"MQTT", 4),
            Self::V5 => (b"MQTT", 5),
        }
    }

    /// As people write it.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// First bytes of the packets (section 2.1), flags included.
pub(crate) mod first {
    pub(crate) const CONNECT: u8 = 0x10;
    pub(crate) const CONNACK: u8 = 0x20;
    pub(crate) const PUBLISH: u8 = 0x30;
    pub(crate) const PUBACK: u8 = 0x40;
    pub(crate) const PUBREC: u8 = 0x50;
    pub(crate) const PUBREL: u8 = 0x62;
    pub(crate) const PUBCOMP: u8 = 0x70;
    pub(crate) const SUBSCRIBE: u8 = 0x82;
    pub(crate) const SUBACK: u8 = 0x90;
    pub(crate) const UNSUBSCRIBE: u8 = 0xa2;
    pub(crate) const UNSUBACK: u8 = 0xb0;
    pub(crate) const PINGREQ: u8 = 0xc0;
    pub(crate) const PINGRESP: u8 = 0xd0;
    pub(crate) const DISCONNECT: u8 = 0xe0;
    pub(crate) const AUTH: u8 = 0xf0;
}

/// Reason codes (5.0 section 2.4).
pub(crate) mod reason {
    pub(crate) const NO_SUBSCRIPTION: u8 = 0x11;
    pub(crate) const UNSPECIFIED: u8 = 0x80;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_ID: u8 = 0x85;
    pub(crate) const USER_OR_PASSWORD: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const UNAVAILABLE: u8 = 0x88;
    pub(crate) const AUTH_METHOD: u8 = 0x8c;
    pub(crate) const KEEP_ALIVE: u8 = 0x8d;
    pub(crate) const TAKEN_OVER: u8 = 0x8e;
    pub(crate) const TOPIC_FILTER: u8 = 0x8f;
    pub(crate) const TOPIC_NAME: u8 = 0x90;
    pub(crate) const ID_IN_USE: u8 = 0x91;
    pub(crate) const ID_NOT_FOUND: u8 = 0x92;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x93;
    pub(crate) const ALIAS: u8 = 0x94;
    pub(crate) const TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA: u8 = 0x97;
    pub(crate) const RETAIN: u8 = 0x9a;
    pub(crate) const QOS: u8 = 0x9b;
    pub(crate) const SHARED: u8 = 0x9e;
    pub(crate) const SUBSCRIPTION_IDS: u8 = 0xa1;
    pub(crate) const WILDCARDS: u8 = 0xa2;
}

/// Property identifiers (5.0 section 2.2.2.2).
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTH_METHOD: u8 = 0x15;
    pub(crate) const AUTH_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1c;
    pub(crate) const REASON_STRING: u8 = 0x1f;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARDS: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS: u8 = 0x29;
    pub(crate) const SHARED: u8 = 0x2a;
}

/// What a property says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

/// Identifier and value.
pub(crate) type Property = (u8, Value);

pub(crate) fn byte(id: u8, value: u8) -> Property {
    (id, Value::Byte(value))
}

pub(crate) fn two(id: u8, value: u16) -> Property {
    (id, Value::Two(value))
}

pub(crate) fn four(id: u8, value: u32) -> Property {
    (id, Value::Four(value))
}

pub(crate) fn variable(id: u8, value: u32) -> Property {
    (id, Value::Variable(value))
}

pub(crate) fn text(id: u8, value: &str) -> Property {
    (id, Value::Text(value.to_owned()))
}

pub(crate) fn binary(id: u8, value: &[u8]) -> Property {
    (id, Value::Binary(value.to_vec()))
}

pub(crate) fn user(name: &str, value: &str) -> Property {
    (id::USER, Value::Pair(name.to_owned(), value.to_owned()))
}

/// A whole packet: first byte, remaining length, body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(varint(body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// A variable byte integer in as few bytes as possible (5.0 section 1.5.5).
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

/// Two bytes of length, then the bytes.
pub(crate) fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// Property length and properties.
pub(crate) fn block(properties: &[Property]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, value) in properties {
        bytes.push(*id);
        match value {
            Value::Byte(value) => bytes.push(*value),
            Value::Two(value) => bytes.extend(value.to_be_bytes()),
            Value::Four(value) => bytes.extend(value.to_be_bytes()),
            Value::Variable(value) => bytes.extend(varint(*value as usize)),
            Value::Text(value) => bytes.extend(field(value)),
            Value::Binary(value) => bytes.extend(field(value)),
            Value::Pair(name, value) => bytes.extend([field(name), field(value)].concat()),
        }
    }
    [varint(bytes.len()), bytes].concat()
}

/// The block where the version has one.
fn block_in(version: Version, properties: &[Property]) -> Vec<u8> {
    if version == Version::V5 { block(properties) } else { Vec::new() }
}

/// A will.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<Property>,
}

impl Will {
    pub(crate) fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        let (topic, payload) = (topic.as_ref().to_vec(), payload.as_ref().to_vec());
        Self { topic, payload, qos: 0, retain: false, properties: Vec::new() }
    }

    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

/// A CONNECT that may be wrong in every field.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) name: Vec<u8>,
    pub(crate) level: u8,
    /// Instead of those that follow from the fields.
    pub(crate) flags: Option<u8>,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) client_id: Vec<u8>,
    pub(crate) will: Option<Will>,
    pub(crate) user: Option<Vec<u8>>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) properties: Vec<Property>,
}

impl Connect {
    /// A clean session with keep alive 60 s.
    pub(crate) fn new(version: Version, client_id: impl AsRef<[u8]>) -> Self {
        let (name, level) = version.name_and_level();
        Self {
            version,
            name: name.to_vec(),
            level,
            flags: None,
            clean: true,
            keep_alive: 60,
            client_id: client_id.as_ref().to_vec(),
            will: None,
            user: None,
            password: None,
            properties: Vec::new(),
        }
    }

    /// A session that is continued, and that outlives its connection by an hour.
    pub(crate) fn durable(mut self) -> Self {
        self.clean = false;
        if self.version == Version::V5 {
            self.properties.push(four(id::SESSION_EXPIRY, 3_600));
        }
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn user(mut self, user: impl AsRef<[u8]>) -> Self {
        self.user = Some(user.as_ref().to_vec());
        self
    }

    pub(crate) fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = Some(flags);
        self
    }

    /// The flags that the fields ask for.
    pub(crate) fn right_flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.clean) << 1
            | will
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.user.is_some()) << 7
    }

    /// Everything up to the payload, without the fixed header.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut body = field(&self.name);
        body.extend([self.level, self.flags.unwrap_or_else(|| self.right_flags())]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(block_in(self.version, &self.properties));
        body
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = self.header();
        body.extend(field(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(block_in(self.version, &will.properties));
            body.extend([field(&will.topic), field(&will.payload)].concat());
        }
        body.extend(self.user.iter().chain(&self.password).flat_map(field));
        packet(first::CONNECT, &body)
    }
}

/// A PUBLISH, to be sent or as it came. `id` is only there above QoS 0.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) properties: Vec<Property>,
    pub(crate) payload: Vec<u8>,
}

impl Publish {
    /// QoS 0, no flags.
    pub(crate) fn new(topic: impl Into<String>, payload: impl AsRef<[u8]>) -> Self {
        Self { topic: topic.into(), payload: payload.as_ref().to_vec(), ..Self::default() }
    }

    pub(crate) fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The payload as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The values of a property, in order.
    pub(crate) fn values(&self, id: u8) -> Vec<Value> {
        values(&self.properties, id)
    }

    pub(crate) fn bytes(&self, version: Version) -> Vec<u8> {
        let first = first::PUBLISH | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(block_in(version, &self.properties));
        body.extend_from_slice(&self.payload);
        packet(first, &body)
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dup, qos, retain, topic, id, properties, payload } = self;
        let payload = String::from_utf8_lossy(&payload[..payload.len().min(60)]);
        let topic: String = topic.chars().take(80).collect();
        write!(f, "PUBLISH({topic:?} {payload:?} qos {qos} id {id} dup {dup} retain {retain} {properties:?})")
    }
}

/// The values of a property in a block, in order.
pub(crate) fn values(properties: &[Property], id: u8) -> Vec<Value> {
    properties.iter().filter(|(found, _)| *found == id).map(|(_, value)| value.clone()).collect()
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP, as short as can be.
pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// The same with a reason code (5.0).
pub(crate) fn ack_because(first: u8, id: u16, code: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()[..], &[code]].concat())
}

/// A SUBSCRIBE: filters with their option bytes.
pub(crate) fn subscribe(
    version: Version,
    id: u16,
    properties: &[Property],
    filters: &[(&str, u8)],
) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(block_in(version, properties));
    for (filter, options) in filters {
        body.extend(field(filter));
        body.push(*options);
    }
    packet(first::SUBSCRIBE, &body)
}

/// An UNSUBSCRIBE.
pub(crate) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(block_in(version, &[]));
    body.extend(filters.iter().flat_map(field));
    packet(first::UNSUBSCRIBE, &body)
}

/// An AUTH.
pub(crate) fn auth(code: u8, properties: &[Property]) -> Vec<u8> {
    packet(first::AUTH, &[vec![code], block(properties)].concat())
}

/// An AUTH that goes on with an exchange of this method.
pub(crate) fn continues(method: &str, data: &str) -> Vec<u8> {
    auth(0x18, &[text(id::AUTH_METHOD, method), binary(id::AUTH_DATA, data.as_bytes())])
}

/// One of each packet that a client may send once it is connected, but for PUBLISH.
pub(crate) fn small_packets(version: Version, topic: &str) -> Vec<Vec<u8>> {
    let mut packets = vec![
        ack(first::PUBACK, 1),
        ack(first::PUBREC, 1),
        ack(first::PUBREL, 1),
        ack(first::PUBCOMP, 1),
        subscribe(version, 1, &[], &[(topic, 0)]),
        unsubscribe(version, 1, &[topic]),
        PINGREQ.to_vec(),
        DISCONNECT.to_vec(),
    ];
    if version == Version::V5 {
        packets.push(vec![first::AUTH, 0]);
    }
    packets
}

/// A DISCONNECT with everything that 5.0 lets it have.
pub(crate) fn disconnect(code: u8, properties: &[Property]) -> Vec<u8> {
    packet(first::DISCONNECT, &[vec![code], block(properties)].concat())
}

pub(crate) const PINGREQ: &[u8] = &[first::PINGREQ, 0];
pub(crate) const DISCONNECT: &[u8] = &[first::DISCONNECT, 0];

/// Subscription options of 5.0 (section 3.8.3.1), to be or-ed with a QoS.
pub(crate) mod options {
    pub(crate) const NO_LOCAL: u8 = 0x04;
    pub(crate) const AS_PUBLISHED: u8 = 0x08;
    pub(crate) const RETAINED_IF_NEW: u8 = 0x10;
    pub(crate) const NO_RETAINED: u8 = 0x20;
}
