//! Publishes what a shard itself must publish, while this node leads the shard: wills that fired, released QoS 2
//! messages, messages of shared subscriptions that go to another member.
//!
//! What is published in order is confirmed in order and taken off the outbox; a new leader publishes again what
//! was not taken off, under the same sequence, by which every destination knows a repeat. A slow subscriber
//! holds up the outbox of its shard and nothing else. Knows no routes: the broker publishes. Start at
//! [`publish_outbox`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use zwerm_machine::limits::OUTBOX_WINDOW;
use zwerm_machine::records::{Drained, Message, shard_command::Command};
use zwerm_machine::{Picked, Shard, Target};
use zwerm_raft::Group;
use zwerm_routing::Destination;
use zwerm_wire::TopicFilter;

use crate::cluster::Shared;
use crate::forward::Origin;
use crate::ledger::shard_of_group;
use crate::replica::ShardView;
use crate::shards::ShardClient;

/// Messages of one shard that are being published at a time.
const WINDOW: usize = 256;
const _: () = assert!(WINDOW as u64 <= OUTBOX_WINDOW, "a destination would not know a repeat");
/// Longest time without a look at the outbox.
const LOOK: Duration = Duration::from_secs(1);
/// After a message was not published.
const RETRY: Duration = Duration::from_millis(200);

/// For whom a message of an outbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxTarget {
    /// Everything that wants its topic.
    All,
    /// One member of each of these shared subscriptions (`$share/...`): the member that had it ended without
    /// having acknowledged it.
    Groups(Vec<TopicFilter>),
}

impl From<&Target> for OutboxTarget {
    fn from(target: &Target) -> Self {
        match target {
            Target::All => Self::All,
            Target::Group(filter) => Self::Groups(vec![filter.clone()]),
        }
    }
}

/// A message that a shard publishes itself: a will that fired, a QoS 2 message whose PUBREL came, a message of a
/// shared subscription that goes to another member.
#[derive(Debug)]
pub struct OutboxMessage {
    /// What to publish.
    pub message: Arc<Message>,
    /// For whom.
    pub target: OutboxTarget,
    /// Its place, by which repeats are known.
    pub origin: Origin,
    /// Where it goes of shared subscriptions, as far as that is noted; see [`Cluster::pick`](crate::Cluster::pick).
    pub picks: Vec<Picked>,
    /// The shard's publishing begins here, for the first time or again: what it handed on before is over.
    pub begins: bool,
    /// To be told when all that matters have accepted it; dropped unsent, it is tried again.
    pub published: oneshot::Sender<()>,
}

/// Publishes one shard's outbox until the node stops.
pub(crate) async fn publish_outbox(shared: &Shared, group: &Group, view: &ShardView, client: &ShardClient) {
    let mut status = group.watch();
    let mut applied = view.applied();
    let mut control = shared.control.applied();
    let mut window = Window::new(shard_of_group(group.id()));
    loop {
        let leads = group.is_leader();
        if leads {
            if window.fill(shared, view).await.is_err() {
                return;
            }
        } else {
            window.reset();
        }
        let is_left = leads && view.state().outbox_len() > 0;
        // All branches are cancel safe; a closed watch means that the node is stopping.
        tokio::select! {
            published = window.published() => match published {
                Some(upto) => {
                    let drained = client.tell(Command::Drained(Drained { upto })).await;
                    if drained.is_err() {
                        // What is ahead of the first that is left has a bound, so begin with that.
                        window.reset();
                    }
                }
                None => {
                    window.reset();
                    tokio::time::sleep(RETRY).await;
                }
            },
            changed = status.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            changed = control.changed() => if changed.is_err() { return },
            // What could not be read is tried again, whatever happens meanwhile.
            () = tokio::time::sleep(LOOK), if is_left => {}
        }
    }
}

/// The broker takes no messages any more: the node is stopping.
#[derive(Debug)]
struct Stopping;

/// What is being published.
#[derive(Debug)]
struct Window {
    shard: u32,
    /// Entries up to this sequence were handed to the broker.
    handed: u64,
    waiting: VecDeque<(u64, oneshot::Receiver<()>)>,
    /// The first of those that wait was not published.
    failed: bool,
}

impl Window {
    fn new(shard: u32) -> Self {
        Self { shard, handed: 0, waiting: VecDeque::new(), failed: false }
    }

    /// Hands on what there is room for, in order.
    async fn fill(&mut self, shared: &Shared, view: &ShardView) -> Result<(), Stopping> {
        if self.waiting.len() >= WINDOW {
            return Ok(());
        }
        let state = view.state();
        let room = WINDOW - self.waiting.len();
        // What was handed on is still there until `Drained` is committed: no more than a window.
        let handed = self.handed;
        let next = state.outbox().skip_while(|(sequence, _)| *sequence <= handed).take(room);
        for (sequence, entry) in next {
            if entry.picks.is_empty() && would_return(shared, self.shard, &state, &entry.target) {
                break;
            }
            let message = match view.messages().get(entry.message).await {
                Ok(Some(message)) => message,
                // Taken off since: the next state says so.
                Ok(None) => break,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(shard = self.shard, error, "the outbox cannot be read");
                    break;
                }
            };
            let (published, done) = oneshot::channel();
            let origin = Origin { shard: self.shard, sequence };
            let target = OutboxTarget::from(&entry.target);
            let begins = self.handed == 0;
            let picks = entry.picks.clone();
            let message = OutboxMessage { message, target, origin, picks, begins, published };
            shared.outbox.send(message).await.map_err(|_| Stopping)?;
            self.handed = sequence;
            self.waiting.push_back((sequence, done));
        }
        Ok(())
    }

    /// Waits until the first and whatever follows it without a gap are published; up to where. `None`: the
    /// first was not. Never returns while nothing is being published. Cancel safe.
    async fn published(&mut self) -> Option<u64> {
        if self.failed {
            return None;
        }
        let Some((first, done)) = self.waiting.front_mut() else { return std::future::pending().await };
        let mut upto = *first;
        done.await.ok()?;
        self.waiting.pop_front();
        while let Some((sequence, done)) = self.waiting.front_mut() {
            match done.try_recv() {
                Ok(()) => upto = *sequence,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed) => {
                    self.failed = true;
                    break;
                }
            }
            self.waiting.pop_front();
        }
        Some(upto)
    }

    /// Forgets what was handed on: it is published again, from the first that is left.
    fn reset(&mut self) {
        *self = Self::new(self.shard);
    }
}

/// The route table still says that the shard has members of a shared subscription whose last one is gone: the message
/// would come back here, again and again. It waits until the table is up to date.
fn would_return(shared: &Shared, shard: u32, state: &Shard, target: &Target) -> bool {
    let Target::Group(filter) = target else { return false };
    let routed = shared.control.routes().interest(Destination::Shard(shard), filter);
    routed.members > 0 && !state.routes().contains_key(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window with three messages under way.
    fn three() -> (Window, Vec<oneshot::Sender<()>>) {
        let mut window = Window::new(0);
        let mut confirm = Vec::new();
        for sequence in 4..7 {
            let (published, done) = oneshot::channel();
            window.waiting.push_back((sequence, done));
            window.handed = sequence;
            confirm.push(published);
        }
        (window, confirm)
    }

    #[tokio::test]
    async fn only_what_is_published_without_a_gap_is_taken_off() {
        let (mut window, mut confirm) = three();
        confirm.remove(1).send(()).unwrap();
        confirm.remove(0).send(()).unwrap();
        assert_eq!(window.published().await, Some(5), "in whatever order they are confirmed");
        assert_eq!(window.waiting.len(), 1);
    }

    #[tokio::test]
    async fn one_that_was_not_published_stops_those_behind_it() {
        let (mut window, mut confirm) = three();
        confirm.remove(2).send(()).unwrap();
        drop(confirm.remove(1));
        confirm.remove(0).send(()).unwrap();
        assert_eq!(window.published().await, Some(4));
        assert_eq!(window.published().await, None);
        window.reset();
        assert_eq!((window.handed, window.waiting.len(), window.failed), (0, 0, false));
    }
}
