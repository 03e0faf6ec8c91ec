//! The receiving side of a lane: takes batches, hands records to the broker, acknowledges runs.
//!
//! A record counts as accepted when every matching session here has taken it. Repeats after a broken
//! stream are recognised by their sequence. Knows no subscriptions: [`Receiver`] does. Start at
//! [`accept_lane`].

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};
use zwerm_wire::TopicFilter;

use super::record::{Origin, Record, VERSION, take_record};
use crate::NodeId;
use crate::receipt::{Bell, Receipt};
use crate::transport::proto::{Doubt, ForwardAck, ForwardBatch, SettleReply, SettleRequest};

/// Makes receivers: implemented by the broker.
pub trait Inbound: Send + Sync + 'static {
    /// The receiver of one lane's messages; it may keep a cache of its own.
    fn receiver(&self) -> Box<dyn Receiver>;

    /// Whether a message of a shard's outbox came here for this shared subscription. If not, it never will: from now
    /// on it counts as one that came.
    fn came(&self, origin: Origin, group: &TopicFilter) -> bool;
}

/// Delivers what one lane brings.
pub trait Receiver: Send + 'static {
    /// Delivers to the sessions of this node what came `now`; never routes again. `None`: all have taken it.
    fn deliver(&mut self, record: Record, now: Instant, bell: &Bell) -> Option<Receipt>;
}

/// Ends of lanes that are remembered of one sender: of so many incarnations of this process.
const ENDED: usize = 64;
/// Messages of outboxes that were given back and are remembered.
const GIVEN_BACK: usize = 65_536;

/// What is known of each node that sends here, across its streams.
#[derive(Default)]
pub(crate) struct InboundState {
    producers: Mutex<BTreeMap<NodeId, Arc<Mutex<Producer>>>>,
    given_back: Mutex<GivenBack>,
    /// The node is stopping: nothing is taken any more.
    closed: Arc<AtomicBool>,
}

/// A message of an outbox, for one shared subscription.
type OfOutbox = (Origin, TopicFilter);

/// Who was told that a message of an outbox did not come here: the same one hears it again, and nobody else.
#[derive(Debug, Default)]
struct GivenBack {
    to: BTreeMap<OfOutbox, (NodeId, u64)>,
    order: VecDeque<OfOutbox>,
}

impl std::fmt::Debug for InboundState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboundState").finish_non_exhaustive()
    }
}

struct Producer {
    /// Of the sender and of the receiver: each lane is for one pair and numbers its records from 1.
    incarnations: (u64, u64),
    /// Grows with each stream; an older stream stops.
    stream: u64,
    /// Everything up to here was handed to the receiver.
    last: u64,
    /// The same of older incarnations of the receiver, by these.
    ended: BTreeMap<u64, u64>,
    /// Lanes to this incarnation of the receiver, and to older ones, bring nothing any more.
    over: u64,
    /// Handed over but not accepted by everyone yet, in order.
    pending: VecDeque<(u64, Receipt)>,
    receiver: Box<dyn Receiver>,
    /// Rings when something pending is accepted; one for all streams, only the newest listens.
    bell: Bell,
}

struct Lane {
    batches: Streaming<ForwardBatch>,
    producer: Arc<Mutex<Producer>>,
    stream: u64,
    bell: Bell,
    own_incarnation: u64,
    closed: Arc<AtomicBool>,
    ended: bool,
}

pub(crate) type Acks = Pin<Box<dyn Stream<Item = Result<ForwardAck, Status>> + Send>>;

/// Serves one stream of a lane: the acknowledgements that answer its batches.
pub(crate) fn accept_lane(
    state: &InboundState,
    inbound: &dyn Inbound,
    from: NodeId,
    own_incarnation: u64,
    batches: Streaming<ForwardBatch>,
) -> Acks {
    let producer = state.producer(inbound, from);
    let (stream, bell) = {
        let mut producer = producer.lock();
        producer.stream += 1;
        (producer.stream, producer.bell.clone())
    };
    // What an older stream left pending may have completed: look once.
    bell.ring();
    let closed = Arc::clone(&state.closed);
    let lane = Lane { batches, producer, stream, bell, own_incarnation, closed, ended: false };
    Box::pin(stream::unfold(lane, |mut lane| async move {
        let ack = lane.next_ack().await?;
        lane.ended = ack.is_err();
        Some((ack, lane))
    }))
}

impl InboundState {
    /// Takes nothing any more: nobody here would pass on what no member takes.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Whoever is taking a batch now is done before anybody is told how far its lane came.
    }

    fn producer(&self, inbound: &dyn Inbound, from: NodeId) -> Arc<Mutex<Producer>> {
        let mut producers = self.producers.lock();
        let fresh = || {
            let (pending, receiver, bell) = (VecDeque::new(), inbound.receiver(), Bell::new());
            Arc::new(Mutex::new(Producer {
                incarnations: (0, 0),
                stream: 0,
                last: 0,
                ended: BTreeMap::new(),
                over: 0,
                pending,
                receiver,
                bell,
            }))
        };
        Arc::clone(producers.entry(from).or_insert_with(fresh))
    }

    /// Says which messages, sent to an incarnation of this node that is over, came here. The others never will.
    /// `first` and `present` are incarnations of this process.
    ///
    /// # Errors
    /// That incarnation is not over.
    pub(crate) fn settle(
        &self,
        inbound: &dyn Inbound,
        from: NodeId,
        (first, present): (u64, u64),
        request: &SettleRequest,
    ) -> Result<SettleReply, Status> {
        let (sender, receiver) = (request.incarnation, request.receiver_incarnation);
        let is_over = receiver < present || (receiver == present && self.closed.load(Ordering::Acquire));
        if !is_over {
            return Err(Status::failed_precondition("this incarnation is not over"));
        }
        let last = self.producer(inbound, from).lock().end(sender, receiver);
        let Some(last) = last.filter(|_| receiver >= first) else {
            return Ok(SettleReply { died: true, missing: Vec::new() });
        };
        let came = |doubt: &Doubt| match doubt.outbox_sequence {
            0 => doubt.sequence <= last,
            _ => self.came(inbound, (from, sender), doubt),
        };
        let missing = (0..).zip(&request.doubts).filter(|(_, doubt)| !came(doubt));
        Ok(SettleReply { died: false, missing: missing.map(|(index, _)| index).collect() })
    }

    /// Whether a message of an outbox came here, or was given back to another.
    fn came(&self, inbound: &dyn Inbound, asking: (NodeId, u64), doubt: &Doubt) -> bool {
        // A filter that is none is of no shared subscription here.
        let Ok(group) = TopicFilter::new(doubt.group.as_str()) else { return true };
        let origin = Origin { shard: doubt.shard, sequence: doubt.outbox_sequence };
        let mut given_back = self.given_back.lock();
        if let Some(to) = given_back.to.get(&(origin, group.clone())) {
            return *to != asking;
        }
        let came = inbound.came(origin, &group);
        if !came {
            given_back.order.push_back((origin, group.clone()));
            given_back.to.insert((origin, group), asking);
            if given_back.order.len() > GIVEN_BACK
                && let Some(oldest) = given_back.order.pop_front()
            {
                given_back.to.remove(&oldest);
            }
        }
        came
    }
}

impl Lane {
    /// The next acknowledgement, `None` when the sender closed the lane.
    async fn next_ack(&mut self) -> Option<Result<ForwardAck, Status>> {
        while !self.ended {
            // Both branches are cancel safe: a batch stays in the stream, a ring is kept.
            let runs = tokio::select! {
                batch = self.batches.next() => match batch? {
                    Ok(batch) => self.take(batch),
                    Err(status) => Err(status),
                },
                () = self.bell.wait() => self.completed(),
            };
            match runs {
                Ok(runs) if runs.is_empty() => {}
                Ok(runs) => return Some(Ok(ForwardAck { runs })),
                Err(status) => return Some(Err(status)),
            }
        }
        None
    }

    fn take(&self, batch: ForwardBatch) -> Result<Vec<u64>, Status> {
        if batch.version != VERSION {
            return Err(Status::unimplemented(format!("forward records of version {}", batch.version)));
        }
        if batch.receiver_incarnation != self.own_incarnation {
            // The sender knows by this code that nothing of the whole stream is taken.
            return Err(Status::failed_precondition("the lane is for an older incarnation of this node"));
        }
        let mut producer = self.producer.lock();
        self.check_current(&producer)?;
        if self.closed.load(Ordering::Acquire) {
            return Err(Status::unavailable("this node is stopping"));
        }
        producer.take(batch)
    }

    fn completed(&self) -> Result<Vec<u64>, Status> {
        let mut producer = self.producer.lock();
        self.check_current(&producer)?;
        Ok(producer.completed())
    }

    fn check_current(&self, producer: &Producer) -> Result<(), Status> {
        if producer.stream == self.stream {
            return Ok(());
        }
        // The ring was for the newer stream.
        self.bell.ring();
        Err(Status::aborted("a newer stream took the lane over"))
    }
}

impl Producer {
    /// Delivers a batch; answers with the runs that are accepted already.
    fn take(&mut self, batch: ForwardBatch) -> Result<Vec<u64>, Status> {
        if batch.receiver_incarnation <= self.over {
            // Of what came before in this stream something was taken.
            return Err(Status::aborted("the lane is for an incarnation that is over"));
        }
        self.begin(batch.incarnation, batch.receiver_incarnation);
        let (mut runs, now) = (Vec::new(), Instant::now());
        let mut sequence = batch.first_sequence;
        let mut records = batch.records;
        while !records.is_empty() {
            let (delta, record) =
                take_record(&mut records).map_err(|error| Status::invalid_argument(error.to_string()))?;
            sequence += delta;
            if sequence <= self.last {
                // A repeat: accepted already, or still pending and acknowledged when it completes.
                if self.pending.binary_search_by_key(&sequence, |(pending, _)| *pending).is_err() {
                    extend(&mut runs, sequence);
                }
                continue;
            }
            self.last = sequence;
            match self.receiver.deliver(record, now, &self.bell).filter(|receipt| !receipt.is_complete()) {
                Some(receipt) => self.pending.push_back((sequence, receipt)),
                None => extend(&mut runs, sequence),
            }
        }
        Ok(runs)
    }

    /// A lane of this pair of incarnations goes on, or begins and ends the one before.
    fn begin(&mut self, sender: u64, receiver: u64) {
        if self.incarnations == (sender, receiver) {
            return;
        }
        let (before, ended) = self.incarnations;
        if before == sender {
            self.ended.insert(ended, self.last);
            if self.ended.len() > ENDED {
                self.ended.pop_first();
            }
        } else {
            self.ended.clear();
        }
        (self.incarnations, self.last) = ((sender, receiver), 0);
        self.over = self.over.max(receiver.saturating_sub(1));
        self.pending.clear();
    }

    /// Ends a lane for good: how far it came. `None`: that is forgotten.
    fn end(&mut self, sender: u64, receiver: u64) -> Option<u64> {
        self.over = self.over.max(receiver);
        if self.incarnations == (sender, receiver) {
            return Some(self.last);
        }
        if self.incarnations.0 != sender {
            // Of that life of the sender nothing came yet, and what is known is of another.
            return Some(0);
        }
        // Of an incarnation for which nothing ever came there is nothing to remember.
        let known = self.ended.get(&receiver).copied();
        let is_forgotten = self.ended.len() >= ENDED && self.ended.first_key_value()?.0 > &receiver;
        if is_forgotten { None } else { Some(known.unwrap_or(0)) }
    }

    /// Runs of pending records that everyone has accepted meanwhile.
    fn completed(&mut self) -> Vec<u64> {
        let mut runs = Vec::new();
        self.pending.retain(|(sequence, receipt)| {
            let complete = receipt.is_complete();
            if complete {
                extend(&mut runs, *sequence);
            }
            !complete
        });
        runs
    }
}

/// Appends a sequence to runs of (first, last).
fn extend(runs: &mut Vec<u64>, sequence: u64) {
    match runs.last_mut() {
        Some(last) if *last + 1 == sequence => *last = sequence,
        _ => runs.extend([sequence, sequence]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of outboxes.
    #[derive(Default)]
    struct Door(Mutex<Vec<Origin>>);

    impl Inbound for Door {
        fn receiver(&self) -> Box<dyn Receiver> {
            Box::new(Deaf)
        }

        fn came(&self, origin: Origin, _: &TopicFilter) -> bool {
            let mut came = self.0.lock();
            let is_known = came.contains(&origin);
            came.push(origin);
            is_known
        }
    }

    struct Deaf;

    impl Receiver for Deaf {
        fn deliver(&mut self, _: Record, _: Instant, _: &Bell) -> Option<Receipt> {
            None
        }
    }

    fn doubt(sequence: u64, outbox_sequence: u64) -> Doubt {
        Doubt { sequence, shard: 1, outbox_sequence, group: "$share/g/t".to_owned() }
    }

    /// What node 7, whose process began as `incarnation`, hears of doubts about incarnation 20 of this node, which
    /// began as 19 and is 22 now.
    fn missing(state: &InboundState, door: &Door, incarnation: u64, doubts: &[Doubt]) -> Vec<u32> {
        let doubts = doubts.to_vec();
        let request = SettleRequest { incarnation, receiver_incarnation: 20, doubts };
        let reply = state.settle(door, 7, (19, 22), &request).unwrap();
        assert!(!reply.died);
        reply.missing
    }

    #[test]
    fn how_far_a_lane_came_is_known_after_the_next_has_begun_and_it_comes_no_further() {
        let (state, door) = (InboundState::default(), Door::default());
        {
            let producer = state.producer(&door, 7);
            let mut producer = producer.lock();
            producer.begin(5, 20);
            producer.last = 3;
            producer.begin(5, 21);
            producer.last = 9;
        }
        let doubts = [doubt(2, 0), doubt(3, 0), doubt(4, 0)];
        for _ in 0..2 {
            assert_eq!(missing(&state, &door, 5, &doubts), [2], "also if the answer got lost");
        }
        let batch = ForwardBatch { incarnation: 5, receiver_incarnation: 20, ..ForwardBatch::default() };
        assert!(state.producer(&door, 7).lock().take(batch).is_err());
        assert_eq!(
            missing(&state, &door, 6, &doubts),
            [0, 1, 2],
            "of another life of the sender nothing came"
        );
    }

    #[test]
    fn a_message_of_an_outbox_that_did_not_come_is_given_back_to_one_node_only() {
        let (state, door) =
            (InboundState::default(), Door(Mutex::new(vec![Origin { shard: 1, sequence: 8 }])));
        let doubts = [doubt(0, 8), doubt(0, 9)];
        assert_eq!(missing(&state, &door, 5, &doubts), [1]);
        assert_eq!(missing(&state, &door, 5, &doubts), [1], "the answer got lost");
        assert!(missing(&state, &door, 6, &doubts).is_empty(), "whoever asked first has it");
    }

    #[test]
    fn a_process_that_began_later_knows_nothing_and_one_that_lives_says_nothing_yet() {
        let (state, door) = (InboundState::default(), Door::default());
        let asks = |receiver_incarnation| {
            let request = SettleRequest { incarnation: 5, receiver_incarnation, doubts: vec![doubt(1, 0)] };
            state.settle(&door, 7, (19, 22), &request)
        };
        assert!(asks(18).unwrap().died);
        assert!(asks(22).is_err());
        state.close();
        assert_eq!(asks(22).unwrap().missing, [0], "it is stopping");
    }

    #[test]
    fn runs_grow_while_sequences_follow_each_other() {
        let mut runs = Vec::new();
        for sequence in [4, 5, 6, 9, 10, 12] {
            extend(&mut runs, sequence);
        }
        assert_eq!(runs, [4, 6, 9, 10, 12, 12]);
    }
}
