//! Which routes to durable sessions every node that is up is known to have applied, without asking (P4).
//!
//! The leader of the control group says with each grant how far all nodes are ([`Grant::everywhere`]); that stays
//! true whoever comes up later, for a node routes only when it has applied that it is up. So a session that is
//! continued after the death of that leader need not wait until somebody can ask all nodes again. What is not
//! known here is asked for (`barrier.rs`). Start at [`Settled::holds`].
//!
//! [`Grant::everywhere`]: crate::transport::proto::Grant

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use zwerm_machine::Control;

/// Versions of one shard that may wait to be known everywhere. Policy when there are more: the oldest are
/// forgotten, for the newer ones include them.
const PENDING: usize = 64;

/// By shard, of this node's knowledge.
#[derive(Debug, Default)]
pub(crate) struct Settled(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Every node that is up has applied the control group so far.
    everywhere: u64,
    shards: BTreeMap<u32, Versions>,
}

#[derive(Debug, Default)]
struct Versions {
    /// Every node routes by this version of the shard's routes, or a newer one; 0: none known.
    settled: u64,
    /// Entries of the control group that are newer, with the version that the route table had after them.
    pending: VecDeque<(u64, u64)>,
}

impl Versions {
    fn settle(&mut self, everywhere: u64) {
        while let Some((index, version)) = self.pending.front().copied() {
            if index > everywhere {
                break;
            }
            self.settled = version;
            self.pending.pop_front();
        }
    }
}

impl Settled {
    /// Takes note of the versions that the route table has after entry `index` of the control group. Called with
    /// each state that everybody can see.
    pub(crate) fn follow(&self, control: &Control, index: u64) {
        let mut state = self.0.lock();
        let everywhere = state.everywhere;
        for shard in 0..control.shards() {
            let version = control.published(shard).version;
            let versions = state.shards.entry(shard).or_default();
            let newest = versions.pending.back().map_or(versions.settled, |(_, version)| *version);
            if version > newest {
                versions.pending.push_back((index, version));
                if versions.pending.len() > PENDING {
                    versions.pending.pop_front();
                }
                versions.settle(everywhere);
            }
        }
    }

    /// Every node that is up has applied the control group up to this entry.
    pub(crate) fn reached(&self, everywhere: u64) {
        let mut state = self.0.lock();
        if everywhere > state.everywhere {
            state.everywhere = everywhere;
            state.shards.values_mut().for_each(|versions| versions.settle(everywhere));
        }
    }

    /// Whether every node that is up is known to route by a shard's routes of this version or a newer one.
    pub(crate) fn holds(&self, shard: u32, version: u64) -> bool {
        let state = self.0.lock();
        state.shards.get(&shard).is_some_and(|versions| versions.settled >= version)
    }
}

#[cfg(test)]
mod tests {
    use zwerm_machine::records::{
        self, ControlCommand, Form, ShardRoutes, control_command::Command, control_reply::Reply,
    };

    use super::*;

    /// A formed control group with two shards.
    fn control() -> Control {
        let placement = |shard| records::Placement { shard, voters: vec![1], ..Default::default() };
        let nodes = vec![records::Node { id: 1, incarnation: 1, ..records::Node::default() }];
        let placement = (0..2).map(placement).collect();
        let form = Form { cluster_id: "c".into(), nodes, shards: 2, placement, ..Form::default() };
        let mut control = Control::new();
        apply(&mut control, Command::Form(form));
        control
    }

    fn apply(control: &mut Control, command: Command) {
        let reply = control.apply(&ControlCommand { at_ms: 1, ..ControlCommand::from(command) });
        assert!(matches!(reply.reply, Some(Reply::Applied(_))));
    }

    fn publish(control: &mut Control, version: u64) {
        let base = control.published(0).commands;
        let routes = ShardRoutes { shard: 0, base, version, more: false, set: Vec::new() };
        apply(control, Command::ShardRoutes(routes));
    }

    #[test]
    fn a_version_holds_when_all_have_applied_the_entry_that_brought_it() {
        let (settled, mut control) = (Settled::default(), control());
        for (index, version) in [(10, 3), (12, 4)] {
            publish(&mut control, version);
            settled.follow(&control, index);
        }
        assert!(!settled.holds(0, 3) && !settled.holds(0, 1), "nobody said what all have");
        settled.reached(9);
        assert!(!settled.holds(0, 3));
        settled.reached(11);
        assert!(settled.holds(0, 3) && settled.holds(0, 2) && !settled.holds(0, 4));
        settled.reached(5);
        assert!(settled.holds(0, 3), "what holds once holds for ever");
        settled.reached(12);
        assert!(settled.holds(0, 4) && !settled.holds(0, 5) && !settled.holds(1, 1));
    }

    #[test]
    fn what_was_known_everywhere_before_it_was_seen_here_holds_at_once() {
        let (settled, mut control) = (Settled::default(), control());
        settled.reached(20);
        publish(&mut control, 3);
        settled.follow(&control, 15);
        assert!(settled.holds(0, 3));
    }

    #[test]
    fn what_waits_is_bounded_and_the_newest_versions_stay() {
        let (settled, mut control) = (Settled::default(), control());
        let last = 3 * PENDING as u64;
        for version in 1..=last {
            publish(&mut control, version);
            settled.follow(&control, 100 + version);
        }
        assert_eq!(settled.0.lock().shards[&0].pending.len(), PENDING);
        settled.reached(100 + last - 1);
        assert!(settled.holds(0, last - 1) && !settled.holds(0, last));
    }
}
