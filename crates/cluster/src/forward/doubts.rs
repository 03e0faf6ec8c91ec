//! QoS 2 messages for members of shared subscriptions whose node was declared down before it said whether it took
//! them: who has them is asked when it is back.
//!
//! To give such a message to another member at once could give it to two; to count it as given could give it to
//! nobody. A node that was only cut off comes back as a new incarnation of the same process and knows what came to it:
//! what did is its own to pass on, what did not, and now never will, goes to another member. With a process that died,
//! its transient members are gone, and what they may have been sent nobody else is sent (MQTT-4.8.2-5). Nobody's
//! acknowledgement waits for that. Knows no members. Start at [`Doubts::put`] and [`settle_doubts`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use zwerm_wire::{QoS, TopicFilter};

use super::record::{Body, Record, Target};
use crate::cluster::Shared;
use crate::transport::proto::{Doubt, SettleRequest};
use crate::{CallError, NodeId};

/// Bounds of all doubts of a node; what exceeds them counts as given.
const MAX_MESSAGES: usize = 100_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Doubts of one question.
const ASKED: usize = 4_096;
const RETRY: Duration = Duration::from_millis(200);
/// How long a node that is down may take for an answer.
const LAST_WORD: Duration = Duration::from_millis(500);

/// One message for one shared subscription.
#[derive(Debug)]
pub(crate) struct Doubtful {
    /// Its place in the lane.
    pub(crate) sequence: u64,
    pub(crate) group: TopicFilter,
    pub(crate) body: Body,
    /// When it was taken, if it expires.
    pub(crate) taken: Option<Instant>,
    /// The node may have it. If not, it is here because only one may give it to another member.
    pub(crate) sent: bool,
}

/// Which incarnation of which node may have it.
type At = (NodeId, u64);

#[derive(Debug, Default)]
struct Held {
    by_node: BTreeMap<At, Vec<Doubtful>>,
    messages: usize,
    bytes: usize,
}

/// All doubts of this node.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    held: Mutex<Held>,
    more: Notify,
    /// Messages that may have been given to a member that died with its node, and are given to nobody else.
    pub(crate) given_up: AtomicU64,
}

impl Doubts {
    /// Takes what a node that is down may have.
    pub(crate) fn put(&self, node: NodeId, incarnation: u64, doubtful: Doubtful) {
        let mut held = self.held.lock();
        if held.messages >= MAX_MESSAGES || held.bytes >= MAX_BYTES {
            drop(held);
            self.give_up(1);
            return;
        }
        held.messages += 1;
        held.bytes += doubtful.body.len();
        held.by_node.entry((node, incarnation)).or_default().push(doubtful);
        drop(held);
        self.more.notify_one();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.held.lock().messages
    }

    fn places(&self) -> Vec<At> {
        self.held.lock().by_node.keys().copied().collect()
    }

    /// The question about the first of what such a node may have.
    fn question(&self, (node, receiver_incarnation): At, incarnation: u64) -> SettleRequest {
        let held = self.held.lock();
        let doubtful = held.by_node.get(&(node, receiver_incarnation)).into_iter().flatten();
        let doubts = doubtful.take(ASKED).map(Doubtful::asked).collect();
        SettleRequest { incarnation, receiver_incarnation, doubts }
    }

    /// Takes the first so many of what such a node may have.
    fn take(&self, at: At, count: usize) -> Vec<Doubtful> {
        let mut held = self.held.lock();
        let Some(all) = held.by_node.get_mut(&at) else { return Vec::new() };
        let taken: Vec<Doubtful> = all.drain(..count.min(all.len())).collect();
        if all.is_empty() {
            held.by_node.remove(&at);
        }
        held.messages -= taken.len();
        held.bytes -= taken.iter().map(|doubtful| doubtful.body.len()).sum::<usize>();
        taken
    }

    /// Counts messages as given to members that are gone.
    pub(crate) fn give_up(&self, count: usize) {
        self.given_up.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl Doubtful {
    fn asked(&self) -> Doubt {
        let origin = self.body.origin();
        Doubt {
            sequence: self.sequence,
            shard: origin.map_or(0, |origin| origin.shard),
            outbox_sequence: origin.map_or(0, |origin| origin.sequence),
            group: self.group.to_string(),
        }
    }

    /// The message again, for another member. `None`: it was malformed, and nobody can be given it.
    fn record(self) -> Option<Record> {
        let waited_ms = self.taken.map_or(Duration::ZERO, |taken| taken.elapsed()).as_millis();
        let target = Target { plain: false, groups: vec![self.group] };
        let mut record = self.body.decode(target).ok()?;
        let waited_ms = u64::try_from(waited_ms).unwrap_or(u64::MAX);
        record.expires_in_ms = record.expires_in_ms.map(|left| left.saturating_sub(waited_ms));
        // Whoever gets it now gets it from here only.
        record.origin = None;
        Some(record)
    }
}

/// What is known of where an incarnation is.
enum Whereabouts {
    /// It is up.
    There,
    /// Its node is up again, as another.
    Back,
    /// It may come back.
    Away,
    /// Its node is no member any more.
    Gone,
}

/// Asks every node that is back what it took, until this node stops.
pub(crate) async fn settle_doubts(shared: &Shared) {
    let doubts = &shared.doubts;
    let mut applied = shared.control.applied();
    loop {
        let settled = join_all(doubts.places().into_iter().map(|at| settle(shared, at))).await;
        let failed = settled.into_iter().any(|settled| settled.is_err());
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = doubts.more.notified() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Settles all that one incarnation of a node may have, if that can be known by now.
async fn settle(shared: &Shared, at: At) -> Result<(), CallError> {
    let doubts = &shared.doubts;
    loop {
        let question = doubts.question(at, shared.own.boot_incarnation);
        let count = question.doubts.len();
        if count == 0 {
            return Ok(());
        }
        let (died, missing) = match whereabouts(shared, at) {
            // If it is stopping, it can still say so; else it says that it does not know yet that it is down.
            Whereabouts::Away => {
                let asked = tokio::time::timeout(LAST_WORD, shared.peers.settle(at.0, question)).await;
                let Ok(Ok(reply)) = asked else { return Ok(()) };
                (reply.died, reply.missing)
            }
            Whereabouts::Gone => (true, Vec::new()),
            Whereabouts::There => return send(shared, at),
            Whereabouts::Back => {
                let reply = shared.peers.settle(at.0, question).await?;
                (reply.died, reply.missing)
            }
        };
        let asked = doubts.take(at, count);
        if died {
            tracing::warn!(
                node = format_args!("{:016x}", at.0),
                messages = asked.len(),
                "a node died with QoS 2 messages for its members of shared subscriptions: what it may have been sent \
                 is given to nobody else"
            );
            let (sent, unsent): (Vec<_>, Vec<_>) = asked.into_iter().partition(|doubtful| doubtful.sent);
            doubts.give_up(sent.len());
            for record in unsent.into_iter().filter_map(Doubtful::record) {
                shared.local.returned(record).await;
            }
            continue;
        }
        let mut missing = missing.into_iter().filter_map(|index| usize::try_from(index).ok()).peekable();
        for (index, doubtful) in asked.into_iter().enumerate() {
            if missing.next_if_eq(&index).is_some()
                && let Some(record) = doubtful.record()
            {
                shared.local.returned(record).await;
            }
        }
    }
}

/// Sends what is for an incarnation that was not known to be up before: it knows what came to it by other ways.
fn send(shared: &Shared, at: At) -> Result<(), CallError> {
    let (node, incarnation) = at;
    let lane = shared.lanes.to(node).filter(|lane| lane.incarnation() == incarnation);
    let Some(lane) = lane else { return Err(CallError::UnknownNode(node)) };
    while let Some(doubtful) = shared.doubts.take(at, 1).pop() {
        let target = Target { plain: false, groups: vec![doubtful.group.clone()] };
        let pushed = if doubtful.sent {
            lane.push_again(&target, doubtful.body.clone(), || None)
        } else {
            lane.push(QoS::ExactlyOnce, &target, doubtful.body.clone(), || None)
        };
        if pushed.is_err() {
            shared.doubts.put(node, incarnation, doubtful);
            return Err(CallError::Timeout);
        }
    }
    Ok(())
}

fn whereabouts(shared: &Shared, (node, incarnation): At) -> Whereabouts {
    match shared.control.state().node(node) {
        Some(node) if node.up && node.incarnation == incarnation => Whereabouts::There,
        Some(node) if node.up && node.incarnation > incarnation => Whereabouts::Back,
        Some(_) => Whereabouts::Away,
        None => Whereabouts::Gone,
    }
}
