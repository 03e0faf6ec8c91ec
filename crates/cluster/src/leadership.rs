//! Opens the Raft groups that this node holds, and hands their leadership over when it stops.
//!
//! Knows who votes where; does not know what the groups decide. Start at [`open_groups`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use zwerm_machine::Control;
use zwerm_machine::records::{ControlCommand, NodeDown, Placement, control_command::Command};
use zwerm_raft::{Group, GroupId, Machine};

use crate::NodeId;
use crate::batches::run_shard_client;
use crate::cluster::Shared;
use crate::keeper::keep_shard;
use crate::ledger::{CONTROL, control_request, group_of};
use crate::outbox::publish_outbox;
use crate::overseer::control_voters;
use crate::queue::MessageStore;
use crate::replica::{ControlReplica, ShardReplica, ShardView};
use crate::shard_routes::publish_shard_routes;
use crate::shards::ShardClient;

const RETRY: Duration = Duration::from_millis(200);
/// How long stopping waits for the rest of the cluster to take note.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long one group may take to change its leader.
const TRANSFER: Duration = Duration::from_millis(500);

/// Says in every node's log which nodes came and went.
fn log_changes(known: &Mutex<BTreeMap<NodeId, (u64, bool)>>, control: &Control) {
    let mut known = known.lock();
    for node in control.nodes() {
        let now = (node.incarnation, node.up);
        if known.insert(node.id, now) == Some(now) {
            continue;
        }
        let (name, incarnation) = (node.name.as_str(), node.incarnation);
        if node.up {
            tracing::info!(node = name, incarnation, "a node is up");
        } else {
            tracing::warn!(
                node = name,
                incarnation,
                "a node is down: its routes are gone, its clients' wills fire"
            );
        }
    }
}

/// Opens the control group as soon as there is a cluster, then the shards placed here.
pub(crate) async fn open_groups(shared: &Arc<Shared>) {
    let formation = shared.formed().await;
    let mut clients = Vec::new();
    for shard in 0..formation.shards {
        let (client, queue) = ShardClient::new(Arc::clone(&shared.shard_counters));
        clients.push(client);
        let runner = Arc::clone(shared);
        shared.spawn(async move { run_shard_client(&runner, shard, &queue).await });
    }
    shared.set_shard_clients(clients);
    let (lanes, peers) = (Arc::clone(&shared.lanes), shared.peers.clone());
    let before = move |control: &Control, _| {
        control.nodes().for_each(|node| peers.learn(node.id, node.incarnation, &node.cluster_addr));
        lanes.follow(control);
    };
    let (own, lease) = (Arc::clone(&shared.own), Arc::clone(&shared.lease));
    let (known, settled) = (Mutex::default(), Arc::clone(&shared.settled));
    let after = move |control: &Control, index| {
        log_changes(&known, control);
        settled.follow(control, index);
        lease.follow(control, &own);
    };
    let replica = ControlReplica::new(Arc::clone(&shared.control), Box::new(before), Box::new(after));
    open(shared, CONTROL, Box::new(replica), control_voters(&formation.members)).await;
    open_shards(shared).await;
}

async fn open_shards(shared: &Arc<Shared>) {
    let mut applied = shared.control.applied();
    let mut opened = BTreeSet::new();
    loop {
        let control = shared.control.state();
        let here = |placement: &&Placement| placement.voters.contains(&shared.own.id);
        for placement in control.placement().iter().filter(here) {
            if opened.insert(placement.shard) {
                open_shard(shared, placement).await;
            }
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

async fn open_shard(shared: &Arc<Shared>, placement: &Placement) {
    let shard = placement.shard;
    let (id, engine) = (group_of(shard), || Arc::clone(&shared.engine));
    let messages = MessageStore::new(id, engine(), shared.config.raft.disk_work.clone());
    let view = Arc::new(ShardView::new(messages));
    let replica = ShardReplica::new(id, engine(), Arc::clone(&view));
    let voters = placement.voters.iter().copied().collect();
    let group = open(shared, id, Box::new(replica), voters).await;
    shared.add_shard_view(shard, Arc::clone(&view));
    let Some(client) = shared.shard_client(shard).cloned() else { return };
    let of_leader = Arc::new((Arc::clone(shared), group, view, client));
    let keeper = Arc::clone(&of_leader);
    shared.spawn(async move {
        let (shared, group, view, client) = &*keeper;
        keep_shard(shared, group, view, client).await;
    });
    let publisher = Arc::clone(&of_leader);
    shared.spawn(async move {
        let (shared, group, view, client) = &*publisher;
        publish_outbox(shared, group, view, client).await;
    });
    shared.spawn(async move {
        let (shared, group, view, _) = &*of_leader;
        publish_shard_routes(shared, group, view).await;
    });
}

/// Opens one group; a failure is logged and tried again: the node is not ready meanwhile. All voters
/// initialise with the same set, which Raft takes for one formation.
async fn open(shared: &Shared, id: GroupId, machine: Box<dyn Machine>, voters: BTreeSet<NodeId>) -> Group {
    let group = match shared.host.open(id, machine).await {
        Ok(group) => group,
        Err(error) => {
            tracing::error!(group = %id, error = &error as &dyn std::error::Error, "a Raft group does not open; this node cannot take part");
            // Nothing heals this but people: the volume is unreadable.
            shared.broken.cancel();
            std::future::pending().await
        }
    };
    let (mut status, broken) = (group.watch(), shared.broken.clone());
    shared.spawn(async move {
        // An error means that the group is closed, as when the node stops.
        if status.wait_for(|status| !status.running).await.is_ok() {
            tracing::error!(group = %id, "a Raft group ended by itself; this node cannot take part any more");
            broken.cancel();
        }
    });
    while voters.contains(&shared.own.id) && !group.is_initialized().await {
        match group.initialize(voters.clone()).await {
            Ok(()) => break,
            Err(error) => tracing::debug!(group = %id, %error, "a Raft group is not initialised yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
    group
}

/// Before stopping: the cluster need not find out by itself that this node is gone.
pub(crate) async fn hand_over(shared: &Shared) {
    if shared.formation.get().is_none() {
        return;
    }
    let farewell = NodeDown { id: shared.own.id, incarnation: shared.own.incarnation() };
    let command = ControlCommand { command: Some(Command::NodeDown(farewell)), at_ms: 0 };
    let said = tokio::time::timeout(FAREWELL, shared.propose(control_request(&command, false))).await;
    if said.is_err() {
        tracing::info!("stopping without a quorum: the others will find out");
    }
    let transfers =
        shared.host.known_groups().into_iter().filter_map(|id| shared.host.group(id)).map(transfer);
    futures::future::join_all(transfers).await;
}

async fn transfer(group: Group) {
    if !group.is_leader() {
        return;
    }
    let successor = {
        let status = group.watch();
        let status = status.borrow();
        let others = status.matched.iter().filter(|(node, _)| Some(**node) != status.leader);
        // Who is furthest takes over soonest.
        others
            .filter(|(node, _)| status.voters.contains(node))
            .max_by_key(|(_, matched)| **matched)
            .map(|(node, _)| *node)
    };
    let Some(successor) = successor else { return };
    if let Ok(Err(error)) = tokio::time::timeout(TRANSFER, group.transfer_leader(successor)).await {
        tracing::debug!(group = %group.id(), %error, "leadership was not handed over");
    }
}
