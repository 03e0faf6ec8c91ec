//! What can be wrong with bytes that came, and with packets that are to go.
//!
//! Knows no sockets: what follows from an error (an answer, a close) is the caller's business.
//! Start at [`DecodeError::reason`].

use thiserror::Error;

use crate::{PacketType, Protocol, ReasonCode};

/// Why bytes are no packet. The connection cannot go on after it: where the next packet would start is
/// not known. The answer, if one can be given, carries [`DecodeError::reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The fixed header already says that this cannot be; the body was not waited for.
    #[error("first byte 0x{first:02x}: {fault}")]
    Header {
        /// What to answer.
        reason: ReasonCode,
        /// The first byte of the packet.
        first: u8,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Larger than this side takes, by its header; the body was not waited for.
    #[error("a packet of {size} bytes where at most {limit} are taken")]
    TooLarge {
        /// Bytes of the whole packet, fixed header included.
        size: usize,
        /// Bytes that are taken.
        limit: usize,
    },
    /// A CONNECT for a protocol that is not spoken here (section 3.1.2.2).
    #[error("CONNECT: protocol level {level} under that protocol name is not spoken here")]
    UnsupportedProtocol {
        /// The level that was asked for.
        level: u8,
    },
    /// A whole packet that breaks a rule.
    #[error("{packet}: {field} {fault}")]
    Body {
        /// What to answer.
        reason: ReasonCode,
        /// In which packet.
        packet: PacketType,
        /// In which part of it.
        field: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl DecodeError {
    /// The reason code for the CONNACK (before it) or DISCONNECT (after it) that answers.
    ///
    /// A 3.x client is told only what its CONNACK has a code for; [`encode`](crate::encode()) refuses the others.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match *self {
            Self::Header { reason, .. } | Self::Body { reason, .. } => reason,
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedProtocol { .. } => ReasonCode::UnsupportedProtocolVersion,
        }
    }
}

/// Why a packet cannot be written. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field does not fit its two-byte length. Shorten it.
    #[error("{field} has {len} bytes, at most 65535 fit")]
    FieldTooLong {
        /// Which one.
        field: &'static str,
        /// Its bytes.
        len: usize,
    },
    /// A string holds U+0000, which no MQTT string may. Leave it out or close.
    #[error("{field} holds U+0000")]
    FieldHoldsNul {
        /// Which one.
        field: &'static str,
    },
    /// The packet is larger than the receiver (or the protocol) takes. Drop it or close.
    #[error("a packet of {size} bytes where at most {limit} may be sent")]
    PacketTooLarge {
        /// Bytes of the whole packet, fixed header included.
        size: usize,
        /// Bytes that may be sent.
        limit: usize,
    },
    /// The protocol version has no way to say this. Say nothing, or close.
    #[error("{packet} cannot say this in {protocol:?}")]
    NotInProtocol {
        /// The packet.
        packet: PacketType,
        /// The version it was to be written for.
        protocol: Protocol,
    },
    /// The packet breaks a rule of the specification: a fault of the code that made it.
    #[error("{packet}: {field} {fault}")]
    Invalid {
        /// Which packet.
        packet: PacketType,
        /// Which part of it.
        field: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
}
