//! What the tasks of a run share: counters, the clock, and the stage the run is in.
//!
//! Publishers note what they sent, subscribers what came; a publisher of QoS 0 that may only have so much under
//! way waits here for its credit. Knows no connection. Start at [`Board`].

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// Messages under way that are not heard of for so long are taken for lost by a publisher that waits for credit.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);

/// Latencies are kept from a microsecond to ten minutes, to three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Publishers publish.
    Publishing,
    /// They have stopped or shall; subscribers take what comes.
    Draining,
    /// Subscribers shall stop, too.
    Over,
}

/// Shared by all tasks of a run.
#[derive(Debug)]
pub(crate) struct Board {
    start: Instant,
    stage: watch::Sender<Stage>,
    publishers: Vec<Outgoing>,
    /// How many subscribers get each message.
    copies: u64,
    received: AtomicU64,
    last: AtomicU64,
    measured_from: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

#[derive(Debug, Default)]
struct Outgoing {
    sent: AtomicU64,
    received: AtomicU64,
    wake_at: AtomicU64,
    wake: Notify,
}

impl Board {
    /// Of a run with so many publishers, each of whose messages goes to `copies` subscribers.
    ///
    /// # Errors
    /// Never in practice: the histogram's bounds are fixed.
    pub(crate) fn new(publishers: u32, copies: u32) -> Result<Self> {
        Ok(Self {
            start: Instant::now(),
            stage: watch::Sender::new(Stage::Publishing),
            publishers: (0..publishers).map(|_| Outgoing::default()).collect(),
            copies: u64::from(copies),
            received: AtomicU64::new(0),
            last: AtomicU64::new(0),
            measured_from: AtomicU64::new(u64::MAX),
            latency: Mutex::new(histogram()?),
        })
    }

    /// Time since the start of the run.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// When `at`, counted from the start of the run, is.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }

    /// Follows the stage.
    pub(crate) fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Moves the run on.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// What is sent from now on counts for the latency.
    pub(crate) fn measure(&self) {
        self.measured_from.store(nanos(self.now()), SeqCst);
    }

    /// Since when it is measured; the latency of what was sent before is not counted.
    pub(crate) fn measured_from(&self) -> Duration {
        Duration::from_nanos(self.measured_from.load(SeqCst))
    }

    /// A publisher has sent `total` messages so far; said before they are written.
    pub(crate) fn sent(&self, publisher: u32, total: u64) {
        if let Some(outgoing) = self.publishers.get(publisher as usize) {
            outgoing.sent.store(total, SeqCst);
        }
    }

    /// Messages a publisher has sent.
    pub(crate) fn sent_by(&self, publisher: u32) -> u64 {
        self.publishers.get(publisher as usize).map_or(0, |outgoing| outgoing.sent.load(SeqCst))
    }

    /// Messages all publishers have sent.
    pub(crate) fn published(&self) -> u64 {
        self.publishers.iter().map(|outgoing| outgoing.sent.load(SeqCst)).sum()
    }

    /// Deliveries that what was sent should have led to.
    pub(crate) fn expected(&self) -> u64 {
        self.published() * self.copies
    }

    /// Deliveries so far, repeats not counted.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }

    /// When the last one came.
    pub(crate) fn last_received(&self) -> Duration {
        Duration::from_nanos(self.last.load(SeqCst))
    }

    /// A subscriber got new messages, `latencies` of which are to be counted, in microseconds.
    pub(crate) fn delivered(&self, new: u64, now: Duration, latencies: &[u64]) {
        if new > 0 {
            self.received.fetch_add(new, SeqCst);
            self.last.fetch_max(nanos(now), SeqCst);
        }
        if !latencies.is_empty() {
            let mut histogram = self.latency.lock();
            latencies.iter().for_each(|micros| histogram.saturating_record(*micros));
        }
    }

    /// The latencies counted.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        self.latency.lock().clone()
    }

    /// Some messages of this publisher came: it may send others.
    pub(crate) fn credit(&self, publisher: u32, messages: u64) {
        let Some(outgoing) = self.publishers.get(publisher as usize) else { return };
        let before = outgoing.received.fetch_add(messages, SeqCst);
        let wake_at = outgoing.wake_at.load(SeqCst);
        if before < wake_at && wake_at <= before + messages {
            outgoing.wake.notify_one();
        }
    }

    /// Messages of this publisher that all their subscribers have, on average.
    pub(crate) fn arrived(&self, publisher: u32) -> u64 {
        let outgoing = self.publishers.get(publisher as usize);
        outgoing.map_or(0, |outgoing| outgoing.received.load(SeqCst) / self.copies.max(1))
    }

    /// Waits until `messages` of this publisher have arrived; what is missing after a second is taken for arrived.
    ///
    /// Cancel safe.
    pub(crate) async fn arrival(&self, publisher: u32, messages: u64) {
        let Some(outgoing) = self.publishers.get(publisher as usize) else { return };
        let wanted = messages * self.copies;
        outgoing.wake_at.store(wanted, SeqCst);
        while outgoing.received.load(SeqCst) < wanted {
            let before = outgoing.received.load(SeqCst);
            let heard = timeout(FORGIVEN_AFTER, outgoing.wake.notified()).await;
            if heard.is_err() && outgoing.received.load(SeqCst) == before {
                outgoing.received.fetch_max(outgoing.sent.load(SeqCst) * self.copies, SeqCst);
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_publisher_waits_until_its_messages_have_arrived() {
        let board = Board::new(2, 2).unwrap();
        board.sent(1, 10);
        let waiting = async {
            board.arrival(1, 5).await;
            board.arrived(1)
        };
        let arriving = async {
            board.credit(0, 100);
            for _ in 0..10 {
                tokio::task::yield_now().await;
                board.credit(1, 1);
            }
        };
        let (arrived, ()) = tokio::join!(waiting, arriving);
        assert_eq!(arrived, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_arrives_is_forgiven() {
        let board = Board::new(1, 1).unwrap();
        board.sent(0, 10);
        board.credit(0, 3);
        board.arrival(0, 8).await;
        assert_eq!(board.arrived(0), 10);
        assert_eq!(board.received(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_measured_latencies_are_counted() {
        let board = Board::new(1, 3).unwrap();
        board.sent(0, 2);
        board.delivered(2, Duration::from_millis(5), &[100, 300]);
        board.delivered(0, Duration::from_millis(9), &[]);
        assert_eq!((board.expected(), board.received()), (6, 2));
        assert_eq!(board.last_received(), Duration::from_millis(5));
        let latency = board.latency();
        assert_eq!((latency.len(), latency.min()), (2, 100));
    }
}
