//! The properties of 5.0 (section 2.2.2): their identifiers, and how a block of them is read and written.
//!
//! Which packet takes which is said in the packets' own files. Start at [`Properties::next`] to read and at
//! [`block`] to write.

use bytes::Bytes;
use bytestring::ByteString;

use crate::read::{Context, Reader};
use crate::write::{self, Encode, Sink};
use crate::{DecodeError, EncodeError, PacketType, ReasonCode, UserProperties};

macro_rules! properties {
    ($($variant:ident = $byte:literal, $name:literal;)*) => {
        /// A property identifier; the number is its byte on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Property { $($variant = $byte),* }

        impl Property {
            fn from_id(id: u32) -> Option<Self> {
                match id { $($byte => Some(Self::$variant),)* _ => None }
            }

            /// Its name as the specification writes it.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

properties! {
    PayloadFormatIndicator = 0x01, "payload format indicator";
    MessageExpiryInterval = 0x02, "message expiry interval";
    ContentType = 0x03, "content type";
    ResponseTopic = 0x08, "response topic";
    CorrelationData = 0x09, "correlation data";
    SubscriptionIdentifier = 0x0b, "subscription identifier";
    SessionExpiryInterval = 0x11, "session expiry interval";
    AssignedClientIdentifier = 0x12, "assigned client identifier";
    ServerKeepAlive = 0x13, "server keep alive";
    AuthenticationMethod = 0x15, "authentication method";
    AuthenticationData = 0x16, "authentication data";
    RequestProblemInformation = 0x17, "request problem information";
    WillDelayInterval = 0x18, "will delay interval";
    RequestResponseInformation = 0x19, "request response information";
    ResponseInformation = 0x1a, "response information";
    ServerReference = 0x1c, "server reference";
    ReasonString = 0x1f, "reason string";
    ReceiveMaximum = 0x21, "receive maximum";
    TopicAliasMaximum = 0x22, "topic alias maximum";
    TopicAlias = 0x23, "topic alias";
    MaximumQoS = 0x24, "maximum QoS";
    RetainAvailable = 0x25, "retain available";
    User = 0x26, "user property";
    MaximumPacketSize = 0x27, "maximum packet size";
    WildcardSubscriptionAvailable = 0x28, "wildcard subscription available";
    SubscriptionIdentifiersAvailable = 0x29, "subscription identifiers available";
    SharedSubscriptionAvailable = 0x2a, "shared subscription available";
}

/// A block of properties that is being read. A value cannot run over the end of its block.
#[derive(Debug)]
pub(crate) struct Properties {
    reader: Reader,
    current: Property,
}

impl Reader {
    /// Takes the property length and as many bytes off the front.
    pub(crate) fn properties(&mut self) -> Result<Properties, DecodeError> {
        let len = self.varint("property length")? as usize;
        let block = self.slice(len, "properties")?;
        Ok(Properties { reader: Reader::new(block, self.context()), current: Property::User })
    }
}

impl Properties {
    /// The identifier of the next property, whose value must be read before the next call.
    pub(crate) fn next(&mut self) -> Result<Option<Property>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.varint("property identifier")?;
        let unknown = || self.reader.malformed("property identifier", "is not defined");
        self.current = Property::from_id(id).ok_or_else(unknown)?;
        Ok(Some(self.current))
    }

    pub(crate) fn context(&self) -> Context {
        self.reader.context()
    }

    /// Reads into a slot that must still be empty (section 2.2.2.2: no property twice).
    pub(crate) fn once<T>(
        &mut self,
        slot: &mut Option<T>,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<(), DecodeError> {
        if slot.is_some() {
            return Err(self.protocol_error("is there twice"));
        }
        *slot = Some(read(self)?);
        Ok(())
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.reader.u8(self.current.name())? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.protocol_error("is neither 0 nor 1")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.reader.u16(self.current.name())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.reader.u32(self.current.name())
    }

    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        self.reader.varint(self.current.name())
    }

    /// A number that must not be zero: [`u16`](Self::u16), [`u32`](Self::u32) or [`varint`](Self::varint) made so.
    pub(crate) fn non_zero<N, Z: TryFrom<N>>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<N, DecodeError>,
    ) -> Result<Z, DecodeError> {
        let value = read(self)?;
        Z::try_from(value).map_err(|_| self.protocol_error("is zero"))
    }

    pub(crate) fn string(&mut self) -> Result<ByteString, DecodeError> {
        self.reader.string(self.current.name())
    }

    pub(crate) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        self.reader.binary(self.current.name())
    }

    /// A name and a value, appended: this property may be there many times.
    pub(crate) fn user(&mut self, list: &mut UserProperties) -> Result<(), DecodeError> {
        let name = self.reader.string("user property name")?;
        let value = self.reader.string("user property value")?;
        list.push((name, value));
        Ok(())
    }

    /// The current property is not one of this packet's (section 2.2.2.2): malformed.
    pub(crate) fn misplaced(&self) -> DecodeError {
        self.reader.malformed(self.current.name(), "does not belong into this packet")
    }

    /// The current property says what is not allowed: reason 0x82.
    pub(crate) fn protocol_error(&self, fault: &'static str) -> DecodeError {
        self.reader.protocol_error(self.current.name(), fault)
    }

    /// Authentication data without a method (sections 3.1.2.11.10 and 3.2.2.3.18).
    pub(crate) fn lone_authentication_data(&self) -> DecodeError {
        self.reader.protocol_error("authentication data", "comes without a method")
    }

    /// The current property is refused with a reason of its own.
    pub(crate) fn refused(&self, reason: ReasonCode, fault: &'static str) -> DecodeError {
        self.reader.refused(reason, self.current.name(), fault)
    }
}

/// Writes the property length and the properties.
pub(crate) fn block<S: Sink>(sink: &mut S, properties: &impl Encode) -> Result<(), EncodeError> {
    write::length(sink, properties.measure()?)?;
    properties.put(sink)
}

pub(crate) fn put_flag<S: Sink>(sink: &mut S, property: Property, value: Option<bool>) {
    put_u8(sink, property, value.map(u8::from));
}

pub(crate) fn put_u8<S: Sink>(sink: &mut S, property: Property, value: Option<u8>) {
    if let Some(value) = value {
        sink.put(&[property as u8, value]);
    }
}

pub(crate) fn put_u16<S: Sink>(sink: &mut S, property: Property, value: Option<u16>) {
    if let Some(value) = value {
        write::u8(sink, property as u8);
        write::u16(sink, value);
    }
}

pub(crate) fn put_u32<S: Sink>(sink: &mut S, property: Property, value: Option<u32>) {
    if let Some(value) = value {
        write::u8(sink, property as u8);
        write::u32(sink, value);
    }
}

pub(crate) fn put_string<S: Sink>(
    sink: &mut S,
    property: Property,
    value: Option<&ByteString>,
) -> Result<(), EncodeError> {
    let Some(value) = value else { return Ok(()) };
    write::u8(sink, property as u8);
    write::string(sink, property.name(), value)
}

pub(crate) fn put_binary<S: Sink>(
    sink: &mut S,
    property: Property,
    value: Option<&Bytes>,
) -> Result<(), EncodeError> {
    let Some(value) = value else { return Ok(()) };
    write::u8(sink, property as u8);
    write::field(sink, property.name(), value)
}

pub(crate) fn put_user<S: Sink>(sink: &mut S, list: &UserProperties) -> Result<(), EncodeError> {
    for (name, value) in list {
        write::u8(sink, Property::User as u8);
        write::string(sink, "user property name", name)?;
        write::string(sink, "user property value", value)?;
    }
    Ok(())
}

/// Authentication data without a method.
pub(crate) fn lone_authentication_data(packet: PacketType) -> EncodeError {
    EncodeError::Invalid { packet, field: "authentication data", fault: "comes without a method" }
}
