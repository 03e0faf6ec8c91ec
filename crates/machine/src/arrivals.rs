//! Which messages of shards' outboxes came here already: here is another shard, or a node with transient sessions.
//! Knows no messages. Start at [`Arrivals::is_new`].
//!
//! A leader that dies leaves entries of its outbox published and not noted, and its successor publishes them again,
//! perhaps to other destinations: so what came is known one by one, for each part of the shard that it may be for.
//! A successor begins at the first entry that is not drained, and no leader is further than
//! [`OUTBOX_WINDOW`] ahead of that.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use zwerm_wire::TopicFilter;

use crate::limits::{MAX_SHARDS, OUTBOX_WINDOW};
use crate::records::arrival_record::Destination as DestinationRecord;
use crate::records::{ArrivalRecord, ArrivalsRecord, Origin, Refusal};

/// For what part of the shard or node a message is; one message may come for several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Its retained messages.
    Retained,
    /// Its plain subscriptions.
    Plain,
    /// One member of a shared subscription.
    Group(TopicFilter),
    /// One client.
    Client(Arc<str>),
}

/// By shard. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub struct Arrivals(OrdMap<u32, Arrived>);

#[derive(Debug, Clone, Default)]
struct Arrived {
    /// The highest sequence that came.
    newest: u64,
    /// Those that came, as far back as repeats come.
    seen: OrdSet<(u64, Destination)>,
}

/// Refuses an origin that cannot be.
pub(crate) fn check(origin: Option<&Origin>) -> Result<(), Refusal> {
    match origin {
        Some(origin) if origin.shard >= MAX_SHARDS || origin.sequence == 0 => Err(Refusal::Invalid),
        _ => Ok(()),
    }
}

impl Arrivals {
    /// Notes that a message came for a destination; false: it did before. A message that is of no outbox is new.
    pub fn is_new(&mut self, origin: Option<&Origin>, destination: Destination) -> bool {
        let Some(origin) = origin else { return true };
        let arrived = self.0.entry(origin.shard).or_default();
        if origin.sequence.saturating_add(OUTBOX_WINDOW) <= arrived.newest {
            return false;
        }
        if arrived.seen.insert((origin.sequence, destination)).is_some() {
            return false;
        }
        arrived.newest = arrived.newest.max(origin.sequence);
        while let Some(oldest) = arrived.seen.get_min() {
            if oldest.0.saturating_add(OUTBOX_WINDOW) > arrived.newest {
                break;
            }
            let oldest = oldest.clone();
            arrived.seen.remove(&oldest);
        }
        true
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = ArrivalsRecord> {
        self.0.iter().map(|(shard, arrived)| ArrivalsRecord {
            shard: *shard,
            newest: arrived.newest,
            seen: arrived.seen.iter().map(|(sequence, to)| to.record(*sequence)).collect(),
        })
    }

    /// `None` if the record is none of arrivals.
    pub(crate) fn restore(&mut self, record: ArrivalsRecord) -> Option<()> {
        let seen = record.seen.into_iter().map(|seen| Some((seen.sequence, Destination::restore(seen)?)));
        let seen = seen.collect::<Option<_>>()?;
        self.0.insert(record.shard, Arrived { newest: record.newest, seen });
        Some(())
    }
}

impl Destination {
    fn record(&self, sequence: u64) -> ArrivalRecord {
        let destination = match self {
            Self::Retained => DestinationRecord::Retained(true),
            Self::Plain => DestinationRecord::Plain(true),
            Self::Group(filter) => DestinationRecord::Group(filter.as_str().to_owned()),
            Self::Client(client) => DestinationRecord::Client(client.to_string()),
        };
        ArrivalRecord { sequence, destination: Some(destination) }
    }

    fn restore(record: ArrivalRecord) -> Option<Self> {
        Some(match record.destination? {
            DestinationRecord::Retained(_) => Self::Retained,
            DestinationRecord::Plain(_) => Self::Plain,
            DestinationRecord::Group(filter) => Self::Group(TopicFilter::new(filter).ok()?),
            DestinationRecord::Client(client) => Self::Client(client.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(sequence: u64) -> Origin {
        Origin { shard: 1, sequence }
    }

    #[test]
    fn each_destination_gets_each_entry_once_in_whatever_order_they_come() {
        let mut arrivals = Arrivals::default();
        let group = |name: &str| Destination::Group(TopicFilter::new(name.to_owned()).unwrap());
        let all = [Destination::Retained, Destination::Plain, group("$share/a/t"), group("$share/b/t")];
        for sequence in [5, 3, 9, 4] {
            for destination in &all {
                assert!(arrivals.is_new(Some(&origin(sequence)), destination.clone()));
                assert!(!arrivals.is_new(Some(&origin(sequence)), destination.clone()));
            }
        }
        assert!(arrivals.is_new(Some(&Origin { shard: 2, sequence: 5 }), Destination::Plain));
        assert!(arrivals.is_new(None, Destination::Plain) && arrivals.is_new(None, Destination::Plain));
    }

    #[test]
    fn what_is_further_back_than_a_leader_can_be_is_a_repeat_and_is_not_kept() {
        let mut arrivals = Arrivals::default();
        for sequence in 1..=3 * OUTBOX_WINDOW {
            assert!(arrivals.is_new(Some(&origin(sequence)), Destination::Plain));
        }
        assert_eq!(arrivals.0.get(&1).unwrap().seen.len() as u64, OUTBOX_WINDOW);
        assert!(!arrivals.is_new(Some(&origin(2 * OUTBOX_WINDOW)), Destination::Retained));
        assert!(arrivals.is_new(Some(&origin(2 * OUTBOX_WINDOW + 1)), Destination::Retained));
    }
}
