//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7), which look alike, and the reason string and
//! user properties that acknowledgements share.
//!
//! Start at [`Ack::read`] and [`Body`].

use crate::properties::{self, Properties, Property};
use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{
    Ack, DecodeError, EncodeError, PacketType, Protocol, ReasonCode, ReasonProperties, reason_table,
};

impl Ack {
    pub(crate) fn read(mut reader: Reader) -> Result<Self, DecodeError> {
        let mut ack = Self::success(reader.packet_id()?);
        if reader.is_v5() {
            // Section 3.4.2: the reason may be left out if it is 0, the property length if it is 0.
            if !reader.is_empty() {
                ack.reason = reader.reason()?;
            }
            if !reader.is_empty() {
                ack.properties = read_reason_properties(reader.properties()?)?;
            }
        }
        reader.finish()?;
        Ok(ack)
    }
}

/// Reason string and user properties and nothing else.
pub(crate) fn read_reason_properties(
    mut block: Properties,
) -> Result<Option<Box<ReasonProperties>>, DecodeError> {
    let mut found: Option<Box<ReasonProperties>> = None;
    while let Some(property) = block.next()? {
        let found = found.get_or_insert_with(Box::default);
        match property {
            Property::ReasonString => block.once(&mut found.reason_string, Properties::string)?,
            Property::User => block.user(&mut found.user)?,
            _ => return Err(block.misplaced()),
        }
    }
    Ok(found)
}

/// An acknowledgement as the version at hand writes it. 3.x cannot refuse: it gets the bare packet.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a Ack, pub(crate) PacketType, pub(crate) Protocol);

impl Encode for Body<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(ack, packet, protocol) = *self;
        write::u16(sink, ack.packet_id.get());
        let reason = reason_table::check(packet, ack.reason)?;
        let properties = ack.properties.as_deref();
        if protocol != Protocol::V5 || (reason == ReasonCode::Success && properties.is_none()) {
            return Ok(());
        }
        write::u8(sink, reason as u8);
        properties.map_or(Ok(()), |properties| properties::block(sink, properties))
    }
}

impl Encode for ReasonProperties {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_string(sink, Property::ReasonString, self.reason_string.as_ref())?;
        properties::put_user(sink, &self.user)
    }
}
