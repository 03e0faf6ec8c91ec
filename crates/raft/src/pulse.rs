//! The pulse of a host: one timer for the heartbeats and the election timers of all its groups.
//!
//! openraft gives each group a timer of its own, which fires five times per heartbeat. A node with seventeen groups would
//! be woken five hundred times a second by timers that have nothing to do: most of what an idle node costs. Here one
//! task goes through the groups once per [`Config::heartbeat`](crate::Config::heartbeat):
//!
//! * What this node leads it has send its heartbeats. All do at the same moment, so those to one peer travel together,
//!   and whoever is woken by them is woken once.
//! * openraft's timer of a group stands still while the group needs none: while this node leads it, and while it follows
//!   a leader that it hears.
//!
//! What holds nevertheless is openraft's, unchanged: a heartbeat is a call of its own for each group and each follower,
//! what it confirms (the leader's lease, linearizable reads) counts from when it was sent, and a follower stands for
//! election when its leader was silent for [`election_max`](crate::Config::election_max) and a random time more. The
//! timer only decides when that is looked at; it goes again after [`SILENT`] rounds in which nothing was heard, long
//! before it may come true. A group that is not led here and was heard of by nobody (it is new, or its leader died) has
//! its timer.
//!
//! Knows no network and no machine. Start at [`run`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::MissedTickBehavior;

use crate::Group;
use crate::consensus::Raft;

/// Rounds without a word of the leader after which a follower's timer goes. More than one: this node's rounds and its
/// leader's have their own phases.
const SILENT: u32 = 3;

/// Goes through the groups, once per interval, until there is no host any more.
pub(crate) async fn run(interval: Duration, groups: impl Fn() -> Option<Vec<Group>>) {
    let mut rounds = tokio::time::interval(interval);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let Some(groups) = groups() else { return };
        let beats = futures::future::join_all(groups.iter().map(Group::beat));
        // Only a group whose queue is full makes this wait; the next round comes to it again.
        if tokio::time::timeout(interval, beats).await.is_err() {
            tracing::debug!("a group has no room for a heartbeat");
        }
    }
}

/// What the pulse knows of one group.
#[derive(Debug)]
pub(crate) struct Beat {
    /// The leader was heard since the last round.
    heard: AtomicBool,
    /// Rounds since then.
    silent: AtomicU32,
}

impl Beat {
    /// Of a group that has heard nobody yet.
    pub(crate) fn new() -> Self {
        Self { heard: AtomicBool::new(false), silent: AtomicU32::new(SILENT) }
    }

    /// The group's leader was heard.
    pub(crate) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// One round.
    pub(crate) async fn round(&self, raft: &Raft) {
        let (is_leader, has_peers) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership().nodes();
            (metrics.state == ServerState::Leader, members.count() > 1)
        };
        raft.runtime_config().tick(!is_leader && self.is_silent());
        if is_leader {
            // When it leads no more its timer goes at once.
            self.silent.store(SILENT, Ordering::Relaxed);
        }
        if is_leader && has_peers && raft.trigger().heartbeat().await.is_err() {
            tracing::debug!("no heartbeat: the group is closed");
        }
    }

    fn is_silent(&self) -> bool {
        let heard = self.heard.swap(false, Ordering::Relaxed);
        let silent = if heard { 0 } else { self.silent.load(Ordering::Relaxed).saturating_add(1) };
        self.silent.store(silent, Ordering::Relaxed);
        silent >= SILENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_goes_until_the_leader_is_heard_and_again_when_it_is_silent() {
        let beat = Beat::new();
        assert!(beat.is_silent(), "a new group has heard nobody");
        beat.heard();
        let silent: Vec<bool> = (0..=SILENT).map(|_| beat.is_silent()).collect();
        assert_eq!(silent, [false, false, false, true]);
        assert!(beat.is_silent());
        beat.heard();
        assert!(!beat.is_silent());
    }
}
