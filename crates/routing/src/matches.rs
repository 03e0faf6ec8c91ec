//! The result of a lookup, in buffers that are used again. Knows no trie. Start at [`Matches`].

use zwerm_wire::TopicFilter;

/// What a topic matched. Keep one and [`clear`](Self::clear) it: once the buffers have grown, a lookup
/// allocates nothing but the B-tree cursor of a filter with more subscribers than one leaf holds.
#[derive(Debug, Clone)]
pub struct Matches<K, V> {
    /// Plain and exclusive subscriptions: a key appears once for each of its filters that matches.
    pub plain: Vec<(K, V)>,
    /// Shared subscriptions: one for each group and filter that matches.
    pub shared: Vec<SharedMatch<K, V>>,
    /// Emptied member lists, kept for their capacity.
    spare: Vec<Vec<(K, V)>>,
}

/// A shared group that matched (section 4.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMatch<K, V> {
    /// The whole filter, `$share/name/` included.
    pub filter: TopicFilter,
    /// All members, by key; never empty.
    pub members: Vec<(K, V)>,
}

impl<K, V> Matches<K, V> {
    /// Empty, without capacity.
    #[must_use]
    pub const fn new() -> Self {
        Self { plain: Vec::new(), shared: Vec::new(), spare: Vec::new() }
    }

    /// Nothing matched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.shared.is_empty()
    }

    /// Forgets what matched and keeps the buffers.
    pub fn clear(&mut self) {
        self.plain.clear();
        for mut group in self.shared.drain(..) {
            group.members.clear();
            self.spare.push(group.members);
        }
    }

    /// Adds a group; its members come from an emptied list of an earlier lookup, if there is one.
    pub(crate) fn push_group(&mut self, filter: &TopicFilter, members: impl Iterator<Item = (K, V)>) {
        let mut list = self.spare.pop().unwrap_or_default();
        list.extend(members);
        self.shared.push(SharedMatch { filter: filter.clone(), members: list });
    }
}

impl<K, V> Default for Matches<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_result_uses_its_member_lists_again() {
        let filter = TopicFilter::new("$share/g/a").unwrap();
        let mut found = Matches::new();
        found.push_group(&filter, (0..100).map(|key| (key, ())));
        let buffer = found.shared[0].members.as_ptr();
        found.clear();
        assert!(found.is_empty());
        found.push_group(&filter, (0..3).map(|key| (key, ())));
        assert_eq!(found.shared[0].members, [(0, ()), (1, ()), (2, ())]);
        assert_eq!(found.shared[0].members.as_ptr(), buffer);
    }
}
