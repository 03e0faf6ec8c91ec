//! Which faults there are, and in which order a seed deals them.
//!
//! Pure: decides, breaks nothing. All cards of the deck come before any comes again. Start at [`Deck`].

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::network::Side;

/// The node whose disk is small enough to fill.
pub(crate) const SMALL_DISK: Side = 3;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// `kill -9`, and started again later.
    Kill,
    /// SIGSTOP, SIGCONT.
    Pause,
    /// SIGTERM, and started again.
    Restart,
    /// Nothing goes between the node and the other nodes; its clients reach it.
    Isolate,
    /// The other nodes hear nothing of it.
    Mute,
    /// It hears nothing of the other nodes.
    Deaf,
    /// Nothing goes between it and one other node.
    CutLink,
    /// What it sends to one other node is lost.
    CutOneWay,
    /// Neither nodes nor clients reach it.
    Vanish,
    /// Its disk is full.
    DiskFull,
    /// A new node joins the cluster. Planned only, as all that follow.
    #[value(skip)]
    Join,
    /// A node leaves it for good.
    #[value(skip)]
    Leave,
    /// `kill -9`, and everything it kept is deleted; started again under its old name.
    #[value(skip)]
    Wipe,
    /// Nothing goes between this node and its like on one side and all others on the other side.
    #[value(skip)]
    Halves,
}

impl Kind {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9, restart",
            Self::Pause => "pause (SIGSTOP)",
            Self::Restart => "restart (SIGTERM)",
            Self::Isolate => "cut off from both nodes",
            Self::Mute => "cut off one way: sends nothing",
            Self::Deaf => "cut off one way: hears nothing",
            Self::CutLink => "link of two nodes cut",
            Self::CutOneWay => "link of two nodes cut one way",
            Self::Vanish => "cut off from nodes and clients",
            Self::DiskFull => "disk full",
            Self::Join => "joins",
            Self::Leave => "leaves",
            Self::Wipe => "kill -9, disk wiped, restart",
            Self::Halves => "minority cut off",
        }
    }
}

/// One fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Of which kind.
    pub(crate) kind: Kind,
    /// The node it happens to.
    pub(crate) node: Side,
    /// The other end, where a link is cut; the other node, where it happens to two.
    pub(crate) other: Option<Side>,
    /// Until it is healed; nothing where there is nothing to heal.
    pub(crate) lasts: Duration,
}

impl Fault {
    /// Whether a node is not hurt by it.
    pub(crate) fn spares(&self, node: Side) -> bool {
        self.nodes().all(|hurt| hurt != node)
    }

    /// The nodes it happens to.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Side> + use<> {
        [Some(self.node), self.other].into_iter().flatten()
    }

    /// Whether shards belong elsewhere afterwards.
    pub(crate) fn moves_shards(&self) -> bool {
        matches!(self.kind, Kind::Join | Kind::Leave | Kind::Wipe)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: node {}", self.kind.name(), self.node)?;
        if let Some(other) = self.other {
            write!(f, " and node {other}")?;
        }
        if !self.lasts.is_zero() {
            write!(f, ", for {:.1} s", self.lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

/// The faults of a seed, one after the other, without end.
#[derive(Debug)]
pub(crate) struct Deck {
    random: StdRng,
    kinds: Vec<Kind>,
    left: Vec<Kind>,
    nodes: Side,
    longest: Duration,
}

impl Deck {
    /// Of these kinds, for nodes 1 to `nodes`, healed after `longest` at the latest.
    pub(crate) fn new(seed: u64, kinds: Vec<Kind>, nodes: Side, longest: Duration) -> Self {
        Self { random: StdRng::seed_from_u64(seed), kinds, left: Vec::new(), nodes, longest }
    }

    fn deal(&mut self) -> Option<Fault> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.left.shuffle(&mut self.random);
        }
        let kind = self.left.pop()?;
        let any = self.random.random_range(1..=self.nodes);
        let node = if kind == Kind::DiskFull { SMALL_DISK } else { any };
        let step = self.random.random_range(1..self.nodes);
        let is_link = matches!(kind, Kind::CutLink | Kind::CutOneWay);
        let other = is_link.then_some((node - 1 + step) % self.nodes + 1);
        let lasts = self.longest.mul_f64(self.random.random_range(0.25..=1.0));
        Some(Fault { kind, node, other, lasts })
    }
}

impl Iterator for Deck {
    type Item = Fault;

    /// Ends only where there are no kinds.
    fn next(&mut self) -> Option<Fault> {
        self.deal()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn faults(seed: u64, count: usize) -> Vec<Fault> {
        let deck = Deck::new(seed, Kind::value_variants().to_vec(), 3, Duration::from_secs(8));
        deck.take(count).collect()
    }

    #[test]
    fn a_seed_always_deals_the_same_faults() {
        assert_eq!(faults(7, 40), faults(7, 40));
        assert_ne!(faults(7, 40), faults(8, 40));
    }

    #[test]
    fn every_kind_comes_once_before_any_comes_again() {
        for round in faults(1, 40).chunks(Kind::value_variants().len()) {
            let kinds: BTreeSet<Kind> = round.iter().map(|fault| fault.kind).collect();
            assert_eq!(kinds.len(), Kind::value_variants().len());
        }
    }

    #[test]
    fn a_fault_leaves_a_majority_that_is_spared() {
        for fault in faults(3, 400) {
            let spared = (1..=3).filter(|node| fault.spares(*node)).count();
            assert!(spared >= 1 && (1..=3).contains(&fault.node), "{fault}");
            assert_ne!(fault.other, Some(fault.node), "{fault}");
            assert!(
                fault.lasts <= Duration::from_secs(8) && fault.lasts >= Duration::from_secs(2),
                "{fault}"
            );
        }
    }
}
