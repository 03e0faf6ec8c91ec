//! What a client is: its protocol, what it subscribes to and publishes, and its habits.
//!
//! Start at [`Plan`].

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use zwerm_oracle::RetainedRead;
use zwerm_wire::{Protocol, QoS};

/// Milliseconds: at least, and less than.
pub(crate) type Span = (u64, u64);

/// Everything that is decided about a client before it begins.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    pub(crate) clean: bool,
    /// Seconds; 0: its sessions are transient.
    pub(crate) expiry_s: u32,
    pub(crate) begins_within_ms: u64,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) publishing: Option<Publishing>,
    pub(crate) will_delay_s: Option<u32>,
    pub(crate) habit: Habit,
}

/// What it wants to be subscribed to.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) filter: Arc<str>,
    pub(crate) qos: QoS,
    pub(crate) retained: RetainedRead,
}

impl Wish {
    /// One client has it at a time: it may stay a wish.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.filter.starts_with("$exclusive/")
    }
}

/// What it publishes.
#[derive(Debug, Clone)]
pub(crate) struct Publishing {
    pub(crate) topics: Vec<&'static str>,
    pub(crate) qos: Vec<QoS>,
    pub(crate) every_ms: Span,
    pub(crate) retain_percent: u64,
    /// Of those with retain.
    pub(crate) delete_percent: u64,
}

/// What it does once in a while.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Habit {
    /// Nothing.
    Stays,
    /// It connects again without closing what it has, and goes on listening there.
    TakesOver { every_ms: Span },
    /// It disconnects and comes back later.
    Leaves { every_ms: Span, away_ms: Span },
    /// It drops its connection and comes back later.
    Dies { every_ms: Span, away_ms: Span },
    /// It unsubscribes, and subscribes again.
    Resubscribes { every_ms: Span },
}

/// The payload of a message: its number, and so many bytes more.
pub(crate) fn payload(message: u64, padding: u64) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u64(message);
    payload.put_bytes(b'.', usize::try_from(padding).unwrap_or_default());
    payload.freeze()
}

/// The number of the message with this payload; `None`: it has none.
pub(crate) fn message_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|number| u64::from_be_bytes(*number))
}
