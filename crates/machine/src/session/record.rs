//! A session as records of a snapshot, and back. Knows no snapshot. Start at [`Session::record`].

use std::sync::Arc;

use smallvec::SmallVec;
use zwerm_wire::{QoS, TopicFilter};

use super::chunk::{Chunk, Slot};
use super::{Options, Queue, Received, Replay, Session, Terms};
use crate::message::qos_of;
use crate::records::{QueueRecord, ReceivedRecord, SessionRecord, TermsRecord};

impl Session {
    /// All but the queue's chunks.
    pub(crate) fn record(&self) -> SessionRecord {
        let received = self.received.iter().map(|(packet_id, received)| ReceivedRecord {
            packet_id: u32::from(*packet_id),
            number: received.message,
            bytes: received.bytes,
        });
        SessionRecord {
            number: self.number,
            client_id: self.client.to_string(),
            limit: Some(self.limit),
            window: self.window,
            maybe_sent: self.maybe_sent,
            last_position: self.queue.last(),
            subscriptions: self
                .subscriptions
                .iter()
                .map(|(filter, options)| options.record(filter))
                .collect(),
            received: received.collect(),
            replays: self.replay.running(),
            live_topics: self.replay.topics().map(ToString::to_string).collect(),
        }
    }

    /// The queue's chunks, in order.
    pub(crate) fn queue_records(&self) -> impl Iterator<Item = QueueRecord> {
        self.queue.chunks().map(|(index, chunk)| chunk.record(self.number, index))
    }

    /// A session without its queue's chunks; `None` if the record is none of a session.
    pub(crate) fn restore(record: SessionRecord, client: Arc<str>) -> Option<Self> {
        let mut queue = Queue::default();
        queue.restore_last(record.last_position);
        let received = record.received.iter().map(|received| {
            let packet_id = u16::try_from(received.packet_id).ok().filter(|id| *id > 0)?;
            Some((packet_id, Received { message: received.number, bytes: received.bytes }))
        });
        Some(Self {
            number: record.number,
            client,
            limit: record.limit?,
            window: record.window,
            maybe_sent: record.maybe_sent,
            subscriptions: record.subscriptions.iter().map(Options::restore).collect::<Option<_>>()?,
            queue,
            received: received.collect::<Option<_>>()?,
            replay: Replay::restore(record.replays, record.live_topics),
        })
    }

    /// Puts a chunk back; the numbers that it names. `None` if it cannot be of this session.
    pub(crate) fn restore_queue(&mut self, record: QueueRecord) -> Option<Vec<u64>> {
        let index = record.index;
        let chunk = Chunk::restore(record, self.queue.terms_before(index))?;
        let named = chunk.removed().map(|removed| removed.message).collect();
        self.queue.restore_chunk(index, chunk)?;
        Some(named)
    }
}

impl Chunk {
    fn record(&self, session: u64, index: u64) -> QueueRecord {
        let mut before = 0;
        let steps = self.slots.iter().map(|slot| slot.message - std::mem::replace(&mut before, slot.message));
        QueueRecord {
            session,
            index,
            first: u32::from(self.first),
            pending: self.pending,
            released: self.released,
            steps: steps.collect(),
            bytes: self.slots.iter().map(|slot| slot.bytes).collect(),
            terms: self.slots.iter().map(|slot| slot.terms).collect::<Vec<_>>().into(),
            all_terms: self.terms.iter().map(|terms| terms.record()).collect(),
        }
    }

    /// Terms that are `known` are shared.
    fn restore(record: QueueRecord, known: &[Arc<Terms>]) -> Option<Self> {
        if record.steps.len() != record.bytes.len() || record.steps.len() != record.terms.len() {
            return None;
        }
        let mut message = 0u64;
        let slots = record.steps.iter().zip(&record.bytes).zip(&record.terms);
        let slots = slots.map(|((step, bytes), terms)| {
            message = message.checked_add(*step)?;
            Some(Slot { message, bytes: *bytes, terms: *terms })
        });
        let terms = record.all_terms.into_iter().map(|record| {
            let terms = Terms::restore(record)?;
            let same = known.iter().find(|have| ***have == terms).cloned();
            Some(same.unwrap_or_else(|| Arc::new(terms)))
        });
        Some(Self {
            first: u8::try_from(record.first).ok().filter(|first| *first < 64)?,
            pending: record.pending,
            released: record.released,
            slots: slots.collect::<Option<_>>()?,
            terms: terms.collect::<Option<_>>()?,
        })
    }
}

impl Terms {
    fn record(&self) -> TermsRecord {
        TermsRecord {
            qos: u32::from(self.qos as u8),
            retain: self.retain,
            identifiers: self.identifiers.to_vec(),
            group: self.group.as_ref().map(|filter| filter.as_str().to_owned()).unwrap_or_default(),
        }
    }

    fn restore(record: TermsRecord) -> Option<Self> {
        let group = match record.group.as_str() {
            "" => None,
            group => Some(TopicFilter::new(group).ok()?),
        };
        Some(Self {
            qos: qos_of(record.qos).ok().filter(|qos| *qos != QoS::AtMostOnce)?,
            retain: record.retain,
            identifiers: SmallVec::from_vec(record.identifiers),
            group,
        })
    }
}
