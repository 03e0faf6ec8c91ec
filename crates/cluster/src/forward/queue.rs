//! What a lane holds, in order, and how it becomes batches. Does no I/O and knows no streams.
//!
//! A message of QoS 1 or 2 stands alone, for it may be sent again; one of QoS 0 is sent once, so it is written at once
//! into the batch that it will be sent with. Start at [`State::fill`].

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use zwerm_wire::QoS;

use super::lane::LaneLimits;
use super::record::{Body, Outgoing, Target, put_loose, put_record, record_len};
use crate::receipt::Ticket;

/// A batch is closed when it is about this long or holds so many records.
pub(super) const BATCH_BYTES: usize = 256 * 1024;
pub(super) const BATCH_RECORDS: usize = 512;
/// Room that a batch of records that are sent once begins with.
const LOOSE_BYTES: usize = 4 * 1024;

/// A message that may have to be sent again, or whose expiry counts until it is sent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) target: Target,
    pub(super) body: Body,
    /// `Some` for QoS 1/2; dropped with the entry when the peer has accepted it.
    pub(super) ticket: Option<Ticket>,
    pub(super) qos: QoS,
    /// When it was taken, if it expires.
    pub(super) taken: Option<Instant>,
    /// The peer may have it: it was in a batch of an earlier stream, or was on its way there before.
    pub(super) sent: bool,
}

impl Entry {
    /// The peer may have it, and nobody else may get it before that is known. What a shard publishes stays with the
    /// peer that it was picked for, for another leader of the shard may send it there, too.
    pub(super) fn is_doubtful(&self) -> bool {
        let is_doubtful = self.qos == QoS::ExactlyOnce && (self.sent || self.body.origin().is_some());
        #[cfg(feature = "sabotage")]
        let is_doubtful =
            is_doubtful && !zwerm_sabotage::is_broken(zwerm_sabotage::Rule::SettleBeforeAnother);
        is_doubtful
    }

    fn waited_ms(&self) -> u64 {
        let waited = self.taken.map_or(Duration::ZERO, |taken| taken.elapsed());
        u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Records that are sent once, as a batch has them: the first has no delta.
#[derive(Debug)]
pub(super) struct Loose {
    first: u64,
    last: u64,
    count: usize,
    records: BytesMut,
}

impl Loose {
    fn has_room(&self) -> bool {
        self.count < BATCH_RECORDS && self.records.len() < BATCH_BYTES
    }

    /// Takes the record off that begins at this byte, if the batch became too long by it.
    fn split_overlong(&mut self, at: usize, sequence: u64) -> Option<Self> {
        if at == 0 || self.records.len() <= BATCH_BYTES {
            return None;
        }
        let mut records = self.records.split_off(at);
        // Its delta is 1, for nothing lies between: one byte, as the 0 that it becomes.
        *records.first_mut()? = 0;
        Some(Self { first: sequence, last: sequence, count: 1, records })
    }

    /// The delta of the first record behind one of this sequence: a varint of one byte, as the 0 that stands there.
    /// `None`: it is too far away.
    fn delta_behind(&self, last: Option<u64>) -> Option<u8> {
        let Some(last) = last else { return Some(0) };
        u8::try_from(self.first - last).ok().filter(|delta| *delta < 0x80)
    }
}

#[derive(Debug)]
pub(super) enum Queued {
    One(Entry),
    Loose(Loose),
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Queued>,
    /// Records in `queue` and `unaccepted`.
    pub(super) messages: usize,
    /// Taken and not counted yet.
    pub(super) uncounted: u64,
    /// QoS 1/2, sent in the present stream, in order of sequence.
    pub(super) unaccepted: VecDeque<Entry>,
    /// The peer is another incarnation by now: it took nothing of the present stream, and will take nothing of any.
    pub(super) refused: bool,
    pub(super) next_sequence: u64,
    pub(super) bytes: usize,
    pub(super) closed: bool,
}

impl State {
    /// Puts what was not accepted back to the front of the queue. The peer may have it, unless it refused the stream.
    pub(super) fn unsend(&mut self) {
        while let Some(mut entry) = self.unaccepted.pop_back() {
            entry.sent |= !self.refused;
            self.queue.push_front(Queued::One(entry));
        }
    }

    /// The sequence of the next record, of so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.bytes += bytes;
        self.messages += 1;
        self.uncounted += 1;
        sequence
    }

    pub(super) fn is_full(&self, limits: LaneLimits) -> bool {
        self.messages >= limits.messages || self.bytes >= limits.bytes
    }

    /// Writes a record that is sent once into the last batch that has room.
    pub(super) fn put_loose(&mut self, target: &Target, message: &Outgoing<'_>) {
        let sequence = self.take(0);
        if !matches!(self.queue.back(), Some(Queued::Loose(loose)) if loose.has_room()) {
            let records = BytesMut::with_capacity(LOOSE_BYTES);
            self.queue.push_back(Queued::Loose(Loose { first: sequence, last: sequence, count: 0, records }));
        }
        if let Some(Queued::Loose(loose)) = self.queue.back_mut() {
            let before = loose.records.len();
            put_loose(sequence - loose.last, target, message, &mut loose.records);
            self.bytes += loose.records.len() - before;
            match loose.split_overlong(before, sequence) {
                Some(next) => self.queue.push_back(Queued::Loose(next)),
                None => (loose.last, loose.count) = (sequence, loose.count + 1),
            }
        }
    }

    /// Moves the front of the queue into a batch; false when that is full or the queue empty.
    pub(super) fn fill(&mut self, batch: &mut Filling) -> bool {
        match self.queue.pop_front() {
            None => false,
            Some(Queued::One(entry)) if batch.has_room(1, record_len(&entry.target, &entry.body)) => {
                let delta = entry.sequence - batch.last.unwrap_or(entry.sequence);
                put_record(delta, &entry.target, entry.waited_ms(), &entry.body, &mut batch.records);
                batch.holds(entry.sequence, entry.sequence, 1);
                if entry.qos == QoS::AtMostOnce {
                    self.bytes -= entry.body.len();
                    self.messages -= 1;
                } else {
                    self.unaccepted.push_back(entry);
                }
                true
            }
            Some(Queued::Loose(loose))
                if batch.has_room(loose.count, loose.records.len())
                    && loose.delta_behind(batch.last).is_some() =>
            {
                self.bytes -= loose.records.len();
                self.messages -= loose.count;
                batch.take(loose);
                true
            }
            Some(queued) => {
                self.queue.push_front(queued);
                false
            }
        }
    }
}

/// A batch that is being filled.
#[derive(Debug, Default)]
pub(super) struct Filling {
    pub(super) first: Option<u64>,
    last: Option<u64>,
    count: usize,
    pub(super) records: BytesMut,
}

impl Filling {
    /// Also what is larger than a batch is sent, alone.
    fn has_room(&self, count: usize, bytes: usize) -> bool {
        self.count == 0 || (self.count + count <= BATCH_RECORDS && self.records.len() + bytes <= BATCH_BYTES)
    }

    fn take(&mut self, mut loose: Loose) {
        if let (Some(delta), Some(first)) = (loose.delta_behind(self.last), loose.records.first_mut()) {
            *first = delta;
        }
        self.holds(loose.first, loose.last, loose.count);
        if self.records.is_empty() {
            self.records = loose.records;
        } else {
            self.records.extend_from_slice(&loose.records);
        }
    }

    fn holds(&mut self, first: u64, last: u64, count: usize) {
        self.first.get_or_insert(first);
        self.last = Some(last);
        self.count += count;
    }
}
