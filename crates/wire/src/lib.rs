//! MQTT bytes to packets and back, for 3.1, 3.1.1 and 5.0: strict, zero-copy, pure.
//!
//! Every byte from outside is checked here, once; what leaves this crate as a type is valid.
//! It knows nothing of sockets, sessions or time. Start at [`Packet`], then [`Decoder`] and [`encode()`].

// What a stranger sends must not be able to panic or to be cut to size.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::string_slice, clippy::cast_possible_truncation)
)]

mod ack;
mod auth;
mod connack;
mod connect;
mod decoder;
mod disconnect;
mod encode;
mod error;
mod packet;
mod packet_type;
mod properties;
mod publish;
mod publish_frame;
mod read;
mod reason;
mod reason_table;
mod suback;
mod subscribe;
mod topic;
mod varint;
mod write;

pub use decoder::{CONNECT_LIMIT, Decoder, Role};
pub use encode::{encode, encode_within, encoded_len};
pub use error::{DecodeError, EncodeError};
pub use packet::*;
pub use packet_type::PacketType;
pub use publish_frame::{LARGE_PAYLOAD, PublishFrame, SolePublish};
pub use reason::ReasonCode;
pub use topic::{FilterParts, ShareName, TopicError, TopicFilter, TopicName};
pub use varint::MAX as MAX_REMAINING_LENGTH;
