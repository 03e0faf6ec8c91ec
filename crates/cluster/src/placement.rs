//! Which shard a name belongs to, and which nodes hold a shard. Pure: the same on every node, for ever.
//!
//! Start at [`shard_of`] and [`place`].

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;
use zwerm_machine::records::Placement;

use crate::NodeId;

/// Voters of a shard, if there are as many nodes.
const VOTERS: usize = 3;

/// The shard of a client id or a topic name.
#[must_use]
pub(crate) fn shard_of(name: &str, shards: u32) -> u32 {
    let spread = xxh3_64(name.as_bytes()) % u64::from(shards.max(1));
    // The remainder is below a u32.
    u32::try_from(spread).unwrap_or_default()
}

/// Rendezvous hashing: each shard goes to the nodes that score highest for it, so that a node more or
/// less moves only the shards it gains or loses. The first voter is the one that should lead: of the
/// shard's voters the one that is first least often.
#[must_use]
pub(crate) fn place(nodes: &[NodeId], shards: u32) -> Vec<Placement> {
    let mut firsts: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut voters_of = |shard: u32| {
        let mut voters: Vec<NodeId> = nodes.to_vec();
        voters.sort_unstable_by_key(|&node| std::cmp::Reverse((score(shard, node), node)));
        voters.truncate(VOTERS);
        let least = (0..voters.len()).min_by_key(|&at| voters.get(at).and_then(|node| firsts.get(node)));
        voters.rotate_left(least.unwrap_or_default());
        if let Some(first) = voters.first() {
            *firsts.entry(*first).or_default() += 1;
        }
        voters
    };
    (0..shards).map(|shard| Placement { shard, voters: voters_of(shard) }).collect()
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
    fn every_shard_has_three_voters_or_all_nodes() {
        for (nodes, voters) in [(&[1][..], 1), (&[1, 2], 2), (&[1, 2, 3], 3), (&[1, 2, 3, 4, 5], 3)] {
            assert!(place(nodes, 16).iter().all(|placement| placement.voters.len() == voters));
        }
    }

    #[test]
    fn leaders_are_spread_evenly() {
        let placement = place(&[0x9f3c, 0x21d7, 0x70aa], 16);
        let first_of = |node| placement.iter().filter(|shard| shard.voters.first() == Some(&node)).count();
        for node in [0x9f3c, 0x21d7, 0x70aa] {
            assert!((5..=6).contains(&first_of(node)), "{placement:?}");
        }
    }

    #[test]
    fn a_new_node_moves_only_what_it_takes() {
        let (before, after) = (place(&[1, 2, 3, 4], 64), place(&[1, 2, 3, 4, 5], 64));
        for (old, new) in before.iter().zip(&after) {
            let stayed = new.voters.iter().filter(|node| old.voters.contains(node)).count();
            assert!(stayed == 3 || (stayed == 2 && new.voters.contains(&5)), "{old:?} {new:?}");
        }
    }
}
