//! Which shard a name belongs to, and which nodes hold a shard. Pure: the same on every node, for ever.
//!
//! Start at [`shard_of`], [`place`] and [`step`].

use std::collections::{BTreeMap, VecDeque};

use xxhash_rust::xxh3::xxh3_64;
use zwerm_machine::records::Placement;

use crate::NodeId;

/// The shard of a client id or a topic name.
#[must_use]
pub(crate) fn shard_of(name: &str, shards: u32) -> u32 {
    let spread = xxh3_64(name.as_bytes()) % u64::from(shards.max(1));
    // The remainder is below a u32.
    u32::try_from(spread).unwrap_or_default()
}

/// Who should hold and lead each shard: so many nodes (`replicas`), or all if there are fewer.
///
/// Rendezvous hashing: each shard goes to the nodes that score highest for it, so that a node more or less moves only
/// the shards it gains or loses, and the few more that it takes to let every node lead as many as the others, give or
/// take one. The first voter is the one that should lead: who does now (`current`), as far as that is even.
#[must_use]
pub(crate) fn place(nodes: &[NodeId], shards: u32, replicas: u32, current: &[Placement]) -> Vec<Placement> {
    let mut sets: Vec<Vec<NodeId>> = (0..shards).map(|shard| highest(nodes, shard, replicas)).collect();
    let mut spread = Spread::new(nodes, &sets, std::iter::empty());
    while let Some((shard, node)) = spread.leads_less() {
        // By the nodes alone, and not by who leads now: else it might never come to rest.
        if let Some(set) = sets.get_mut(shard) {
            set.pop();
            set.push(node);
        }
        spread = Spread::new(nodes, &sets, std::iter::empty());
    }
    let leading = current.iter().map(|placement| placement.voters.first().copied());
    let lead = Spread::new(nodes, &sets, leading).lead;
    let placement = |(shard, (mut voters, lead)): (u32, (Vec<NodeId>, NodeId))| {
        let at = voters.iter().position(|node| *node == lead).unwrap_or_default();
        voters.rotate_left(at);
        Placement { shard, voters, ..Placement::default() }
    };
    (0..shards).zip(sets.into_iter().zip(lead)).map(placement).collect()
}

/// The nodes that score highest for a shard, the highest first.
fn highest(nodes: &[NodeId], shard: u32, replicas: u32) -> Vec<NodeId> {
    let mut voters: Vec<NodeId> = nodes.to_vec();
    voters.sort_unstable_by_key(|&node| std::cmp::Reverse((score(shard, node), node)));
    voters.truncate(usize::try_from(replicas).unwrap_or(usize::MAX));
    voters
}

/// Who leads which shard, as evenly as the voters of the shards allow.
struct Spread<'a> {
    sets: &'a [Vec<NodeId>],
    /// By shard.
    lead: Vec<NodeId>,
    /// How many each node leads.
    load: BTreeMap<NodeId, usize>,
}

impl<'a> Spread<'a> {
    /// `wanted`: who should lead, by shard.
    fn new(nodes: &[NodeId], sets: &'a [Vec<NodeId>], wanted: impl Iterator<Item = Option<NodeId>>) -> Self {
        let load = nodes.iter().map(|node| (*node, 0)).collect();
        let mut spread = Self { sets, lead: Vec::with_capacity(sets.len()), load };
        let most = sets.len().div_ceil(nodes.len().max(1));
        for (set, wanted) in sets.iter().zip(wanted.chain(std::iter::repeat(None))) {
            let load = |node: &NodeId| spread.load.get(node).copied().unwrap_or_default();
            let wanted = wanted.filter(|node| set.contains(node) && load(node) < most);
            let least = || set.iter().min_by_key(|node| load(node)).copied().unwrap_or_default();
            let lead = wanted.unwrap_or_else(least);
            spread.lead.push(lead);
            *spread.load.entry(lead).or_default() += 1;
        }
        while let Some(path) = spread.shorter() {
            for (shard, node) in path {
                spread.hand_over(shard, node);
            }
        }
        spread
    }

    fn hand_over(&mut self, shard: usize, to: NodeId) {
        if let Some(lead) = self.lead.get_mut(shard) {
            *self.load.entry(*lead).or_default() -= 1;
            *self.load.entry(to).or_default() += 1;
            *lead = to;
        }
    }

    fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or_default()
    }

    /// Shards to be handed over, each to a voter of it, so that in the end one node leads one shard less and another
    /// that leads at least two less leads one more. `None`: it is as even as can be.
    fn shorter(&self) -> Option<Vec<(usize, NodeId)>> {
        let mut from: Vec<NodeId> = self.load.keys().copied().collect();
        from.sort_by_key(|node| std::cmp::Reverse(self.load(*node)));
        from.into_iter().find_map(|node| self.path_from(node))
    }

    fn path_from(&self, start: NodeId) -> Option<Vec<(usize, NodeId)>> {
        // How each node was reached: by which shard, from whom.
        let mut reached: BTreeMap<NodeId, (usize, NodeId)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            if self.load(node) + 2 <= self.load(start) {
                let mut path = Vec::new();
                let mut at = node;
                while let Some(&(shard, before)) = reached.get(&at).filter(|_| at != start) {
                    path.push((shard, at));
                    at = before;
                }
                return Some(path);
            }
            let led = self.lead.iter().zip(self.sets).enumerate().filter(|(_, (lead, _))| **lead == node);
            for (shard, (_, set)) in led {
                for &voter in set {
                    if voter != start && !reached.contains_key(&voter) {
                        reached.insert(voter, (shard, node));
                        queue.push_back(voter);
                    }
                }
            }
        }
        None
    }

    /// A shard of the node that leads most, and the node that leads too few and should hold it; `None`: all lead as
    /// many, give or take one.
    fn leads_less(&self) -> Option<(usize, NodeId)> {
        let most = self.load.iter().max_by_key(|(node, load)| (**load, **node))?;
        let least = self.load.iter().min_by_key(|(node, load)| (**load, **node))?;
        if most.1 - least.1 <= 1 {
            return None;
        }
        let of_most = |shard: &usize| self.lead.get(*shard) == Some(most.0);
        let without = |shard: &usize| self.sets.get(*shard).is_some_and(|set| !set.contains(least.0));
        (0..self.lead.len()).filter(of_most).find(without).map(|shard| (shard, *least.0))
    }
}

/// The next step from the nodes that hold a shard to those that should: one replica more, less or another; or another
/// order. All nodes of the outcome are up, for all of them must take part. `None`: nothing to do, or not now.
#[must_use]
pub(crate) fn step(
    voters: &[NodeId],
    target: &[NodeId],
    is_up: impl Fn(NodeId) -> bool,
) -> Option<Vec<NodeId>> {
    let mut next = voters.to_vec();
    let missing: Vec<NodeId> = target.iter().copied().filter(|node| !voters.contains(node)).collect();
    let added = missing.iter().copied().find(|node| is_up(*node));
    let surplus = voters.iter().copied().filter(|node| !target.contains(node));
    // A dead one first.
    let surplus = surplus.min_by_key(|node| is_up(*node));
    match (added, surplus) {
        (Some(added), surplus) => {
            next.push(added);
            // Somebody who has everything must stay: who is new does not stand for election yet.
            let is_full = voters.len() > 1 && voters.len() >= target.len();
            next.retain(|node| Some(*node) != surplus.filter(|_| is_full));
        }
        (None, Some(surplus)) if missing.is_empty() => next.retain(|node| *node != surplus),
        (None, _) if missing.is_empty() && voters.first() != target.first() => {}
        (None, _) => return None,
    }
    if let Some(at) = target.first().and_then(|first| next.iter().position(|node| node == first)) {
        next.swap(0, at);
    }
    next.iter().all(|node| is_up(*node)).then_some(next)
}

fn score(shard: u32, node: NodeId) -> u64 {
    let mut bytes = [0; 12];
    let (front, back) = bytes.split_at_mut(4);
    front.copy_from_slice(&shard.to_be_bytes());
    back.copy_from_slice(&node.to_be_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_is_frozen() {
        let shards: Vec<u32> = ["", "a", "sensors/1/temp", "client-1"].map(|name| shard_of(name, 16)).into();
        assert_eq!(shards, [2, 15, 2, 14]);
    }

    #[test]
    fn every_shard_has_as_many_voters_as_it_should_or_all_nodes() {
        for (nodes, replicas, voters) in [
            (&[1][..], 3, 1),
            (&[1, 2], 3, 2),
            (&[1, 2, 3], 3, 3),
            (&[1, 2, 3, 4, 5], 3, 3),
            (&[1, 2, 3, 4, 5], 1, 1),
            (&[1, 2, 3, 4, 5], 5, 5),
            (&[1, 2, 3, 4, 5], 7, 5),
        ] {
            let placement = place(nodes, 16, replicas, &[]);
            assert!(
                placement.iter().all(|placement| placement.voters.len() == voters),
                "{nodes:?} {replicas}"
            );
        }
    }

    #[test]
    fn leaders_are_spread_evenly() {
        let placement = place(&[0x9f3c, 0x21d7, 0x70aa], 16, 3, &[]);
        let first_of = |node| placement.iter().filter(|shard| shard.voters.first() == Some(&node)).count();
        for node in [0x9f3c, 0x21d7, 0x70aa] {
            assert!((5..=6).contains(&first_of(node)), "{placement:?}");
        }
    }

    #[test]
    fn a_new_node_moves_only_what_it_takes() {
        let (before, after) = (place(&[1, 2, 3, 4], 64, 3, &[]), place(&[1, 2, 3, 4, 5], 64, 3, &[]));
        for (old, new) in before.iter().zip(&after) {
            let stayed = new.voters.iter().filter(|node| old.voters.contains(node)).count();
            assert!(stayed == 3 || (stayed == 2 && new.voters.contains(&5)), "{old:?} {new:?}");
        }
    }

    /// How many shards each node leads.
    fn loads(nodes: &[NodeId], placement: &[Placement]) -> Vec<usize> {
        let led = |node: &NodeId| placement.iter().filter(|shard| shard.voters.first() == Some(node)).count();
        nodes.iter().map(led).collect()
    }

    #[test]
    fn whoever_comes_and_goes_all_lead_as_many_give_or_take_one_and_it_comes_to_rest() {
        for seed in 0..60_u64 {
            let id = |number: u64| xxh3_64(&[seed.to_be_bytes(), number.to_be_bytes()].concat());
            let mut current = Vec::new();
            for count in [1, 3, 5, 4, 7, 2, 9, 3] {
                for (shards, replicas) in [(1, 3), (4, 5), (16, 3), (17, 1), (64, 3), (16, 7)] {
                    let nodes: Vec<NodeId> = (seed % 3..seed % 3 + count).map(id).collect();
                    let from = if current.len() == shards as usize { current } else { Vec::new() };
                    let placement = place(&nodes, shards, replicas, &from);
                    let loads = loads(&nodes, &placement);
                    let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
                    assert!(most - least <= 1, "{seed} {count} {shards}: {loads:?}");
                    let voters = nodes.len().min(replicas as usize);
                    let distinct = |shard: &Placement| {
                        let set: std::collections::BTreeSet<_> = shard.voters.iter().collect();
                        set.len() == voters && shard.voters.len() == voters
                    };
                    assert!(placement.iter().all(distinct), "{placement:?}");
                    assert_eq!(place(&nodes, shards, replicas, &placement), placement, "it comes to rest");
                    current = placement;
                }
            }
        }
    }

    #[test]
    fn one_replica_at_a_time_and_only_among_nodes_that_are_up() {
        type Case<'a> = (&'a [u64], &'a [u64], &'a [u64], Option<&'a [u64]>);
        let cases: &[Case<'_>] = &[
            // voters, target, down, next
            (&[1], &[2, 1, 3], &[], Some(&[2, 1])),
            (&[2, 1], &[2, 1, 3], &[], Some(&[2, 1, 3])),
            (&[1, 2, 3], &[4, 2, 5], &[], Some(&[4, 3, 2])),
            (&[1, 2, 3], &[4, 2, 1], &[3], Some(&[4, 2, 1])),
            (&[1, 2, 3], &[4, 5, 6], &[2], Some(&[4, 3, 1])),
            (&[1, 2, 3], &[1, 2], &[3], Some(&[1, 2])),
            (&[1, 2, 3], &[3, 2, 1], &[], Some(&[3, 2, 1])),
            (&[1, 2, 3], &[1, 3, 2], &[], None),
            (&[1, 2, 3], &[4, 2, 1], &[4], None),
            (&[1, 2, 3], &[4, 5, 1], &[4], Some(&[1, 3, 5])),
            (&[1, 2, 3], &[4, 2, 1], &[2], None),
            (&[1], &[2], &[], Some(&[2, 1])),
        ];
        for (voters, target, down, next) in cases {
            let mut found = step(voters, target, |node| !down.contains(&node));
            let expected = next.map(<[u64]>::to_vec);
            assert_eq!(
                found.as_ref().and_then(|found| found.first()),
                expected.as_ref().and_then(|next| next.first())
            );
            found.iter_mut().for_each(|found| found.sort_unstable());
            let sorted = expected.map(|mut next| {
                next.sort_unstable();
                next
            });
            assert_eq!(found, sorted, "{voters:?} -> {target:?} without {down:?}");
        }
    }
}
