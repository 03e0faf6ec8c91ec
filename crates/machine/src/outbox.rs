//! Messages that a shard itself must publish, in order. Knows not why, and only their numbers. Start at
//! [`Outbox::push`].

use imbl::OrdMap;
use zwerm_wire::TopicFilter;

use crate::limits::{MAX_OUTBOX, MAX_OUTBOX_BYTES};
use crate::records::OutboxRecord;

/// A message that the shard's leader is to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The number of the message.
    pub message: u64,
    /// For whom it is.
    pub target: Target,
    /// The size that it counts with.
    pub(crate) bytes: u32,
}

/// For whom a message of the outbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everything that wants its topic.
    All,
    /// One member of this shared subscription (`$share/...`): the session that held it ended.
    Group(TopicFilter),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    /// The last sequence given; they start at 1 and never repeat.
    last: u64,
    entries: OrdMap<u64, OutboxEntry>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn push(&mut self, entry: OutboxEntry) {
        self.last += 1;
        self.put(self.last, entry);
    }

    fn put(&mut self, sequence: u64, entry: OutboxEntry) {
        self.bytes += entry.bytes as usize;
        self.entries.insert(sequence, entry);
    }

    /// Takes the first entry, if its sequence is not above `upto`; the number of its message.
    pub(crate) fn drain_one(&mut self, upto: u64) -> Option<u64> {
        let sequence = self.entries.get_min().map(|(sequence, _)| *sequence)?;
        if sequence > upto {
            return None;
        }
        let entry = self.entries.remove(&sequence)?;
        self.bytes -= entry.bytes as usize;
        Some(entry.message)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_OUTBOX || self.bytes >= MAX_OUTBOX_BYTES
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &OutboxEntry)> {
        self.entries.iter().map(|(sequence, entry)| (*sequence, entry))
    }

    pub(crate) fn restore_last(&mut self, last: u64) {
        self.last = last;
    }

    /// The number of its message; `None` if the record cannot be of this outbox.
    pub(crate) fn restore(&mut self, record: &OutboxRecord) -> Option<u64> {
        let in_range = (1..=self.last).contains(&record.sequence) && record.number > 0;
        let target = match record.group.as_str() {
            "" => Target::All,
            group => Target::Group(TopicFilter::new(group).ok()?),
        };
        let entry = OutboxEntry { message: record.number, target, bytes: record.bytes };
        self.put(record.sequence, in_range.then_some(entry)?);
        Some(record.number)
    }
}

impl OutboxEntry {
    pub(crate) fn record(&self, sequence: u64) -> OutboxRecord {
        let group = match &self.target {
            Target::All => String::new(),
            Target::Group(filter) => filter.as_str().to_owned(),
        };
        OutboxRecord { sequence, number: self.message, group, bytes: self.bytes }
    }
}
