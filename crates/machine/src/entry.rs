//! One client's registry entry: who owns it, until when its session lives, when its will fires.
//!
//! Knows no other client and changes nothing but itself. Start at [`Entry`].

use std::sync::Arc;

use crate::message::after_seconds;
use crate::records::{Claim, ClientRecord, Message, Owner, Will};

/// `expiry_s` of a session that never expires (MQTT 5.0 section 3.1.2.11.2).
const FOR_EVER: u32 = u32::MAX;

/// A registry entry. It exists while a client is connected, and afterwards while its durable session lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The owner, or the last one if it is not `connected` any more.
    pub owner: Owner,
    /// Seconds the session outlives the connection: 0 is transient, `u32::MAX` for ever.
    pub expiry_s: u32,
    /// When the connection ended; means nothing while connected.
    pub disconnected_at_ms: u64,
    /// The durable session, if it has one. One that was continued by a connection whose expiry is 0 ends with
    /// that connection.
    pub(crate) session: Option<u64>,
    /// Neither fired nor forgotten. Apart, since an entry is copied at each change.
    will: Option<Arc<Will>>,
}

impl Entry {
    /// A new claim; `will` shares no buffer with it.
    pub(crate) fn claimed(claim: &Claim, epoch: u64, will: Option<Will>, session: Option<u64>) -> Self {
        Self {
            owner: Owner { node: claim.node, incarnation: claim.incarnation, epoch, connected: true },
            expiry_s: claim.expiry_s,
            disconnected_at_ms: 0,
            session,
            will: will.map(Arc::new),
        }
    }

    /// The session outlives the connection.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.expiry_s > 0
    }

    /// A will that has neither fired nor been forgotten.
    #[must_use]
    pub fn will(&self) -> Option<&Will> {
        self.will.as_deref()
    }

    pub(crate) fn forget_will(&mut self) {
        self.will = None;
    }

    /// Takes the will as a message to be published now: its expiry starts here (section 3.1.3.2.4).
    pub(crate) fn fire_will(&mut self, now_ms: u64) -> Option<Message> {
        let will = Arc::unwrap_or_clone(self.will.take()?);
        let expires_at_ms = will.message_expiry_s.map_or(0, |seconds| after_seconds(now_ms, seconds));
        will.message.map(|message| Message { expires_at_ms, ..message })
    }

    /// The connection ended; a session expiry from DISCONNECT cannot make a transient session durable
    /// (section 3.14.2.2.2).
    pub(crate) fn disconnect(&mut self, expiry_s: Option<u32>, now_ms: u64) {
        self.owner.connected = false;
        self.disconnected_at_ms = now_ms;
        if self.is_durable() {
            self.expiry_s = expiry_s.unwrap_or(self.expiry_s);
        }
    }

    /// When the session ends; `None` while connected, or never.
    #[must_use]
    pub fn session_ends_ms(&self) -> Option<u64> {
        let ends = !self.owner.connected && self.expiry_s != FOR_EVER;
        ends.then(|| after_seconds(self.disconnected_at_ms, self.expiry_s))
    }

    /// When the will fires: after its delay or with the end of the session, whichever comes first (section
    /// 3.1.3.2.2). `None` while connected or without one.
    #[must_use]
    pub fn will_fires_ms(&self) -> Option<u64> {
        let will = self.will.as_ref().filter(|_| !self.owner.connected)?;
        let delayed = after_seconds(self.disconnected_at_ms, will.delay_s);
        Some(self.session_ends_ms().map_or(delayed, |ends| delayed.min(ends)))
    }

    /// When something is to be done about this entry.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        match (self.will_fires_ms(), self.session_ends_ms()) {
            (Some(will), Some(session)) => Some(will.min(session)),
            (will, session) => will.or(session),
        }
    }

    pub(crate) fn record(&self, client_id: &str) -> ClientRecord {
        ClientRecord {
            client_id: client_id.to_owned(),
            owner: Some(self.owner),
            session: self.session.unwrap_or_default(),
            expiry_s: self.expiry_s,
            disconnected_at_ms: self.disconnected_at_ms,
            will: self.will.as_deref().cloned(),
        }
    }

    /// `None` if the record has no owner.
    pub(crate) fn restore(record: ClientRecord) -> Option<Self> {
        Some(Self {
            owner: record.owner?,
            expiry_s: record.expiry_s,
            disconnected_at_ms: record.disconnected_at_ms,
            session: Some(record.session).filter(|session| *session > 0),
            will: record.will.map(Arc::new),
        })
    }
}
