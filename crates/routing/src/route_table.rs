//! The cluster's routes: which node wants which filter. Knows no addresses and no sessions.
//!
//! A trie answers lookups; an index by node makes losing a node and replacing its routes cheap.
//! Start at [`RouteTable::set`].

use imbl::OrdMap;
use zwerm_wire::{TopicFilter, TopicName};

use crate::{FilterTrie, Matches};

/// Filters of one node with their member counts.
type Routes = OrdMap<TopicFilter, u32>;

/// Filter to nodes, with how many members of a shared group each node has. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    trie: FilterTrie<u64, u32>,
    by_node: OrdMap<u64, Routes>,
    generation: u64,
}

impl RouteTable {
    /// No routes, generation 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A table as it was: its routes (node, filter, members) and its generation.
    #[must_use]
    pub fn restore(generation: u64, routes: impl IntoIterator<Item = (u64, TopicFilter, u32)>) -> Self {
        let mut table = Self::new();
        for (node, filter, members) in routes {
            table.set(node, &filter, members);
        }
        table.generation = generation;
        table
    }

    /// Sets the member count of a node's filter (1 for a plain filter); 0 removes it. True if it changed
    /// anything.
    pub fn set(&mut self, node: u64, filter: &TopicFilter, members: u32) -> bool {
        let mut routes = self.by_node.get(&node).cloned().unwrap_or_default();
        let changed = self.put(node, &mut routes, filter, members);
        self.store(node, routes);
        self.generation += u64::from(changed);
        changed
    }

    /// Replaces all routes of a node. Of a filter given twice the last counts. True if it changed anything;
    /// what stays is not touched.
    pub fn replace(&mut self, node: u64, routes: impl IntoIterator<Item = (TopicFilter, u32)>) -> bool {
        let wanted: Routes = routes.into_iter().collect();
        let old = self.by_node.get(&node).cloned().unwrap_or_default();
        let mut current = old.clone();
        let mut changed = false;
        for (filter, _) in old.iter().filter(|(filter, _)| !wanted.contains_key(*filter)) {
            changed |= self.put(node, &mut current, filter, 0);
        }
        for (filter, members) in &wanted {
            changed |= self.put(node, &mut current, filter, *members);
        }
        self.store(node, current);
        self.generation += u64::from(changed);
        changed
    }

    /// Removes all routes of a node. True if it had any.
    pub fn remove_node(&mut self, node: u64) -> bool {
        let Some(routes) = self.by_node.remove(&node) else { return false };
        for filter in routes.keys() {
            self.trie.remove(filter, &node);
        }
        self.generation += 1;
        true
    }

    fn put(&mut self, node: u64, routes: &mut Routes, filter: &TopicFilter, members: u32) -> bool {
        let old = routes.get(filter).copied().unwrap_or(0);
        if old == members {
            return false;
        }
        if members == 0 {
            routes.remove(filter);
            self.trie.remove(filter, &node);
        } else {
            routes.insert(filter.clone(), members);
            self.trie.insert(filter, node, members);
        }
        true
    }

    fn store(&mut self, node: u64, routes: Routes) {
        if routes.is_empty() {
            self.by_node.remove(&node);
        } else {
            self.by_node.insert(node, routes);
        }
    }

    /// The nodes that have routes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = u64> {
        self.by_node.keys().copied()
    }

    /// The routes of a node: filter and members, in the order of the filters' text.
    pub fn routes_of(&self, node: u64) -> impl Iterator<Item = (&TopicFilter, u32)> {
        self.by_node.get(&node).into_iter().flat_map(|routes| routes.iter().map(|(f, members)| (f, *members)))
    }

    /// The members a node has behind a filter; 0 if it has no such route.
    #[must_use]
    pub fn members(&self, node: u64, filter: &TopicFilter) -> u32 {
        self.by_node.get(&node).and_then(|routes| routes.get(filter)).copied().unwrap_or(0)
    }

    /// Adds the nodes that want a topic to `found`, each node once for each of its filters that matches.
    pub fn matches(&self, topic: &TopicName, found: &mut Matches<u64, u32>) {
        self.trie.matches(topic, found);
    }

    /// Grows at every change: a cached lookup holds while this stays the same.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many routes there are: pairs of node and filter.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trie.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trie.is_empty()
    }
}
