//! Reads fields off the front of one packet's body; strings and payloads stay slices of it.
//!
//! Knows the data types of MQTT 5.0 section 1.5 and no packet. Start at [`Reader`].

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use crate::{
    DecodeError, PacketId, PacketType, Protocol, ReasonCode, Role, TopicError, TopicFilter, TopicName, varint,
};

/// What decides how a body is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) packet: PacketType,
    pub(crate) protocol: Protocol,
    pub(crate) role: Role,
    pub(crate) strict_utf8: bool,
}

/// The rest of a body that is not yet read.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
    context: Context,
}

impl Reader {
    pub(crate) fn new(body: Bytes, context: Context) -> Self {
        Self { rest: body, context }
    }

    pub(crate) fn context(&self) -> Context {
        self.context
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.context.protocol == Protocol::V5
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| self.cut_short(field))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.rest.try_get_u16().map_err(|_| self.cut_short(field))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.rest.try_get_u32().map_err(|_| self.cut_short(field))
    }

    pub(crate) fn varint(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match varint::read(&self.rest) {
            Ok(Some(read)) => {
                self.rest.advance(read.width);
                Ok(read.value)
            }
            Ok(None) => Err(self.cut_short(field)),
            Err(fault) => Err(self.malformed(field, fault)),
        }
    }

    /// Binary data (section 1.5.6).
    pub(crate) fn binary(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let len = usize::from(self.u16(field)?);
        self.slice(len, field)
    }

    /// A UTF-8 string (section 1.5.4).
    pub(crate) fn string(&mut self, field: &'static str) -> Result<ByteString, DecodeError> {
        let text = self.utf8(field)?;
        if text.as_bytes().contains(&0) {
            return Err(self.malformed(field, "holds U+0000"));
        }
        Ok(text)
    }

    /// A string whose U+0000 the caller finds, so that topics are scanned once.
    pub(crate) fn utf8(&mut self, field: &'static str) -> Result<ByteString, DecodeError> {
        let bytes = self.binary(field)?;
        let text = ByteString::try_from(bytes).map_err(|_| self.malformed(field, "is not UTF-8"))?;
        if self.context.strict_utf8 && text.chars().any(is_discouraged) {
            return Err(self.malformed(field, "holds a control character or a non-character"));
        }
        Ok(text)
    }

    /// A packet identifier (section 2.2.1).
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        let id = self.u16("packet identifier")?;
        PacketId::new(id).ok_or_else(|| self.protocol_error("packet identifier", "is zero"))
    }

    /// A topic name with at least one character.
    pub(crate) fn topic_name(&mut self, field: &'static str) -> Result<TopicName, DecodeError> {
        let text = self.utf8(field)?;
        self.name_of(text, field)
    }

    /// A topic name of a string that was read before.
    pub(crate) fn name_of(&self, text: ByteString, field: &'static str) -> Result<TopicName, DecodeError> {
        TopicName::new(text).map_err(|error| self.bad_topic(ReasonCode::TopicNameInvalid, field, error))
    }

    /// A topic filter.
    pub(crate) fn topic_filter(&mut self) -> Result<TopicFilter, DecodeError> {
        let field = "topic filter";
        let text = self.utf8(field)?;
        TopicFilter::new(text).map_err(|error| self.bad_topic(ReasonCode::TopicFilterInvalid, field, error))
    }

    /// The next `len` bytes.
    pub(crate) fn slice(&mut self, len: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        if len > self.rest.len() {
            return Err(self.cut_short(field));
        }
        Ok(self.rest.split_to(len))
    }

    /// Everything that is left.
    pub(crate) fn into_rest(self) -> Bytes {
        self.rest
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("body", "goes on behind its last field"))
        }
    }

    /// The packet cannot be parsed: reason 0x81.
    pub(crate) fn malformed(&self, field: &'static str, fault: &'static str) -> DecodeError {
        self.refused(ReasonCode::MalformedPacket, field, fault)
    }

    /// The packet can be parsed and says what is not allowed: reason 0x82.
    pub(crate) fn protocol_error(&self, field: &'static str, fault: &'static str) -> DecodeError {
        self.refused(ReasonCode::ProtocolError, field, fault)
    }

    pub(crate) fn refused(
        &self,
        reason: ReasonCode,
        field: &'static str,
        fault: &'static str,
    ) -> DecodeError {
        DecodeError::Body { reason, packet: self.context.packet, field, fault }
    }

    fn cut_short(&self, field: &'static str) -> DecodeError {
        self.malformed(field, "runs over the end of its packet")
    }

    fn bad_topic(&self, reason: ReasonCode, field: &'static str, error: TopicError) -> DecodeError {
        let fault = match error {
            // MQTT-1.5.4-2: this is no string at all, whatever it is used for.
            TopicError::Nul => return self.malformed(field, "holds U+0000"),
            TopicError::Empty => "is empty",
            TopicError::TooLong => "is too long",
            TopicError::WildcardInName => "holds a wildcard",
            TopicError::MisplacedWildcard => {
                "has a wildcard that does not fill its level, or # before the end"
            }
            TopicError::BadShare => "does not read $share/name/filter",
            TopicError::BadExclusive => "does not read $exclusive/filter",
        };
        self.refused(reason, field, fault)
    }
}

/// What section 1.5.4 says a string should not hold: control characters and non-characters.
fn is_discouraged(char: char) -> bool {
    let code = u32::from(char);
    matches!(code, 0x01..=0x1f | 0x7f..=0x9f | 0xfdd0..=0xfdef) || code & 0xfffe == 0xfffe
}
