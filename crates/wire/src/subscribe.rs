//! SUBSCRIBE and UNSUBSCRIBE (sections 3.8 and 3.10).
//!
//! Start at [`read_subscribe`] and [`SubscribeBody`].

use std::num::NonZeroU32;

use crate::properties::{self, Properties, Property};
use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{
    DecodeError, EncodeError, PacketType, Protocol, QoS, RetainHandling, Subscribe, SubscribeFilter,
    SubscribeOptions, Unsubscribe, UserProperties, varint,
};

const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;

pub(crate) fn read_subscribe(mut reader: Reader) -> Result<Subscribe, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut subscription_id: Option<NonZeroU32> = None;
    let mut user = UserProperties::new();
    if reader.is_v5() {
        let mut block = reader.properties()?;
        while let Some(property) = block.next()? {
            match property {
                Property::SubscriptionIdentifier => {
                    block.once(&mut subscription_id, |block| block.non_zero(Properties::varint))?;
                }
                Property::User => block.user(&mut user)?,
                _ => return Err(block.misplaced()),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.topic_filter()?;
        let options = read_options(&mut reader)?;
        if options.no_local && filter.is_shared() {
            return Err(reader.protocol_error("no local", "is set on a shared subscription")); // MQTT-3.8.3-4
        }
        filters.push(SubscribeFilter { filter, options });
    }
    if filters.is_empty() {
        return Err(reader.protocol_error("filter list", "is empty")); // MQTT-3.8.3-2
    }
    Ok(Subscribe { packet_id, subscription_id, user, filters })
}

fn read_options(reader: &mut Reader) -> Result<SubscribeOptions, DecodeError> {
    let field = "subscription options";
    let byte = reader.u8(field)?;
    let reserved = if reader.is_v5() { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        return Err(reader.malformed(field, "have a reserved bit set")); // MQTT-3.8.3-5
    }
    let retain_handling = match byte >> RETAIN_HANDLING_SHIFT {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(reader.protocol_error(field, "ask for retain handling 3")),
    };
    Ok(SubscribeOptions {
        qos: QoS::from_bits(byte).ok_or_else(|| reader.protocol_error(field, "ask for QoS 3"))?,
        no_local: byte & NO_LOCAL != 0,
        retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
        retain_handling,
    })
}

pub(crate) fn read_unsubscribe(mut reader: Reader) -> Result<Unsubscribe, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut user = UserProperties::new();
    if reader.is_v5() {
        let mut block = reader.properties()?;
        while let Some(property) = block.next()? {
            match property {
                Property::User => block.user(&mut user)?,
                _ => return Err(block.misplaced()),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.topic_filter()?);
    }
    if filters.is_empty() {
        return Err(reader.protocol_error("filter list", "is empty")); // MQTT-3.10.3-2
    }
    Ok(Unsubscribe { packet_id, user, filters })
}

/// A SUBSCRIBE as the version at hand writes it: 3.x has only the QoS of the options.
#[derive(Debug)]
pub(crate) struct SubscribeBody<'a>(pub(crate) &'a Subscribe, pub(crate) Protocol);

impl Encode for SubscribeBody<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(subscribe, protocol) = *self;
        subscribe.check()?;
        write::u16(sink, subscribe.packet_id.get());
        if protocol == Protocol::V5 {
            properties::block(sink, subscribe)?;
        }
        for SubscribeFilter { filter, options } in &subscribe.filters {
            write::field(sink, "topic filter", filter.as_str().as_bytes())?;
            write::u8(sink, if protocol == Protocol::V5 { options.byte() } else { options.qos as u8 });
        }
        Ok(())
    }
}

impl Subscribe {
    fn check(&self) -> Result<(), EncodeError> {
        let invalid =
            |field, fault| Err(EncodeError::Invalid { packet: PacketType::Subscribe, field, fault });
        if self.filters.is_empty() {
            return invalid("filter list", "is empty");
        }
        if self.subscription_id.is_some_and(|id| id.get() > varint::MAX) {
            return invalid("subscription identifier", "is larger than 268435455");
        }
        if self.filters.iter().any(|line| line.options.no_local && line.filter.is_shared()) {
            return invalid("no local", "is set on a shared subscription");
        }
        Ok(())
    }
}

impl SubscribeOptions {
    fn byte(self) -> u8 {
        let mut byte = self.qos as u8 | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        if self.no_local {
            byte |= NO_LOCAL;
        }
        if self.retain_as_published {
            byte |= RETAIN_AS_PUBLISHED;
        }
        byte
    }
}

/// The properties of a SUBSCRIBE.
impl Encode for Subscribe {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        if let Some(id) = self.subscription_id {
            write::u8(sink, Property::SubscriptionIdentifier as u8);
            write::varint(sink, id.get());
        }
        properties::put_user(sink, &self.user)
    }
}

/// An UNSUBSCRIBE as the version at hand writes it.
#[derive(Debug)]
pub(crate) struct UnsubscribeBody<'a>(pub(crate) &'a Unsubscribe, pub(crate) Protocol);

impl Encode for UnsubscribeBody<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(unsubscribe, protocol) = *self;
        if unsubscribe.filters.is_empty() {
            let packet = PacketType::Unsubscribe;
            return Err(EncodeError::Invalid { packet, field: "filter list", fault: "is empty" });
        }
        write::u16(sink, unsubscribe.packet_id.get());
        if protocol == Protocol::V5 {
            properties::block(sink, unsubscribe)?;
        }
        unsubscribe
            .filters
            .iter()
            .try_for_each(|filter| write::field(sink, "topic filter", filter.as_str().as_bytes()))
    }
}

/// The properties of an UNSUBSCRIBE.
impl Encode for Unsubscribe {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_user(sink, &self.user)
    }
}
