//! The lease of this node: kept by heartbeats to the leader of the control group.
//!
//! A node without a lease serves nobody: it acknowledges nothing and delivers nothing, because the rest of the
//! cluster may already route without it, and its clients may have other owners (P3, P4, P7). One that finds
//! itself declared down was without a lease for too long: all its connections go and it comes back as a new
//! incarnation. The leader's side is `overseer.rs`. Start at [`Lease::is_valid`].
//!
//! # Why no lease holds when its node is declared down
//!
//! * The holder counts from the moment before a heartbeat is sent, the leader from a moment after it came. Both
//!   read a monotonic clock when they decide, never earlier. So a message that is late, or a process that stands
//!   still anywhere between the two, only makes the holder's lease shorter: a grant that is read too late is for
//!   a lease that has ended.
//! * A leader that goes on leading declares a node down a whole lease and a margin after the last heartbeat. The
//!   margin is for clocks that run at different speed: 300 ms in 1.6 s is far more than clocks differ.
//! * No lease outlasts by more than its length the moment when the leader last asked a quorum whether it leads:
//!   the age of that answer is taken off the grant. A new leader is elected after that moment, for the quorum
//!   that elects it says no to the old one from then on; and it waits a whole lease and a margin before it
//!   declares anybody down whom it has not heard.
//! * What an incarnation that is declared down is granted means nothing: the state that says so ends its lease
//!   for good ([`Lease::follow`]), also one that a grant under way would have brought back.
//!
//! The monotonic clock of Linux stands still while the whole machine is suspended: a node that is suspended and
//! resumed with its machine believes in its lease for what was left of it, or until it hears that it is down.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use zwerm_machine::Control;

use crate::cluster::Shared;
use crate::transport::proto::{Beat, Grant};
use crate::{CallError, NodeId, Own};

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
    held: watch::Sender<Held>,
    /// The incarnation that routes; 0: none.
    routing: AtomicU64,
    resumed: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    until: Option<Instant>,
    /// This incarnation and all before it were declared down: they hold no lease any more.
    dead: u64,
}

impl Lease {
    pub(crate) fn new() -> Self {
        let (held, resumed) = (watch::Sender::default(), watch::Sender::default());
        Self { held, routing: AtomicU64::new(0), resumed }
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

    /// Called after each state of the control group that everybody can see: what it says of this node counts at
    /// once.
    pub(crate) fn follow(&self, control: &Control, own: &Own) {
        let incarnation = own.incarnation();
        match control.node(own.id).filter(|node| node.incarnation == incarnation) {
            Some(node) if node.up => self.route_as(incarnation),
            Some(_) => self.lose(incarnation),
            None => self.route_as(0),
        }
    }

    /// Routes as this incarnation from now on; 0: not at all.
    fn route_as(&self, incarnation: u64) {
        if self.routing.swap(incarnation, Ordering::AcqRel) != incarnation && incarnation != 0 {
            self.resumed.send_modify(|times| *times += 1);
        }
    }

    /// Whether the lease holds now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.held.borrow().until.is_some_and(|until| Instant::now() < until)
    }

    /// The lease as `Some(time left)`, `None` when lost or never held.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.held.borrow().until.and_then(|until| until.checked_duration_since(Instant::now()))
    }

    fn extend(&self, incarnation: u64, until: Instant) {
        let mut is_back = false;
        self.held.send_modify(|held| {
            if incarnation <= held.dead {
                return;
            }
            // Whoever found it lost did so before now: none of them is missed.
            let now = Instant::now();
            is_back = held.until.is_none_or(|held| held <= now) && until > now;
            held.until = held.until.max(Some(until));
        });
        if is_back {
            self.resumed.send_modify(|times| *times += 1);
        }
    }

    fn lose(&self, incarnation: u64) {
        self.held.send_modify(|held| {
            if incarnation > held.dead {
                *held = Held { until: None, dead: incarnation };
            }
        });
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
    let mut clock = BeatClock::new(shared);
    let mut sent = Sent::default();
    loop {
        let beat = clock.next().await;
        sent.note(&beat);
        if let Some(grant) = shared.beat(beat).await {
            shared.granted(&grant, &mut sent);
        }
    }
}

/// Beats to a leader on another node, until the stream breaks.
async fn keep_with(shared: &Shared, leader: NodeId) -> Result<(), CallError> {
    let (beats, receiver) = mpsc::channel(BEATS);
    let mut clock = BeatClock::new(shared);
    let mut grants = shared.peers.lease(leader, ReceiverStream::new(receiver)).await?;
    let mut sent = Sent::default();
    loop {
        tokio::select! {
            beat = clock.next() => {
                sent.note(&beat);
                beats.try_send(beat).map_err(|_| CallError::Timeout)?;
            }
            grant = grants.next() => match grant {
                Some(grant) => shared.granted(&grant?, &mut sent),
                None => return Ok(()),
            },
        }
    }
}

/// Heartbeats of one stream that were not granted yet: sequence, incarnation, and a moment before it was sent.
#[derive(Debug, Default)]
struct Sent(VecDeque<(u64, u64, Instant)>);

impl Sent {
    /// A heartbeat is about to be sent.
    fn note(&mut self, beat: &Beat) {
        let incarnation = beat.node.as_ref().map_or(0, |node| node.incarnation);
        self.0.push_back((beat.sequence, incarnation, Instant::now()));
        // What was never granted is forgotten.
        self.0.drain(..self.0.len().saturating_sub(4 * BEATS));
    }

    /// Grants come back in the order of their heartbeats.
    fn granted(&mut self, grant: &Grant, lease: &Lease) {
        while let Some((sequence, incarnation, at)) = self.0.pop_front() {
            if sequence == grant.sequence {
                return lease.extend(incarnation, at + Duration::from_millis(u64::from(grant.ttl_ms)));
            }
        }
    }
}

/// Comes back as a new incarnation, each time that the cluster gives one up, until the node leaves.
pub(crate) async fn rise_again(shared: &Shared) {
    let mut applied = shared.control.applied();
    loop {
        shared.rise_if_declared_down();
        if applied.changed().await.is_err() {
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
        self.sequence += 1;
        let applied = *self.applied.borrow_and_update();
        Beat { node: Some(self.shared.introduction()), sequence: self.sequence, applied }
    }
}

impl Shared {
    fn granted(&self, grant: &Grant, sent: &mut Sent) {
        self.settled.reached(grant.everywhere);
        sent.granted(grant, &self.lease);
    }

    /// Becomes a new incarnation when the cluster has given this one up.
    fn rise_if_declared_down(&self) {
        let incarnation = self.own.incarnation();
        let control = self.control.state();
        let declared_down =
            control.node(self.own.id).is_some_and(|node| node.incarnation == incarnation && !node.up);
        if declared_down {
            tracing::warn!(incarnation, "this node was declared down: closing all clients and coming back");
            // Its lease ended with the state that says so.
            self.own.rise(incarnation);
            self.local.fenced();
        }
    }
}

#[cfg(test)]
mod tests {
    use zwerm_machine::records::{ControlCommand, Form, Node, NodeDown, NodeUp, control_command::Command};

    use super::*;
    use crate::transport::proto::Introduction;

    const TTL: Duration = Duration::from_secs(1);

    fn beat(sequence: u64, incarnation: u64) -> Beat {
        let node = Introduction { id: 1, incarnation, ..Introduction::default() };
        Beat { node: Some(node), sequence, applied: 0 }
    }

    fn grant(sequence: u64) -> Grant {
        Grant { sequence, ttl_ms: u32::try_from(TTL.as_millis()).unwrap(), everywhere: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_back_wakes_whoever_found_it_lost() {
        let lease = Lease::new();
        lease.extend(1, Instant::now() + TTL);
        let mut resumed = lease.resumed();
        lease.extend(1, Instant::now() + 2 * TTL);
        assert!(!resumed.has_changed().unwrap(), "it was not lost");
        tokio::time::advance(2 * TTL).await;
        assert!(!lease.is_valid());
        lease.extend(1, Instant::now());
        assert!(!resumed.has_changed().unwrap(), "a grant that came too late brings nothing back");
        lease.extend(1, Instant::now() + TTL);
        assert!(lease.is_valid() && resumed.has_changed().unwrap());
        resumed.mark_unchanged();
        lease.lose(1);
        lease.extend(2, Instant::now() + TTL);
        assert!(resumed.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_counts_from_before_its_heartbeat_was_sent_however_late_it_is_read() {
        let (lease, mut sent) = (Lease::new(), Sent::default());
        for sequence in 1..=3 {
            sent.note(&beat(sequence, 1));
            tokio::time::advance(TTL / 4).await;
        }
        sent.granted(&grant(2), &lease);
        assert_eq!(lease.left(), Some(TTL / 2), "the second was sent half a lease ago");
        tokio::time::advance(TTL).await;
        // As after a SIGSTOP: the grant of the third waited in the socket.
        sent.granted(&grant(3), &lease);
        assert!(!lease.is_valid());
        sent.granted(&grant(2), &lease);
        assert!(!lease.is_valid(), "no grant counts twice");
    }

    /// The control group's state with node 1 in incarnation 1, and this node as it.
    fn one_node() -> (Control, Own) {
        let own = Own::new(1, "n1".to_owned(), 1);
        let node = Node { id: 1, incarnation: own.incarnation(), up: true, ..Node::default() };
        let placement =
            vec![zwerm_machine::records::Placement { shard: 0, voters: vec![1], ..Default::default() }];
        let form =
            Form { cluster_id: "c".into(), nodes: vec![node], shards: 1, placement, ..Form::default() };
        let mut control = Control::new();
        apply(&mut control, Command::Form(form));
        (control, own)
    }

    fn apply(control: &mut Control, command: Command) {
        control.apply(&ControlCommand { at_ms: 1, ..ControlCommand::from(command) });
    }

    #[tokio::test(start_paused = true)]
    async fn an_incarnation_that_was_declared_down_never_has_a_lease_again() {
        let (mut control, own) = one_node();
        let (lease, mut sent) = (Lease::new(), Sent::default());
        let incarnation = own.incarnation();
        lease.follow(&control, &own);
        sent.note(&beat(1, incarnation));
        sent.granted(&grant(1), &lease);
        sent.note(&beat(2, incarnation));
        assert!(lease.is_valid() && lease.routing() == Some(incarnation));

        apply(&mut control, Command::NodeDown(NodeDown { id: 1, incarnation }));
        lease.follow(&control, &own);
        assert!(!lease.is_valid() && lease.routing().is_none(), "at once, whatever was left of it");
        sent.granted(&grant(2), &lease);
        own.rise(incarnation);
        lease.follow(&control, &own);
        assert!(!lease.is_valid() && lease.routing().is_none(), "a grant was under way");

        let node = Node { id: 1, incarnation: own.incarnation(), ..Node::default() };
        apply(&mut control, Command::NodeUp(NodeUp { node: Some(node) }));
        lease.follow(&control, &own);
        assert!(!lease.is_valid(), "it routes again, but nobody granted it anything");
        assert_eq!(lease.routing(), Some(own.incarnation()));
        sent.note(&beat(3, own.incarnation()));
        sent.granted(&grant(3), &lease);
        assert!(lease.is_valid());
    }

    #[test]
    fn routing_stops_with_the_incarnation_and_resumes_with_the_next() {
        let lease = Lease::new();
        assert_eq!(lease.routing(), None);
        lease.route_as(7);
        let mut resumed = lease.resumed();
        lease.lose(7);
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
