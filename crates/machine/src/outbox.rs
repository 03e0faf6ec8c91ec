//! Messages that a shard itself must publish, in order. Knows not why. Start at [`Outbox::push`].

use std::sync::Arc;

use imbl::OrdMap;
use prost::Message as _;

use crate::limits::{MAX_OUTBOX, MAX_OUTBOX_BYTES};
use crate::records::{Message, OutboxRecord};

#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    /// The last sequence given; they start at 1 and never repeat.
    last: u64,
    messages: OrdMap<u64, Arc<Message>>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn push(&mut self, message: Message) {
        self.last += 1;
        self.put(self.last, message);
    }

    fn put(&mut self, sequence: u64, message: Message) {
        self.bytes += message.encoded_len();
        self.messages.insert(sequence, Arc::new(message));
    }

    /// Forgets everything up to and including a sequence.
    pub(crate) fn drain(&mut self, upto: u64) {
        while let Some((sequence, message)) =
            self.messages.get_min().filter(|(sequence, _)| *sequence <= upto)
        {
            self.bytes -= message.encoded_len();
            self.messages.remove(&sequence.clone());
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.messages.len() >= MAX_OUTBOX || self.bytes >= MAX_OUTBOX_BYTES
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Message>)> {
        self.messages.iter().map(|(sequence, message)| (*sequence, message))
    }

    pub(crate) fn restore_last(&mut self, last: u64) {
        self.last = last;
    }

    /// `None` if the record cannot be of this outbox.
    pub(crate) fn restore(&mut self, record: OutboxRecord) -> Option<()> {
        let in_range = (1..=self.last).contains(&record.sequence);
        self.put(record.sequence, record.message.filter(|_| in_range)?);
        Some(())
    }
}
