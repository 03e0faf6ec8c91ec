//! skeleton
use zwerm_wire::{TopicFilter, TopicName};
/// Topic -> value.
#[derive(Debug, Clone)]
pub struct RetainedIndex<V: Clone> {
    entries: imbl::OrdMap<TopicName, V>,
}
impl<V: Clone> RetainedIndex<V> {
    /// Empty.
    pub fn new() -> Self {
        Self { entries: imbl::OrdMap::new() }
    }
    /// Sets.
    pub fn insert(&mut self, topic: &TopicName, value: V) -> Option<V> {
        self.entries.insert(topic.clone(), value)
    }
    /// Removes.
    pub fn remove(&mut self, topic: &TopicName) -> Option<V> {
        self.entries.remove(topic)
    }
    /// Gets.
    pub fn get(&self, topic: &TopicName) -> Option<&V> {
        self.entries.get(topic)
    }
    /// Count.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Matching, lazily.
    pub fn matches(&self, filter: &TopicFilter) -> impl Iterator<Item = (TopicName, &V)> {
        let f = filter.clone();
        self.entries.iter().filter(move |(t, _)| f.matches(t)).map(|(t, v)| (t.clone(), v))
    }
    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (TopicName, &V)> {
        self.entries.iter().map(|(t, v)| (t.clone(), v))
    }
}
