//! Feature levels: what all nodes of a cluster can, so that nodes of two versions run together.
//!
//! A command, a field of one, or a call that a program before did not know belongs to a level. The control group
//! replicates which level the cluster has; its leader raises it when all members can more, and it never falls. Until
//! then nothing of a newer level is proposed or sent. Whoever adds something: a new [`Level`] at the end of
//! [`BROUGHT`], which of its commands need it in [`ControlCommand::needs`] or [`ShardBatch::needs`], and a frozen sample
//! (`tests/formats`). Start at [`Levels`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::Control;
use crate::limits::MAX_NODES;
use crate::records::control_command::Command;
use crate::records::{ControlCommand, Form, Node, NodeLevel, RaiseLevel, Refusal, SetReplicas, ShardBatch};

/// A feature level, from 1.
pub type Level = u32;

/// The oldest level of a cluster that this program can take part in.
pub const OLDEST: Level = 1;

/// The newest level that this program can.
pub const NEWEST: Level = 2;

/// What each level brought, in order.
pub const BROUGHT: &[(Level, &str)] = &[
    (1, "all that there was before there were levels"),
    (
        2,
        "the number of replicas of a shard: `SetReplicas`, `Form.replicas`; levels themselves: `RaiseLevel`, \
         `Form.level`",
    ),
];

/// The level from which on the number of replicas of a shard is replicated.
pub const REPLICAS: Level = 2;

/// Replicas of a shard where nobody said how many.
pub const DEFAULT_REPLICAS: u32 = 3;

/// How many replicas a shard may have: of an even number no more may fail than of one less.
pub const REPLICA_CHOICES: [u32; 4] = [1, 3, 5, 7];

/// What a record says of a level; programs before there were levels said nothing, which is 1.
#[must_use]
pub fn said(level: u32) -> Level {
    level.max(1)
}

/// What a record is to say of a level: nothing where a program before there were levels would say nothing.
#[must_use]
pub fn unsaid(level: Level) -> u32 {
    if level > 1 { level } else { 0 }
}

/// What a record says of the replicas of a shard; programs before their number could be changed said nothing.
#[must_use]
pub fn said_replicas(replicas: u32) -> u32 {
    if replicas == 0 { DEFAULT_REPLICAS } else { replicas }
}

/// What a record is to say of the replicas of a shard, likewise.
#[must_use]
pub fn unsaid_replicas(replicas: u32) -> u32 {
    if replicas == DEFAULT_REPLICAS { 0 } else { replicas }
}

/// The levels that a node can take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// The oldest.
    pub oldest: Level,
    /// The newest.
    pub newest: Level,
}

impl Levels {
    /// All that this program can, or no more than up to a level: then the cluster stays there, and a program that knows
    /// nothing newer can take over again.
    #[must_use]
    pub fn up_to(newest: Option<Level>) -> Self {
        Self { oldest: OLDEST, newest: newest.unwrap_or(NEWEST).clamp(OLDEST, NEWEST) }
    }

    /// Whether a cluster of this level is one of them.
    #[must_use]
    pub fn can(self, level: Level) -> bool {
        (self.oldest..=self.newest).contains(&level)
    }
}

impl From<Command> for ControlCommand {
    /// As it is proposed: the leader stamps the rest.
    fn from(command: Command) -> Self {
        Self { command: Some(command), ..Self::default() }
    }
}

impl ControlCommand {
    /// The level that it needs, by what is in it; `None`: this program does not know the command.
    #[must_use]
    pub fn needs(&self) -> Option<Level> {
        Some(match self.command.as_ref()? {
            Command::Form(Form { replicas, level, .. }) => {
                let replicas = if *replicas == 0 { OLDEST } else { REPLICAS };
                said(*level).max(replicas)
            }
            Command::RaiseLevel(RaiseLevel { level, .. }) => said(*level).max(REPLICAS),
            Command::SetReplicas(_) => REPLICAS,
            Command::NodeUp(_)
            | Command::NodeDown(_)
            | Command::Routes(_)
            | Command::ShardRoutes(_)
            | Command::Join(_)
            | Command::Leave(_)
            | Command::Removed(_)
            | Command::Move(_)
            | Command::Moved(_) => 1,
        })
    }
}

impl ShardBatch {
    /// The level that it needs, by what is in it; `None`: this program does not know one of the commands.
    #[must_use]
    pub fn needs(&self) -> Option<Level> {
        self.commands.iter().all(|command| command.command.is_some()).then_some(1)
    }
}

impl Node {
    /// The newest level that its program can, as it said last.
    #[must_use]
    pub fn can(&self) -> Level {
        said(self.newest_level)
    }
}

impl Control {
    /// The level of the cluster.
    #[must_use]
    pub fn level(&self) -> Level {
        self.cluster.as_ref().map_or(1, |cluster| cluster.level)
    }

    /// How many replicas a shard is to have, if there are as many nodes.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.cluster.as_ref().map_or(DEFAULT_REPLICAS, |cluster| cluster.replicas)
    }

    /// Members that cannot a level, so that the cluster does not rise to it; who is removed as dead does not count.
    pub fn holding_back(&self, level: Level) -> impl Iterator<Item = &Node> {
        self.counting().filter(move |node| node.can() < level)
    }

    /// The command that raises the level, if all members can a higher one, up to `most`.
    #[must_use]
    pub fn next_level(&self, most: Level) -> Option<RaiseLevel> {
        let level = self.counting().map(Node::can).min()?.min(most);
        let nodes = self.nodes().map(|node| NodeLevel {
            id: node.id,
            incarnation: node.incarnation,
            newest_level: node.can(),
        });
        (level > self.level()).then(|| RaiseLevel { level, nodes: nodes.collect() })
    }

    /// Those that must be able to what the cluster is to do.
    fn counting(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|member| !member.removing).map(|member| &member.node)
    }

    /// The cluster can more. Rests on nothing that a program of level 1 does not have in its state: what nodes can is in
    /// the command, for such a program, or a snapshot that it made, has lost it.
    pub(crate) fn raise_level(&mut self, raise: &RaiseLevel) -> Result<(), Refusal> {
        if raise.nodes.len() > MAX_NODES {
            return Err(Refusal::Limit);
        }
        if raise.level <= self.level() {
            return Err(Refusal::StaleVersion);
        }
        let said: BTreeMap<u64, _> = raise.nodes.iter().map(|node| (node.id, node)).collect();
        for member in self.nodes.values() {
            let said = said.get(&member.node.id).ok_or(Refusal::StaleVersion)?;
            if said.incarnation != member.node.incarnation {
                return Err(Refusal::StaleIncarnation);
            }
            if said.newest_level < raise.level && !member.removing {
                return Err(Refusal::Level);
            }
        }
        let cluster = self.cluster.as_mut().map(Arc::make_mut).ok_or(Refusal::NotFormed)?;
        cluster.level = raise.level;
        for said in said.values() {
            if let Some(member) = self.nodes.get_mut(&said.id).map(Arc::make_mut) {
                member.node.newest_level = said.newest_level;
            }
        }
        Ok(())
    }

    /// Shards are to have so many replicas.
    pub(crate) fn set_replicas(&mut self, set: &SetReplicas) -> Result<(), Refusal> {
        if self.level() < REPLICAS {
            return Err(Refusal::Level);
        }
        if !REPLICA_CHOICES.contains(&set.replicas) {
            return Err(Refusal::Invalid);
        }
        let cluster = self.cluster.as_mut().map(Arc::make_mut).ok_or(Refusal::NotFormed)?;
        cluster.replicas = set.replicas;
        Ok(())
    }

    /// A node that cannot the level of the cluster is no member of it, and never up. At level 1 nobody is refused: then
    /// programs without levels apply it, too.
    pub(crate) fn check_level(&self, node: &Node) -> Result<(), Refusal> {
        if node.can() < self.level() { Err(Refusal::Level) } else { Ok(()) }
    }
}

/// What a new cluster begins with.
pub(crate) fn check_beginning(form: &Form) -> Result<(), Refusal> {
    let level = said(form.level);
    if form.replicas != 0 && (level < REPLICAS || !REPLICA_CHOICES.contains(&form.replicas)) {
        return Err(Refusal::Invalid);
    }
    if form.nodes.iter().any(|node| node.can() < level) { Err(Refusal::Level) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_level_that_there_is() {
        let levels: Vec<Level> = BROUGHT.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, (1..=NEWEST).collect::<Vec<_>>());
    }

    #[test]
    fn a_program_can_no_more_than_it_is_held_to_and_no_more_than_it_knows() {
        for (held, newest) in [(None, NEWEST), (Some(1), 1), (Some(0), OLDEST), (Some(NEWEST + 5), NEWEST)] {
            assert_eq!(Levels::up_to(held), Levels { oldest: OLDEST, newest }, "{held:?}");
        }
        let levels = Levels { oldest: 2, newest: 3 };
        assert_eq!([1, 2, 3, 4].map(|level| levels.can(level)), [false, true, true, false]);
    }
}
