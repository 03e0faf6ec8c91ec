//! Values by topic name, and the lookup of a wildcard filter in them. Knows no messages.
//!
//! Each level of a topic is a trie node, down to a bounded depth (`levels.rs`); nodes are shared between
//! clones and copied when changed. Start at [`RetainedIndex::insert`] and [`RetainedIndex::matches`].

use std::fmt;
use std::sync::Arc;

use bytestring::ByteString;
use zwerm_wire::{TopicFilter, TopicName};

use crate::levels::{Rest, Step, Tail, split_level, tail_matches};
use crate::small_map::{self, SmallMap};

/// A value for each topic. A clone is O(1).
#[derive(Clone)]
pub struct RetainedIndex<V: Clone> {
    root: Arc<Node<V>>,
    len: usize,
}

/// All topics with the same levels so far.
#[derive(Clone)]
struct Node<V> {
    children: SmallMap<Arc<str>, Arc<Node<V>>>,
    /// The topic that ends here.
    here: Option<Kept<V>>,
    /// What is deeper than [`crate::levels::MAX_DEPTH`].
    tails: Option<Arc<SmallMap<Tail, Kept<V>>>>,
}

/// The topic is kept beside its value so that a lookup hands it out without putting it together.
#[derive(Clone)]
struct Kept<V> {
    topic: TopicName,
    value: V,
}

impl<V: Clone> RetainedIndex<V> {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { root: Arc::new(Node::default()), len: 0 }
    }

    /// Sets the value of a topic; the one it had before, if any.
    pub fn insert(&mut self, topic: &TopicName, value: V) -> Option<V> {
        let kept = Kept { topic: detached(topic), value };
        let old = Arc::make_mut(&mut self.root).insert(Some(topic), 0, kept);
        self.len += usize::from(old.is_none());
        old.map(|kept| kept.value)
    }

    /// Forgets a topic; the value it had, if any.
    pub fn remove(&mut self, topic: &TopicName) -> Option<V> {
        self.get(topic)?; // nothing is copied for what is not there
        let removed = Arc::make_mut(&mut self.root).remove(Some(topic), 0);
        self.len -= usize::from(removed.is_some());
        removed.map(|kept| kept.value)
    }

    /// The value of a topic.
    #[must_use]
    pub fn get(&self, topic: &TopicName) -> Option<&V> {
        let mut node = &*self.root;
        let mut rest: Rest<'_> = Some(topic);
        for depth in 0.. {
            (node, rest) = match step(rest, depth) {
                TopicStep::Here => return node.here.as_ref().map(|kept| &kept.value),
                TopicStep::Tail(text) => {
                    return node.tails.as_ref()?.get(&Tail(text.into())).map(|kept| &kept.value);
                }
                TopicStep::Level(level, rest) => (node.children.get(level)?, rest),
            };
        }
        None
    }

    /// How many topics have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// None has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The topics that a filter matches (the matched part of a shared one), found one by one as the iterator
    /// is driven, ordered level by level: `a`, `a/b`, `a/c`, `a!`.
    pub fn matches(&self, filter: &TopicFilter) -> RetainedMatches<'_, V> {
        let text = ByteString::from(filter.parts().filter);
        let visit = Visit { node: &self.root, pattern: Pattern::From(0), depth: 0 };
        RetainedMatches { filter: text, stack: vec![Frame::Visit(visit)] }
    }

    /// Every topic and value, in the order of [`matches`](Self::matches); `$` topics too.
    pub fn iter(&self) -> RetainedMatches<'_, V> {
        let visit = Visit { node: &self.root, pattern: Pattern::All, depth: 0 };
        RetainedMatches { filter: ByteString::new(), stack: vec![Frame::Visit(visit)] }
    }
}

impl<V: Clone> Default for RetainedIndex<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone + fmt::Debug> fmt::Debug for RetainedIndex<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<'a, V: Clone> IntoIterator for &'a RetainedIndex<V> {
    type Item = (TopicName, &'a V);
    type IntoIter = RetainedMatches<'a, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { children: SmallMap::new(), here: None, tails: None }
    }
}

impl<V: Clone> Node<V> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_none() && self.tails.is_none()
    }

    fn insert(&mut self, rest: Rest<'_>, depth: usize, kept: Kept<V>) -> Option<Kept<V>> {
        match step(rest, depth) {
            TopicStep::Here => self.here.replace(kept),
            TopicStep::Tail(text) => {
                Arc::make_mut(self.tails.get_or_insert_default()).insert(Tail(text.into()), kept)
            }
            TopicStep::Level(level, rest) => {
                Arc::make_mut(self.children.get_or_default(level)).insert(rest, depth + 1, kept)
            }
        }
    }

    /// Removes a topic that is there, and every node that this leaves empty.
    fn remove(&mut self, rest: Rest<'_>, depth: usize) -> Option<Kept<V>> {
        match step(rest, depth) {
            TopicStep::Here => self.here.take(),
            TopicStep::Tail(text) => {
                let tails = Arc::make_mut(self.tails.as_mut()?);
                let removed = tails.remove(&Tail(text.into()));
                if tails.is_empty() {
                    self.tails = None;
                }
                removed
            }
            TopicStep::Level(level, rest) => {
                let child = Arc::make_mut(self.children.get_mut(level)?);
                let removed = child.remove(rest, depth + 1);
                if child.is_empty() {
                    self.children.remove(level);
                }
                removed
            }
        }
    }
}

/// A step of a topic name: wildcards mean nothing in it.
enum TopicStep<'a> {
    Here,
    Level(&'a str, Rest<'a>),
    Tail(&'a str),
}

fn step(rest: Rest<'_>, depth: usize) -> TopicStep<'_> {
    match rest {
        None => TopicStep::Here,
        Some(text) if depth >= crate::levels::MAX_DEPTH => TopicStep::Tail(text),
        Some(text) => {
            let (level, rest) = split_level(text);
            TopicStep::Level(level, rest)
        }
    }
}

/// A copy with a buffer of its own: a topic may be a slice of the packet it came in.
fn detached(topic: &TopicName) -> TopicName {
    TopicName::new(ByteString::from(&**topic)).unwrap_or_else(|_| topic.clone())
}

/// Topics that match, with their values; see [`RetainedIndex::matches`].
pub struct RetainedMatches<'a, V> {
    filter: ByteString,
    /// What is left to visit, next on top; bounded by the depth of the trie.
    stack: Vec<Frame<'a, V>>,
}

impl<V> fmt::Debug for RetainedMatches<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetainedMatches").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// Which part of the filter is still to be matched at a node.
#[derive(Debug, Clone, Copy)]
enum Pattern {
    /// Everything from here on.
    All,
    /// The filter's text from this offset on.
    From(usize),
    /// Nothing: the filter ends here.
    End,
}

struct Visit<'a, V> {
    node: &'a Node<V>,
    pattern: Pattern,
    depth: usize,
}

enum Frame<'a, V> {
    Visit(Visit<'a, V>),
    Children {
        left: small_map::Iter<'a, Arc<str>, Arc<Node<V>>>,
        pattern: Pattern,
        depth: usize,
        no_dollar: bool,
    },
    Tails {
        left: small_map::Iter<'a, Tail, Kept<V>>,
        pattern: Pattern,
    },
}

impl<'a, V: Clone> RetainedMatches<'a, V> {
    /// Puts what follows from a node on the stack and returns its own value if that matches.
    fn visit(&mut self, Visit { node, pattern, depth }: Visit<'a, V>) -> Option<&'a Kept<V>> {
        let offset = match pattern {
            Pattern::End => return node.here.as_ref(),
            Pattern::All => return self.visit_all(node, depth, false),
            Pattern::From(offset) => offset,
        };
        let filter = self.filter.clone();
        let behind =
            |rest: Rest<'_>| rest.map_or(Pattern::End, |rest| Pattern::From(filter.len() - rest.len()));
        let no_dollar = depth == 0; // section 4.7.2
        match Step::of(filter.get(offset..), depth) {
            Step::Here => return node.here.as_ref(),
            Step::Multi => return self.visit_all(node, depth, no_dollar),
            Step::Tail(_) => self.push_tails(node, pattern),
            Step::Single(rest) => {
                let pattern = behind(rest);
                self.stack.push(Frame::Children { left: node.children.iter(), pattern, depth, no_dollar });
            }
            Step::Level(level, rest) => {
                let pattern = behind(rest);
                let child = node.children.get(level);
                let visit = child.map(|node| Frame::Visit(Visit { node, pattern, depth: depth + 1 }));
                self.stack.extend(visit);
            }
        }
        None
    }

    fn visit_all(&mut self, node: &'a Node<V>, depth: usize, no_dollar: bool) -> Option<&'a Kept<V>> {
        self.push_tails(node, Pattern::All);
        self.stack.push(Frame::Children {
            left: node.children.iter(),
            pattern: Pattern::All,
            depth,
            no_dollar,
        });
        node.here.as_ref()
    }

    fn push_tails(&mut self, node: &'a Node<V>, pattern: Pattern) {
        let tails = node.tails.as_ref().map(|tails| Frame::Tails { left: tails.iter(), pattern });
        self.stack.extend(tails);
    }

    fn tail_matches(filter: &str, pattern: Pattern, tail: &Tail) -> bool {
        match pattern {
            Pattern::All => true,
            Pattern::End => false,
            Pattern::From(offset) => filter.get(offset..).is_some_and(|rest| tail_matches(rest, &tail.0)),
        }
    }
}

impl<'a, V: Clone> Iterator for RetainedMatches<'a, V> {
    type Item = (TopicName, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let kept = match self.stack.pop()? {
                Frame::Visit(visit) => self.visit(visit),
                Frame::Children { mut left, pattern, depth, no_dollar } => {
                    let Some((level, node)) = left.next() else { continue };
                    self.stack.push(Frame::Children { left, pattern, depth, no_dollar });
                    if no_dollar && level.starts_with('$') {
                        continue;
                    }
                    self.visit(Visit { node, pattern, depth: depth + 1 })
                }
                Frame::Tails { mut left, pattern } => {
                    let Some((tail, kept)) = left.next() else { continue };
                    self.stack.push(Frame::Tails { left, pattern });
                    Self::tail_matches(&self.filter, pattern, tail).then_some(kept)
                }
            };
            if let Some(kept) = kept {
                return Some((kept.topic.clone(), &kept.value));
            }
        }
    }
}
