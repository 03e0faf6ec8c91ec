//! Who hangs on one filter: plain subscribers, exclusive ones and shared groups. Knows no tree. Start at
//! [`Subscribers`].

use std::sync::Arc;

use bytestring::ByteString;
use zwerm_wire::TopicFilter;

use crate::Matches;
use crate::small_map::SmallMap;

/// The subscribers of one filter, `$share/name/` or `$exclusive/` taken off.
#[derive(Clone)]
pub(crate) struct Subscribers<K, V> {
    plain: SmallMap<K, V>,
    /// By name; under [`EXCLUSIVE`] whoever has the exclusive filter. Boxed: most filters have none.
    groups: Option<Box<Groups<K, V>>>,
}

type Groups<K, V> = SmallMap<Arc<str>, Group<K, V>>;

/// No name of a shared group: those have at least one character.
const EXCLUSIVE: &str = "";

/// The group that a filter belongs to; none if it is plain.
fn group_of(filter: &TopicFilter) -> Option<&str> {
    filter.parts().share.or_else(|| filter.is_exclusive().then_some(EXCLUSIVE))
}

/// A shared group on this filter, or its exclusive subscribers: apart from the plain ones, for one client may be both.
/// Never without members.
#[derive(Clone)]
struct Group<K, V> {
    /// Kept whole, since a lookup hands it out.
    filter: TopicFilter,
    members: SmallMap<K, V>,
}

impl<K, V> Default for Subscribers<K, V> {
    fn default() -> Self {
        Self { plain: SmallMap::new(), groups: None }
    }
}

impl<K, V> Subscribers<K, V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_none()
    }
}

impl<K: Ord + Clone, V: Clone> Subscribers<K, V> {
    pub(crate) fn get(&self, filter: &TopicFilter, key: &K) -> Option<&V> {
        match group_of(filter) {
            None => self.plain.get(key),
            Some(name) => self.groups.as_ref()?.get(name)?.members.get(key),
        }
    }

    pub(crate) fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let Some(name) = group_of(filter) else { return self.plain.insert(key, value) };
        let groups = self.groups.get_or_insert_default();
        if let Some(group) = groups.get_mut(name) {
            return group.members.insert(key, value);
        }
        let mut members = SmallMap::new();
        members.insert(key, value);
        groups.insert(name.into(), Group { filter: detached(filter), members });
        None
    }

    pub(crate) fn remove(&mut self, filter: &TopicFilter, key: &K) -> Option<V> {
        let Some(name) = group_of(filter) else { return self.plain.remove(key) };
        let groups = self.groups.as_mut()?;
        let group = groups.get_mut(name)?;
        let removed = group.members.remove(key);
        if group.members.is_empty() {
            groups.remove(name);
        }
        if groups.is_empty() {
            self.groups = None;
        }
        removed
    }

    pub(crate) fn add_to(&self, found: &mut Matches<K, V>) {
        found.plain.extend(self.plain.iter().map(owned));
        for (name, group) in self.groups.iter().flat_map(|groups| groups.iter()) {
            let members = group.members.iter().map(owned);
            if &**name == EXCLUSIVE {
                found.plain.extend(members);
            } else {
                found.push_group(&group.filter, members);
            }
        }
    }

    /// Plain subscribers by key, then exclusive ones, then groups by name with their members by key. `text` is the plain filter.
    pub(crate) fn entries<'a>(
        &'a self,
        text: &str,
    ) -> impl Iterator<Item = (TopicFilter, &'a K, &'a V)> + use<'a, K, V> {
        // The text was a filter when it was inserted; had it been none, there would be nothing to list.
        let plain = TopicFilter::new(ByteString::from(text)).ok();
        let plain = plain
            .into_iter()
            .flat_map(|filter| self.plain.iter().map(move |(key, value)| (filter.clone(), key, value)));
        let groups = self.groups.iter().flat_map(|groups| groups.iter());
        let shared = groups.flat_map(|(_, group)| {
            group.members.iter().map(|(key, value)| (group.filter.clone(), key, value))
        });
        plain.chain(shared)
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

/// A copy with a buffer of its own: a filter may be a slice of the packet it came in.
fn detached(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::new(ByteString::from(filter.as_str())).unwrap_or_else(|_| filter.clone())
}
