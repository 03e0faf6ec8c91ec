//! The receiving side of a lane: takes batches, hands records to the broker, acknowledges runs.
//!
//! A record counts as accepted when every matching session here has taken it. Repeats after a broken
//! stream are recognised by their sequence. Knows no subscriptions: [`Receiver`] does. Start at
//! [`accept_lane`].

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures::stream;
use parking_lot::Mutex;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::record::{Record, VERSION, take_record};
use crate::NodeId;
use crate::receipt::{Bell, Receipt};
use crate::transport::proto::{ForwardAck, ForwardBatch};

/// Makes receivers: implemented by the broker.
pub trait Inbound: Send + Sync + 'static {
    /// The receiver of one lane's messages; it may keep a cache of its own.
    fn receiver(&self) -> Box<dyn Receiver>;
}

/// Delivers what one lane brings.
pub trait Receiver: Send + 'static {
    /// Delivers to the sessions of this node; never routes again. `None`: all have taken it.
    fn deliver(&mut self, record: Record, bell: &Bell) -> Option<Receipt>;
}

/// What is known of each node that sends here, across its streams.
#[derive(Default)]
pub(crate) struct InboundState {
    producers: Mutex<BTreeMap<NodeId, Arc<Mutex<Producer>>>>,
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
    let producer = {
        let mut producers = state.producers.lock();
        let fresh = || {
            let (pending, receiver, bell) = (VecDeque::new(), inbound.receiver(), Bell::new());
            Arc::new(Mutex::new(Producer {
                incarnations: (0, 0),
                stream: 0,
                last: 0,
                pending,
                receiver,
                bell,
            }))
        };
        Arc::clone(producers.entry(from).or_insert_with(fresh))
    };
    let (stream, bell) = {
        let mut producer = producer.lock();
        producer.stream += 1;
        (producer.stream, producer.bell.clone())
    };
    // What an older stream left pending may have completed: look once.
    bell.ring();
    let lane = Lane { batches, producer, stream, bell, own_incarnation, ended: false };
    Box::pin(stream::unfold(lane, |mut lane| async move {
        let ack = lane.next_ack().await?;
        lane.ended = ack.is_err();
        Some((ack, lane))
    }))
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
            return Err(Status::failed_precondition("the lane is for an older incarnation of this node"));
        }
        let mut producer = self.producer.lock();
        self.check_current(&producer)?;
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
        let incarnations = (batch.incarnation, batch.receiver_incarnation);
        if incarnations != self.incarnations {
            (self.incarnations, self.last) = (incarnations, 0);
            self.pending.clear();
        }
        let mut runs = Vec::new();
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
            match self.receiver.deliver(record, &self.bell).filter(|receipt| !receipt.is_complete()) {
                Some(receipt) => self.pending.push_back((sequence, receipt)),
                None => extend(&mut runs, sequence),
            }
        }
        Ok(runs)
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

    #[test]
    fn runs_grow_while_sequences_follow_each_other() {
        let mut runs = Vec::new();
        for sequence in [4, 5, 6, 9, 10, 12] {
            extend(&mut runs, sequence);
        }
        assert_eq!(runs, [4, 6, 9, 10, 12, 12]);
    }
}
