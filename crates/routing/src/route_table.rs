//! The cluster's routes: which node and which shard wants which filter. Knows no addresses and no sessions.
//!
//! A trie answers lookups; an index by destination makes losing a node and replacing its routes cheap.
//! Start at [`RouteTable::set`].

use imbl::OrdMap;
use zwerm_wire::{TopicFilter, TopicName};

use crate::{FilterTrie, Matches};

/// Where a message goes that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// A node with online sessions that want it.
    Node(u64),
    /// A shard with durable sessions that want it.
    Shard(u32),
}

/// How a destination wants a filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interest {
    /// Members of a shared group there, 1 for a plain filter; 0 is no interest.
    pub members: u32,
    /// Only messages that are published with QoS 0: what else matches comes to the node through a shard.
    pub only_qos0: bool,
    /// Of a shard: the version of its routes in which the filter last began to have members; else 0.
    pub since: u64,
    /// Of a shared group in a shard: how many of its members are connected; else 0.
    pub online: u32,
}

impl Interest {
    /// None: the route goes.
    pub const NONE: Self = Self::of(0);

    /// So many members on a node, in messages of all qualities of service.
    #[must_use]
    pub const fn of(members: u32) -> Self {
        Self { members, only_qos0: false, since: 0, online: 0 }
    }
}

/// Filters of one destination.
type Routes = OrdMap<TopicFilter, Interest>;

/// Filter to destinations, with how each wants it. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    trie: FilterTrie<Destination, Interest>,
    by_destination: OrdMap<Destination, Routes>,
    generation: u64,
}

impl RouteTable {
    /// No routes, generation 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A table as it was: its routes and its generation.
    #[must_use]
    pub fn restore(
        generation: u64,
        routes: impl IntoIterator<Item = (Destination, TopicFilter, Interest)>,
    ) -> Self {
        let mut table = Self::new();
        for (destination, filter, interest) in routes {
            table.set(destination, &filter, interest);
        }
        table.generation = generation;
        table
    }

    /// Sets how a destination wants a filter; without members the route goes. True if it changed anything.
    pub fn set(&mut self, destination: Destination, filter: &TopicFilter, interest: Interest) -> bool {
        self.change(destination, [(filter, interest)])
    }

    /// Sets some filters of a destination as [`set`](Self::set) does, as one change.
    pub fn change<'a>(
        &mut self,
        destination: Destination,
        set: impl IntoIterator<Item = (&'a TopicFilter, Interest)>,
    ) -> bool {
        let mut routes = self.by_destination.get(&destination).cloned().unwrap_or_default();
        let mut changed = false;
        for (filter, interest) in set {
            changed |= self.put(destination, &mut routes, filter, interest);
        }
        self.store(destination, routes);
        self.generation += u64::from(changed);
        changed
    }

    /// Replaces all routes of a destination. Of a filter given twice the last counts. True if it changed
    /// anything; what stays is not touched.
    pub fn replace(
        &mut self,
        destination: Destination,
        routes: impl IntoIterator<Item = (TopicFilter, Interest)>,
    ) -> bool {
        let wanted: Routes = routes.into_iter().collect();
        let old = self.by_destination.get(&destination).cloned().unwrap_or_default();
        let gone = old.keys().filter(|filter| !wanted.contains_key(*filter));
        let gone = gone.map(|filter| (filter, Interest::NONE));
        self.change(destination, gone.chain(wanted.iter().map(|(filter, interest)| (filter, *interest))))
    }

    /// Removes all routes of a destination. True if it had any.
    pub fn remove(&mut self, destination: Destination) -> bool {
        let Some(routes) = self.by_destination.remove(&destination) else { return false };
        for filter in routes.keys() {
            self.trie.remove(filter, &destination);
        }
        self.generation += 1;
        true
    }

    fn put(
        &mut self,
        destination: Destination,
        routes: &mut Routes,
        filter: &TopicFilter,
        interest: Interest,
    ) -> bool {
        let wanted = Some(interest).filter(|interest| interest.members > 0);
        if routes.get(filter).copied() == wanted {
            return false;
        }
        match wanted {
            None => {
                routes.remove(filter);
                self.trie.remove(filter, &destination);
            }
            Some(interest) => {
                routes.insert(filter.clone(), interest);
                self.trie.insert(filter, destination, interest);
            }
        }
        true
    }

    fn store(&mut self, destination: Destination, routes: Routes) {
        if routes.is_empty() {
            self.by_destination.remove(&destination);
        } else {
            self.by_destination.insert(destination, routes);
        }
    }

    /// The destinations that have routes, in order: nodes, then shards.
    pub fn destinations(&self) -> impl Iterator<Item = Destination> {
        self.by_destination.keys().copied()
    }

    /// The routes of a destination, in the order of the filters' text.
    pub fn routes_of(&self, destination: Destination) -> impl Iterator<Item = (&TopicFilter, Interest)> {
        let routes = self.by_destination.get(&destination).into_iter();
        routes.flat_map(|routes| routes.iter().map(|(filter, interest)| (filter, *interest)))
    }

    /// How a destination wants a filter; [`Interest::NONE`] if it has no such route.
    #[must_use]
    pub fn interest(&self, destination: Destination, filter: &TopicFilter) -> Interest {
        let routes = self.by_destination.get(&destination);
        routes.and_then(|routes| routes.get(filter)).copied().unwrap_or_default()
    }

    /// Adds who wants a topic to `found`, each destination once for each of its filters that matches.
    pub fn matches(&self, topic: &TopicName, found: &mut Matches<Destination, Interest>) {
        self.trie.matches(topic, found);
    }

    /// Grows at every change: a cached lookup holds while this stays the same.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many routes there are: pairs of destination and filter.
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
