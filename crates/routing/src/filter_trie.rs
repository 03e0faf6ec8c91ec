//! Subscriptions by filter, and the lookup of a topic in them (MQTT 5.0 section 4.7).
//!
//! Knows no topic values and no nodes of a cluster. Each level of a filter is a trie node, down to a bounded
//! depth (`levels.rs`); nodes are shared between clones and copied when changed.
//! Start at [`FilterTrie::insert`] and [`FilterTrie::matches`].

use std::fmt;
use std::sync::Arc;

use zwerm_wire::{TopicFilter, TopicName};

use crate::Matches;
use crate::levels::{MAX_DEPTH, Rest, Step, Tail, split_level, tail_matches};
use crate::small_map::{self, SmallMap};
use crate::subscribers::Subscribers;

/// Filters, plain, exclusive and shared, each with keys and a value for each key. A clone is O(1).
#[derive(Clone)]
pub struct FilterTrie<K: Ord + Clone, V: Clone> {
    root: Arc<Node<K, V>>,
    len: usize,
}

/// All filters with the same levels so far.
#[derive(Clone)]
struct Node<K, V> {
    /// The next level by name.
    children: SmallMap<Arc<str>, Arc<Node<K, V>>>,
    /// The next level is `+`.
    single: Option<Arc<Node<K, V>>>,
    /// Filters that end here.
    here: Slot<K, V>,
    /// Filters that end with `#` behind here.
    multi: Slot<K, V>,
    /// What is deeper than [`MAX_DEPTH`].
    tails: Option<Arc<SmallMap<Tail, Subscribers<K, V>>>>,
}

/// Subscribers are apart from their node: most nodes have none, and a copied node does not copy them.
type Slot<K, V> = Option<Arc<Subscribers<K, V>>>;

impl<K: Ord + Clone, V: Clone> FilterTrie<K, V> {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { root: Arc::new(Node::default()), len: 0 }
    }

    /// Subscribes a key to a filter; the value it had there before, if any.
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let node = Arc::make_mut(&mut self.root);
        let old = node.subscribers_mut(Some(filter.parts().filter), 0).insert(filter, key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes a key off a filter; the value it had there, if any.
    pub fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        self.get(filter, key)?; // nothing is copied for what is not there
        let removed = Arc::make_mut(&mut self.root).remove(Some(filter.parts().filter), 0, (filter, key));
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// The value of a key on a filter.
    #[must_use]
    pub fn get(&self, filter: &TopicFilter, key: &K) -> Option<&V> {
        self.root.subscribers(Some(filter.parts().filter))?.get(filter, key)
    }

    /// Every filter, key and value, in an order that depends on nothing but the content: a filter before those
    /// below it, names before `+`, keys rising. Not for hot paths: filters are put together from their levels.
    pub fn filters(&self) -> impl Iterator<Item = (TopicFilter, &K, &V)> {
        let root = std::iter::once((None, &*self.root));
        root.chain(Walk::new(&self.root)).flat_map(|(path, node)| node.entries(path.as_deref()))
    }

    /// Pairs of filter and key.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds to `found` whoever wants a topic. Keys of one filter come in order.
    pub fn matches(&self, topic: &TopicName, found: &mut Matches<K, V>) {
        if !topic.is_dollar() {
            return self.root.matches(Some(topic), 0, found);
        }
        // Section 4.7.2: a wildcard in the first level does not match a topic that starts with `$`.
        let (level, rest) = split_level(topic);
        if let Some(child) = self.root.children.get(level) {
            child.matches(rest, 1, found);
        }
    }
}

impl<K: Ord + Clone, V: Clone> Default for FilterTrie<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for FilterTrie<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.filters().map(|(filter, key, value)| ((filter, key), value))).finish()
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self { children: SmallMap::new(), single: None, here: None, multi: None, tails: None }
    }
}

impl<K, V> Node<K, V> {
    fn is_empty(&self) -> bool {
        let no_subscribers = self.here.is_none() && self.multi.is_none() && self.tails.is_none();
        no_subscribers && self.children.is_empty() && self.single.is_none()
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn subscribers(&self, mut rest: Rest<'_>) -> Option<&Subscribers<K, V>> {
        let mut node = self;
        for depth in 0.. {
            (node, rest) = match Step::of(rest, depth) {
                Step::Here => return node.here.as_deref(),
                Step::Multi => return node.multi.as_deref(),
                Step::Tail(text) => return node.tails.as_ref()?.get(&Tail(text.into())),
                Step::Single(rest) => (node.single.as_ref()?, rest),
                Step::Level(level, rest) => (node.children.get(level)?, rest),
            };
        }
        None
    }

    fn subscribers_mut(&mut self, rest: Rest<'_>, depth: usize) -> &mut Subscribers<K, V> {
        let (child, rest) = match Step::of(rest, depth) {
            Step::Here => return Arc::make_mut(self.here.get_or_insert_default()),
            Step::Multi => return Arc::make_mut(self.multi.get_or_insert_default()),
            Step::Tail(text) => {
                return Arc::make_mut(self.tails.get_or_insert_default()).get_or_default(&Tail(text.into()));
            }
            Step::Single(rest) => (self.single.get_or_insert_default(), rest),
            Step::Level(level, rest) => (self.children.get_or_default(level), rest),
        };
        Arc::make_mut(child).subscribers_mut(rest, depth + 1)
    }

    /// Removes a subscriber that is there, and every node that this leaves empty.
    fn remove(&mut self, rest: Rest<'_>, depth: usize, who: (&TopicFilter, &K)) -> Option<V> {
        match Step::of(rest, depth) {
            Step::Here => remove_from(&mut self.here, who),
            Step::Multi => remove_from(&mut self.multi, who),
            Step::Tail(text) => self.remove_tail(&Tail(text.into()), who),
            Step::Single(rest) => {
                let child = Arc::make_mut(self.single.as_mut()?);
                let removed = child.remove(rest, depth + 1, who);
                if child.is_empty() {
                    self.single = None;
                }
                removed
            }
            Step::Level(level, rest) => {
                let child = Arc::make_mut(self.children.get_mut(level)?);
                let removed = child.remove(rest, depth + 1, who);
                if child.is_empty() {
                    self.children.remove(level);
                }
                removed
            }
        }
    }

    fn remove_tail(&mut self, tail: &Tail, (filter, key): (&TopicFilter, &K)) -> Option<V> {
        let tails = Arc::make_mut(self.tails.as_mut()?);
        let subscribers = tails.get_mut(tail)?;
        let removed = subscribers.remove(filter, key);
        if subscribers.is_empty() {
            tails.remove(tail);
        }
        if tails.is_empty() {
            self.tails = None;
        }
        removed
    }

    /// Visits each node at most once, whatever the wildcards, and is never deeper than [`MAX_DEPTH`].
    fn matches(&self, rest: Rest<'_>, depth: usize, found: &mut Matches<K, V>) {
        if let Some(subscribers) = &self.multi {
            subscribers.add_to(found);
        }
        let Some(text) = rest else {
            if let Some(subscribers) = &self.here {
                subscribers.add_to(found);
            }
            return;
        };
        if depth == MAX_DEPTH {
            let tails = self.tails.iter().flat_map(|tails| tails.iter());
            tails.filter(|(tail, _)| tail_matches(&tail.0, text)).for_each(|(_, who)| who.add_to(found));
            return;
        }
        let (level, rest) = split_level(text);
        if let Some(child) = self.children.get(level) {
            child.matches(rest, depth + 1, found);
        }
        if let Some(child) = &self.single {
            child.matches(rest, depth + 1, found);
        }
    }

    /// Whoever hangs on this node, `path` being the levels down to it.
    fn entries<'a>(
        &'a self,
        path: Option<&str>,
    ) -> impl Iterator<Item = (TopicFilter, &'a K, &'a V)> + use<'a, K, V> {
        let here = self.here.iter().map(|who| (path.unwrap_or_default().to_owned(), &**who));
        let multi = self.multi.iter().map(|who| (join(path, "#"), &**who));
        let tails = self.tails.iter().flat_map(|tails| tails.iter());
        let tails = tails.map(|(tail, who)| (join(path, &tail.0), who));
        let slots: Vec<_> = here.chain(tails).chain(multi).collect();
        slots.into_iter().flat_map(|(text, who)| who.entries(&text))
    }
}

fn remove_from<K: Ord + Clone, V: Clone>(slot: &mut Slot<K, V>, who: (&TopicFilter, &K)) -> Option<V> {
    let subscribers = Arc::make_mut(slot.as_mut()?);
    let removed = subscribers.remove(who.0, who.1);
    if subscribers.is_empty() {
        *slot = None;
    }
    removed
}

fn join(path: Option<&str>, level: &str) -> String {
    path.map_or_else(|| level.to_owned(), |path| [path, "/", level].concat())
}

/// Every node below the root with the text of its levels, parents first.
struct Walk<'a, K, V> {
    /// The path to a node, and what is left to visit below it.
    stack: Vec<(Path, Below<'a, K, V>)>,
}

/// The text of the levels down to a node; the root has none.
type Path = Option<Arc<str>>;

/// Children by name, then `+`.
struct Below<'a, K, V> {
    children: small_map::Iter<'a, Arc<str>, Arc<Node<K, V>>>,
    single: Option<&'a Node<K, V>>,
}

impl<'a, K: Ord + Clone, V: Clone> Walk<'a, K, V> {
    fn new(root: &'a Node<K, V>) -> Self {
        Self { stack: vec![(None, Below::new(root))] }
    }
}

impl<'a, K: Ord + Clone, V: Clone> Below<'a, K, V> {
    fn new(node: &'a Node<K, V>) -> Self {
        Self { children: node.children.iter(), single: node.single.as_deref() }
    }

    fn next(&mut self) -> Option<(&'a str, &'a Node<K, V>)> {
        let named = self.children.next().map(|(level, node)| (&**level, &**node));
        named.or_else(|| self.single.take().map(|node| ("+", node)))
    }
}

impl<'a, K: Ord + Clone, V: Clone> Iterator for Walk<'a, K, V> {
    type Item = (Path, &'a Node<K, V>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, below) = self.stack.last_mut()?;
            let Some((level, node)) = below.next() else {
                self.stack.pop();
                continue;
            };
            let path: Path = Some(join(path.as_deref(), level).into());
            self.stack.push((path.clone(), Below::new(node)));
            return Some((path, node));
        }
    }
}
