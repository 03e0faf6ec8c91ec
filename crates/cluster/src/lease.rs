//! The lease of this node: kept by heartbeats to the leader of the control group.
//!
//! A node without a lease acknowledges no QoS 1/2 publish, because the rest of the cluster may already
//! route without it (P4, P7). A node that finds itself declared down was without one for too long: its
//! clients may have other owners, so all its connections go and it comes back as a new incarnation.
//! The leader's side is `overseer.rs`. Start at [`Lease::is_valid`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::Shared;
use crate::transport::proto::{Beat, Grant};
use crate::{CallError, NodeId};

/// Beats that wait to be written; more means the stream is stuck and is opened anew.
const BEATS: usize = 8;

/// Timing of leases; the same on all nodes.
#[derive(Debug, Clone, Copy)]
pub struct LeaseConfig {
    /// Between two heartbeats.
    pub interval: Duration,
    /// How long a lease lasts from the moment its heartbeat was sent.
    pub ttl: Duration,
    /// How much longer the leader waits before it declares a node down.
    pub margin: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(300),
            ttl: Duration::from_millis(1_600),
            margin: Duration::from_millis(300),
        }
    }
}

/// What this node may do for its clients: route (its incarnation is up in the state that it has applied
/// itself, so it knows every route that was promised without it) and acknowledge (until when it holds its
/// lease).
#[derive(Debug)]
pub struct Lease {
    until: watch::Sender<Option<Instant>>,
    /// The incarnation that routes; 0: none.
    routing: AtomicU64,
    resumed: watch::Sender<u64>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self { until: watch::Sender::new(None), routing: AtomicU64::new(0), resumed: watch::Sender::new(0) }
    }

    /// The incarnation of this node that may route; `None`: what it knows of routes may be too old. What one
    /// incarnation routed must not be acknowledged in the name of another.
    #[must_use]
    pub fn routing(&self) -> Option<u64> {
        Some(self.routing.load(Ordering::Acquire)).filter(|incarnation| *incarnation != 0)
    }

    /// Changes when this node may go on after it could not: route again, or acknowledge again.
    #[must_use]
    pub fn resumed(&self) -> watch::Receiver<u64> {
        self.resumed.subscribe()
    }

    /// Called after each state of the control group that everybody can see, with the own incarnation if that
    /// is up there, else 0.
    pub(crate) fn route_as(&self, incarnation: u64) {
        if self.routing.swap(incarnation, Ordering::AcqRel) != incarnation && incarnation != 0 {
            self.resumed.send_modify(|times| *times += 1);
        }
    }

    /// Whether the lease holds now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// The lease as `Some(time left)`, `None` when lost or never held.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.until.borrow().and_then(|until| until.checked_duration_since(Instant::now()))
    }

    fn extend(&self, until: Instant) {
        let mut lapsed = false;
        self.until.send_modify(|held| {
            // Whoever found it lost did so before now: none of them is missed.
            lapsed = held.is_none_or(|held| held <= Instant::now());
            *held = (*held).max(Some(until));
        });
        if lapsed {
            self.resumed.send_modify(|times| *times += 1);
        }
    }

    fn lose(&self) {
        self.until.send_replace(None);
        self.route_as(0);
    }
}

/// Keeps the lease until the node stops.
pub(crate) async fn keep_lease(shared: &Shared) {
    let Some(control) = shared.control_group().await else { return };
    let mut status = control.watch();
    loop {
        let leader = status.borrow_and_update().leader;
        let kept = async {
            match leader {
                Some(node) if node == shared.own.id => keep_with_self(shared).await,
                Some(node) => keep_with(shared, node).await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel safe: a stream that is dropped is opened anew.
        tokio::select! {
            result = kept => {
                if let Err(error) = result {
                    tracing::debug!(%error, "the lease stream broke");
                }
                tokio::time::sleep(shared.config.lease.interval / 2).await;
            }
            closed = async { status.wait_for(|status| status.leader != leader).await.is_err() } => {
                if closed {
                    return;
                }
            }
        }
    }
}

/// Beats to a leader that is this node itself.
async fn keep_with_self(shared: &Shared) -> Result<(), CallError> {
    let mut sender = BeatClock::new(shared);
    loop {
        let beat = sender.next().await;
        let sent = Instant::now();
        if let Some(grant) = shared.beat(beat).await {
            shared.lease.extend(sent + Duration::from_millis(u64::from(grant.ttl_ms)));
        }
    }
}

/// Beats to a leader on another node, until the stream breaks.
async fn keep_with(shared: &Shared, leader: NodeId) -> Result<(), CallError> {
    let (beats, receiver) = mpsc::channel(BEATS);
    let mut clock = BeatClock::new(shared);
    let mut grants = shared.peers.lease(leader, ReceiverStream::new(receiver)).await?;
    let mut sent = std::collections::VecDeque::new();
    loop {
        tokio::select! {
            beat = clock.next() => {
                sent.push_back((beat.sequence, Instant::now()));
                beats.try_send(beat).map_err(|_| CallError::Timeout)?;
                // Grants come back in order; what was never granted is forgotten.
                sent.drain(..sent.len().saturating_sub(4 * BEATS));
            }
            grant = grants.next() => match grant {
                Some(grant) => granted(shared, &mut sent, grant?),
                None => return Ok(()),
            },
        }
    }
}

fn granted(shared: &Shared, sent: &mut std::collections::VecDeque<(u64, Instant)>, grant: Grant) {
    while let Some((sequence, at)) = sent.pop_front() {
        if sequence == grant.sequence {
            shared.lease.extend(at + Duration::from_millis(u64::from(grant.ttl_ms)));
            return;
        }
    }
}

/// When to beat: every interval, and at once when more of the control group is applied (the route
/// barrier waits for it).
struct BeatClock<'a> {
    shared: &'a Shared,
    interval: tokio::time::Interval,
    applied: watch::Receiver<u64>,
    sequence: u64,
}

impl<'a> BeatClock<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut interval = tokio::time::interval(shared.config.lease.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { shared, interval, applied: shared.control.applied(), sequence: 0 }
    }

    /// The next beat. Cancel safe.
    async fn next(&mut self) -> Beat {
        tokio::select! {
            _ = self.interval.tick() => {}
            // The sender lives as long as `shared`.
            changed = self.applied.changed() => drop(changed),
        }
        self.shared.rise_if_declared_down();
        self.sequence += 1;
        let applied = *self.applied.borrow_and_update();
        Beat { node: Some(self.shared.introduction()), sequence: self.sequence, applied }
    }
}

impl Shared {
    /// Becomes a new incarnation when the cluster has given this one up.
    fn rise_if_declared_down(&self) {
        let incarnation = self.own.incarnation();
        let control = self.control.state();
        let declared_down =
            control.node(self.own.id).is_some_and(|node| node.incarnation == incarnation && !node.up);
        if declared_down {
            tracing::warn!(incarnation, "this node was declared down: closing all clients and coming back");
            self.lease.lose();
            self.own.rise(incarnation);
            self.local.fenced();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_back_wakes_whoever_found_it_lost() {
        let lease = Lease::new();
        let ttl = Duration::from_secs(1);
        lease.extend(Instant::now() + ttl);
        let mut resumed = lease.resumed();
        lease.extend(Instant::now() + 2 * ttl);
        assert!(!resumed.has_changed().unwrap(), "it was not lost");
        tokio::time::advance(2 * ttl).await;
        assert!(!lease.is_valid());
        lease.extend(Instant::now() + ttl);
        assert!(lease.is_valid() && resumed.has_changed().unwrap());
        resumed.mark_unchanged();
        lease.lose();
        lease.extend(Instant::now() + ttl);
        assert!(resumed.has_changed().unwrap());
    }

    #[test]
    fn routing_stops_with_the_incarnation_and_resumes_with_the_next() {
        let lease = Lease::new();
        assert_eq!(lease.routing(), None);
        lease.route_as(7);
        let mut resumed = lease.resumed();
        lease.lose();
        assert_eq!(lease.routing(), None);
        assert!(!resumed.has_changed().unwrap());
        lease.route_as(8);
        assert_eq!(lease.routing(), Some(8));
        assert!(resumed.has_changed().unwrap());
        resumed.mark_unchanged();
        lease.route_as(8);
        assert!(!resumed.has_changed().unwrap());
    }
}
