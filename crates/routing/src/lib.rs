//! Who wants this topic: filter tries, shared groups, the retained index, the cluster's routes. Pure.
//!
//! Knows no client, no node address and no message: keys and values are whatever the caller counts by.
//! Every structure is persistent: a clone is O(1) and is a snapshot that later changes do not touch.
//! Start at [`FilterTrie`]; [`RouteTable`] and [`RetainedIndex`] are its two siblings.

mod filter_trie;
mod levels;
mod matches;
mod retained_index;
mod route_table;
mod small_map;
mod subscribers;

pub use filter_trie::FilterTrie;
pub use matches::{Matches, SharedMatch};
pub use retained_index::{RetainedIndex, RetainedMatches};
pub use route_table::{Destination, Interest, RouteTable};
