//! skeleton
use crate::Matches;
use zwerm_wire::{TopicFilter, TopicName};
/// Filters of many keys.
#[derive(Debug, Clone)]
pub struct FilterTrie<K: Ord + Clone, V: Clone> {
    entries: imbl::OrdMap<(TopicFilter, K), V>,
}
impl<K: Ord + Clone, V: Clone> FilterTrie<K, V> {
    /// Empty.
    pub fn new() -> Self {
        Self { entries: imbl::OrdMap::new() }
    }
    /// Adds.
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        self.entries.insert((filter.clone(), key), value)
    }
    /// Removes.
    pub fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        self.entries.remove(&(filter.clone(), key.clone()))
    }
    /// Value.
    pub fn get(&self, filter: &TopicFilter, key: &K) -> Option<&V> {
        self.entries.get(&(filter.clone(), key.clone()))
    }
    /// All.
    pub fn filters(&self) -> impl Iterator<Item = (TopicFilter, &K, &V)> {
        self.entries.iter().map(|((f, k), v)| (f.clone(), k, v))
    }
    /// Count.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Lookup.
    pub fn matches(&self, topic: &TopicName, found: &mut Matches<K, V>) {
        for ((f, k), v) in &self.entries {
            if f.matches(topic) {
                if f.is_shared() {
                    found.push_group(f, [(k.clone(), v.clone())].into_iter());
                } else {
                    found.plain.push((k.clone(), v.clone()));
                }
            }
        }
    }
}
impl<K: Ord + Clone, V: Clone> Default for FilterTrie<K, V> {
    fn default() -> Self {
        Self::new()
    }
}
