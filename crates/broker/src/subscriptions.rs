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
use zwerm_routing::{FilterTrie, Interest};
use zwerm_wire::{QoS, SubscribeOptions, TopicFilter};

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
    /// Of a durable session: with QoS 1 and 2 messages come through its queue, not through the mailbox.
    pub(crate) durable: bool,
}

impl Subscriber {
    /// Whether a copy with this quality of service comes through the mailbox.
    pub(crate) fn takes(&self, qos: QoS) -> bool {
        !self.durable || qos == QoS::AtMostOnce
    }

    /// Whether nothing but what is published with QoS 0 has to come to this node for it.
    fn is_only_qos0(&self) -> bool {
        self.durable && self.options.qos != QoS::AtMostOnce
    }
}

pub(crate) type Trie = FilterTrie<SessionKey, Arc<Subscriber>>;

/// Subscribers of one filter.
#[derive(Debug, Default, Clone, Copy)]
struct Members {
    all: u32,
    /// Those of them that want only what is published with QoS 0 here.
    only_qos0: u32,
}

impl Members {
    fn add(&mut self, subscriber: &Subscriber) {
        self.all += 1;
        self.only_qos0 += u32::from(subscriber.is_only_qos0());
    }

    fn remove(&mut self, subscriber: &Subscriber) {
        self.all -= 1;
        self.only_qos0 -= u32::from(subscriber.is_only_qos0());
    }

    /// As this node's route says it.
    fn interest(self, filter: &TopicFilter) -> Interest {
        let only_qos0 = self.all == self.only_qos0;
        // Durable members of a group get QoS 1 and 2 through their shards: whoever else is here counts.
        let counted = if only_qos0 { self.all } else { self.all - self.only_qos0 };
        // All plain subscribers of a node are one destination.
        let members = if filter.is_shared() { counted } else { counted.min(1) };
        Interest { members, only_qos0: only_qos0 && members > 0, ..Interest::default() }
    }
}

#[derive(Debug, Default)]
struct Table {
    trie: Trie,
    members: BTreeMap<TopicFilter, Members>,
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
        let Table { trie, members, .. } = &mut *table;
        let members = members.entry(filter.clone()).or_default();
        members.add(&subscriber);
        if let Some(old) = trie.insert(filter, key, subscriber) {
            members.remove(&old);
        }
        self.publish(&table);
        is_new
    }

    /// Whether a connection has a subscription.
    pub(crate) fn has(&self, filter: &TopicFilter, key: SessionKey) -> bool {
        self.snapshot().get(filter, &key).is_some()
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

    /// Calls `send` with what a route says of the filter's members here, in the order of changes: the lock
    /// is held during the call.
    pub(crate) fn with_interest<T>(&self, filter: &TopicFilter, send: impl FnOnce(Interest) -> T) -> T {
        let table = self.table.lock();
        send(table.members.get(filter).copied().unwrap_or_default().interest(filter))
    }

    /// Subscriptions there are.
    pub(crate) fn len(&self) -> usize {
        self.snapshot().len()
    }
}

impl Table {
    fn forget(&mut self, filter: &TopicFilter, key: SessionKey) {
        let Some(subscriber) = self.trie.remove(filter, &key) else { return };
        if let Some(members) = self.members.get_mut(filter) {
            members.remove(&subscriber);
            if members.all == 0 {
                self.members.remove(filter);
            }
        }
    }
}
