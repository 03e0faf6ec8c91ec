//! Waits until every node that is up has applied what the control group has committed so far (P4).
//!
//! The leader of the control group knows (`overseer.rs`). Many who wait share one call: who comes while one is
//! under way goes with the next. It does not know what they wait for. Start at [`Barrier::passed`].

use tokio::sync::{mpsc, oneshot};

use crate::cluster::Shared;
use crate::ledger::barrier_request;

/// Who waits for the next call; more wait in [`Barrier::passed`].
const QUEUE: usize = 4_096;

/// Where to wait.
#[derive(Debug)]
pub(crate) struct Barrier(mpsc::Sender<oneshot::Sender<()>>);

/// The other end of [`Barrier`].
#[derive(Debug)]
pub(crate) struct BarrierQueue(mpsc::Receiver<oneshot::Sender<()>>);

impl Barrier {
    pub(crate) fn new() -> (Self, BarrierQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), BarrierQueue(receiver))
    }

    /// Returns when every node that is up has applied all that was committed before the call. False: the node
    /// stops first. Cancel safe.
    pub(crate) async fn passed(&self) -> bool {
        let (passed, waiting) = oneshot::channel();
        self.0.send(passed).await.is_ok() && waiting.await.is_ok()
    }
}

/// Answers until the node stops.
pub(crate) async fn run_barrier(shared: &Shared, queue: &mut BarrierQueue) {
    let mut waiting = Vec::new();
    while queue.0.recv_many(&mut waiting, QUEUE).await > 0 {
        // It comes back only when it has held.
        shared.propose(barrier_request()).await;
        for passed in waiting.drain(..) {
            // Who is gone has lost its connection.
            passed.send(()).unwrap_or_default();
        }
    }
}
