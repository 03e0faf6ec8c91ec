//! PUBLISH (section 3.3), and the properties that travel with a message (section 3.3.2.3).
//!
//! Topic aliases are read, not resolved. Start at [`read`] and [`Body`].

use crate::properties::{self, Properties, Property};
use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{
    DecodeError, EncodeError, MessageProperties, PacketType, Protocol, Publish, QoS, ReasonCode, Role,
    TopicName, varint,
};

const DUP: u8 = 0b1000;
const QOS_SHIFT: u8 = 1;
const RETAIN: u8 = 0b0001;

impl QoS {
    /// The lowest two bits, if they are not 3.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// What is wrong with the lower half of a PUBLISH's first byte, if anything.
pub(crate) fn check_flags(flags: u8) -> Result<(), &'static str> {
    match QoS::from_bits(flags >> QOS_SHIFT) {
        None => Err("QoS 3 does not exist"), // MQTT-3.3.1-4
        Some(QoS::AtMostOnce) if flags & DUP != 0 => Err("QoS 0 is never sent again"), // MQTT-3.3.1-2
        Some(_) => Ok(()),
    }
}

/// The first byte of a PUBLISH.
pub(crate) fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    let flags = if dup { DUP } else { 0 } | (qos as u8) << QOS_SHIFT | if retain { RETAIN } else { 0 };
    (PacketType::Publish as u8) << 4 | flags
}

pub(crate) fn read(mut reader: Reader, flags: u8) -> Result<Publish, DecodeError> {
    let qos = QoS::from_bits(flags >> QOS_SHIFT).unwrap_or_default();
    let topic = reader.utf8("topic name")?;
    let mut publish = Publish {
        dup: flags & DUP != 0,
        qos,
        retain: flags & RETAIN != 0,
        packet_id: None,
        topic: None,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: bytes::Bytes::new(),
    };
    if qos != QoS::AtMostOnce {
        publish.packet_id = Some(reader.packet_id()?);
    }
    if reader.is_v5() {
        read_properties(reader.properties()?, &mut publish)?;
    }
    if !topic.is_empty() {
        publish.topic = Some(reader.name_of(topic, "topic name")?);
    } else if publish.topic_alias.is_none() {
        return Err(reader.protocol_error("topic name", "is empty and there is no alias"));
    }
    publish.payload = reader.into_rest();
    Ok(publish)
}

fn read_properties(mut block: Properties, publish: &mut Publish) -> Result<(), DecodeError> {
    while let Some(property) = block.next()? {
        match property {
            Property::TopicAlias => {
                // MQTT-3.3.2-8
                if publish.topic_alias.is_some() {
                    return Err(block.protocol_error("is there twice"));
                }
                let alias = std::num::NonZeroU16::new(block.u16()?);
                let zero = || block.refused(ReasonCode::TopicAliasInvalid, "is zero");
                publish.topic_alias = Some(alias.ok_or_else(zero)?);
            }
            // MQTT-3.3.4-6
            Property::SubscriptionIdentifier if block.context().role == Role::Server => {
                return Err(block.protocol_error("comes from a client"));
            }
            Property::SubscriptionIdentifier => {
                publish.subscription_ids.push(block.non_zero(Properties::varint)?);
            }
            other => block.message_property(other, &mut publish.properties)?,
        }
    }
    Ok(())
}

impl Properties {
    /// One of the properties that PUBLISH and will share.
    pub(crate) fn message_property(
        &mut self,
        property: Property,
        found: &mut Option<Box<MessageProperties>>,
    ) -> Result<(), DecodeError> {
        let found = found.get_or_insert_with(Box::default);
        match property {
            Property::PayloadFormatIndicator => self.once(&mut found.payload_format, Self::flag),
            Property::MessageExpiryInterval => self.once(&mut found.message_expiry, Self::u32),
            Property::ContentType => self.once(&mut found.content_type, Self::string),
            Property::ResponseTopic => self.once(&mut found.response_topic, Self::response_topic),
            Property::CorrelationData => self.once(&mut found.correlation_data, Self::binary),
            Property::User => self.user(&mut found.user),
            _ => Err(self.misplaced()),
        }
    }

    fn response_topic(&mut self) -> Result<TopicName, DecodeError> {
        let text = self.string()?;
        TopicName::new(text).map_err(|_| self.protocol_error("is no topic name")) // MQTT-3.3.2-14
    }
}

/// A PUBLISH as the version at hand writes it.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a Publish, pub(crate) Protocol);

impl Encode for Body<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(publish, protocol) = *self;
        publish.check(protocol)?;
        let topic = publish.topic.as_deref().unwrap_or_default();
        write::field(sink, "topic name", topic.as_bytes())?;
        if let Some(id) = publish.packet_id {
            write::u16(sink, id.get());
        }
        if protocol == Protocol::V5 {
            properties::block(sink, publish)?;
        }
        sink.put(&publish.payload);
        Ok(())
    }
}

impl Publish {
    fn check(&self, protocol: Protocol) -> Result<(), EncodeError> {
        let invalid = |field, fault| Err(EncodeError::Invalid { packet: PacketType::Publish, field, fault });
        if self.packet_id.is_some() == (self.qos == QoS::AtMostOnce) {
            return invalid("packet identifier", "is there at QoS 0 or missing above it");
        }
        if self.dup && self.qos == QoS::AtMostOnce {
            return invalid("DUP", "is set at QoS 0");
        }
        if self.topic.is_none() && (self.topic_alias.is_none() || protocol != Protocol::V5) {
            return invalid("topic name", "is missing and there is no alias");
        }
        if self.subscription_ids.iter().any(|id| id.get() > varint::MAX) {
            return invalid("subscription identifier", "is larger than 268435455");
        }
        Ok(())
    }
}

/// All properties of a PUBLISH.
impl Encode for Publish {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_u16(sink, Property::TopicAlias, self.topic_alias.map(Into::into));
        for id in &self.subscription_ids {
            write::u8(sink, Property::SubscriptionIdentifier as u8);
            write::varint(sink, id.get());
        }
        self.properties.as_deref().map_or(Ok(()), |message| message.put(sink))
    }
}

impl Encode for MessageProperties {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_flag(sink, Property::PayloadFormatIndicator, self.payload_format);
        properties::put_u32(sink, Property::MessageExpiryInterval, self.message_expiry);
        properties::put_string(sink, Property::ContentType, self.content_type.as_ref())?;
        let response_topic = self.response_topic.as_ref().map(TopicName::as_byte_string);
        properties::put_string(sink, Property::ResponseTopic, response_topic)?;
        properties::put_binary(sink, Property::CorrelationData, self.correlation_data.as_ref())?;
        properties::put_user(sink, &self.user)
    }
}
