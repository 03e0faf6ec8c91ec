//! Subscriptions by filter, and the lookup of a topic in them (MQTT 5.0 section 4.7).
//!
//! Knows no topic values and no nodes of a cluster. Each level of a filter is a trie node, down to a bounded
//! depth (`levels.rs`), but where there is only one filter below a level, that is a leaf with the rest of its text: most
//! filters are alone from some level on. Nodes are shared between clones and copied when changed.
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
    children: SmallMap<Arc<str>, Child<K, V>>,
    /// The next level is `+`.
    single: Option<Arc<Node<K, V>>>,
    /// Filters that end here.
    here: Slot<K, V>,
    /// Filters that end with `#` behind here.
    multi: Slot<K, V>,
    /// What is deeper than [`MAX_DEPTH`].
    tails: Option<Arc<SmallMap<Tail, Subscribers<K, V>>>>,
}

/// What is below a level that has a name.
#[derive(Clone)]
enum Child<K, V> {
    Node(Arc<Node<K, V>>),
    /// The only filter there. What was a node stays one, until it is empty.
    Leaf(Arc<Leaf<K, V>>),
}

/// A filter from some level on.
#[derive(Clone)]
struct Leaf<K, V> {
    /// What follows the level; `None`: nothing.
    rest: Option<Box<str>>,
    who: Subscribers<K, V>,
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
        let root = std::iter::once((None, Visited::Node(&*self.root)));
        root.chain(Walk::new(&self.root)).flat_map(|(path, visited)| visited.entries(path.as_deref()))
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

impl<K, V> Leaf<K, V> {
    fn matches(&self, topic: Rest<'_>) -> bool {
        match (self.rest.as_deref(), topic) {
            (None, None) => true,
            (None, Some(_)) => false,
            // Section 4.7.1.2: `#` stands for the level above it, too.
            (Some(filter), None) => filter == "#",
            (Some(filter), Some(topic)) => tail_matches(filter, topic),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Child<K, V> {
    /// A filter that is alone below a level.
    fn leaf(rest: Rest<'_>, who: Subscribers<K, V>) -> Self {
        Self::Leaf(Arc::new(Leaf { rest: rest.map(Box::from), who }))
    }

    /// The subscribers of a filter, behind this level; it is there afterwards.
    fn subscribers_mut(&mut self, rest: Rest<'_>, depth: usize) -> &mut Subscribers<K, V> {
        if matches!(self, Self::Leaf(leaf) if leaf.rest.as_deref() != rest) {
            let mut node = Node::default();
            if let Self::Leaf(leaf) = std::mem::replace(self, Self::Node(Arc::default())) {
                let Leaf { rest, who } = Arc::unwrap_or_clone(leaf);
                node.place(rest.as_deref(), depth, who);
            }
            *self = Self::Node(Arc::new(node));
        }
        match self {
            Self::Leaf(leaf) => &mut Arc::make_mut(leaf).who,
            Self::Node(node) => Arc::make_mut(node).subscribers_mut(rest, depth),
        }
    }

    /// Removes a subscriber that is there; whether anything is left below the level.
    fn remove(&mut self, rest: Rest<'_>, depth: usize, who: (&TopicFilter, &K)) -> (Option<V>, bool) {
        match self {
            Self::Leaf(leaf) if leaf.rest.as_deref() != rest => (None, true),
            Self::Leaf(leaf) => {
                let leaf = Arc::make_mut(leaf);
                (leaf.who.remove(who.0, who.1), !leaf.who.is_empty())
            }
            Self::Node(node) => {
                let node = Arc::make_mut(node);
                (node.remove(rest, depth, who), !node.is_empty())
            }
        }
    }

    fn matches(&self, rest: Rest<'_>, depth: usize, found: &mut Matches<K, V>) {
        match self {
            Self::Node(node) => node.matches(rest, depth, found),
            Self::Leaf(leaf) if leaf.matches(rest) => leaf.who.add_to(found),
            Self::Leaf(_) => {}
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
                Step::Level(level, rest) => match node.children.get(level)? {
                    Child::Node(child) => (child, rest),
                    Child::Leaf(leaf) => return (leaf.rest.as_deref() == rest).then_some(&leaf.who),
                },
            };
        }
        None
    }

    fn subscribers_mut(&mut self, rest: Rest<'_>, depth: usize) -> &mut Subscribers<K, V> {
        match Step::of(rest, depth) {
            Step::Here => Arc::make_mut(self.here.get_or_insert_default()),
            Step::Multi => Arc::make_mut(self.multi.get_or_insert_default()),
            Step::Tail(text) => {
                Arc::make_mut(self.tails.get_or_insert_default()).get_or_default(&Tail(text.into()))
            }
            Step::Single(rest) => {
                Arc::make_mut(self.single.get_or_insert_default()).subscribers_mut(rest, depth + 1)
            }
            Step::Level(level, rest) => {
                let leaf = || Child::leaf(rest, Subscribers::default());
                self.children.get_or_insert_with(level, leaf).subscribers_mut(rest, depth + 1)
            }
        }
    }

    /// Puts the subscribers of a filter that is not there yet into a node that has nothing else.
    fn place(&mut self, rest: Rest<'_>, depth: usize, who: Subscribers<K, V>) {
        match Step::of(rest, depth) {
            Step::Level(level, rest) => drop(self.children.insert(level.into(), Child::leaf(rest, who))),
            _ => *self.subscribers_mut(rest, depth) = who,
        }
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
                let (removed, is_left) = self.children.get_mut(level)?.remove(rest, depth + 1, who);
                if !is_left {
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

    /// Whoever hangs on this node, `path` being the levels down to it: each filter and its subscribers.
    fn slots(&self, path: Option<&str>) -> Vec<(String, &Subscribers<K, V>)> {
        let here = self.here.iter().map(|who| (path.unwrap_or_default().to_owned(), &**who));
        let multi = self.multi.iter().map(|who| (join(path, "#"), &**who));
        let tails = self.tails.iter().flat_map(|tails| tails.iter());
        let tails = tails.map(|(tail, who)| (join(path, &tail.0), who));
        here.chain(tails).chain(multi).collect()
    }
}

/// What is below a level.
enum Visited<'a, K, V> {
    Node(&'a Node<K, V>),
    Leaf(&'a Leaf<K, V>),
}

impl<'a, K: Ord + Clone, V: Clone> Visited<'a, K, V> {
    /// Whoever hangs on it itself, `path` being the levels down to it.
    fn entries(
        self,
        path: Option<&str>,
    ) -> impl Iterator<Item = (TopicFilter, &'a K, &'a V)> + use<'a, K, V> {
        let slots = match self {
            Self::Node(node) => node.slots(path),
            Self::Leaf(Leaf { rest: None, who }) => vec![(path.unwrap_or_default().to_owned(), who)],
            Self::Leaf(Leaf { rest: Some(rest), who }) => vec![(join(path, rest), who)],
        };
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

/// Every node and leaf below the root with the text of its levels, parents first.
struct Walk<'a, K, V> {
    /// The path to a node, and what is left to visit below it.
    stack: Vec<(Path, Below<'a, K, V>)>,
}

/// The text of the levels down to a node; the root has none.
type Path = Option<Arc<str>>;

/// Children by name, then `+`.
struct Below<'a, K, V> {
    children: small_map::Iter<'a, Arc<str>, Child<K, V>>,
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

    fn next(&mut self) -> Option<(&'a str, Visited<'a, K, V>)> {
        let Some((level, child)) = self.children.next() else {
            return self.single.take().map(|node| ("+", Visited::Node(node)));
        };
        Some(match child {
            Child::Node(node) => (level, Visited::Node(node)),
            Child::Leaf(leaf) => (level, Visited::Leaf(leaf)),
        })
    }
}

impl<'a, K: Ord + Clone, V: Clone> Iterator for Walk<'a, K, V> {
    type Item = (Path, Visited<'a, K, V>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, below) = self.stack.last_mut()?;
            let Some((level, visited)) = below.next() else {
                self.stack.pop();
                continue;
            };
            let path: Path = Some(join(path.as_deref(), level).into());
            if let Visited::Node(node) = visited {
                self.stack.push((path.clone(), Below::new(node)));
            }
            return Some((path, visited));
        }
    }
}
