//! Messages that are published later: they wait here, and go to the outbox when their time has come.
//!
//! Those of one time keep their order. Knows no topics but as text. Start at [`Shard::delay`].

use imbl::OrdMap;

use crate::Shard;
use crate::arrivals::{self, Destination};
use crate::limits::{MAX_DELAYED, MAX_DUE};
use crate::message;
use crate::outbox::{OutboxEntry, Target};
use crate::records::{Delay, DelayedRecord, Refusal};
use crate::shard::{APPLIED, Outcome, checked};

/// Sizes of messages by time and number. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Delayed(OrdMap<(u64, u64), u32>);

impl Delayed {
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.0.get_min().map(|((due_ms, _), _)| *due_ms)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = DelayedRecord> {
        self.0.iter().map(|(&(due_ms, number), &bytes)| DelayedRecord { number, due_ms, bytes })
    }

    pub(crate) fn restore(&mut self, record: DelayedRecord) {
        self.0.insert((record.due_ms, record.number), record.bytes);
    }

    /// Takes the first whose time has come; its number and size.
    fn take_due(&mut self, now_ms: u64) -> Option<(u64, u32)> {
        let (first, bytes) = self.0.get_min().filter(|((due_ms, _), _)| *due_ms <= now_ms)?;
        let (first, bytes) = (*first, *bytes);
        self.0.remove(&first);
        Some((first.1, bytes))
    }
}

impl Shard {
    /// Keeps a message until its time has come.
    pub(crate) fn delay(&mut self, delay: &Delay, now_ms: u64) -> Outcome {
        let message = delay.message.as_ref().ok_or(Refusal::Invalid)?;
        checked(message)?;
        let origin = delay.origin.as_ref();
        arrivals::check(origin)?;
        if self.delayed.0.len() >= MAX_DELAYED {
            return Err(Refusal::Busy);
        }
        // What is delayed goes to no subscription here, so one destination serves for both.
        if self.arrivals.is_new(origin, Destination::Plain) {
            let due_ms = now_ms.saturating_add(u64::from(delay.delay_s) * 1_000);
            let number = self.messages.store_named(message);
            self.delayed.0.insert((due_ms, number), message::weight(message));
        }
        APPLIED
    }

    /// Publishes a bounded number of those whose time has come. Waits while the outbox is full.
    pub(crate) fn publish_delayed(&mut self, now_ms: u64) {
        for _ in 0..MAX_DUE {
            if self.outbox.is_full() {
                return;
            }
            let Some((message, bytes)) = self.delayed.take_due(now_ms) else { return };
            self.outbox.push(OutboxEntry::new(message, Target::All, bytes));
        }
    }

    /// Messages that wait for their time.
    #[must_use]
    pub fn delayed_messages(&self) -> usize {
        self.delayed.0.len()
    }
}
