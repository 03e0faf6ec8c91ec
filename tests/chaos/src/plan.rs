//! What a run does to the cluster: faults as a seed deals them, or a planned course of a cluster's life.
//!
//! Pure: says what happens, makes nothing happen. Start at [`Plan::steps`].

use std::time::Duration;

use clap::ValueEnum;

use crate::fault::{Fault, Kind};
use crate::network::Side;

/// How long a node stays away whose disk is lost.
const AWAY: Duration = Duration::from_secs(5);

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plan {
    /// Three nodes, and faults as the seed deals them.
    Faults,
    /// One node becomes three, three become five, and five become three.
    Grow,
    /// Each of three nodes in turn loses its disk and comes back under its old name.
    Wipe,
    /// Five nodes that all hold every shard; two of them are cut off from the others, which go on serving everything.
    Halves,
    /// Each of three nodes in turn is stopped and started.
    Roll,
    /// All of that, one after the other.
    Life,
}

/// The nodes of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// How many form the cluster.
    pub(crate) first: Side,
    /// How many there ever are.
    pub(crate) most: Side,
    /// On how many a shard is, if there are as many.
    pub(crate) replicas: u32,
}

impl Plan {
    /// How many nodes form the cluster.
    pub(crate) fn first(self) -> Side {
        match self {
            Self::Grow | Self::Life => 1,
            Self::Halves => 5,
            Self::Faults | Self::Wipe | Self::Roll => 3,
        }
    }

    /// How many nodes there ever are.
    pub(crate) fn most(self) -> Side {
        match self {
            Self::Grow | Self::Halves | Self::Life => 5,
            Self::Faults | Self::Wipe | Self::Roll => 3,
        }
    }

    /// The nodes of the run.
    pub(crate) fn shape(self) -> Shape {
        let replicas = if self == Self::Halves { 5 } else { 3 };
        Shape { first: self.first(), most: self.most(), replicas }
    }

    /// What happens, in order; `None` where a seed decides. `cut`: how long a minority is cut off.
    pub(crate) fn steps(self, cut: Duration) -> Option<Vec<Fault>> {
        let step = |kind, node, other, lasts| Fault { kind, node, other, lasts };
        let join = |one, other| step(Kind::Join, one, Some(other), Duration::ZERO);
        let leave = |one, other| step(Kind::Leave, one, Some(other), Duration::ZERO);
        let wipe = |node| step(Kind::Wipe, node, None, AWAY);
        let roll = |node| step(Kind::Restart, node, None, Duration::ZERO);
        let halves = step(Kind::Halves, 4, Some(5), cut);
        Some(match self {
            Self::Faults => return None,
            Self::Grow => vec![join(2, 3), join(4, 5), leave(5, 4)],
            Self::Wipe => (1..=3).map(wipe).collect(),
            Self::Halves => vec![halves],
            Self::Roll => (1..=3).map(roll).collect(),
            Self::Life => vec![join(2, 3), roll(1), join(4, 5), halves, wipe(2), leave(5, 4)],
        })
    }
}
