//! MQTT bytes to packets and back, for 3.1, 3.1.1 and 5.0: strict, zero-copy, pure.
//!
//! Every byte from outside is checked here, once; what leaves this crate as a type is valid.
//! It knows nothing of sockets, sessions or time. Start at [`Packet`].

mod packet;
mod reason;
mod topic;

pub use packet::*;
pub use reason::ReasonCode;
pub use topic::{FilterParts, ShareName, TopicError, TopicFilter, TopicName};
