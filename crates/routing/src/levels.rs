//! How both tries walk down a topic: level by level to a bounded depth, the rest as a tail.
//!
//! A topic may have 65,535 levels. No trie here is deeper than [`MAX_DEPTH`]; what is deeper hangs on the last
//! node under its whole remaining text. So recursion, and the drop of a chain of nodes, has a bound that no
//! client can move, and real topics never notice. Knows no subscribers. Start at [`Rest`].

use std::cmp::Ordering;
use std::sync::Arc;

/// Levels that get trie nodes of their own.
pub(crate) const MAX_DEPTH: usize = 64;

/// What is still to be walked of a topic name or filter: text, or nothing behind the last level.
pub(crate) type Rest<'a> = Option<&'a str>;

/// The first level and what follows it.
pub(crate) fn split_level(text: &str) -> (&str, Rest<'_>) {
    match text.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (text, None),
    }
}

/// Where the next step of a filter leads from a node at a depth.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Nowhere: the filter ends at this node.
    Here,
    /// `#`: everything from this node on.
    Multi,
    /// `+`: any one level.
    Single(Rest<'a>),
    /// One level by name.
    Level(&'a str, Rest<'a>),
    /// The node is the deepest there may be: the whole rest.
    Tail(&'a str),
}

impl<'a> Step<'a> {
    pub(crate) fn of(rest: Rest<'a>, depth: usize) -> Self {
        match rest {
            None => Self::Here,
            Some("#") => Self::Multi,
            Some(text) if depth >= MAX_DEPTH => Self::Tail(text),
            Some(text) => match split_level(text) {
                ("+", rest) => Self::Single(rest),
                (level, rest) => Self::Level(level, rest),
            },
        }
    }
}

/// Whether the rest of a filter matches the rest of a topic name; the `$` rule was applied above.
pub(crate) fn tail_matches(filter: &str, topic: &str) -> bool {
    let mut filter = filter.split('/');
    let mut topic = topic.split('/');
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// The text below the deepest node, ordered level by level as the trie above it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail(pub(crate) Arc<str>);

impl From<&Self> for Tail {
    fn from(tail: &Self) -> Self {
        tail.clone()
    }
}

impl Ord for Tail {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.split('/').cmp(other.0.split('/'))
    }
}

impl PartialOrd for Tail {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
