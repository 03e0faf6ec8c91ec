//! Who of this node's clients wants which topic.
//!
//! One writer at a time changes the trie and publishes a snapshot (O(1)); publishers read snapshots and
//! keep what they found until the generation changes. Knows no other node; it says how many members a
//! filter has here, which is this node's route. Start at [`Subscriptions::add`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use bytestring::ByteString;
use parking_lot::Mutex;
use zwerm_routing::FilterTrie;
use zwerm_wire::{SubscribeOptions, TopicFilter};

use crate::mailbox::Mailbox;

/// One connection of this node, for as long as the process lives.
pub(crate) type SessionKey = u64;

/// One subscription of one connection.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) key: SessionKey,
    pub(crate) client_id: ByteString,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) options: SubscribeOptions,
    pub(crate) subscription_id: Option<NonZeroU32>,
}

pub(crate) type Trie = FilterTrie<SessionKey, Arc<Subscriber>>;

#[derive(Debug, Default)]
struct Table {
    trie: Trie,
    members: BTreeMap<TopicFilter, u32>,
    by_session: BTreeMap<SessionKey, BTreeSet<TopicFilter>>,
}

/// All subscriptions of this node's connections.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    table: Mutex<Table>,
    snapshot: ArcSwap<Trie>,
    generation: AtomicU64,
}

impl Subscriptions {
    /// The trie as of now, for lookups without a lock.
    pub(crate) fn snapshot(&self) -> Guard<Arc<Trie>> {
        self.snapshot.load()
    }

    /// Changes whenever the snapshot changes.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds or replaces a subscription. True if the connection did not have it.
    pub(crate) fn add(&self, filter: &TopicFilter, subscriber: Arc<Subscriber>) -> bool {
        let mut table = self.table.lock();
        let key = subscriber.key;
        let is_new = table.by_session.entry(key).or_default().insert(filter.clone());
        if is_new {
            *table.members.entry(filter.clone()).or_default() += 1;
        }
        table.trie.insert(filter, key, subscriber);
        self.publish(&table);
        is_new
    }

    /// Removes a subscription. False if the connection does not have it.
    pub(crate) fn remove(&self, filter: &TopicFilter, key: SessionKey) -> bool {
        let mut table = self.table.lock();
        let Some(filters) = table.by_session.get_mut(&key) else { return false };
        if !filters.remove(filter) {
            return false;
        }
        if filters.is_empty() {
            table.by_session.remove(&key);
        }
        table.forget(filter, key);
        self.publish(&table);
        true
    }

    /// Removes all subscriptions of a connection and says which those were.
    pub(crate) fn remove_all(&self, key: SessionKey) -> BTreeSet<TopicFilter> {
        let mut table = self.table.lock();
        let Some(filters) = table.by_session.remove(&key) else { return BTreeSet::new() };
        for filter in &filters {
            table.forget(filter, key);
        }
        self.publish(&table);
        filters
    }

    fn publish(&self, table: &Table) {
        self.snapshot.store(Arc::new(table.trie.clone()));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Calls `send` with the filter's members as a route counts them, in the order of changes: the lock
    /// is held during the call.
    pub(crate) fn with_members<T>(&self, filter: &TopicFilter, send: impl FnOnce(u32) -> T) -> T {
        let table = self.table.lock();
        let members = table.members.get(filter).copied().unwrap_or(0);
        // All plain subscribers of a node are one destination.
        send(if filter.is_shared() { members } else { members.min(1) })
    }

    /// Subscriptions there are.
    pub(crate) fn len(&self) -> usize {
        self.snapshot().len()
    }
}

impl Table {
    fn forget(&mut self, filter: &TopicFilter, key: SessionKey) {
        self.trie.remove(filter, &key);
        if let Some(members) = self.members.get_mut(filter) {
            *members -= 1;
            if *members == 0 {
                self.members.remove(filter);
            }
        }
    }
}
