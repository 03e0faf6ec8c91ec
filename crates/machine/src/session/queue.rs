//! The queue of one session: positions 1, 2, 3, each with the number of a message and how far its exchange is.
//!
//! A position waits (*pending*), or its PUBREC came (*released*), or it is done; positions are done in any order.
//! Chunks in which all are done go. Knows no bounds. Start at [`Queue::push`].

use std::sync::Arc;

use imbl::OrdMap;

use super::chunk::{CHUNK, Chunk, Removed, Terms, place, places};
use crate::session::{Load, Queued};

/// Positions and what is in them. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    /// The last position given.
    last: u64,
    /// By position divided by [`CHUNK`]; none is spent.
    chunks: OrdMap<u64, Arc<Chunk>>,
    /// Of what is pending.
    load: Load,
    /// No chunk before this one has anything pending. Only makes the search short; says nothing itself.
    oldest: u64,
}

impl Queue {
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn load(&self) -> Load {
        self.load
    }

    /// Appends a message; its position.
    pub(crate) fn push(&mut self, message: u64, bytes: u32, terms: Terms) -> u64 {
        self.last += 1;
        let (index, place) = place(self.last);
        let before = self.chunks.get(&index.wrapping_sub(1)).cloned();
        let chunk = self.chunks.entry(index).or_insert_with(|| Arc::new(Chunk::new(place)));
        Arc::make_mut(chunk).push(message, bytes, terms, before.as_deref());
        self.load.put(Load::of(bytes));
        self.last
    }

    /// Done with a position; the message, if it was still there.
    pub(crate) fn finish(&mut self, position: u64) -> Option<Removed> {
        self.change(position, Chunk::finish)
    }

    /// PUBREC: done with the message, not with the position. Nothing happens unless it is pending with QoS 2.
    pub(crate) fn release(&mut self, position: u64) -> Option<Removed> {
        self.change(position, Chunk::release)
    }

    fn change(
        &mut self,
        position: u64,
        change: impl FnOnce(&mut Chunk, u8) -> Option<Removed>,
    ) -> Option<Removed> {
        let (index, place) = place(position);
        // Nothing is copied for a position that is done.
        self.chunks.get(&index).filter(|chunk| chunk.not_done() & (1 << place) != 0)?;
        let chunk = Arc::make_mut(self.chunks.get_mut(&index)?);
        let removed = change(chunk, place);
        if chunk.is_spent() {
            self.chunks.remove(&index);
        }
        if let Some(removed) = &removed {
            self.load.take(Load::of(removed.bytes));
        }
        removed
    }

    /// Takes the oldest message that is pending; its position is done.
    pub(crate) fn drop_oldest(&mut self) -> Option<Removed> {
        let pending =
            self.chunks.range(self.oldest..).find_map(|(index, chunk)| Some((*index, chunk.oldest()?)));
        let (index, place) = pending?;
        self.oldest = index;
        self.finish(index * CHUNK + u64::from(place))
    }

    /// What is pending behind a position, in order.
    pub(crate) fn queued(&self, after: u64) -> impl Iterator<Item = Queued> {
        let (first, from) = place(after.saturating_add(1));
        self.chunks
            .range(first..)
            .flat_map(move |(index, chunk)| chunk.queued(*index, if *index == first { from } else { 0 }))
    }

    /// Positions whose PUBCOMP is awaited, in order.
    pub(crate) fn released(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().flat_map(|(index, chunk)| {
            places(chunk.released).map(move |place| index * CHUNK + u64::from(place))
        })
    }

    /// The last of the first `count` positions that are not done, 0 if all are.
    pub(crate) fn reach(&self, count: u32) -> u64 {
        let mut left = count;
        let mut reached = 0;
        for (index, chunk) in &self.chunks {
            let here = chunk.not_done();
            let take = left.min(here.count_ones());
            if let Some(place) = places(here).take(take as usize).last() {
                reached = index * CHUNK + u64::from(place);
            }
            left -= take;
            if left == 0 {
                break;
            }
        }
        reached
    }

    /// Takes the first chunk with all that is pending in it, by position. `None`: the queue is empty.
    pub(crate) fn remove_chunk(&mut self) -> Option<Vec<(u64, Removed)>> {
        let index = self.chunks.get_min().map(|(index, _)| *index)?;
        let chunk = self.chunks.remove(&index)?;
        let positions = places(chunk.pending).map(|place| index * CHUNK + u64::from(place));
        let removed: Vec<_> = positions.zip(chunk.removed()).collect();
        removed.iter().for_each(|(_, removed)| self.load.take(Load::of(removed.bytes)));
        Some(removed)
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        self.chunks.iter().map(|(index, chunk)| (*index, &**chunk))
    }

    pub(super) fn restore_last(&mut self, last: u64) {
        self.last = last;
    }

    /// Puts a chunk back where it was. `None` if it cannot be of this queue.
    pub(super) fn restore_chunk(&mut self, index: u64, chunk: Chunk) -> Option<()> {
        let end = u64::from(chunk.first) + chunk.slots.len() as u64;
        let places = u64::MAX.checked_shr((CHUNK - end.min(CHUNK)) as u32)? & (u64::MAX << chunk.first);
        let last = index.checked_mul(CHUNK)?.checked_add(end)?.checked_sub(1)?;
        let whole = index.checked_mul(CHUNK)?.checked_add(CHUNK - 1)?;
        // Only the last chunk may have room behind its slots.
        let sound = end <= CHUNK
            && last == self.last.min(whole)
            && !chunk.is_spent()
            && chunk.not_done() & !places == 0
            && chunk.pending & chunk.released == 0
            && chunk.slots.iter().all(|slot| usize::from(slot.terms) < chunk.terms.len());
        if !sound {
            return None;
        }
        chunk.removed().for_each(|removed| self.load.put(Load::of(removed.bytes)));
        self.chunks.insert(index, Arc::new(chunk)).is_none().then_some(())
    }

    /// The terms that the last chunk before one uses, to be shared.
    pub(super) fn terms_before(&self, index: u64) -> &[Arc<Terms>] {
        self.chunks.get(&index.wrapping_sub(1)).map_or(&[], |chunk| &chunk.terms)
    }
}
