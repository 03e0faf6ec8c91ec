//! DISCONNECT (section 3.14).
//!
//! Start at [`read`] and [`Body`].

use crate::properties::{self, Properties, Property};
use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{DecodeError, Disconnect, EncodeError, PacketType, Protocol, ReasonCode, Role, reason_table};

pub(crate) fn read(mut reader: Reader) -> Result<Disconnect, DecodeError> {
    let mut disconnect = Disconnect::because(ReasonCode::Success);
    if reader.is_v5() {
        // Sections 3.14.2.1 and 3.14.2.2.1: what is left out is 0.
        if !reader.is_empty() {
            disconnect.reason = reader.reason()?;
        }
        if !reader.is_empty() {
            read_properties(reader.properties()?, &mut disconnect)?;
        }
    }
    reader.finish()?;
    Ok(disconnect)
}

fn read_properties(mut block: Properties, found: &mut Disconnect) -> Result<(), DecodeError> {
    while let Some(property) = block.next()? {
        match (property, block.context().role) {
            // MQTT-3.14.2-2
            (Property::SessionExpiryInterval, Role::Client) => {
                return Err(block.protocol_error("comes from a server"));
            }
            (Property::SessionExpiryInterval, Role::Server) => {
                block.once(&mut found.session_expiry, Properties::u32)?;
            }
            (Property::ServerReference, Role::Server) => {
                return Err(block.protocol_error("comes from a client"));
            }
            (Property::ServerReference, Role::Client) => {
                block.once(&mut found.server_reference, Properties::string)?;
            }
            (Property::ReasonString, _) => block.once(&mut found.reason_string, Properties::string)?,
            (Property::User, _) => block.user(&mut found.user)?,
            _ => return Err(block.misplaced()),
        }
    }
    Ok(())
}

/// A DISCONNECT as the version at hand writes it: 3.x knows only the client's good-bye.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a Disconnect, pub(crate) Protocol);

impl Encode for Body<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(disconnect, protocol) = *self;
        let packet = PacketType::Disconnect;
        let reason = reason_table::check(packet, disconnect.reason)?;
        if protocol != Protocol::V5 {
            let good_bye = reason == ReasonCode::Success;
            return if good_bye { Ok(()) } else { Err(EncodeError::NotInProtocol { packet, protocol }) };
        }
        let bare = disconnect.measure()? == 0;
        if bare && reason == ReasonCode::Success {
            return Ok(());
        }
        write::u8(sink, reason as u8);
        if bare { Ok(()) } else { properties::block(sink, disconnect) }
    }
}

/// The properties of a DISCONNECT.
impl Encode for Disconnect {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_u32(sink, Property::SessionExpiryInterval, self.session_expiry);
        properties::put_string(sink, Property::ReasonString, self.reason_string.as_ref())?;
        properties::put_user(sink, &self.user)?;
        properties::put_string(sink, Property::ServerReference, self.server_reference.as_ref())
    }
}
