//! CONNECT (MQTT 5.0 section 3.1; MQTT 3.1.1 section 3.1; MQTT 3.1 section 3.1).
//!
//! Whether a client identifier is acceptable is not decided here. Start at [`sniff`] and [`read`].

use std::num::NonZeroU32;

use crate::properties::{self, Properties, Property};
use crate::read::{Context, Reader};
use crate::write::{self, Encode, Sink};
use crate::{
    Connect, ConnectProperties, DecodeError, EncodeError, MessageProperties, PacketType, Protocol, QoS, Will,
};

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;

/// Level bit 7, by which mosquitto's bridges make themselves known.
const BRIDGE: u8 = 0x80;

/// Protocol and bridge bit of a CONNECT, or why there is none; and the protocol to answer in.
type Sniffed = (Result<(Protocol, bool), DecodeError>, Option<Protocol>);

/// Reads protocol name and level. An unknown level under a known name is answered in the nearest version
/// that is spoken (MQTT-3.1.2-2), an unknown name not at all (MQTT-3.1.2-1).
pub(crate) fn sniff(reader: &mut Reader) -> Result<Sniffed, DecodeError> {
    let name = reader.binary("protocol name")?;
    let level = reader.u8("protocol level")?;
    let unsupported = Err(DecodeError::UnsupportedProtocol { level });
    Ok(match (&*name, level & !BRIDGE) {
        (b"MQIsdp", 3) => known(Protocol::V31, level),
        (b"MQTT", 4) => known(Protocol::V311, level),
        (b"MQTT", 5) => known(Protocol::V5, level),
        (b"MQTT", 6..) => (unsupported, Some(Protocol::V5)),
        (b"MQTT" | b"MQIsdp", _) => (unsupported, Some(Protocol::V311)),
        _ => (unsupported, None),
    })
}

fn known(protocol: Protocol, level: u8) -> Sniffed {
    (Ok((protocol, level & BRIDGE != 0)), Some(protocol))
}

/// Reads what follows the level. `limit` becomes the client's maximum packet size as soon as all properties are read,
/// whatever is wrong behind them.
pub(crate) fn read(
    reader: Reader,
    protocol: Protocol,
    bridge: bool,
    limit: &mut u32,
) -> Result<Connect, DecodeError> {
    let context = Context { protocol, ..reader.context() };
    let mut reader = Reader::new(reader.into_rest(), context);
    let flags = reader.u8("connect flags")?;
    check_flags(&reader, flags)?;
    let keep_alive = reader.u16("keep alive")?;
    let properties =
        if reader.is_v5() { read_properties(reader.properties()?)? } else { ConnectProperties::default() };
    *limit = properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get);
    let client_id = reader.string("client identifier")?;
    let will = if flags & WILL != 0 { Some(read_will(&mut reader, flags)?) } else { None };
    let username = if is_there(&reader, flags, USERNAME) { Some(reader.string("user name")?) } else { None };
    let password = if is_there(&reader, flags, PASSWORD) { Some(reader.binary("password")?) } else { None };
    reader.finish()?;
    let clean_start = flags & CLEAN_START != 0;
    Ok(Connect { protocol, bridge, clean_start, keep_alive, client_id, will, username, password, properties })
}

/// Whether user name or password follow. In 3.1 the remaining length takes precedence over the flags.
fn is_there(reader: &Reader, flags: u8, flag: u8) -> bool {
    flags & flag != 0 && !(reader.context().protocol == Protocol::V31 && reader.is_empty())
}

fn check_flags(reader: &Reader, flags: u8) -> Result<(), DecodeError> {
    let fault = if flags & RESERVED != 0 {
        "have the reserved bit set" // MQTT-3.1.2-3
    } else if flags & WILL == 0 && flags & (WILL_RETAIN | 0b11 << WILL_QOS_SHIFT) != 0 {
        "speak of a will that is not there" // MQTT-3.1.2-11, -13
    } else if QoS::from_bits(flags >> WILL_QOS_SHIFT).is_none() {
        "ask for a will with QoS 3" // MQTT-3.1.2-12
    } else if !reader.is_v5() && flags & (USERNAME | PASSWORD) == PASSWORD {
        "announce a password without a user name" // MQTT 3.1.1: MQTT-3.1.2-22
    } else {
        return Ok(());
    };
    Err(reader.malformed("connect flags", fault))
}

fn read_will(reader: &mut Reader, flags: u8) -> Result<Will, DecodeError> {
    let (delay, properties) =
        if reader.is_v5() { read_will_properties(reader.properties()?)? } else { (0, None) };
    Ok(Will {
        topic: reader.topic_name("will topic")?,
        payload: reader.binary("will payload")?,
        qos: QoS::from_bits(flags >> WILL_QOS_SHIFT).unwrap_or_default(),
        retain: flags & WILL_RETAIN != 0,
        delay,
        properties,
    })
}

type WillProperties = (u32, Option<Box<MessageProperties>>);

fn read_will_properties(mut block: Properties) -> Result<WillProperties, DecodeError> {
    let mut delay = None;
    let mut message = None;
    while let Some(property) = block.next()? {
        match property {
            Property::WillDelayInterval => block.once(&mut delay, Properties::u32)?,
            other => block.message_property(other, &mut message)?,
        }
    }
    Ok((delay.unwrap_or_default(), message))
}

fn read_properties(mut block: Properties) -> Result<ConnectProperties, DecodeError> {
    let mut found = ConnectProperties::default();
    while let Some(property) = block.next()? {
        match property {
            Property::SessionExpiryInterval => block.once(&mut found.session_expiry, Properties::u32)?,
            Property::ReceiveMaximum => {
                block.once(&mut found.receive_maximum, |block| block.non_zero(Properties::u16))?;
            }
            Property::MaximumPacketSize => {
                block.once(&mut found.maximum_packet_size, |block| block.non_zero(Properties::u32))?;
            }
            Property::TopicAliasMaximum => block.once(&mut found.topic_alias_maximum, Properties::u16)?,
            Property::RequestResponseInformation => {
                block.once(&mut found.request_response_information, Properties::flag)?;
            }
            Property::RequestProblemInformation => {
                block.once(&mut found.request_problem_information, Properties::flag)?;
            }
            Property::User => block.user(&mut found.user)?,
            Property::AuthenticationMethod => {
                block.once(&mut found.authentication_method, Properties::string)?;
            }
            Property::AuthenticationData => block.once(&mut found.authentication_data, Properties::binary)?,
            _ => return Err(block.misplaced()),
        }
    }
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(block.lone_authentication_data());
    }
    Ok(found)
}

impl Encode for Connect {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let (name, level) = match self.protocol {
            Protocol::V31 => ("MQIsdp", 3),
            Protocol::V311 => ("MQTT", 4),
            Protocol::V5 => ("MQTT", 5),
        };
        write::field(sink, "protocol name", name.as_bytes())?;
        write::u8(sink, if self.bridge { level | BRIDGE } else { level });
        write::u8(sink, self.flags()?);
        write::u16(sink, self.keep_alive);
        if self.protocol == Protocol::V5 {
            properties::block(sink, &self.properties)?;
        }
        write::string(sink, "client identifier", &self.client_id)?;
        if let Some(will) = &self.will {
            if self.protocol == Protocol::V5 {
                properties::block(sink, will)?;
            }
            write::field(sink, "will topic", will.topic.as_bytes())?;
            write::field(sink, "will payload", &will.payload)?;
        }
        if let Some(username) = &self.username {
            write::string(sink, "user name", username)?;
        }
        if let Some(password) = &self.password {
            write::field(sink, "password", password)?;
        }
        Ok(())
    }
}

impl Connect {
    fn flags(&self) -> Result<u8, EncodeError> {
        if self.protocol != Protocol::V5 && self.password.is_some() && self.username.is_none() {
            let packet = PacketType::Connect;
            return Err(EncodeError::Invalid {
                packet,
                field: "password",
                fault: "comes without a user name",
            });
        }
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | (will.qos as u8) << WILL_QOS_SHIFT;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.password.is_some() {
            flags |= PASSWORD;
        }
        if self.username.is_some() {
            flags |= USERNAME;
        }
        Ok(flags)
    }
}

impl Encode for ConnectProperties {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(properties::lone_authentication_data(PacketType::Connect));
        }
        properties::put_u32(sink, Property::SessionExpiryInterval, self.session_expiry);
        properties::put_u16(sink, Property::ReceiveMaximum, self.receive_maximum.map(Into::into));
        properties::put_u32(sink, Property::MaximumPacketSize, self.maximum_packet_size.map(Into::into));
        properties::put_u16(sink, Property::TopicAliasMaximum, self.topic_alias_maximum);
        properties::put_flag(sink, Property::RequestResponseInformation, self.request_response_information);
        properties::put_flag(sink, Property::RequestProblemInformation, self.request_problem_information);
        properties::put_user(sink, &self.user)?;
        properties::put_string(sink, Property::AuthenticationMethod, self.authentication_method.as_ref())?;
        properties::put_binary(sink, Property::AuthenticationData, self.authentication_data.as_ref())
    }
}

/// The will's properties.
impl Encode for Will {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_u32(sink, Property::WillDelayInterval, (self.delay > 0).then_some(self.delay));
        self.properties.as_deref().map_or(Ok(()), |message| message.put(sink))
    }
}
