//! What a server sends, read strictly: whatever the specification forbids a server to send is an error here.
//!
//! So every case checks the statements on the form of packets with every packet it sees: flags, lengths, strings,
//! identifiers, reason codes, properties. Start at [`read`].

use crate::packet::{Property, Publish, Value, Version, first, id, values};

/// A packet of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    ConnAck(ConnAck),
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    SubAck(Codes),
    UnsubAck(Codes),
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    pub(crate) properties: Vec<Property>,
    /// Bytes of the whole packet.
    pub(crate) size: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Its first byte.
    pub(crate) first: u8,
    pub(crate) id: u16,
    pub(crate) code: u8,
    pub(crate) properties: Vec<Property>,
}

/// SUBACK or UNSUBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Codes {
    pub(crate) id: u16,
    pub(crate) codes: Vec<u8>,
    pub(crate) properties: Vec<Property>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub(crate) code: u8,
    pub(crate) properties: Vec<Property>,
    /// Bytes of the whole packet.
    pub(crate) size: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Auth {
    pub(crate) code: u8,
    pub(crate) properties: Vec<Property>,
    /// Bytes of the whole packet.
    pub(crate) size: usize,
}

impl ConnAck {
    pub(crate) fn values(&self, id: u8) -> Vec<Value> {
        values(&self.properties, id)
    }
}

type Read<T> = Result<T, String>;

/// Reads a variable byte integer off the front; `None` if it is not all there. Only the shortest form passes.
pub(crate) fn varint(bytes: &[u8]) -> Read<Option<(usize, usize)>> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err("a variable byte integer is longer than it need be (MQTT-1.5.5-1)".to_owned());
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        Err("a variable byte integer of more than four bytes".to_owned())
    } else {
        Ok(None)
    }
}

/// Reads one packet of a server that speaks `version`.
pub(crate) fn read(version: Version, first: u8, body: &[u8], size: usize) -> Read<Answer> {
    let mut reader = Reader { rest: body, version };
    let answer = match first {
        first::CONNACK => Answer::ConnAck(reader.connack(size)?),
        0x30..=0x3f => Answer::Publish(reader.publish(first)?),
        first::PUBACK | first::PUBREC | first::PUBREL | first::PUBCOMP => Answer::Ack(reader.ack(first)?),
        first::SUBACK => Answer::SubAck(reader.suback()?),
        first::UNSUBACK => Answer::UnsubAck(reader.unsuback()?),
        first::PINGRESP => Answer::PingResp,
        first::DISCONNECT if version == Version::V5 => Answer::Disconnect(reader.disconnect(size)?),
        first::AUTH if version == Version::V5 => Answer::Auth(reader.auth(size)?),
        _ => return Err(format!("first byte {first:#04x}: no packet of a server (MQTT-2.1.3-1)")),
    };
    if reader.rest.is_empty() { Ok(answer) } else { Err(format!("bytes behind the end of {answer:?}")) }
}

struct Reader<'a> {
    rest: &'a [u8],
    version: Version,
}

/// Section 3.2.2.2, 3.4.2.1, ...: which codes each packet may carry.
mod codes {
    pub(super) const CONNACK: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99,
        0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ];
    pub(super) const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    pub(super) const PUBREL: &[u8] = &[0x00, 0x92];
    pub(super) const SUBACK: &[u8] =
        &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
    pub(super) const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
    /// Those a server may send.
    pub(super) const DISCONNECT: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
}

fn listed(code: u8, list: &[u8], packet: &str) -> Read<u8> {
    if list.contains(&code) { Ok(code) } else { Err(format!("{packet} with reason code {code:#04x}")) }
}

const REASON: &[u8] = &[id::REASON_STRING, id::USER];

impl Reader<'_> {
    fn connack(&mut self, size: usize) -> Read<ConnAck> {
        let flags = self.byte()?;
        let code = self.byte()?;
        let session_present = match (self.version, flags) {
            (Version::V31, 0) => false,
            (Version::V31, _) => return Err(format!("CONNACK of 3.1 uses its first byte: {flags:#04x}")),
            (_, 0 | 1) => flags == 1,
            _ => return Err(format!("CONNACK flags {flags:#04x} (MQTT-3.2.2-1)")),
        };
        if session_present && code != 0 {
            return Err(format!("CONNACK {code:#04x} with session present (MQTT-3.2.2-6)"));
        }
        if self.version != Version::V5 {
            listed(code, &[0, 1, 2, 3, 4, 5], "CONNACK")?;
            return Ok(ConnAck { session_present, code, properties: Vec::new(), size });
        }
        listed(code, codes::CONNACK, "CONNACK (MQTT-3.2.2-8)")?;
        let properties = self.properties(&[
            id::SESSION_EXPIRY,
            id::RECEIVE_MAXIMUM,
            id::MAXIMUM_QOS,
            id::RETAIN_AVAILABLE,
            id::PACKET_SIZE,
            id::ASSIGNED_CLIENT_ID,
            id::ALIAS_MAXIMUM,
            id::REASON_STRING,
            id::USER,
            id::WILDCARDS,
            id::SUBSCRIPTION_IDS,
            id::SHARED,
            id::SERVER_KEEP_ALIVE,
            id::RESPONSE_INFORMATION,
            id::SERVER_REFERENCE,
            id::AUTH_METHOD,
            id::AUTH_DATA,
        ])?;
        Ok(ConnAck { session_present, code, properties, size })
    }

    fn publish(&mut self, first: u8) -> Read<Publish> {
        let (dup, qos, retain) = (first & 8 != 0, first >> 1 & 3, first & 1 != 0);
        if qos == 3 {
            return Err("PUBLISH with QoS 3 (MQTT-3.3.1-4)".to_owned());
        }
        if dup && qos == 0 {
            return Err("PUBLISH with QoS 0 and DUP (MQTT-3.3.1-2)".to_owned());
        }
        let topic = self.string()?;
        if topic.contains(['+', '#']) {
            return Err(format!("PUBLISH to {topic:?} (MQTT-3.3.2-2)"));
        }
        let id = if qos > 0 { self.id()? } else { 0 };
        let properties = self.properties(&[
            id::PAYLOAD_FORMAT,
            id::MESSAGE_EXPIRY,
            id::ALIAS,
            id::RESPONSE_TOPIC,
            id::CORRELATION,
            id::USER,
            id::SUBSCRIPTION_ID,
            id::CONTENT_TYPE,
        ])?;
        let aliases = values(&properties, id::ALIAS);
        if aliases.contains(&Value::Two(0)) {
            return Err("PUBLISH with topic alias 0 (MQTT-3.3.2-8)".to_owned());
        }
        if topic.is_empty() && aliases.is_empty() {
            return Err("PUBLISH without topic (MQTT-4.7.3-1)".to_owned());
        }
        let payload = std::mem::take(&mut self.rest).to_vec();
        Ok(Publish { dup, qos, retain, topic, id, properties, payload })
    }

    fn ack(&mut self, first: u8) -> Read<Ack> {
        let id = self.id()?;
        let mut ack = Ack { first, id, code: 0, properties: Vec::new() };
        if self.version == Version::V5 && !self.rest.is_empty() {
            let list =
                if matches!(first, first::PUBACK | first::PUBREC) { codes::PUBACK } else { codes::PUBREL };
            ack.code = listed(self.byte()?, list, "acknowledgement (MQTT-3.4.2-1 to 3.7.2-1)")?;
            if !self.rest.is_empty() {
                ack.properties = self.properties(REASON)?;
            }
        }
        Ok(ack)
    }

    fn suback(&mut self) -> Read<Codes> {
        let list = if self.version == Version::V5 { codes::SUBACK } else { &[0, 1, 2, 0x80] };
        let id = self.id()?;
        let properties = self.properties(REASON)?;
        Ok(Codes { id, codes: self.codes(list, "SUBACK (MQTT-3.9.3-2)")?, properties })
    }

    fn unsuback(&mut self) -> Read<Codes> {
        let id = self.id()?;
        let properties = self.properties(REASON)?;
        let codes = if self.version == Version::V5 {
            self.codes(codes::UNSUBACK, "UNSUBACK (MQTT-3.11.3-2)")?
        } else {
            Vec::new()
        };
        Ok(Codes { id, codes, properties })
    }

    fn codes(&mut self, list: &[u8], packet: &str) -> Read<Vec<u8>> {
        let found = std::mem::take(&mut self.rest);
        if found.is_empty() {
            return Err(format!("{packet} without codes"));
        }
        found.iter().map(|code| listed(*code, list, packet)).collect()
    }

    fn disconnect(&mut self, size: usize) -> Read<Disconnect> {
        let code = if self.rest.is_empty() { 0 } else { self.byte()? };
        listed(code, codes::DISCONNECT, "DISCONNECT (MQTT-3.14.2-1)")?;
        let allowed = &[id::REASON_STRING, id::USER, id::SERVER_REFERENCE]; // MQTT-3.14.2-2
        let properties = if self.rest.is_empty() { Vec::new() } else { self.properties(allowed)? };
        Ok(Disconnect { code, properties, size })
    }

    /// A server says the method each time (section 3.15.2.2.2); 0x19 is the client's to say.
    fn auth(&mut self, size: usize) -> Read<Auth> {
        let code = listed(self.byte()?, &[0x00, 0x18], "AUTH (MQTT-3.15.2-1)")?;
        let properties = self.properties(&[id::AUTH_METHOD, id::AUTH_DATA, id::REASON_STRING, id::USER])?;
        if values(&properties, id::AUTH_METHOD).is_empty() {
            return Err("AUTH without a method".to_owned());
        }
        Ok(Auth { code, properties, size })
    }

    fn byte(&mut self) -> Read<u8> {
        let (byte, rest) = self.rest.split_first().ok_or("a packet is cut short")?;
        self.rest = rest;
        Ok(*byte)
    }

    fn two(&mut self) -> Read<u16> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn four(&mut self) -> Read<u32> {
        Ok(u32::from(self.two()?) << 16 | u32::from(self.two()?))
    }

    fn id(&mut self) -> Read<u16> {
        match self.two()? {
            0 => Err("packet identifier 0 (MQTT-2.2.1-4)".to_owned()),
            id => Ok(id),
        }
    }

    fn varint(&mut self) -> Read<usize> {
        let (value, width) = varint(self.rest)?.ok_or("a packet is cut short")?;
        self.rest = &self.rest[width..];
        Ok(value)
    }

    fn binary(&mut self) -> Read<Vec<u8>> {
        let length = usize::from(self.two()?);
        if length > self.rest.len() {
            return Err("a packet is cut short".to_owned());
        }
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(bytes.to_vec())
    }

    /// MQTT-1.5.4-1 and -2.
    fn string(&mut self) -> Read<String> {
        let text = String::from_utf8(self.binary()?).map_err(|error| error.to_string())?;
        if text.contains('\0') { Err("a string with U+0000".to_owned()) } else { Ok(text) }
    }

    /// The block of a 5.0 packet; nothing in the others.
    fn properties(&mut self, allowed: &[u8]) -> Read<Vec<Property>> {
        if self.version != Version::V5 {
            return Ok(Vec::new());
        }
        let length = self.varint()?;
        if length > self.rest.len() {
            return Err("properties run over the end of their packet".to_owned());
        }
        let (inside, rest) = self.rest.split_at(length);
        let mut inside = Reader { rest: inside, version: self.version };
        self.rest = rest;
        let mut found: Vec<Property> = Vec::new();
        while !inside.rest.is_empty() {
            let property = inside.property()?;
            let again = found.iter().any(|(id, _)| *id == property.0);
            if again && !matches!(property.0, id::USER | id::SUBSCRIPTION_ID) {
                return Err(format!("property {:#04x} twice", property.0));
            }
            if !allowed.contains(&property.0) {
                return Err(format!("property {property:?} does not belong here"));
            }
            found.push(property);
        }
        Ok(found)
    }

    fn property(&mut self) -> Read<Property> {
        let id = self.byte()?;
        let value = match id {
            id::PAYLOAD_FORMAT
            | id::REQUEST_PROBLEM
            | id::REQUEST_RESPONSE
            | id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARDS
            | id::SUBSCRIPTION_IDS
            | id::SHARED => match self.byte()? {
                value @ (0 | 1) => Value::Byte(value),
                value => return Err(format!("property {id:#04x} says {value}")),
            },
            id::SERVER_KEEP_ALIVE | id::ALIAS_MAXIMUM | id::ALIAS => Value::Two(self.two()?),
            id::RECEIVE_MAXIMUM => match self.two()? {
                0 => return Err("receive maximum 0 (MQTT-4.9.0-1)".to_owned()),
                value => Value::Two(value),
            },
            id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY => Value::Four(self.four()?),
            id::PACKET_SIZE => match self.four()? {
                0 => return Err("maximum packet size 0".to_owned()),
                value => Value::Four(value),
            },
            id::SUBSCRIPTION_ID => match self.varint()? {
                0 => return Err("subscription identifier 0".to_owned()),
                value => Value::Variable(u32::try_from(value).unwrap_or(u32::MAX)),
            },
            id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::ASSIGNED_CLIENT_ID
            | id::AUTH_METHOD
            | id::RESPONSE_INFORMATION
            | id::SERVER_REFERENCE
            | id::REASON_STRING => Value::Text(self.string()?),
            id::CORRELATION | id::AUTH_DATA => Value::Binary(self.binary()?),
            id::USER => Value::Pair(self.string()?, self.string()?),
            _ => return Err(format!("property {id:#04x} is not defined")),
        };
        Ok((id, value))
    }
}
