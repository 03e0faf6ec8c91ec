//! Up to 64 neighbouring positions of a queue. Knows neither their queue nor its limits. Start at [`Chunk`].
//!
//! A queued message costs a slot of 16 bytes here. What is the same for many (quality of service, identifiers,
//! group) is kept once; the states are two bitmaps.

use std::sync::Arc;

use smallvec::SmallVec;
use zwerm_wire::{QoS, TopicFilter};

use crate::session::Queued;

/// Positions in a chunk.
pub(super) const CHUNK: u64 = 64;

/// How a message is to be delivered to one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// 1 or 2.
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Rising.
    pub(crate) identifiers: SmallVec<[u32; 1]>,
    /// The shared subscription that picked the session.
    pub(crate) group: Option<TopicFilter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// The number of the message.
    pub(super) message: u64,
    /// What it counts with.
    pub(super) bytes: u32,
    /// Which of the terms.
    pub(super) terms: u8,
}

/// A message that is in the queue no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) message: u64,
    pub(crate) bytes: u32,
    pub(crate) terms: Arc<Terms>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The place of the first slot: positions before it were done before the chunk was made.
    pub(super) first: u8,
    /// Bit by place: the message waits, sent or not.
    pub(super) pending: u64,
    /// Bit by place: PUBREC came, the message is gone, PUBCOMP is awaited.
    pub(super) released: u64,
    pub(super) slots: Vec<Slot>,
    /// Shared with the chunks before, where they are the same.
    pub(super) terms: Vec<Arc<Terms>>,
}

/// Which chunk a position is in, and where there.
pub(super) fn place(position: u64) -> (u64, u8) {
    (position / CHUNK, (position % CHUNK) as u8)
}

impl Chunk {
    /// Empty, to begin at a place.
    pub(super) fn new(first: u8) -> Self {
        Self { first, pending: 0, released: 0, slots: Vec::new(), terms: Vec::new() }
    }

    /// Nothing in it is awaited any more.
    pub(super) fn is_spent(&self) -> bool {
        self.not_done() == 0
    }

    pub(super) fn not_done(&self) -> u64 {
        self.pending | self.released
    }

    /// Puts a message at the next place; `before` is the chunk before this one.
    pub(super) fn push(&mut self, message: u64, bytes: u32, terms: Terms, before: Option<&Self>) {
        let place = usize::from(self.first) + self.slots.len();
        let terms = self.intern(terms, before);
        self.slots.push(Slot { message, bytes, terms });
        self.pending |= 1 << place;
        if place as u64 == CHUNK - 1 {
            // A copy made for a reader has grown by its own measure.
            self.slots.shrink_to_fit();
            self.terms.shrink_to_fit();
        }
    }

    /// The index of terms: there are at most as many as slots.
    fn intern(&mut self, terms: Terms, before: Option<&Self>) -> u8 {
        if let Some(index) = self.terms.iter().rposition(|have| **have == terms) {
            return index as u8;
        }
        let known = before.and_then(|before| before.terms.iter().rev().find(|have| ***have == terms));
        self.terms.push(known.cloned().unwrap_or_else(|| Arc::new(terms)));
        (self.terms.len() - 1) as u8
    }

    fn slot(&self, place: u8) -> Option<&Slot> {
        self.slots.get(usize::from(place.checked_sub(self.first)?))
    }

    fn terms(&self, slot: &Slot) -> Option<&Arc<Terms>> {
        self.terms.get(usize::from(slot.terms))
    }

    /// Done with a place. `None`: there is no message (any more).
    pub(super) fn finish(&mut self, place: u8) -> Option<Removed> {
        self.released &= !(1 << place);
        self.take(place)
    }

    /// PUBREC of a QoS 2 message: the message goes, the place stays.
    pub(super) fn release(&mut self, place: u8) -> Option<Removed> {
        let slot = self.slot(place).filter(|_| self.pending & (1 << place) != 0)?;
        self.terms(slot).filter(|terms| terms.qos == QoS::ExactlyOnce)?;
        self.released |= 1 << place;
        self.take(place)
    }

    fn take(&mut self, place: u8) -> Option<Removed> {
        let bit = 1 << place;
        let slot = *self.slot(place).filter(|_| self.pending & bit != 0)?;
        self.pending &= !bit;
        let terms = Arc::clone(self.terms(&slot)?);
        Some(Removed { message: slot.message, bytes: slot.bytes, terms })
    }

    /// The first pending place.
    pub(super) fn oldest(&self) -> Option<u8> {
        (self.pending != 0).then(|| self.pending.trailing_zeros() as u8)
    }

    /// Pending places from one on, as queued; `index` is the chunk's.
    pub(super) fn queued(&self, index: u64, from: u8) -> impl Iterator<Item = Queued> {
        places(self.pending & (u64::MAX << from)).filter_map(move |place| {
            let slot = self.slot(place)?;
            let terms = self.terms(slot)?;
            Some(Queued {
                position: index * CHUNK + u64::from(place),
                message: slot.message,
                qos: terms.qos,
                retain: terms.retain,
                identifiers: terms.identifiers.clone(),
                group: terms.group.is_some(),
            })
        })
    }

    /// Everything that is pending.
    pub(super) fn removed(&self) -> impl Iterator<Item = Removed> {
        places(self.pending).filter_map(|place| {
            let slot = self.slot(place)?;
            let terms = Arc::clone(self.terms(slot)?);
            Some(Removed { message: slot.message, bytes: slot.bytes, terms })
        })
    }
}

/// The places of the bits that are set, rising.
pub(super) fn places(mut bits: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as u8;
        (bits != 0).then(|| {
            bits &= bits - 1;
            place
        })
    })
}
