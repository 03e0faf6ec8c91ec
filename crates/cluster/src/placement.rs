//! Which shard a name belongs to, and which nodes hold a shard. Pure: the same on every node, for ever.
//!
//! Start at [`shard_of`] and [`place`].

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
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
/// less moves only the shards it gains or loses.
#[must_use]
pub(crate) fn place(nodes: &[NodeId], shards: u32) -> Vec<Placement> {
    let voters_of = |shard: u32| {
        let mut scored: Vec<(u64, NodeId)> =
            nodes.iter().map(|&node| (xxh3_64_with_seed(&shard.to_be_bytes(), node), node)).collect();
        scored.sort_unstable();
        scored.iter().rev().take(VOTERS).map(|&(_, node)| node).collect()
    };
    (0..shards).map(|shard| Placement { shard, voters: voters_of(shard) }).collect()
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
    fn a_new_node_moves_only_what_it_takes() {
        let (before, after) = (place(&[1, 2, 3, 4], 64), place(&[1, 2, 3, 4, 5], 64));
        for (old, new) in before.iter().zip(&after) {
            let stayed = new.voters.iter().filter(|node| old.voters.contains(node)).count();
            assert!(stayed == 3 || (stayed == 2 && new.voters.contains(&5)), "{old:?} {new:?}");
        }
    }
}
