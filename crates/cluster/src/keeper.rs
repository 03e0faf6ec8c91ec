//! What the leader of a shard does: lets time pass, ends what a dead node owned, and makes way for the node that
//! the shard is placed on first, so that leaders spread over the nodes.
//!
//! Runs for every shard this node holds and does nothing while another node leads it. All it decides is
//! a command; the state machine says what follows. What a leader publishes has tasks of its own (`outbox.rs`,
//! `shard_routes.rs`): neither waits for the other. Start at [`keep_shard`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use zwerm_machine::Shard;
use zwerm_machine::records::{OwnerLost, Tick, shard_command::Command};
use zwerm_raft::Group;

use crate::NodeId;
use crate::cluster::Shared;
use crate::ledger::shard_of_group;
use crate::replica::ShardView;
use crate::shards::ShardClient;

/// Longest time of a leader without a look at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// How long a leader stays before it makes way, and how much longer for each shard after the first: after a
/// restart leaders move one after the other.
const STAY: Duration = Duration::from_secs(5);
const STAGGER: Duration = Duration::from_millis(150);
/// How far behind the node that takes over may be.
const CAUGHT_UP: u64 = 16;

/// Incarnations per node up to which the shard knows that they are dead.
type Lost = BTreeMap<NodeId, u64>;

/// Keeps one shard until the node stops.
pub(crate) async fn keep_shard(shared: &Shared, group: &Group, view: &ShardView, client: &ShardClient) {
    let mut status = group.watch();
    let mut applied = view.applied();
    let mut control = shared.control.applied();
    let mut lost = Lost::new();
    let mut leading = None;
    let shard = shard_of_group(group.id());
    loop {
        let state = view.state();
        let leads = group.is_leader();
        if leads {
            let since = *leading.get_or_insert_with(Instant::now);
            end_what_is_lost(shared, client, &mut lost).await;
            if state.next_due_ms().is_some_and(|due| due <= shared.now_ms())
                && client.tell(Command::Tick(Tick {})).await.is_ok()
            {
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
            () = tokio::time::sleep(wait), if leads => {}
        }
    }
}

/// Hands leadership to the node that the shard is placed on first, if that is up and has caught up.
async fn make_way(shared: &Shared, shard: u32, group: &Group, since: Instant) {
    if since.elapsed() < STAY + STAGGER * shard {
        return;
    }
    let control = shared.control.state();
    let Some(placement) = control.placement_of(shard).filter(|placement| placement.next.is_empty()) else {
        return;
    };
    let first = placement.voters.first().copied();
    let Some(successor) = first.filter(|node| *node != shared.own.id) else { return };
    let is_up = control.node(successor).is_some_and(|node| node.up);
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

/// Tells the shard of dead incarnations that it may not know of. A new leader tells all of them: it does not know
/// how far its predecessor came, and what the shard knows already changes nothing.
async fn end_what_is_lost(shared: &Shared, client: &ShardClient, lost: &mut Lost) {
    let dead = dead_incarnations(shared);
    let news = dead.into_iter().filter(|(node, dead)| lost.get(node).is_none_or(|known| known < dead));
    let told = join_all(news.map(async |(node, incarnation)| {
        let told = client.tell(Command::OwnerLost(OwnerLost { node, incarnation })).await;
        told.is_ok().then_some((node, incarnation))
    }));
    lost.extend(told.await.into_iter().flatten());
}

/// Per node the newest incarnation that is dead; of one that was removed, all.
fn dead_incarnations(shared: &Shared) -> Vec<(NodeId, u64)> {
    let control = shared.control.state();
    let dead = |node: &zwerm_machine::records::Node| {
        let incarnation = if node.up { node.incarnation.saturating_sub(1) } else { node.incarnation };
        (incarnation > 0).then_some((node.id, incarnation))
    };
    control.nodes().filter_map(dead).chain(control.removed().map(|node| (node, u64::MAX))).collect()
}
