//! An ordered persistent map that is small when it holds little. Knows no topics. Start at [`SmallMap`].
//!
//! Most trie nodes have one child and most filters one subscriber, and a B-tree leaf has room for sixteen
//! entries whatever it holds: one entry is in the map itself, and a few are a sorted vector of exact size. Only a map of
//! many entries needs the B-tree, whose clone is O(1).

use std::borrow::Borrow;

use imbl::OrdMap;

/// From so many entries on a map is a B-tree.
const MANY: usize = 9;
/// A B-tree that shrinks to this becomes a vector again; well below [`MANY`], so that a map at the edge does
/// not change its form at every step.
const FEW: usize = 4;

#[derive(Clone)]
pub(crate) enum SmallMap<K, V> {
    /// One entry.
    One((K, V)),
    /// None, or sorted by key, below [`MANY`] entries.
    Few(Vec<(K, V)>),
    /// Above [`FEW`] entries.
    Many(OrdMap<K, V>),
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> SmallMap<K, V> {
    pub(crate) const fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Ord, V> SmallMap<K, V> {
    /// In key order.
    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        match self {
            Self::One(entry) => Iter::Few(std::slice::from_ref(entry).iter()),
            Self::Few(list) => Iter::Few(list.iter()),
            Self::Many(map) => Iter::Many(map.iter()),
        }
    }
}

impl<K: Ord + Clone, V: Clone> SmallMap<K, V> {
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match self {
            Self::One((have, value)) => (have.borrow() == key).then_some(value),
            Self::Few(list) => {
                let at = list.binary_search_by(|(have, _)| have.borrow().cmp(key)).ok()?;
                list.get(at).map(|(_, value)| value)
            }
            Self::Many(map) => map.get(key),
        }
    }

    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match self {
            Self::One((have, value)) => ((*have).borrow() == key).then_some(value),
            Self::Few(list) => {
                let at = list.binary_search_by(|(have, _)| have.borrow().cmp(key)).ok()?;
                list.get_mut(at).map(|(_, value)| value)
            }
            Self::Many(map) => map.get_mut(key),
        }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::One((have, old)) if *have == key => Some(std::mem::replace(old, value)),
            Self::One(_) => {
                if let Self::One(entry) = std::mem::take(self) {
                    let first = usize::from(entry.0 < key);
                    let mut list = vec![entry];
                    list.reserve_exact(1);
                    list.insert(first, (key, value));
                    *self = Self::Few(list);
                }
                None
            }
            Self::Few(list) if list.is_empty() => {
                *self = Self::One((key, value));
                None
            }
            Self::Few(list) => {
                let at = match list.binary_search_by(|(have, _)| have.cmp(&key)) {
                    Ok(at) => return list.get_mut(at).map(|slot| std::mem::replace(&mut slot.1, value)),
                    Err(at) => at,
                };
                list.reserve_exact(1);
                list.insert(at, (key, value));
                if list.len() >= MANY {
                    *self = Self::Many(list.drain(..).collect());
                }
                None
            }
            Self::Many(map) => map.insert(key, value),
        }
    }

    /// The value of a key, put there with its default first if it is missing.
    pub(crate) fn get_or_default<Q>(&mut self, key: &Q) -> &mut V
    where
        K: Borrow<Q> + for<'a> From<&'a Q>,
        Q: Ord + ?Sized,
        V: Default,
    {
        self.get_or_insert_with(key, V::default)
    }

    /// The value of a key, put there first if it is missing.
    pub(crate) fn get_or_insert_with<Q>(&mut self, key: &Q, value: impl FnOnce() -> V) -> &mut V
    where
        K: Borrow<Q> + for<'a> From<&'a Q>,
        Q: Ord + ?Sized,
    {
        if let Self::Many(map) = self {
            return map.entry(K::from(key)).or_insert_with(value);
        }
        if self.get(key).is_none() {
            self.insert(K::from(key), value());
        }
        match self {
            Self::One((_, value)) => value,
            Self::Few(list) => {
                let at = list.partition_point(|(have, _)| have.borrow() < key);
                &mut list[at].1 // in range: the key is there
            }
            // It has become one only now.
            Self::Many(map) => match map.get_mut(key) {
                Some(value) => value,
                None => unreachable!("the key is there"),
            },
        }
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match self {
            Self::One((have, _)) if (*have).borrow() != key => None,
            Self::One(_) => match std::mem::take(self) {
                Self::One((_, value)) => Some(value),
                _ => None,
            },
            Self::Few(list) => {
                let at = list.binary_search_by(|(have, _)| have.borrow().cmp(key)).ok()?;
                let (_, value) = list.remove(at);
                if list.len() == 1
                    && let Some(entry) = list.pop()
                {
                    *self = Self::One(entry);
                }
                Some(value)
            }
            Self::Many(map) => {
                let value = map.remove(key)?;
                if map.len() <= FEW {
                    *self = Self::Few(std::mem::take(map).into_iter().collect());
                }
                Some(value)
            }
        }
    }
}

/// Entries of a [`SmallMap`] in key order.
pub(crate) enum Iter<'a, K, V> {
    Few(std::slice::Iter<'a, (K, V)>),
    Many(imbl::ordmap::Iter<'a, K, V, imbl::shared_ptr::DefaultSharedPtr>),
}

impl<'a, K: Ord, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(list) => list.next().map(|(key, value)| (key, value)),
            Self::Many(map) => map.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_small_map_is_a_map(steps in prop::collection::vec((any::<bool>(), 0u8..24, any::<u8>()), 0..200)) {
            let mut map = SmallMap::new();
            let mut model = BTreeMap::new();
            for (insert, key, value) in steps {
                if insert {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert_eq!(matches!(map, SmallMap::Few(_)) && model.len() >= MANY, false);
            }
        }
    }

    #[test]
    fn a_value_can_be_changed_in_place_in_both_forms() {
        let mut map = SmallMap::new();
        for key in 0..20 {
            map.insert(key, 0);
            *map.get_mut(&key).unwrap() += key;
        }
        assert!(map.iter().all(|(key, value)| key == value));
        assert_eq!(map.get_mut(&20), None);
    }
}
