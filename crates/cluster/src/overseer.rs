//! What the leader of the control group does: grants leases, declares nodes up and down, and answers
//! when every node that is up has applied an entry (the route barrier of P4).
//!
//! Runs on every node and does nothing where the control group is led elsewhere. A new leader gives
//! every node one lease time to report: a lease of its predecessor may still hold that long. It grants
//! only while a quorum confirms that it still leads, and no lease outlasts that by more than its length.
//! Why that is enough is in `lease.rs`. Start at [`oversee`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use zwerm_machine::Control;
use zwerm_machine::level::{said, said_replicas, unsaid, unsaid_replicas};
use zwerm_machine::records::{Form, Node, NodeDown, NodeUp, control_command::Command};
use zwerm_raft::{Group, Role};

use crate::cluster::Shared;
use crate::ledger::CONTROL;
use crate::placement::place;
use crate::transport::proto::{Beat, Grant, Introduction};
use crate::{LeaseConfig, NodeId, ledger};

/// How old the confirmation of leadership may be that a grant rests on.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(800);
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(600);
/// How far behind what this node has applied of the control group another one may be that is declared up: from then on
/// everybody's SUBSCRIBE waits for it.
const NEARLY_APPLIED: u64 = 256;

#[derive(Debug, Clone, Copy)]
struct Seen {
    incarnation: u64,
    applied: u64,
    at: Instant,
    /// It is being declared down: it gets no lease any more, also when it is heard again meanwhile.
    given_up: bool,
}

/// A time of leading the control group.
#[derive(Debug, Clone, Copy)]
struct Leading {
    /// Raft's: in another one, another node may have led in between.
    term: u64,
    since: Instant,
    /// When a quorum was last asked that confirmed it.
    confirmed: Instant,
}

/// What the leader knows of the other nodes. Empty while this node does not lead.
#[derive(Debug)]
pub(crate) struct Overseer {
    seen: Mutex<SeenNodes>,
    leading: Mutex<Option<Leading>>,
    /// Changes when what every node has applied has risen: with each heartbeat would be as often as there are nodes,
    /// for all who wait.
    risen: watch::Sender<u64>,
}

type SeenNodes = BTreeMap<NodeId, Seen>;

/// Every node that is up has applied the control group up to here; 0 while one of them was not heard.
fn everywhere(seen: &SeenNodes, control: &Control) -> u64 {
    let applied = |node: &Node| {
        let heard = seen.get(&node.id).filter(|seen| seen.incarnation == node.incarnation);
        heard.map_or(0, |seen| seen.applied)
    };
    control.nodes().filter(|node| node.up).map(applied).min().unwrap_or_default()
}

impl Overseer {
    pub(crate) fn new() -> Self {
        Self { seen: Mutex::default(), leading: Mutex::default(), risen: watch::Sender::new(0) }
    }

    /// Notes a heartbeat; what every node has applied then. `None`: the incarnation is being declared down.
    fn note(
        &self,
        control: impl Fn() -> Arc<Control>,
        (node, incarnation): (NodeId, u64),
        applied: u64,
    ) -> Option<u64> {
        let (before, after) = {
            let mut seen = self.seen.lock();
            if seen.get(&node).is_some_and(|seen| seen.given_up && seen.incarnation == incarnation) {
                return None;
            }
            // Read under the lock, by which those who wait have read theirs: of two that see different states, one
            // is woken by the later state.
            let control = control();
            let before = everywhere(&seen, &control);
            seen.insert(node, Seen { incarnation, applied, at: Instant::now(), given_up: false });
            (before, everywhere(&seen, &control))
        };
        if after > before {
            self.risen.send_modify(|version| *version += 1);
        }
        Some(after)
    }

    /// How long a lease may last that is granted now, counted from its heartbeat: no longer than `ttl` after a
    /// quorum was asked whether this node leads. `None`: that is too long ago.
    fn may_grant(&self, ttl: Duration) -> Option<Duration> {
        let age = (*self.leading.lock())?.confirmed.elapsed();
        ttl.checked_sub(age).filter(|left| age < CONFIRMED_WITHIN && !left.is_zero())
    }

    /// A quorum that was asked at `asked` has confirmed that this node leads in this term; since when it does.
    fn confirm(&self, term: u64, asked: Instant) -> Instant {
        // From now on, and not from when it was elected: what it heard so far may be of an earlier term.
        let now = Instant::now();
        {
            let mut leading = self.leading.lock();
            if let Some(leading) = leading.as_mut().filter(|leading| leading.term == term) {
                leading.confirmed = asked;
                return leading.since;
            }
            *leading = Some(Leading { term, since: now, confirmed: asked });
        }
        self.seen.lock().clear();
        now
    }

    /// This node does not lead (any more).
    fn resign(&self) {
        let was_leading = self.leading.lock().take().is_some();
        if was_leading {
            self.seen.lock().clear();
        }
    }

    /// Gives up whoever was silent for longer than any lease lasts; who is up, that is.
    fn give_up_silent(&self, control: &Control, since: Instant, lease: &LeaseConfig) -> Vec<(NodeId, u64)> {
        let patience = lease.ttl + lease.margin;
        let mut seen = self.seen.lock();
        let is_silent = |node: &&Node| {
            let heard = seen.get(&node.id).filter(|seen| seen.incarnation == node.incarnation);
            heard.map_or(since, |seen| seen.at) + patience < Instant::now()
        };
        let silent = control.nodes().filter(|node| node.up).filter(is_silent);
        let silent: Vec<_> = silent.map(|node| (node.id, node.incarnation)).collect();
        // From here on a heartbeat comes too late: a lease granted now would outlive the declaration.
        for &(node, incarnation) in &silent {
            seen.insert(node, Seen { incarnation, applied: 0, at: since, given_up: true });
        }
        silent
    }
}

/// Oversees until the node stops.
pub(crate) async fn oversee(shared: &Shared) {
    let Some(control) = shared.control_group().await else { return };
    let mut tick = tokio::time::interval(shared.config.lease.interval / 2);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut status = control.watch();
    loop {
        tick.tick().await;
        if control.is_leader() {
            lead(shared, &control).await;
            continue;
        }
        shared.overseer.resign();
        // An error means that the group is closed: the node is stopping.
        if status.wait_for(|status| status.state == Role::Leader).await.is_err() {
            return;
        }
    }
}

/// One round as leader.
async fn lead(shared: &Shared, control: &Group) {
    let asked = Instant::now();
    match tokio::time::timeout(CONFIRM_TIMEOUT, control.linearize()).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    let term = control.watch().borrow().term;
    let since = shared.overseer.confirm(term, asked);
    if !shared.control.state().is_formed() {
        form(shared).await;
    }
    declare_down(shared, since).await;
}

/// The first command of a cluster: its members and the placement of its shards.
async fn form(shared: &Shared) {
    let Some(formation) = shared.formation.get() else { return };
    let members: Vec<NodeId> = formation.members.iter().map(|member| member.id).collect();
    let replicas = said_replicas(formation.replicas);
    let form = Form {
        cluster_id: formation.cluster_id.clone(),
        // Up until found silent: down would mean that these incarnations are dead for ever.
        nodes: formation.members.iter().map(|member| Node { up: true, ..node_of(member) }).collect(),
        shards: formation.shards,
        placement: place(&members, formation.shards, replicas, &[]),
        // Absent where programs from before there were levels may be among the founders.
        replicas: unsaid_replicas(replicas),
        level: unsaid(formation.level),
    };
    propose(shared, Command::Form(form)).await;
}

/// Declares nodes down that were silent for longer than any lease lasts.
async fn declare_down(shared: &Shared, leading_since: Instant) {
    let control = shared.control.state();
    let silent = shared.overseer.give_up_silent(&control, leading_since, &shared.config.lease);
    for (id, incarnation) in silent {
        tracing::warn!(node = format_args!("{id:016x}"), incarnation, "a node is silent: declaring it down");
        propose(shared, Command::NodeDown(NodeDown { id, incarnation })).await;
    }
}

pub(crate) fn node_of(introduction: &Introduction) -> Node {
    Node {
        id: introduction.id,
        incarnation: introduction.incarnation,
        name: introduction.name.clone(),
        cluster_addr: introduction.cluster_addr.clone(),
        mqtt_addr: introduction.mqtt_addr.clone(),
        http_addr: introduction.http_addr.clone(),
        up: false,
        since_ms: 0,
        leaving: false,
        draining: introduction.draining,
        newest_level: introduction.newest_level,
    }
}

/// Proposes as the leader of the control group. Whether it was taken is seen in the state.
pub(crate) async fn propose(shared: &Shared, command: Command) {
    if let Err(error) = shared.propose_here(ledger::control_request(command, false)).await {
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
        // Who is no member, or is taken for dead for ever, has nothing to report.
        let control = self.control.state();
        let known = control.node(id).filter(|_| !control.is_given_up(id)).cloned()?;
        if said(introduction.newest_level) < control.level() {
            return None;
        }
        let fresh = Node { up: true, leaving: known.leaving, ..node_of(&introduction) };
        let is_current = Node { since_ms: 0, ..known.clone() } == fresh;
        if !is_current {
            // An incarnation that was declared down stays down: the node will rise as a newer one.
            if known.incarnation == incarnation && !known.up {
                return None;
            }
            if beat.applied + NEARLY_APPLIED < *self.control.applied().borrow() {
                return None;
            }
            propose(self, Command::NodeUp(NodeUp { node: Some(fresh) })).await;
            let is_up = |node: &Node| node.up && node.incarnation == incarnation;
            if !self.control.state().node(id).is_some_and(is_up) {
                return None;
            }
        }
        let everywhere = self.overseer.note(|| self.control.state(), (id, incarnation), beat.applied)?;
        let ttl = self.overseer.may_grant(self.config.lease.ttl)?;
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        Some(Grant { sequence: beat.sequence, ttl_ms, everywhere })
    }

    /// Waits until every node that is up has applied `index` of the control group. False: not the leader
    /// any more, so nobody knows.
    pub(crate) async fn wait_applied_everywhere(&self, index: u64) -> bool {
        let Some(group) = self.host.group(CONTROL) else { return false };
        #[cfg(feature = "sabotage")]
        if zwerm_sabotage::is_broken(zwerm_sabotage::Rule::RouteBarrier) {
            return group.is_leader();
        }
        let mut risen = self.overseer.risen.subscribe();
        let mut applied = self.control.applied();
        loop {
            if !group.is_leader() {
                return false;
            }
            if self.applied_everywhere() >= index {
                return true;
            }
            tokio::select! {
                changed = risen.changed() => if changed.is_err() { return false },
                changed = applied.changed() => if changed.is_err() { return false },
                // Leadership may end without either.
                () = tokio::time::sleep(self.config.lease.ttl) => {}
            }
        }
    }

    fn applied_everywhere(&self) -> u64 {
        let seen = self.overseer.seen.lock();
        everywhere(&seen, &self.control.state())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zwerm_machine::records::ControlCommand;

    const LEASE: LeaseConfig = LeaseConfig {
        interval: Duration::from_millis(100),
        ttl: Duration::from_millis(1_000),
        margin: Duration::from_millis(200),
    };
    const STEP: Duration = Duration::from_millis(20);

    /// The control group's state with node 1 up in incarnation 1.
    fn control() -> Control {
        control_of(&[1])
    }

    fn control_of(ids: &[NodeId]) -> Control {
        let node =
            |id: &NodeId| Node { id: *id, incarnation: 1, name: id.to_string(), up: true, ..Node::default() };
        let (nodes, placement) = (ids.iter().map(node).collect(), place(ids, 1, 3, &[]));
        let form = Form { cluster_id: "c".into(), nodes, shards: 1, placement, ..Form::default() };
        let mut control = Control::new();
        control.apply(&ControlCommand { at_ms: 1, ..ControlCommand::from(Command::Form(form)) });
        control
    }

    /// When the lease ends that a leader grants for a heartbeat sent at `sent` and heard now.
    fn grant(leader: &Overseer, sent: Instant) -> Option<Instant> {
        leader.note(|| Arc::new(control()), (1, 1), 0)?;
        leader.may_grant(LEASE.ttl).map(|ttl| sent + ttl)
    }

    #[test]
    fn who_waits_is_woken_when_the_slowest_node_has_applied_more_and_not_by_every_heartbeat() {
        let (overseer, control) = (Overseer::new(), Arc::new(control_of(&[1, 2, 3])));
        let mut risen = overseer.risen.subscribe();
        let mut note = |node, applied| {
            let everywhere = overseer.note(|| Arc::clone(&control), (node, 1), applied);
            let woken = risen.has_changed().unwrap();
            risen.mark_unchanged();
            (everywhere.unwrap(), woken)
        };
        assert_eq!(note(1, 7), (0, false), "two were not heard");
        assert_eq!(note(2, 9), (0, false));
        assert_eq!(note(3, 8), (7, true));
        assert_eq!(note(2, 12), (7, false));
        assert_eq!(note(1, 10), (8, true));
        assert_eq!(note(1, 10), (8, false), "only its lease is renewed");
    }

    #[test]
    fn the_bytes_of_an_introduction_are_frozen() {
        let introduction = Introduction {
            id: 300,
            name: "n".into(),
            incarnation: 2,
            cluster_addr: "c:1".into(),
            mqtt_addr: "m:2".into(),
            http_addr: "h:3".into(),
            cluster_id: "x".into(),
            removed: false,
            known: Vec::new(),
            ..Introduction::default()
        };
        let before = "08ac0212016e18022203633a312a036d3a323203683a333a0178";
        let hex = |said: &Introduction| -> String {
            prost::Message::encode_to_vec(said).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(hex(&introduction), before);
        assert_eq!(hex(&Introduction { draining: true, ..introduction.clone() }), format!("{before}800101"));
        let levels = Introduction { oldest_level: 1, newest_level: 300, level: 2, ..introduction };
        assert_eq!(hex(&levels), format!("{before}880101 9001ac02 980102").replace(' ', ""));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_declares_down_only_what_holds_no_lease_however_late_heartbeats_come() {
        let control = control();
        for late in (0..1_500).step_by(60).map(Duration::from_millis) {
            let leader = Overseer::new();
            let since = leader.confirm(1, Instant::now());
            let mut until = Instant::now();
            for _ in 0..5 {
                let sent = Instant::now();
                tokio::time::advance(late).await;
                leader.confirm(1, Instant::now());
                let is_given_up = !leader.give_up_silent(&control, since, &LEASE).is_empty();
                assert!(!is_given_up || until <= Instant::now(), "while heartbeats come {late:?} late");
                until = until.max(grant(&leader, sent).unwrap_or(until));
                tokio::time::advance(STEP).await;
            }
            while leader.give_up_silent(&control, since, &LEASE).is_empty() && late < LEASE.ttl {
                tokio::time::advance(STEP).await;
            }
            assert!(until <= Instant::now(), "heartbeats {late:?} late");
            if late < LEASE.ttl {
                assert_eq!(grant(&leader, Instant::now()), None, "it is given up");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_declares_down_only_what_holds_no_lease_of_the_old_one() {
        let control = control();
        let (old, new) = (Overseer::new(), Overseer::new());
        // The earliest there is: the new one is elected right after the old one asked its quorum.
        old.confirm(1, Instant::now());
        let since = new.confirm(2, Instant::now());
        let (mut until, mut grants) = (Instant::now(), 0);
        while new.give_up_silent(&control, since, &LEASE).is_empty() {
            // Node 1 and the old leader are cut off from all others and go on as long as they may.
            if let Some(end) = grant(&old, Instant::now()) {
                until = until.max(end);
                grants += 1;
            }
            tokio::time::advance(STEP).await;
        }
        assert!(grants > 10, "the old leader did grant: {grants}");
        assert!(until <= Instant::now());
        assert!(since.elapsed() <= LEASE.ttl + LEASE.margin + 2 * STEP, "and no later than it must");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_was_away_gives_every_node_its_time_again() {
        let control = control();
        let leader = Overseer::new();
        leader.confirm(1, Instant::now());
        leader.note(|| Arc::new(self::control()), (1, 1), 7);
        tokio::time::advance(LEASE.ttl).await;
        // Another node led in between and may have granted leases just now.
        let since = leader.confirm(3, Instant::now());
        tokio::time::advance(LEASE.margin + STEP).await;
        assert_eq!(leader.give_up_silent(&control, since, &LEASE), []);
        tokio::time::advance(LEASE.ttl).await;
        assert_eq!(leader.give_up_silent(&control, since, &LEASE), [(1, 1)]);
        assert_eq!(grant(&leader, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_quorum_nothing_is_granted() {
        let leader = Overseer::new();
        assert_eq!(leader.may_grant(LEASE.ttl), None);
        leader.confirm(1, Instant::now());
        tokio::time::advance(CONFIRMED_WITHIN / 2).await;
        assert_eq!(leader.may_grant(LEASE.ttl), Some(LEASE.ttl - CONFIRMED_WITHIN / 2));
        tokio::time::advance(CONFIRMED_WITHIN / 2).await;
        assert_eq!(leader.may_grant(LEASE.ttl), None);
    }
}
