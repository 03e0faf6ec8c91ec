//! What this server allows a client, and tells a 5.0 client in CONNACK.
//!
//! Knows no configuration file. Start at [`Limits`].

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use zwerm_wire::QoS;

/// The largest packet that MQTT can express: fixed header and 268,435,455 bytes (section 2.1.4).
const LARGEST_PACKET: u32 = 5 + 268_435_455;

/// The limits of one session, fixed when its connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time from the opening of the link to the CONNECT.
    pub connect_timeout: Duration,
    /// Longest keep alive in seconds; a 5.0 client that asks for more (or for none) gets this one as Server
    /// Keep Alive (section 3.2.2.3.14). A 3.x client cannot be told and keeps its own.
    pub keep_alive_maximum: Option<NonZeroU16>,
    /// QoS 1 and 2 messages taken from a 5.0 client before they are acknowledged (section 3.2.2.3.3).
    pub receive_maximum: NonZeroU16,
    /// Topic aliases a client may use; 0 is none (section 3.2.2.3.8).
    pub topic_alias_maximum: u16,
    /// Topic aliases used towards a client, whatever more it offers: they cost memory here.
    pub topic_alias_out_maximum: u16,
    /// Largest packet in bytes taken from a client. Only stated here; the decoder enforces it.
    pub max_packet_size: u32,
    /// Highest quality of service taken from a client and granted to it.
    pub max_qos: QoS,
    /// Whether retained messages are taken.
    pub retain_available: bool,
    /// Whether a will that says that it is text must be UTF-8 (section 3.1.3.2.3).
    pub validate_payload_format: bool,
    /// Whether filters may hold wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether filters may be shared.
    pub shared_subscriptions: bool,
    /// Whether filters may be exclusive (`$exclusive/...`). CONNACK has no word for it.
    pub exclusive_subscriptions: bool,
    /// Whether subscriptions may have identifiers.
    pub subscription_identifiers: bool,
    /// Longest time in seconds that a session outlives its connection; `u32::MAX` is for ever. It is also
    /// what a 3.x client with Clean Session 0 gets, for it has no way to ask for less.
    pub session_expiry_maximum: u32,
    /// QoS 1 and 2 messages sent before they are acknowledged, whatever more the client takes.
    pub max_inflight: NonZeroU16,
    /// Whether a client without an id gets one assigned (never in 3.1, and only with Clean Session 1 in 3.1.1).
    pub allow_zero_length_client_id: bool,
}

impl Limits {
    /// The limit as CONNACK states it; `None` when no packet can exceed it.
    pub(crate) fn stated_packet_size(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.max_packet_size).filter(|size| size.get() < LARGEST_PACKET)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            keep_alive_maximum: None,
            receive_maximum: NonZeroU16::MIN.saturating_add(1023),
            topic_alias_maximum: 32,
            topic_alias_out_maximum: 32,
            max_packet_size: 1024 * 1024,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            validate_payload_format: false,
            wildcard_subscriptions: true,
            shared_subscriptions: true,
            exclusive_subscriptions: true,
            subscription_identifiers: true,
            session_expiry_maximum: u32::MAX,
            max_inflight: NonZeroU16::MIN.saturating_add(1023),
            allow_zero_length_client_id: true,
        }
    }
}
