//! CONNACK (MQTT 5.0 section 3.2; MQTT 3.1.1 section 3.2).
//!
//! Start at [`read`] and [`Body`].

use crate::properties::{self, Properties, Property};
use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{
    ConnAck, ConnAckProperties, DecodeError, EncodeError, PacketType, Protocol, QoS, ReasonCode, reason_table,
};

pub(crate) fn read(mut reader: Reader) -> Result<ConnAck, DecodeError> {
    let protocol = reader.context().protocol;
    let flags = reader.u8("acknowledge flags")?;
    // 3.1 has no session present flag: the byte is not used.
    let session_present = protocol != Protocol::V31 && flags & 1 == 1;
    if protocol != Protocol::V31 && flags > 1 {
        return Err(reader.malformed("acknowledge flags", "have a reserved bit set")); // MQTT-3.2.2-1
    }
    let (reason, properties) = if reader.is_v5() {
        let reason = reader.reason()?;
        (reason, read_properties(reader.properties()?)?)
    } else {
        (read_return_code(&mut reader)?, ConnAckProperties::default())
    };
    if session_present && reason != ReasonCode::Success {
        return Err(reader.protocol_error("session present", "is set in a refusal")); // MQTT-3.2.2-6
    }
    reader.finish()?;
    Ok(ConnAck { session_present, reason, properties })
}

fn read_return_code(reader: &mut Reader) -> Result<ReasonCode, DecodeError> {
    let code = reader.u8("return code")?;
    ReasonCode::of_connack_return_code(code).ok_or_else(|| reader.malformed("return code", "is not defined"))
}

fn read_properties(mut block: Properties) -> Result<ConnAckProperties, DecodeError> {
    let mut found = ConnAckProperties::default();
    while let Some(property) = block.next()? {
        if !read_limit(&mut block, property, &mut found)? {
            read_text(&mut block, property, &mut found)?;
        }
    }
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(block.lone_authentication_data());
    }
    Ok(found)
}

/// The numbers and flags; `false` if the property is none of them.
fn read_limit(
    block: &mut Properties,
    property: Property,
    found: &mut ConnAckProperties,
) -> Result<bool, DecodeError> {
    match property {
        Property::SessionExpiryInterval => block.once(&mut found.session_expiry, Properties::u32)?,
        Property::ReceiveMaximum => {
            block.once(&mut found.receive_maximum, |block| block.non_zero(Properties::u16))?;
        }
        Property::MaximumQoS => block.once(&mut found.maximum_qos, |block| {
            Ok(if block.flag()? { QoS::AtLeastOnce } else { QoS::AtMostOnce })
        })?,
        Property::RetainAvailable => block.once(&mut found.retain_available, Properties::flag)?,
        Property::MaximumPacketSize => {
            block.once(&mut found.maximum_packet_size, |block| block.non_zero(Properties::u32))?;
        }
        Property::TopicAliasMaximum => block.once(&mut found.topic_alias_maximum, Properties::u16)?,
        Property::WildcardSubscriptionAvailable => {
            block.once(&mut found.wildcard_subscriptions, Properties::flag)?;
        }
        Property::SubscriptionIdentifiersAvailable => {
            block.once(&mut found.subscription_identifiers, Properties::flag)?;
        }
        Property::SharedSubscriptionAvailable => {
            block.once(&mut found.shared_subscriptions, Properties::flag)?;
        }
        Property::ServerKeepAlive => block.once(&mut found.server_keep_alive, Properties::u16)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn read_text(
    block: &mut Properties,
    property: Property,
    found: &mut ConnAckProperties,
) -> Result<(), DecodeError> {
    match property {
        Property::AssignedClientIdentifier => block.once(&mut found.assigned_client_id, Properties::string),
        Property::ReasonString => block.once(&mut found.reason_string, Properties::string),
        Property::User => block.user(&mut found.user),
        Property::ResponseInformation => block.once(&mut found.response_information, Properties::string),
        Property::ServerReference => block.once(&mut found.server_reference, Properties::string),
        Property::AuthenticationMethod => block.once(&mut found.authentication_method, Properties::string),
        Property::AuthenticationData => block.once(&mut found.authentication_data, Properties::binary),
        _ => Err(block.misplaced()),
    }
}

/// A CONNACK as the version at hand writes it.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a ConnAck, pub(crate) Protocol);

impl Encode for Body<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(connack, protocol) = *self;
        let refused = connack.reason != ReasonCode::Success;
        let session_present = connack.session_present && !refused && protocol != Protocol::V31;
        write::u8(sink, u8::from(session_present));
        if protocol == Protocol::V5 {
            write::u8(sink, reason_table::check(PacketType::ConnAck, connack.reason)? as u8);
            return properties::block(sink, &connack.properties);
        }
        let unknown = EncodeError::NotInProtocol { packet: PacketType::ConnAck, protocol };
        write::u8(sink, connack.reason.connack_return_code().ok_or(unknown)?);
        Ok(())
    }
}

impl Encode for ConnAckProperties {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let packet = PacketType::ConnAck;
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(properties::lone_authentication_data(packet));
        }
        if self.maximum_qos == Some(QoS::ExactlyOnce) {
            return Err(EncodeError::Invalid {
                packet,
                field: "maximum QoS",
                fault: "is 2, which is said by leaving it out",
            });
        }
        properties::put_u32(sink, Property::SessionExpiryInterval, self.session_expiry);
        properties::put_u16(sink, Property::ReceiveMaximum, self.receive_maximum.map(Into::into));
        properties::put_u8(sink, Property::MaximumQoS, self.maximum_qos.map(|qos| qos as u8));
        properties::put_flag(sink, Property::RetainAvailable, self.retain_available);
        properties::put_u32(sink, Property::MaximumPacketSize, self.maximum_packet_size.map(Into::into));
        properties::put_string(sink, Property::AssignedClientIdentifier, self.assigned_client_id.as_ref())?;
        properties::put_u16(sink, Property::TopicAliasMaximum, self.topic_alias_maximum);
        properties::put_string(sink, Property::ReasonString, self.reason_string.as_ref())?;
        properties::put_user(sink, &self.user)?;
        properties::put_flag(sink, Property::WildcardSubscriptionAvailable, self.wildcard_subscriptions);
        properties::put_flag(sink, Property::SubscriptionIdentifiersAvailable, self.subscription_identifiers);
        properties::put_flag(sink, Property::SharedSubscriptionAvailable, self.shared_subscriptions);
        properties::put_u16(sink, Property::ServerKeepAlive, self.server_keep_alive);
        properties::put_string(sink, Property::ResponseInformation, self.response_information.as_ref())?;
        properties::put_string(sink, Property::ServerReference, self.server_reference.as_ref())?;
        properties::put_string(sink, Property::AuthenticationMethod, self.authentication_method.as_ref())?;
        properties::put_binary(sink, Property::AuthenticationData, self.authentication_data.as_ref())
    }
}
