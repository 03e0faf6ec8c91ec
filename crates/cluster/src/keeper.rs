//! What the leader of a shard does: publishes its outbox, lets time pass, ends what a dead node owned, and
//! makes way for the node that the shard is placed on first, so that leaders spread over the nodes.
//!
//! Runs for every shard this node holds and does nothing while another node leads it. All it decides is
//! a command; the state machine says what follows. Start at [`keep_shard`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zwerm_machine::records::{Drained, Message, OwnerLost, Tick, shard_command::Command};
use zwerm_machine::{Shard, Target};
use zwerm_raft::Group;
use zwerm_wire::TopicFilter;

use crate::NodeId;
use crate::cluster::Shared;
use crate::forward::Origin;
use crate::replica::ShardView;
use crate::shards::ShardClient;

/// Outbox entries published at a time.
const OUTBOX_BATCH: usize = 256;
/// Longest time without a look at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// How long a leader stays before it makes way, and how much longer for each shard after the first: after a
/// restart leaders move one after the other.
const STAY: Duration = Duration::from_secs(5);
const STAGGER: Duration = Duration::from_millis(150);
/// How far behind the node that takes over may be.
const CAUGHT_UP: u64 = 16;

/// For whom a message of an outbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxTarget {
    /// Everything that wants its topic.
    All,
    /// One member of each of these shared subscriptions (`$share/...`): the member that had it ended without
    /// having acknowledged it.
    Groups(Vec<TopicFilter>),
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
    /// To be told when all that matters have accepted it; dropped unsent, it is tried again.
    pub published: oneshot::Sender<()>,
}

/// Incarnations per node up to which the shard knows that they are dead.
type Lost = BTreeMap<NodeId, u64>;

/// Keeps one shard until the node stops.
pub(crate) async fn keep_shard(
    shared: &Shared,
    group: &Group,
    view: &ShardView,
    client: &ShardClient,
    outbox: &mpsc::Sender<OutboxMessage>,
) {
    let mut status = group.watch();
    let mut applied = view.applied();
    let mut control = shared.control.applied();
    let mut lost = Lost::new();
    let mut leading = None;
    let shard = group.id().0.saturating_sub(1);
    loop {
        let state = view.state();
        if group.is_leader() {
            let since = *leading.get_or_insert_with(Instant::now);
            let did = duties(shared, shard, view, (client, outbox), &mut lost).await;
            if did {
                continue;
            }
            make_way(shared, shard, group, since).await;
        } else {
            lost.clear();
            leading = None;
        }
        let wait = until_due(shared, &state);
        // All branches are cancel safe; a closed watch means that the node is stopping.
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            changed = control.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Hands leadership to the node that the shard is placed on first, if that is up and has caught up.
async fn make_way(shared: &Shared, shard: u32, group: &Group, since: Instant) {
    if since.elapsed() < STAY + STAGGER * shard {
        return;
    }
    let first = shared.members_of(group.id()).first().copied();
    let Some(successor) = first.filter(|node| *node != shared.own.id) else { return };
    let is_up = shared.control.state().node(successor).is_some_and(|node| node.up);
    let has_caught_up = {
        let status = group.watch();
        let status = status.borrow();
        status.matched.get(&successor).is_some_and(|matched| matched + CAUGHT_UP >= status.last_log)
    };
    if is_up && has_caught_up {
        match group.transfer_leader(successor).await {
            Ok(()) => tracing::debug!(shard, successor = format_args!("{successor:016x}"), "made way"),
            Err(error) => tracing::debug!(shard, %error, "could not make way; trying again"),
        }
    }
}

fn until_due(shared: &Shared, state: &Shard) -> Duration {
    let due =
        state.next_due_ms().map_or(LOOK, |due| Duration::from_millis(due.saturating_sub(shared.now_ms())));
    due.clamp(Duration::from_millis(1), LOOK)
}

/// Does what is due; true if something was done (and the state has changed).
async fn duties(
    shared: &Shared,
    shard: u32,
    view: &ShardView,
    (client, outbox): (&ShardClient, &mpsc::Sender<OutboxMessage>),
    lost: &mut Lost,
) -> bool {
    let state = view.state();
    for (node, incarnation) in dead_incarnations(shared) {
        if lost.get(&node).is_none_or(|known| *known < incarnation) {
            let command = Command::OwnerLost(OwnerLost { node, incarnation });
            if client.tell(command).await.is_ok() {
                lost.insert(node, incarnation);
                return true;
            }
        }
    }
    if state.next_due_ms().is_some_and(|due| due <= shared.now_ms()) {
        return client.tell(Command::Tick(Tick {})).await.is_ok();
    }
    state.outbox_len() > 0 && publish_outbox(shard, view, client, outbox).await
}

/// Per node the newest incarnation that is dead.
fn dead_incarnations(shared: &Shared) -> Vec<(NodeId, u64)> {
    let control = shared.control.state();
    let dead = |node: &zwerm_machine::records::Node| {
        let incarnation = if node.up { node.incarnation.saturating_sub(1) } else { node.incarnation };
        (incarnation > 0).then_some((node.id, incarnation))
    };
    control.nodes().filter_map(dead).collect()
}

async fn publish_outbox(
    shard: u32,
    view: &ShardView,
    client: &ShardClient,
    outbox: &mpsc::Sender<OutboxMessage>,
) -> bool {
    let mut waiting = Vec::new();
    for (sequence, entry) in view.state().outbox().take(OUTBOX_BATCH) {
        let message = match view.messages().get(entry.message).await {
            Ok(Some(message)) => message,
            // Published and forgotten by an entry that is not applied here yet.
            Ok(None) => break,
            Err(error) => {
                tracing::error!(shard, error = &error as &dyn std::error::Error, "the outbox cannot be read");
                break;
            }
        };
        let (published, done) = oneshot::channel();
        let origin = Origin { shard, sequence };
        let target = match &entry.target {
            Target::All => OutboxTarget::All,
            Target::Group(filter) => OutboxTarget::Groups(vec![filter.clone()]),
        };
        let message = OutboxMessage { message, target, origin, published };
        if outbox.send(message).await.is_err() {
            return false;
        }
        waiting.push((sequence, done));
    }
    let mut upto = None;
    for (sequence, done) in waiting {
        if done.await.is_err() {
            break;
        }
        upto = Some(sequence);
    }
    match upto {
        Some(upto) => client.tell(Command::Drained(Drained { upto })).await.is_ok(),
        None => false,
    }
}
