//! What the leader of the control group does: grants leases, declares nodes up and down, and answers
//! when every node that is up has applied an entry (the route barrier of P4).
//!
//! Runs on every node and does nothing where the control group is led elsewhere. A new leader gives
//! every node one lease time to report: a lease of its predecessor may still hold that long. It grants
//! only while a quorum confirms that it still leads. Start at [`oversee`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use zwerm_machine::records::{ControlCommand, Form, Node, NodeDown, NodeUp, control_command::Command};
use zwerm_raft::Group;

use crate::cluster::Shared;
use crate::ledger::CONTROL;
use crate::placement::place;
use crate::transport::proto::{Beat, Grant, Introduction};
use crate::{NodeId, ledger};

/// How old the confirmation of leadership may be that a grant rests on.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(800);
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(600);
/// Most nodes with a vote in the control group.
const CONTROL_VOTERS: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Seen {
    incarnation: u64,
    applied: u64,
    at: Instant,
    /// It is being declared down: it gets no lease any more, also when it is heard again meanwhile.
    given_up: bool,
}

/// What the leader knows of the other nodes. Empty while this node does not lead.
#[derive(Debug)]
pub(crate) struct Overseer {
    seen: Mutex<BTreeMap<NodeId, Seen>>,
    /// When this node began to lead, and when a quorum last confirmed it.
    leading: Mutex<Option<(Instant, Option<Instant>)>>,
    changed: watch::Sender<u64>,
}

impl Overseer {
    pub(crate) fn new() -> Self {
        Self { seen: Mutex::default(), leading: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// Notes a heartbeat; false if the incarnation is being declared down.
    fn note(&self, node: NodeId, incarnation: u64, applied: u64) -> bool {
        {
            let mut seen = self.seen.lock();
            if seen.get(&node).is_some_and(|seen| seen.given_up && seen.incarnation == incarnation) {
                return false;
            }
            seen.insert(node, Seen { incarnation, applied, at: Instant::now(), given_up: false });
        }
        self.changed.send_modify(|version| *version += 1);
        true
    }

    fn may_grant(&self) -> bool {
        let leading = *self.leading.lock();
        leading.and_then(|(_, confirmed)| confirmed).is_some_and(|at| at.elapsed() < CONFIRMED_WITHIN)
    }
}

/// Oversees until the node stops.
pub(crate) async fn oversee(shared: &Shared) {
    let Some(control) = shared.control_group().await else { return };
    let mut tick = tokio::time::interval(shared.config.lease.interval / 2);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if control.is_leader() {
            lead(shared, &control).await;
        } else {
            let was_leading = shared.overseer.leading.lock().take().is_some();
            if was_leading {
                shared.overseer.seen.lock().clear();
            }
        }
    }
}

/// One round as leader.
async fn lead(shared: &Shared, control: &Group) {
    let overseer = &shared.overseer;
    let asked = Instant::now();
    let since = overseer.leading.lock().get_or_insert((asked, None)).0;
    match tokio::time::timeout(CONFIRM_TIMEOUT, control.linearize()).await {
        Ok(Ok(_)) => *overseer.leading.lock() = Some((since, Some(asked))),
        Ok(Err(_)) | Err(_) => return,
    }
    if !shared.control.state().is_formed() {
        form(shared).await;
    }
    declare_down(shared, since).await;
    add_learners(shared, control).await;
}

/// The first command of a cluster: its members and the placement of its shards.
async fn form(shared: &Shared) {
    let Some(formation) = shared.formation.get() else { return };
    let members: Vec<NodeId> = formation.members.iter().map(|member| member.id).collect();
    let form = Form {
        cluster_id: formation.cluster_id.clone(),
        // Up until found silent: down would mean that these incarnations are dead for ever.
        nodes: formation.members.iter().map(|member| Node { up: true, ..node_of(member) }).collect(),
        shards: formation.shards,
        placement: place(&members, formation.shards),
    };
    propose(shared, Command::Form(form)).await;
}

/// Declares nodes down that were silent for longer than any lease lasts.
async fn declare_down(shared: &Shared, leading_since: Instant) {
    let patience = shared.config.lease.ttl + shared.config.lease.margin;
    let grace = leading_since + shared.config.lease.ttl;
    let silent: Vec<(NodeId, u64)> = {
        let mut seen = shared.overseer.seen.lock();
        let control = shared.control.state();
        let is_silent = |node: &&Node| {
            let heard = seen.get(&node.id).filter(|seen| seen.incarnation == node.incarnation);
            heard.map_or(grace, |seen| seen.at + patience) < Instant::now()
        };
        let silent = control.nodes().filter(|node| node.up).filter(is_silent);
        let silent: Vec<_> = silent.map(|node| (node.id, node.incarnation)).collect();
        // From here on a heartbeat comes too late: a lease granted now would outlive the declaration.
        for &(node, incarnation) in &silent {
            seen.insert(node, Seen { incarnation, applied: 0, at: leading_since, given_up: true });
        }
        silent
    };
    for (id, incarnation) in silent {
        tracing::warn!(node = format_args!("{id:016x}"), incarnation, "a node is silent: declaring it down");
        propose(shared, Command::NodeDown(NodeDown { id, incarnation })).await;
    }
}

/// Nodes beyond the voters take part in the control group without a vote.
async fn add_learners(shared: &Shared, control: &Group) {
    let missing: BTreeSet<NodeId> = {
        let status = control.watch();
        let status = status.borrow();
        let control = shared.control.state();
        let is_member = |id: &NodeId| status.voters.contains(id) || status.learners.contains(id);
        control.nodes().map(|node| node.id).filter(|id| !is_member(id)).collect()
    };
    for node in missing {
        if let Err(error) = control.add_learner(node).await {
            tracing::debug!(node = format_args!("{node:016x}"), %error, "a node could not join the control group yet");
        }
    }
}

/// The voters of the control group of a new cluster.
pub(crate) fn control_voters(members: &[Introduction]) -> BTreeSet<NodeId> {
    let all: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
    all.into_iter().take(CONTROL_VOTERS).collect()
}

fn node_of(introduction: &Introduction) -> Node {
    Node {
        id: introduction.id,
        incarnation: introduction.incarnation,
        name: introduction.name.clone(),
        cluster_addr: introduction.cluster_addr.clone(),
        mqtt_addr: introduction.mqtt_addr.clone(),
        http_addr: introduction.http_addr.clone(),
        up: false,
        since_ms: 0,
    }
}

async fn propose(shared: &Shared, command: Command) {
    let command = ControlCommand { command: Some(command), at_ms: 0 };
    let request = ledger::control_request(&command, false);
    if let Err(error) = shared.propose_here(request).await {
        tracing::debug!(%error, "the control group did not take a command; trying again");
    }
}

impl Shared {
    /// Answers a heartbeat: a grant, or `None` when this node cannot grant one now.
    pub(crate) async fn beat(&self, beat: Beat) -> Option<Grant> {
        let introduction = beat.node?;
        let (id, incarnation) = (introduction.id, introduction.incarnation);
        if !self.host.group(CONTROL)?.is_leader() {
            return None;
        }
        let known = self.control.state().node(id).cloned();
        let fresh = Node { up: true, ..node_of(&introduction) };
        let is_current = known.as_ref().is_some_and(|node| Node { since_ms: 0, ..node.clone() } == fresh);
        if !is_current {
            // An incarnation that was declared down stays down: the node will rise as a newer one.
            if known.is_some_and(|node| node.incarnation == incarnation && !node.up) {
                return None;
            }
            propose(self, Command::NodeUp(NodeUp { node: Some(fresh) })).await;
            let is_up = |node: &Node| node.up && node.incarnation == incarnation;
            if !self.control.state().node(id).is_some_and(is_up) {
                return None;
            }
        }
        let ttl_ms = u32::try_from(self.config.lease.ttl.as_millis()).unwrap_or(u32::MAX);
        let noted = self.overseer.note(id, incarnation, beat.applied);
        (noted && self.overseer.may_grant()).then_some(Grant { sequence: beat.sequence, ttl_ms })
    }

    /// Waits until every node that is up has applied `index` of the control group. False: not the leader
    /// any more, so nobody knows.
    pub(crate) async fn wait_applied_everywhere(&self, index: u64) -> bool {
        let Some(group) = self.host.group(CONTROL) else { return false };
        let mut heard = self.overseer.changed.subscribe();
        let mut applied = self.control.applied();
        loop {
            if !group.is_leader() {
                return false;
            }
            if self.all_have_applied(index) {
                return true;
            }
            tokio::select! {
                changed = heard.changed() => if changed.is_err() { return false },
                changed = applied.changed() => if changed.is_err() { return false },
                // Leadership may end without either.
                () = tokio::time::sleep(self.config.lease.ttl) => {}
            }
        }
    }

    fn all_have_applied(&self, index: u64) -> bool {
        let seen = self.overseer.seen.lock();
        let has_applied = |node: &Node| {
            seen.get(&node.id)
                .is_some_and(|seen| seen.incarnation == node.incarnation && seen.applied >= index)
        };
        self.control.state().nodes().filter(|node| node.up).all(has_applied)
    }
}
