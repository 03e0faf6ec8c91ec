//! Feature levels between nodes: who cannot the level of the cluster takes no part, and the leader of the control group
//! raises the level when all members can more.
//!
//! What a level is and which command needs which is in the machine (`level.rs`). A program that cannot the level of its
//! cluster is stopped at the earliest of four doors: by its own volume at the start, by what a member says when they
//! introduce themselves, by the members, who answer no call of it, and last by [`Ceiling`], which applies nothing that the
//! program does not know. Start at [`Ceiling`] and [`raise_level`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use zwerm_machine::Control;
use zwerm_machine::level::{
    DEFAULT_REPLICAS, Level, Levels, NEWEST, REPLICA_CHOICES, REPLICAS, said, said_replicas,
};
use zwerm_machine::records::control_command::Command;
use zwerm_machine::records::control_reply::Reply;
use zwerm_machine::records::{Refusal, SetReplicas};

use crate::Cluster;
use crate::cluster::Shared;
use crate::formation::note_level;
use crate::overseer::propose;
use crate::transport::proto::Introduction;

/// Before it is tried again to note the level on the volume.
const RETRY: Duration = Duration::from_secs(1);

/// Why a program cannot take part in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LevelError {
    /// The cluster has a newer level.
    #[error(
        "the cluster is at feature level {cluster}, and this node can no more than {newest}: {}",
        what_to_do(*.newest)
    )]
    TooOld {
        /// Of the cluster.
        cluster: Level,
        /// Of this node.
        newest: Level,
    },
    /// The cluster has a level that this program knows no more.
    #[error(
        "the cluster is at feature level {cluster}, and this version of zwerm can no less than {oldest}: first run all \
         nodes with a version in between, until `zwerm status` shows that the level has risen"
    )]
    TooNew {
        /// Of the cluster.
        cluster: Level,
        /// Of this node.
        oldest: Level,
    },
    /// A command that this program has never heard of.
    #[error(
        "a command came that this version of zwerm does not know: start this node with the version that the other nodes \
         have"
    )]
    Unknown,
}

fn what_to_do(newest: Level) -> &'static str {
    if newest < NEWEST {
        "cluster.max_level holds it there; take that out"
    } else {
        "start it with the version of zwerm that the other nodes have"
    }
}

/// Why a node ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its disk refused what it had to keep.
    Disk,
    /// The cluster can more than its program.
    Level(LevelError),
}

/// Whether the levels of a program are enough for a cluster of this level.
pub(crate) fn check(levels: Levels, cluster: Level) -> Result<(), LevelError> {
    let Levels { oldest, newest } = levels;
    if levels.can(cluster) {
        Ok(())
    } else if cluster > newest {
        Err(LevelError::TooOld { cluster, newest })
    } else {
        Err(LevelError::TooNew { cluster, oldest })
    }
}

/// Lets through what this program can, and ends the node at the first thing that it cannot: it would have another state
/// than the others from then on. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ceiling {
    levels: Levels,
    refused: Arc<OnceLock<LevelError>>,
    broken: CancellationToken,
}

impl Ceiling {
    /// `broken` is cancelled when something cannot be let through.
    pub(crate) fn new(levels: Levels, broken: CancellationToken) -> Self {
        Self { levels, refused: Arc::default(), broken }
    }

    pub(crate) fn levels(&self) -> Levels {
        self.levels
    }

    /// Whether this program can apply a command: what its leader says that it needs, and what it is seen to need
    /// (`None`: it is not known at all). Also when it says no it is remembered as the reason why this node ends.
    pub(crate) fn admit(&self, stamped: u32, seen: Option<Level>) -> Result<(), LevelError> {
        let cluster = said(stamped).max(seen.unwrap_or_default());
        let admitted = match check(self.levels, cluster) {
            // A level below the oldest is in old entries only, which every version can read.
            Ok(()) | Err(LevelError::TooNew { .. }) => seen.map(drop).ok_or(LevelError::Unknown),
            Err(error) => Err(error),
        };
        admitted.inspect_err(|error| self.refuse(error.clone()))
    }

    /// A member of this node's cluster says which level that has.
    pub(crate) fn hear(&self, level: Level) {
        if let Err(error) = check(self.levels, said(level)) {
            self.refuse(error);
        }
    }

    /// This node cannot take part.
    fn refuse(&self, error: LevelError) {
        tracing::error!(%error, "this node cannot take part in its cluster");
        // The first reason counts.
        drop(self.refused.set(error));
        self.broken.cancel();
    }

    /// Why this node ends, if that was the reason.
    pub(crate) fn failure(&self) -> Failure {
        self.refused.get().cloned().map_or(Failure::Disk, Failure::Level)
    }
}

/// Raises the level, as the leader of the control group, when all members can a higher one.
pub(crate) async fn raise_level(shared: &Shared) {
    let control = shared.control.state();
    let Some(raise) = control.next_level(shared.ceiling.levels().newest) else { return };
    tracing::info!(
        from = control.level(),
        to = raise.level,
        "all nodes can a higher feature level: raising it"
    );
    propose(shared, Command::RaiseLevel(raise)).await;
}

/// Notes the level of the cluster on the volume whenever it rises, until the node stops: a program that cannot it is
/// then told so at its start.
pub(crate) async fn keep_level(shared: &Shared) {
    let formation = shared.formed().await;
    let mut kept = said(formation.level);
    let mut applied = shared.control.applied();
    loop {
        let level = shared.control.level();
        if level > kept {
            if let Err(error) = note_level(shared, formation, level).await {
                tracing::error!(error, "the feature level of the cluster cannot be noted on this volume");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            tracing::info!(level, "the cluster has this feature level from now on");
            kept = level;
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// What a new cluster of these nodes begins with: the level that all can.
///
/// # Errors
/// Why they cannot form one, for people.
pub(crate) fn beginning(nodes: &[Introduction], replicas: u32) -> Result<Level, String> {
    let least = nodes.iter().min_by_key(|node| said(node.newest_level));
    let Some(least) = least else { return Err("nobody is here".to_owned()) };
    let level = said(least.newest_level);
    if let Some(newer) = nodes.iter().find(|node| said(node.oldest_level) > level) {
        return Err(format!(
            "node {} can no more than feature level {level}, and node {} no less than {}: start them with one version \
             of zwerm",
            least.name,
            newer.name,
            said(newer.oldest_level)
        ));
    }
    if said_replicas(replicas) != DEFAULT_REPLICAS && level < REPLICAS {
        return Err(format!(
            "cluster.replicas = {replicas} needs feature level {REPLICAS}, and node {} can no more than {level}: start \
             it with this version of zwerm, or leave cluster.replicas out and set the number later (`zwerm ctl cluster \
             replicas`)",
            least.name
        ));
    }
    Ok(level)
}

/// A command that some node cannot yet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it needs feature level {needed}, and the cluster is at level {level}: {}", who(.held_back_by))]
pub struct LevelTooLow {
    /// What the command needs.
    pub needed: Level,
    /// What the cluster has.
    pub level: Level,
    /// Names of the nodes that cannot more; empty: the level is about to rise.
    pub held_back_by: Vec<String>,
}

fn who(nodes: &[String]) -> String {
    match nodes {
        [] => "it is about to rise; try again".to_owned(),
        [node] => {
            format!("node {node} can no more; start it with a newer version, or remove it if it is gone")
        }
        nodes => format!("nodes {} can no more; start them with a newer version", nodes.join(", ")),
    }
}

impl LevelTooLow {
    /// Whether the cluster has a level.
    pub(crate) fn check(control: &Control, needed: Level) -> Result<(), Self> {
        if control.level() >= needed { Ok(()) } else { Err(Self::now(control, needed)) }
    }

    fn now(control: &Control, needed: Level) -> Self {
        Self { needed, level: control.level(), held_back_by: holding_back(control, needed) }
    }
}

/// Names of the members that cannot a level, in order.
pub(crate) fn holding_back(control: &Control, level: Level) -> Vec<String> {
    let mut names: Vec<String> = control.holding_back(level).map(|node| node.name.clone()).collect();
    names.sort_unstable();
    names
}

/// Why the number of replicas is not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplicasError {
    /// Not a number that makes sense.
    #[error(
        "{0} replicas are not possible: 1, 3, 5 or 7 are (of an even number no more may fail than of one less)"
    )]
    Number(u32),
    /// A node cannot it yet.
    #[error("the number of replicas cannot be changed yet: {0}")]
    Level(#[from] LevelTooLow),
    /// The control group does not answer: this node is cut off, or a majority is down.
    #[error("the control group does not answer; a majority of its voters must be up and reachable from here")]
    Unavailable,
}

impl Cluster {
    /// Has every shard be held by so many nodes, or by all if there are fewer: 1, 3, 5 or 7. Returns when that is
    /// decided; then shards get and give up replicas one at a time.
    ///
    /// # Errors
    /// See [`ReplicasError`].
    pub async fn set_replicas(&self, replicas: u32) -> Result<(), ReplicasError> {
        if !REPLICA_CHOICES.contains(&replicas) {
            return Err(ReplicasError::Number(replicas));
        }
        LevelTooLow::check(&self.control.state(), REPLICAS)?;
        match self.decide(Command::SetReplicas(SetReplicas { replicas })).await {
            Some(Reply::Applied(_)) => Ok(()),
            Some(Reply::Ignored(ignored)) => Err(match ignored.reason() {
                Refusal::Level => LevelTooLow::now(&self.control.state(), REPLICAS).into(),
                Refusal::Invalid => ReplicasError::Number(replicas),
                _ => ReplicasError::Unavailable,
            }),
            None => Err(ReplicasError::Unavailable),
        }
    }
}

impl Shared {
    /// The level of this node's cluster, as far as it knows; 0: it has none yet.
    pub(crate) fn level(&self) -> u32 {
        self.formation.get().map_or(0, |formation| said(formation.level).max(self.control.level()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceiling(newest: Level) -> Ceiling {
        Ceiling::new(Levels { oldest: 1, newest }, CancellationToken::new())
    }

    #[test]
    fn what_the_program_does_not_know_ends_the_node_and_the_first_reason_counts() {
        let too_old = |cluster| LevelError::TooOld { cluster, newest: 2 };
        for (stamped, seen, refused) in [
            (0, Some(1), None),
            (0, Some(2), None),
            (2, Some(1), None),
            (0, Some(3), Some(too_old(3))),
            // A field that this program does not know, in a command that it knows.
            (3, Some(1), Some(too_old(3))),
            (3, None, Some(too_old(3))),
            (0, None, Some(LevelError::Unknown)),
        ] {
            let ceiling = ceiling(2);
            assert_eq!(ceiling.admit(stamped, seen).err(), refused, "{stamped} {seen:?}");
            assert_eq!(ceiling.broken.is_cancelled(), refused.is_some());
            ceiling.hear(9);
            assert_eq!(ceiling.failure(), Failure::Level(refused.unwrap_or(too_old(9))));
        }
        assert_eq!(ceiling(2).failure(), Failure::Disk);
    }

    #[test]
    fn a_new_cluster_begins_with_what_all_founders_can() {
        let node = |name: &str, oldest_level, newest_level| Introduction {
            name: name.into(),
            oldest_level,
            newest_level,
            ..Introduction::default()
        };
        let (before, now, later) = (node("before", 0, 0), node("now", 1, 2), node("later", 2, 3));
        for (nodes, replicas, level) in [
            (vec![before.clone(), now.clone()], 3, Ok(1)),
            (vec![now.clone(), later.clone()], 5, Ok(2)),
            (vec![later.clone()], 1, Ok(3)),
            (
                vec![now, before.clone()],
                5,
                Err("cluster.replicas = 5 needs feature level 2, and node before"),
            ),
            (vec![before, later], 3, Err("node before can no more than feature level 1, and node later")),
        ] {
            match (beginning(&nodes, replicas), level) {
                (Ok(found), Ok(level)) => assert_eq!(found, level),
                (Err(why), Err(wanted)) => assert!(why.starts_with(wanted), "{why}"),
                (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
            }
        }
    }

    #[test]
    fn the_reasons_say_what_to_do() {
        let said = |error: &dyn std::error::Error| error.to_string();
        let low = |names: &[&str]| LevelTooLow {
            needed: 2,
            level: 1,
            held_back_by: names.iter().map(ToString::to_string).collect(),
        };
        for (text, wanted) in [
            (
                said(&check(Levels { oldest: 1, newest: 1 }, 2).unwrap_err()),
                "cluster.max_level holds it there",
            ),
            (
                said(&check(Levels { oldest: 1, newest: NEWEST }, NEWEST + 1).unwrap_err()),
                "the version of zwerm that the other",
            ),
            (said(&check(Levels { oldest: 3, newest: 4 }, 2).unwrap_err()), "a version in between"),
            (said(&low(&["n1"])), "the cluster is at level 1: node n1 can no more"),
            (said(&low(&["n1", "n2"])), "nodes n1, n2 can no more"),
            (said(&low(&[])), "about to rise"),
            (said(&ReplicasError::Number(4)), "4 replicas are not possible"),
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }
}
