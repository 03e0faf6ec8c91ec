//! Messages that a shard itself must publish, in order. Knows not why, and only their numbers. Start at
//! [`Outbox::push`].

use imbl::OrdMap;
use zwerm_wire::TopicFilter;

use crate::limits::{MAX_FILTERS, MAX_OUTBOX, MAX_OUTBOX_BYTES, MAX_SHARDS};
use crate::records::picked::Destination as DestinationRecord;
use crate::records::{self, OutboxRecord, Pick, PickedNode, Refusal};

/// A message that the shard's leader is to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The number of the message.
    pub message: u64,
    /// For whom it is.
    pub target: Target,
    /// Of a QoS 2 message: where it goes of shared subscriptions, whoever publishes it. One for each subscription,
    /// in no order.
    pub picks: Vec<Picked>,
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

/// Where a message for a shared subscription goes; a member is picked there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// The shared subscription (`$share/...`).
    pub group: TopicFilter,
    /// Where some of its members are.
    pub at: Place,
}

/// A part of the cluster that has members of a shared subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Transient ones, on one incarnation of a node.
    Node {
        /// The node.
        id: u64,
        /// What it was when it was picked.
        incarnation: u64,
    },
    /// Durable ones.
    Shard(u32),
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

    /// Notes where an entry goes of shared subscriptions. What is noted stays.
    pub(crate) fn pick(&mut self, pick: &Pick) -> Result<(), Refusal> {
        if pick.picks.len() > MAX_FILTERS {
            return Err(Refusal::Limit);
        }
        let picks = pick.picks.iter().map(Picked::restore).collect::<Option<Vec<_>>>();
        let picks = picks.ok_or(Refusal::Invalid)?;
        let entry = self.entries.get(&pick.sequence).ok_or(Refusal::Invalid)?;
        let known = |group: &TopicFilter| entry.picks.iter().find(|known| known.group == *group);
        if picks.iter().any(|picked| known(&picked.group).is_some_and(|known| known.at != picked.at)) {
            return Err(Refusal::Busy);
        }
        let mut entry = entry.clone();
        for picked in picks {
            if !entry.picks.iter().any(|known| known.group == picked.group) {
                entry.picks.push(picked);
            }
        }
        if entry.picks.len() > MAX_FILTERS {
            return Err(Refusal::Limit);
        }
        self.entries.insert(pick.sequence, entry);
        Ok(())
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
        let picks = record.picks.iter().map(Picked::restore).collect::<Option<_>>()?;
        let entry = OutboxEntry { message: record.number, target, picks, bytes: record.bytes };
        self.put(record.sequence, in_range.then_some(entry)?);
        Some(record.number)
    }
}

impl OutboxEntry {
    /// One that nobody has published yet.
    pub(crate) fn new(message: u64, target: Target, bytes: u32) -> Self {
        Self { message, target, picks: Vec::new(), bytes }
    }

    pub(crate) fn record(&self, sequence: u64) -> OutboxRecord {
        let group = match &self.target {
            Target::All => String::new(),
            Target::Group(filter) => filter.as_str().to_owned(),
        };
        let picks = self.picks.iter().map(Picked::record).collect();
        OutboxRecord { sequence, number: self.message, group, bytes: self.bytes, picks }
    }
}

impl Picked {
    /// As a command names it.
    #[must_use]
    pub fn record(&self) -> records::Picked {
        let destination = match self.at {
            Place::Node { id, incarnation } => DestinationRecord::Node(PickedNode { id, incarnation }),
            Place::Shard(shard) => DestinationRecord::Shard(shard),
        };
        records::Picked { group: self.group.to_string(), destination: Some(destination) }
    }

    fn restore(record: &records::Picked) -> Option<Self> {
        let group = TopicFilter::new(record.group.as_str()).ok().filter(TopicFilter::is_shared)?;
        let at = match record.destination.as_ref()? {
            DestinationRecord::Node(PickedNode { id, incarnation }) => {
                Place::Node { id: *id, incarnation: *incarnation }
            }
            DestinationRecord::Shard(shard) => {
                Place::Shard(Some(*shard).filter(|shard| *shard < MAX_SHARDS)?)
            }
        };
        Some(Self { group, at })
    }
}
