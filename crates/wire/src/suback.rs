//! SUBACK and UNSUBACK (sections 3.9 and 3.11).
//!
//! Start at [`read`] and [`Body`].

use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{
    DecodeError, EncodeError, PacketType, Protocol, ReasonCode, ReasonProperties, SubAck, ack, properties,
    reason_table,
};

/// The one failure that 3.1.1 has; 3.1 has none and is told the same.
const FAILURE: u8 = 0x80;

pub(crate) fn read(mut reader: Reader) -> Result<SubAck, DecodeError> {
    let packet_id = reader.packet_id()?;
    let properties = if reader.is_v5() { ack::read_reason_properties(reader.properties()?)? } else { None };
    let mut reasons = Vec::new();
    if !reader.is_v5() && reader.context().packet == PacketType::UnsubAck {
        reader.finish()?;
        return Ok(SubAck { packet_id, reasons, properties });
    }
    while !reader.is_empty() {
        reasons.push(read_reason(&mut reader)?);
    }
    if reasons.is_empty() {
        return Err(reader.protocol_error("list of reason codes", "is empty"));
    }
    Ok(SubAck { packet_id, reasons, properties })
}

fn read_reason(reader: &mut Reader) -> Result<ReasonCode, DecodeError> {
    let reason = reader.reason()?;
    // MQTT 3.1.1, MQTT-3.9.3-2: only 0, 1, 2 and 0x80.
    if !reader.is_v5() && reason.is_error() && reason as u8 != FAILURE {
        return Err(reader.malformed("return code", "is not defined"));
    }
    Ok(reason)
}

/// A SUBACK or UNSUBACK as the version at hand writes it.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a SubAck, pub(crate) PacketType, pub(crate) Protocol);

impl Encode for Body<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(suback, packet, protocol) = *self;
        write::u16(sink, suback.packet_id.get());
        let v5 = protocol == Protocol::V5;
        if packet == PacketType::UnsubAck && !v5 {
            return Ok(());
        }
        if suback.reasons.is_empty() {
            return Err(EncodeError::Invalid { packet, field: "list of reason codes", fault: "is empty" });
        }
        match suback.properties.as_deref() {
            Some(found) if v5 => properties::block(sink, found)?,
            None if v5 => properties::block(sink, &ReasonProperties::default())?,
            _ => {}
        }
        for reason in &suback.reasons {
            let reason = reason_table::check(packet, *reason)?;
            write::u8(sink, if reason.is_error() && !v5 { FAILURE } else { reason as u8 });
        }
        Ok(())
    }
}
