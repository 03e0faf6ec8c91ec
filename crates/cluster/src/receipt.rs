//! Who waits for what: a receipt is complete when all its tickets are gone.
//!
//! A publish that several places must accept hands each a [`Ticket`]; the one that waits holds the
//! [`Receipt`] and a [`Bell`] that rings when the last ticket is dropped. It does not know what was
//! published. Start at [`Receipt::new`].

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use zwerm_machine::records::Refusal;

/// No place refused; else the number of a `Refusal`, which is never negative.
const NONE_REFUSED: i32 = -1;

/// Wakes the one task that owns a connection (or a lane); a ring before the wait is not lost. Only one task waits at
/// a time, so a wait holds nothing: an idle connection waits for its bell all the time.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Ringing>);

#[derive(Debug, Default)]
struct Ringing {
    /// It was rung since the last wait ended.
    rung: AtomicBool,
    waiting: AtomicWaker,
}

impl Bell {
    /// A silent bell.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiting task, or the next one that waits.
    pub fn ring(&self) {
        // Whoever rang before and was not heard yet wakes the task.
        if !self.0.rung.swap(true, Ordering::AcqRel) {
            self.0.waiting.wake();
        }
    }

    /// Waits for a ring.
    ///
    /// # Cancel safety
    /// Cancel safe: a ring that arrives while nobody waits is kept.
    pub async fn wait(&self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let heard = || self.0.rung.swap(false, Ordering::AcqRel);
        if heard() {
            return Poll::Ready(());
        }
        self.0.waiting.register(context.waker());
        // It may have been rung before it knew whom to wake.
        if heard() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[derive(Debug)]
struct Count {
    open: AtomicUsize,
    /// Why the place that refused last did so, or [`NONE_REFUSED`].
    refusal: AtomicI32,
    bell: Bell,
}

/// Held by the one that waits.
#[derive(Debug, Clone)]
pub struct Receipt(Arc<Count>);

/// Held by a place that has yet to accept; dropping it is accepting.
#[derive(Debug)]
pub struct Ticket(Arc<Count>);

impl Receipt {
    /// A receipt without tickets: complete at once.
    #[must_use]
    pub fn new(bell: Bell) -> Self {
        Self(Arc::new(Count { open: AtomicUsize::new(0), refusal: AtomicI32::new(NONE_REFUSED), bell }))
    }

    /// One more place to wait for.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Ticket(Arc::clone(&self.0))
    }

    /// All tickets are gone.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.open.load(Ordering::Acquire) == 0
    }

    /// Some place refused. Means something only when complete.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.refusal.load(Ordering::Acquire) != NONE_REFUSED
    }

    /// Why some place refused: `None` if none did, [`Refusal::Unspecified`] if it gave no reason (the node stops).
    /// Means something only when complete.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let refusal = self.0.refusal.load(Ordering::Acquire);
        (refusal != NONE_REFUSED).then(|| Refusal::try_from(refusal).unwrap_or(Refusal::Unspecified))
    }
}

impl Ticket {
    /// The place refuses instead of accepting.
    pub fn refuse(self) {
        self.refuse_for(Refusal::Unspecified);
    }

    /// The place refuses and says why.
    pub fn refuse_for(self, reason: Refusal) {
        self.0.refusal.store(reason.into(), Ordering::Release);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_bell_is_heard_once_whether_it_was_rung_before_or_during_the_wait() {
        let bell = Bell::new();
        bell.ring();
        bell.ring();
        bell.wait().await;
        let mut again = pin!(bell.wait());
        assert!(poll!(again.as_mut()).is_pending(), "both rings were heard together");
        bell.ring();
        again.await;
    }

    #[tokio::test]
    async fn a_ring_is_not_lost_with_the_wait_that_it_woke() {
        let bell = Bell::new();
        {
            let mut dropped = pin!(bell.wait());
            assert!(poll!(dropped.as_mut()).is_pending());
            bell.ring();
        }
        bell.wait().await;
    }

    #[test]
    fn a_receipt_without_tickets_is_complete() {
        assert!(Receipt::new(Bell::new()).is_complete());
    }

    #[tokio::test]
    async fn the_bell_rings_when_the_last_ticket_is_gone() {
        let bell = Bell::new();
        let receipt = Receipt::new(bell.clone());
        let (first, second) = (receipt.ticket(), receipt.ticket());
        drop(first);
        assert!(!receipt.is_complete());
        drop(second);
        bell.wait().await;
        assert!(receipt.is_complete() && !receipt.has_failed());
    }

    #[test]
    fn one_refusal_fails_the_whole_receipt() {
        let receipt = Receipt::new(Bell::new());
        let (accepting, refusing) = (receipt.ticket(), receipt.ticket());
        refusing.refuse();
        drop(accepting);
        assert!(receipt.is_complete() && receipt.has_failed());
        assert_eq!(receipt.refusal(), Some(Refusal::Unspecified));
    }

    #[test]
    fn a_receipt_says_why_it_was_refused() {
        let receipt = Receipt::new(Bell::new());
        let ticket = receipt.ticket();
        assert_eq!(receipt.refusal(), None);
        ticket.refuse_for(Refusal::UnknownPacket);
        assert_eq!(receipt.refusal(), Some(Refusal::UnknownPacket));
    }
}
