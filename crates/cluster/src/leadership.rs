//! Opens the Raft groups that this node holds, and hands their leadership over when it drains or stops.
//!
//! Knows who votes where; does not know what the groups decide. Start at [`open_groups`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use zwerm_machine::Control;
use zwerm_machine::records::{Node, NodeDown, Placement, control_command::Command};
use zwerm_raft::{Group, GroupId, GroupStatus, Machine};

use crate::NodeId;
use crate::batches::run_shard_client;
use crate::cluster::{Shared, can_take_over};
use crate::holding::hold_shards;
use crate::keeper::keep_shard;
use crate::ledger::{CONTROL, control_request, group_of};
use crate::members::control_voters;
use crate::moving::move_shard;
use crate::outbox::publish_outbox;
use crate::overseer::node_of;
use crate::queue::MessageStore;
use crate::replica::{ControlReplica, ShardReplica, ShardView};
use crate::shard_routes::publish_shard_routes;
use crate::shards::ShardClient;
use crate::transport::proto::Formation;

const RETRY: Duration = Duration::from_millis(200);
/// How long stopping waits for the rest of the cluster to take note.
const FAREWELL: Duration = Duration::from_secs(2);
/// Who has answered no longer ago than this can lead. One that has just died is up for a while yet in the replicated
/// state: handed to it again and again, the control group would have no leader for long enough to find that out.
const HEARD: Duration = Duration::from_millis(500);
/// How long one group may take to change its leader.
const TRANSFER: Duration = Duration::from_millis(500);

/// Says in every node's log which nodes came and went.
fn log_changes(known: &Mutex<BTreeMap<NodeId, (u64, bool)>>, control: &Control) {
    let mut known = known.lock();
    known.retain(|node, _| control.node(*node).is_some());
    for node in control.nodes().filter(|node| node.incarnation > 0) {
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
    let replica = ControlReplica::new(
        shared.ceiling.clone(),
        Arc::clone(&shared.control),
        Box::new(before),
        Box::new(after),
    );
    let voters = founding_voters(formation);
    open(shared, CONTROL, (Box::new(replica), Standing::Voter), voters, CancellationToken::new()).await;
    hold_shards(shared).await;
}

/// Who forms the control group; nobody if this node joined later.
fn founding_voters(formation: &Formation) -> BTreeSet<NodeId> {
    let founders: Vec<Node> =
        formation.members.iter().map(|node| Node { up: true, ..node_of(node) }).collect();
    let founders = founders.iter().filter(|_| !formation.joined);
    control_voters(founders, &BTreeSet::new())
}

/// Opens a shard; cancelling the token it returns ends the watch over it, before it is given up.
pub(crate) async fn open_shard(shared: &Arc<Shared>, placement: &Placement) -> CancellationToken {
    let shard = placement.shard;
    let (id, engine) = (group_of(shard), || Arc::clone(&shared.engine));
    let messages = MessageStore::new(id, engine(), shared.config.raft.disk_work.clone());
    let view = Arc::new(ShardView::new(messages));
    let replica = ShardReplica::new(shared.ceiling.clone(), id, engine(), Arc::clone(&view));
    // Who comes later is told by the leader who votes.
    let founders = if placement.moved { &[][..] } else { &placement.voters };
    let (founders, watching) = (founders.iter().copied().collect(), CancellationToken::new());
    let standing =
        if placement.voters.contains(&shared.own.id) { Standing::Voter } else { Standing::Learner };
    let group = open(shared, id, (Box::new(replica), standing), founders, watching.clone()).await;
    shared.add_shard_view(shard, Arc::clone(&view));
    let Some(client) = shared.shard_client(shard).cloned() else { return watching };
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
    let mover = Arc::clone(&of_leader);
    shared.spawn(async move {
        let (shared, group, ..) = &*mover;
        move_shard(shared, group).await;
    });
    shared.spawn(async move {
        let (shared, group, view, _) = &*of_leader;
        publish_shard_routes(shared, group, view).await;
    });
    watching
}

/// As what a node opens a group.
#[derive(Debug, Clone, Copy)]
enum Standing {
    /// It stands for election, if it has a vote.
    Voter,
    /// It does not until it is known to vote: see [`zwerm_raft::Host::open_as_learner`].
    Learner,
}

/// Opens one group; a failure is logged and tried again: the node is not ready meanwhile. All voters
/// initialise with the same set, which Raft takes for one formation. It is watched until `watching` is cancelled.
async fn open(
    shared: &Shared,
    id: GroupId,
    (machine, standing): (Box<dyn Machine>, Standing),
    voters: BTreeSet<NodeId>,
    watching: CancellationToken,
) -> Group {
    let opened = match standing {
        Standing::Voter => shared.host.open(id, machine).await,
        Standing::Learner => shared.host.open_as_learner(id, machine).await,
    };
    let group = match opened {
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
        let ended = watching.run_until_cancelled(status.wait_for(|status| !status.running)).await;
        // Who closes the group says so first; on a busy machine both are seen at once.
        if ended.is_some_and(|ended| ended.is_ok()) && !watching.is_cancelled() {
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
    let request = control_request(Command::NodeDown(farewell), false);
    let said = tokio::time::timeout(FAREWELL, shared.propose(request)).await;
    if said.is_err() {
        tracing::info!("stopping without a quorum: the others will find out");
    }
    let groups = shared.host.known_groups().into_iter().filter_map(|id| shared.host.group(id));
    let transfers = groups.map(|group| transfer(shared, group, Heir::Any));
    futures::future::join_all(transfers).await;
}

/// While this node drains it leads no group that another node can lead. It may be elected again when a leader dies:
/// better it than nobody; then it hands over again.
pub(crate) async fn yield_while_draining(shared: &Shared) {
    loop {
        shared.own.drains().await;
        let groups = shared.host.known_groups().into_iter().filter_map(|id| shared.host.group(id));
        let transfers = groups.map(|group| transfer(shared, group, Heir::Fit));
        futures::future::join_all(transfers).await;
        tokio::time::sleep(RETRY).await;
    }
}

/// Who may lead in the place of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heir {
    /// Any voter, though those that are up and stay are better.
    Any,
    /// Only those.
    Fit,
}

/// The voter to lead next: one that stays and was heard just now, and of these who is furthest takes over soonest.
fn successor(
    control: &Control,
    status: &GroupStatus,
    is_heard: impl Fn(NodeId) -> bool,
    heir: Heir,
) -> Option<NodeId> {
    let is_fit = |node: NodeId| control.node(node).is_some_and(can_take_over) && is_heard(node);
    let others = status.matched.iter().filter(|(node, _)| Some(**node) != status.leader);
    let (_, node) = others
        .filter(|(node, _)| status.voters.contains(node) && (heir == Heir::Any || is_fit(**node)))
        .map(|(node, matched)| ((is_fit(*node), *matched), *node))
        .max_by_key(|(rank, _)| *rank)?;
    Some(node)
}

async fn transfer(shared: &Shared, group: Group, heir: Heir) {
    if !group.is_leader() {
        return;
    }
    let is_heard = |node| group.has_heard(node, HEARD);
    let next = successor(&shared.control.state(), &group.watch().borrow(), is_heard, heir);
    let Some(successor) = next else { return };
    if let Ok(Err(error)) = tokio::time::timeout(TRANSFER, group.transfer_leader(successor)).await {
        tracing::debug!(group = %group.id(), %error, "leadership was not handed over");
    }
}

#[cfg(test)]
mod tests {
    use zwerm_machine::records::Form;
    use zwerm_raft::Role;

    use super::*;
    use zwerm_machine::records::ControlCommand;

    /// Nodes 1 to 4; `up` and `draining` say which are.
    fn control(up: &[NodeId], draining: &[NodeId]) -> Control {
        let node = |id| Node {
            id,
            incarnation: 1,
            up: up.contains(&id),
            draining: draining.contains(&id),
            ..Node::default()
        };
        let placement = vec![Placement { shard: 0, voters: vec![1, 2, 3], ..Placement::default() }];
        let form = Form {
            cluster_id: "c".into(),
            nodes: (1..=4).map(node).collect(),
            shards: 1,
            placement,
            ..Form::default()
        };
        let mut control = Control::new();
        control.apply(&ControlCommand { at_ms: 1, ..ControlCommand::from(Command::Form(form)) });
        control
    }

    /// Led by node 1; 1, 2 and 3 vote, 4 learns and is furthest.
    fn status() -> GroupStatus {
        GroupStatus {
            id: GroupId(1),
            leader: Some(1),
            term: 1,
            state: Role::Leader,
            last_log: 9,
            committed: 9,
            applied: 9,
            snapshot: 0,
            purged: 0,
            voters: BTreeSet::from([1, 2, 3]),
            learners: BTreeSet::from([4]),
            matched: BTreeMap::from([(1, 9), (2, 9), (3, 8), (4, 9)]),
            running: true,
        }
    }

    #[test]
    fn who_stays_leads_next_and_of_these_who_is_furthest() {
        let cases = [
            (vec![1, 2, 3, 4], vec![1], vec![], Some(2), Some(2)),
            (vec![1, 2, 3, 4], vec![1, 2], vec![], Some(3), Some(3)),
            (vec![1, 3, 4], vec![1], vec![], Some(3), Some(3)),
            // died just now
            (vec![1, 2, 3, 4], vec![1], vec![2], Some(3), Some(3)),
            // nobody that stays: a node that drains keeps what it leads, one that stops gives it to anybody
            (vec![1, 2, 3, 4], vec![1, 2, 3], vec![], None, Some(2)),
            (vec![1, 2, 3, 4], vec![1, 3], vec![2], None, Some(2)),
        ];
        for (up, draining, silent, fit, any) in cases {
            let control = control(&up, &draining);
            let is_heard = |node| !silent.contains(&node);
            for (heir, expected) in [(Heir::Fit, fit), (Heir::Any, any)] {
                let next = successor(&control, &status(), is_heard, heir);
                assert_eq!(next, expected, "up {up:?} draining {draining:?} silent {silent:?} {heir:?}");
            }
        }
    }
}
