//! The sending side of a lane: a bounded queue with what is sent but not accepted yet (`queue.rs`), and the task that
//! moves it.
//!
//! Policy when full: QoS 0 is dropped and counted, QoS 1/2 makes the publisher wait. What the peer has
//! not accepted when the stream breaks is sent again with the same sequence numbers; the peer drops
//! repeats. A lane is for one incarnation of its peer: when that is gone, so are the sessions that
//! wanted the messages, and all tickets are released. Start at [`Lane::push`] and [`Lane::post`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use zwerm_wire::QoS;

use super::doubts::{Doubtful, Doubts};
use super::queue::{Entry, Filling, Queued, State};
use super::record::{Body, Outgoing, Target, VERSION};
use crate::NodeId;
use crate::receipt::Ticket;
use crate::transport::Peers;
use crate::transport::proto::{ForwardAck, ForwardBatch};

/// Batches handed to gRPC and not yet written.
const STREAM_QUEUE: usize = 4;
const RETRY: Duration = Duration::from_millis(100);

/// Bounds of one lane: what is queued plus what is sent and not accepted.
#[derive(Debug, Clone, Copy)]
pub struct LaneLimits {
    /// Records.
    pub messages: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self { messages: 100_000, bytes: 64 * 1024 * 1024 }
    }
}

/// What all lanes of a node did.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Records taken from publishers, counted when they are sent first.
    pub taken: AtomicU64,
    /// QoS 0 records dropped because a lane was full.
    pub dropped_full: AtomicU64,
    /// Batches written.
    pub batches: AtomicU64,
    /// Records written again after a broken stream.
    pub repeated: AtomicU64,
}

/// The lane takes no more QoS 1/2 now; see [`Lane::wait_room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneFull;

/// The lane to one incarnation of one peer.
#[derive(Debug)]
pub struct Lane {
    peer: NodeId,
    incarnation: u64,
    limits: LaneLimits,
    counters: Arc<LaneCounters>,
    doubts: Arc<Doubts>,
    state: Mutex<State>,
    more: Notify,
    room: Notify,
}

impl Lane {
    pub(crate) fn new(
        peer: NodeId,
        incarnation: u64,
        limits: LaneLimits,
        (counters, doubts): (Arc<LaneCounters>, Arc<Doubts>),
    ) -> Self {
        let state = State { next_sequence: 1, ..State::default() };
        let (more, room) = (Notify::new(), Notify::new());
        Self { peer, incarnation, limits, counters, doubts, state: Mutex::new(state), more, room }
    }

    /// The incarnation of the peer that this lane is for.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Takes a message of QoS 0 that does not expire, or drops and counts it when the lane is full. When the peer is
    /// gone, so is the message.
    pub fn post(&self, target: &Target, message: &Outgoing<'_>) {
        debug_assert!(message.qos == QoS::AtMostOnce && message.expires_in_ms.is_none());
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.is_full(self.limits) {
            drop(state);
            self.counters.dropped_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let wake = state.queue.is_empty();
        state.put_loose(target, message);
        drop(state);
        if wake {
            self.more.notify_one();
        }
    }

    /// Takes a message. The ticket of a QoS 1/2 message is dropped when the peer has accepted it, or when
    /// the peer is gone; then it is refused if it was for members of shared subscriptions and the peer cannot have it.
    ///
    /// # Errors
    /// [`LaneFull`], for QoS 1/2 only; nothing was taken.
    pub fn push(
        &self,
        qos: QoS,
        target: &Target,
        body: Body,
        ticket: impl FnOnce() -> Option<Ticket>,
    ) -> Result<(), LaneFull> {
        self.take(qos, (target, false), body, ticket)
    }

    /// As [`push`](Self::push), of a QoS 2 message that the peer may have from another leader of the shard that
    /// publishes it.
    ///
    /// # Errors
    /// [`LaneFull`]; nothing was taken.
    pub fn push_again(
        &self,
        target: &Target,
        body: Body,
        ticket: impl FnOnce() -> Option<Ticket>,
    ) -> Result<(), LaneFull> {
        self.take(QoS::ExactlyOnce, (target, true), body, ticket)
    }

    fn take(
        &self,
        qos: QoS,
        (target, sent): (&Target, bool),
        body: Body,
        ticket: impl FnOnce() -> Option<Ticket>,
    ) -> Result<(), LaneFull> {
        let mut state = self.state.lock();
        if !state.closed && state.is_full(self.limits) {
            drop(state);
            if qos != QoS::AtMostOnce {
                return Err(LaneFull);
            }
            self.counters.dropped_full.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let taken = body.expires().then(Instant::now);
        let (target, ticket) = (target.clone(), ticket());
        if state.closed {
            drop(state);
            self.bereave(Entry { sequence: 0, target, body, ticket, qos, taken, sent });
            return Ok(());
        }
        let (wake, sequence) = (state.queue.is_empty(), state.take(body.len()));
        state.queue.push_back(Queued::One(Entry { sequence, target, body, ticket, qos, taken, sent }));
        drop(state);
        if wake {
            self.more.notify_one();
        }
        Ok(())
    }

    /// Waits until a full lane may have room again (or is closed).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_room(&self) {
        let room = self.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        if self.is_full() {
            room.await;
        }
    }

    fn is_full(&self) -> bool {
        let state = self.state.lock();
        !state.closed && state.is_full(self.limits)
    }

    /// Records queued or not accepted yet, and their bytes.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.messages, state.bytes)
    }

    /// The peer's incarnation is gone: releases everything.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.unsend();
        let released = std::mem::take(&mut state.queue);
        (state.bytes, state.messages) = (0, 0);
        drop(state);
        // Tickets ring bells: not under the lock.
        for queued in released {
            if let Queued::One(entry) = queued {
                self.bereave(entry);
            }
        }
        self.more.notify_one();
        self.room.notify_waiters();
    }

    /// The peer is gone. So are its plain subscribers, which accepts for them. Of a shared subscription another
    /// member may be elsewhere, so its publisher is told; but what the peer may have with QoS 2 is given to nobody
    /// before that is known, and the publisher does not wait for it.
    fn bereave(&self, entry: Entry) {
        if entry.target.groups.is_empty() {
            return;
        }
        if !entry.is_doubtful() {
            return entry.ticket.map_or((), Ticket::refuse);
        }
        let Entry { sequence, target, body, taken, sent, .. } = entry;
        for group in target.groups {
            let doubtful = Doubtful { sequence, group, body: body.clone(), taken, sent };
            self.doubts.put(self.peer, self.incarnation, doubtful);
        }
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    fn has_queue(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    /// Puts what was not accepted back to the front of the queue, after a broken stream.
    fn rewind(&self) {
        let mut state = self.state.lock();
        self.counters.repeated.fetch_add(state.unaccepted.len() as u64, Ordering::Relaxed);
        state.unsend();
    }

    /// The peer says that the lane is for an older incarnation of it.
    fn refuse(&self) {
        self.state.lock().refused = true;
    }

    fn is_refused(&self) -> bool {
        self.state.lock().refused
    }

    /// Takes the next batch off the queue.
    fn next_batch(&self, own_incarnation: u64) -> Option<ForwardBatch> {
        let mut batch = Filling::default();
        let mut state = self.state.lock();
        while state.fill(&mut batch) {}
        let taken = std::mem::take(&mut state.uncounted);
        drop(state);
        let first_sequence = batch.first?;
        self.counters.taken.fetch_add(taken, Ordering::Relaxed);
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.room.notify_waiters();
        Some(ForwardBatch {
            incarnation: own_incarnation,
            receiver_incarnation: self.incarnation,
            version: VERSION,
            first_sequence,
            records: batch.records.freeze(),
        })
    }

    /// Drops the tickets of what the peer accepted.
    fn accepted(&self, ack: &ForwardAck) {
        let mut released = Vec::new();
        let mut state = self.state.lock();
        for run in ack.runs.chunks_exact(2) {
            let (Some(&first), Some(&last)) = (run.first(), run.last()) else { continue };
            let from = state.unaccepted.partition_point(|entry| entry.sequence < first);
            let to = state.unaccepted.partition_point(|entry| entry.sequence <= last);
            released.extend(state.unaccepted.drain(from..to.max(from)));
        }
        state.bytes -= released.iter().map(|entry| entry.body.len()).sum::<usize>();
        state.messages -= released.len();
        drop(state);
        drop(released);
        self.room.notify_waiters();
    }
}

/// Moves a lane until it is closed. `own_incarnation` is what this node was when the lane was made.
pub(crate) async fn run_lane(lane: Arc<Lane>, peers: Peers, own_incarnation: u64) {
    while !lane.is_closed() {
        lane.rewind();
        if let Err(error) = stream_lane(&lane, &peers, own_incarnation).await {
            tracing::debug!(peer = format_args!("{:016x}", lane.peer), %error, "a forwarding lane broke");
        }
        if lane.is_refused() {
            // Nothing is sent to a process that cannot have been meant: so it is known that it did not come there.
            closed(&lane).await;
        }
        if !lane.is_closed() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// One stream of a lane, until it breaks or the lane is closed.
async fn stream_lane(lane: &Lane, peers: &Peers, own_incarnation: u64) -> Result<(), crate::CallError> {
    let (batches, receiver) = mpsc::channel(STREAM_QUEUE);
    let opening = peers.forward(lane.peer, ReceiverStream::new(receiver));
    let (incarnation, mut acks) = tokio::select! {
        opened = opening => opened?,
        () = closed(lane) => return Ok(()),
    };
    if incarnation.is_some_and(|incarnation| incarnation > lane.incarnation) {
        // Before anything is sent: when the stream broke before it is refused, nobody knew that nothing came.
        lane.refuse();
        return Ok(());
    }
    // Each branch is cancel safe: a permit is given back, an ack stays in the stream, a ring is kept.
    loop {
        let has_queue = lane.has_queue();
        tokio::select! {
            permit = batches.reserve(), if has_queue => match permit {
                Ok(permit) => if let Some(batch) = lane.next_batch(own_incarnation) {
                    permit.send(batch);
                },
                Err(_) => return Ok(()),
            },
            ack = acks.next() => match ack {
                Some(Ok(ack)) => lane.accepted(&ack),
                Some(Err(status)) => {
                    if status.code() == Code::FailedPrecondition {
                        lane.refuse();
                    }
                    return Err(status.into());
                }
                None => return Ok(()),
            },
            () = lane.more.notified(), if !has_queue => {}
        }
        if lane.is_closed() {
            return Ok(());
        }
    }
}

/// Resolves when the lane is closed; takes rings for "more" meanwhile, which the caller looks for anyway.
async fn closed(lane: &Lane) {
    while !lane.is_closed() {
        lane.more.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::queue::{BATCH_BYTES, BATCH_RECORDS};
    use crate::forward::record::take_record;
    use crate::forward::{Origin, Record};
    use crate::receipt::{Bell, Receipt};
    use bytes::Bytes;
    use zwerm_wire::{TopicFilter, TopicName};

    fn lane(messages: usize) -> Lane {
        Lane::new(7, 1, LaneLimits { messages, bytes: 1 << 20 }, (Arc::default(), Arc::default()))
    }

    fn record(qos: QoS, expires_in_ms: Option<u64>) -> Record {
        Record {
            target: Target { plain: true, groups: Vec::new() },
            publisher: "p".into(),
            topic: TopicName::new("t").unwrap(),
            qos,
            retain: false,
            origin: None,
            expires_in_ms,
            properties: None,
            payload: Bytes::from_static(b"x"),
        }
    }

    fn push(lane: &Lane, qos: QoS, receipt: &Receipt) -> Result<(), LaneFull> {
        let record = record(qos, None);
        let target = record.target.clone();
        if qos == QoS::AtMostOnce {
            lane.post(&target, &record.outgoing());
            return Ok(());
        }
        lane.push(qos, &target, Body::encode(&record.outgoing()), || Some(receipt.ticket()))
    }

    #[test]
    fn a_full_lane_drops_qos_0_and_refuses_qos_1() {
        let (lane, receipt) = (lane(1), Receipt::new(Bell::new()));
        assert_eq!(push(&lane, QoS::AtLeastOnce, &receipt), Ok(()));
        assert_eq!(push(&lane, QoS::AtMostOnce, &receipt), Ok(()));
        assert_eq!(push(&lane, QoS::AtLeastOnce, &receipt), Err(LaneFull));
        assert_eq!(lane.counters.dropped_full.load(Ordering::Relaxed), 1);
        assert_eq!(lane.held().0, 1);
    }

    #[test]
    fn tickets_are_held_until_the_run_that_covers_them() {
        let (lane, receipt) = (lane(10), Receipt::new(Bell::new()));
        for _ in 0..3 {
            push(&lane, QoS::AtLeastOnce, &receipt).unwrap();
        }
        let batch = lane.next_batch(1).unwrap();
        assert_eq!((batch.first_sequence, batch.receiver_incarnation), (1, 1));
        lane.accepted(&ForwardAck { runs: vec![1, 1, 3, 3] });
        assert!(!receipt.is_complete());
        lane.accepted(&ForwardAck { runs: vec![2, 2] });
        assert!(receipt.is_complete());
        assert_eq!(lane.held(), (0, 0));
    }

    #[test]
    fn what_was_not_accepted_is_sent_again_before_what_is_new() {
        let (lane, receipt) = (lane(10), Receipt::new(Bell::new()));
        push(&lane, QoS::AtLeastOnce, &receipt).unwrap();
        push(&lane, QoS::AtMostOnce, &receipt).unwrap();
        push(&lane, QoS::ExactlyOnce, &receipt).unwrap();
        lane.next_batch(1).unwrap();
        push(&lane, QoS::AtLeastOnce, &receipt).unwrap();
        lane.rewind();
        assert_eq!(next_sequences(&lane), Some(vec![1, 3, 4]), "QoS 0 is sent once only");
    }

    /// Of the records of the next batch, as its receiver numbers them.
    fn next_sequences(lane: &Lane) -> Option<Vec<u64>> {
        let batch = lane.next_batch(1)?;
        let (mut records, mut sequence, mut seen) = (batch.records, batch.first_sequence, Vec::new());
        while !records.is_empty() {
            let (delta, _) = take_record(&mut records).unwrap();
            sequence += delta;
            seen.push(sequence);
        }
        Some(seen)
    }

    #[test]
    fn messages_of_all_qualities_go_in_the_order_in_which_they_were_taken() {
        use QoS::{AtLeastOnce, AtMostOnce};
        let (lane, receipt) = (lane(10_000), Receipt::new(Bell::new()));
        for qos in [AtMostOnce, AtMostOnce, AtLeastOnce, AtMostOnce, AtMostOnce, AtLeastOnce] {
            push(&lane, qos, &receipt).unwrap();
        }
        assert_eq!(lane.held().0, 6);
        assert_eq!(next_sequences(&lane), Some((1..=6).collect()));
        assert_eq!(lane.held().0, 2);
        for _ in 0..BATCH_RECORDS + 1 {
            push(&lane, AtMostOnce, &receipt).unwrap();
        }
        let batch = u64::try_from(BATCH_RECORDS).unwrap();
        assert_eq!(next_sequences(&lane), Some((7..7 + batch).collect()));
        assert_eq!(next_sequences(&lane), Some(vec![7 + batch]));
        assert_eq!(next_sequences(&lane), None);
        assert_eq!(lane.counters.taken.load(Ordering::Relaxed), 7 + batch);
    }

    #[test]
    fn a_batch_is_no_longer_than_its_bound_unless_one_message_is() {
        let lane = lane(10_000);
        let sizes = [10, BATCH_BYTES - 100, 200, BATCH_BYTES + 1, 10];
        for size in sizes {
            let record = Record { payload: vec![0; size].into(), ..record(QoS::AtMostOnce, None) };
            lane.post(&record.target, &record.outgoing());
        }
        let mut counts = Vec::new();
        while let Some(batch) = lane.next_batch(1) {
            let (mut records, mut sequences, mut sequence) =
                (batch.records, Vec::new(), batch.first_sequence);
            assert!(records.len() <= BATCH_BYTES + 32, "{} bytes", records.len());
            while !records.is_empty() {
                let (delta, _) = take_record(&mut records).unwrap();
                sequence += delta;
                sequences.push(sequence);
            }
            counts.push(sequences);
        }
        assert_eq!(counts, [vec![1, 2], vec![3], vec![4], vec![5]]);
        assert_eq!(lane.held(), (0, 0));
    }

    #[test]
    fn loose_records_that_are_too_far_from_those_before_begin_a_batch() {
        let (lane, receipt) = (lane(10_000), Receipt::new(Bell::new()));
        push(&lane, QoS::AtLeastOnce, &receipt).unwrap();
        for _ in 0..200 {
            push(&lane, QoS::AtMostOnce, &receipt).unwrap();
        }
        lane.next_batch(1).unwrap();
        push(&lane, QoS::AtMostOnce, &receipt).unwrap();
        lane.rewind();
        assert_eq!(next_sequences(&lane), Some(vec![1]));
        assert_eq!(next_sequences(&lane), Some(vec![202]));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_the_lane_is_taken_off_the_expiry_also_when_it_is_sent_again() {
        let (lane, target) = (lane(10), Target { plain: true, groups: Vec::new() });
        let record = record(QoS::AtLeastOnce, Some(5_000));
        lane.push(QoS::AtLeastOnce, &target, Body::encode(&record.outgoing()), || None).unwrap();
        for left in [4_000, 3_000] {
            tokio::time::advance(Duration::from_secs(1)).await;
            lane.rewind();
            let mut records = lane.next_batch(1).unwrap().records;
            let (_, taken) = take_record(&mut records).unwrap();
            assert_eq!(taken.expires_in_ms, Some(left));
        }
    }

    #[test]
    fn closing_releases_everything() {
        let (lane, receipt) = (lane(10), Receipt::new(Bell::new()));
        push(&lane, QoS::AtLeastOnce, &receipt).unwrap();
        push(&lane, QoS::AtLeastOnce, &receipt).unwrap();
        lane.next_batch(1).unwrap();
        lane.close();
        assert!(receipt.is_complete());
        assert_eq!(push(&lane, QoS::AtLeastOnce, &receipt), Ok(()), "a closed lane has nobody to wait for");
        assert_eq!(lane.held(), (0, 0));
    }

    /// What becomes of a message for a group: refused, so that another member gets it, or doubtful.
    fn closed_over(qos: QoS, origin: Option<Origin>, is_sent: bool) -> (bool, usize) {
        let (lane, receipt) = (lane(10), Receipt::new(Bell::new()));
        let target = Target { plain: true, groups: vec![TopicFilter::new("$share/g/t").unwrap()] };
        let record = Record { target: target.clone(), origin, ..record(qos, None) };
        lane.push(qos, &target, Body::encode(&record.outgoing()), || Some(receipt.ticket())).unwrap();
        if is_sent {
            lane.next_batch(1).unwrap();
            lane.rewind();
        }
        lane.close();
        assert!(receipt.is_complete(), "the publisher does not wait");
        (receipt.has_failed(), lane.doubts.len())
    }

    #[test]
    fn what_a_later_process_of_the_peer_refused_it_cannot_have() {
        let (lane, receipt) = (lane(10), Receipt::new(Bell::new()));
        let target = Target { plain: false, groups: vec![TopicFilter::new("$share/g/t").unwrap()] };
        let body =
            Body::encode(&Record { target: target.clone(), ..record(QoS::ExactlyOnce, None) }.outgoing());
        let push = || lane.push(QoS::ExactlyOnce, &target, body.clone(), || Some(receipt.ticket())).unwrap();
        push();
        lane.next_batch(1).unwrap();
        lane.rewind();
        push();
        lane.next_batch(1).unwrap();
        lane.refuse();
        lane.close();
        assert!(receipt.has_failed(), "the second one goes to another member");
        assert_eq!(lane.doubts.len(), 1, "the first one may have come to the process before");
    }

    #[test]
    fn what_the_peer_may_have_with_qos_2_is_given_to_nobody_else_before_that_is_known() {
        let origin = Some(Origin { shard: 1, sequence: 5 });
        assert_eq!(closed_over(QoS::AtLeastOnce, None, true), (true, 0), "it may come twice");
        assert_eq!(closed_over(QoS::AtLeastOnce, origin, true), (true, 0));
        assert_eq!(closed_over(QoS::ExactlyOnce, None, false), (true, 0), "it cannot have come");
        assert_eq!(closed_over(QoS::ExactlyOnce, None, true), (false, 1), "also when the stream broke since");
        assert_eq!(
            closed_over(QoS::ExactlyOnce, origin, false),
            (false, 1),
            "it may have come by another lane"
        );
    }
}
