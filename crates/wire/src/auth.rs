//! AUTH (section 3.15): enhanced authentication, 5.0 only.
//!
//! Whose turn it is and with which method is for the session to check. Start at [`read`] and [`Body`].

use crate::properties::{self, Properties, Property};
use crate::read::Reader;
use crate::write::{self, Encode, Sink};
use crate::{Auth, DecodeError, EncodeError, PacketType, Protocol, ReasonCode, reason_table};

pub(crate) fn read(mut reader: Reader) -> Result<Auth, DecodeError> {
    let mut auth =
        Auth { reason: ReasonCode::Success, method: None, data: None, reason_string: None, user: Vec::new() };
    if reader.is_empty() {
        return Ok(auth); // Section 3.15.2.1: Success without properties.
    }
    auth.reason = reader.reason()?;
    let mut block = reader.properties()?;
    while let Some(property) = block.next()? {
        match property {
            Property::AuthenticationMethod => block.once(&mut auth.method, Properties::string)?,
            Property::AuthenticationData => block.once(&mut auth.data, Properties::binary)?,
            Property::ReasonString => block.once(&mut auth.reason_string, Properties::string)?,
            Property::User => block.user(&mut auth.user)?,
            _ => return Err(block.misplaced()),
        }
    }
    if auth.method.is_none() && !auth.is_bare() {
        return Err(reader.protocol_error("authentication method", "is missing")); // Section 3.15.2.2.2
    }
    reader.finish()?;
    Ok(auth)
}

impl Auth {
    /// Can be said in two bytes.
    fn is_bare(&self) -> bool {
        let Self { reason, method, data, reason_string, user } = self;
        *reason == ReasonCode::Success
            && method.is_none()
            && data.is_none()
            && reason_string.is_none()
            && user.is_empty()
    }
}

/// An AUTH as the version at hand writes it: only 5.0 has it.
#[derive(Debug)]
pub(crate) struct Body<'a>(pub(crate) &'a Auth, pub(crate) Protocol);

impl Encode for Body<'_> {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let Self(auth, protocol) = *self;
        let packet = PacketType::Auth;
        if protocol != Protocol::V5 {
            return Err(EncodeError::NotInProtocol { packet, protocol });
        }
        if auth.is_bare() {
            return Ok(());
        }
        if auth.method.is_none() {
            return Err(EncodeError::Invalid { packet, field: "authentication method", fault: "is missing" });
        }
        write::u8(sink, reason_table::check(packet, auth.reason)? as u8);
        properties::block(sink, auth)
    }
}

/// The properties of an AUTH.
impl Encode for Auth {
    fn put<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        properties::put_string(sink, Property::AuthenticationMethod, self.method.as_ref())?;
        properties::put_binary(sink, Property::AuthenticationData, self.data.as_ref())?;
        properties::put_string(sink, Property::ReasonString, self.reason_string.as_ref())?;
        properties::put_user(sink, &self.user)
    }
}
