//! Exclusive subscriptions over the shards: how a connection becomes the holder of a filter although the one before it
//! may have died with its node, and how holders that are gone are forgotten.
//!
//! Who holds a filter is in the shard of the filter; whether a holder is still there, the shard of its client knows
//! (`machine/src/exclusive.rs`). Knows no sessions. Start at [`Cluster::exclude`].

use std::collections::BTreeMap;
use std::time::Duration;

use zwerm_machine::records::{Exclude, Holder, Holds, Vacate};

use crate::Cluster;
use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::replica::ShardView;
use crate::shards::ShardError;
use crate::takeover::tell_all;

/// How often holders that are gone are looked for, and how many of a shard are looked at then.
const SWEEP: Duration = Duration::from_secs(60);
const SWEPT: usize = 256;
/// How often a holder is found gone while others do the same, before the filter counts as taken.
const ATTEMPTS: usize = 4;

impl Cluster {
    /// Makes a connection of this node the holder of an exclusive filter; false if another client holds it. When it
    /// is true, every node has ended what may be left of a holder before it.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn exclude(&self, filter: &str, by: &Holder) -> Result<bool, ShardError> {
        let mut gone = None;
        for _ in 0..ATTEMPTS {
            let exclude = Exclude { filter: filter.to_owned(), by: Some(by.clone()), gone: gone.take() };
            let holder = self.client_of(filter)?.exclude(exclude).await?;
            if holder == *by {
                return Ok(true);
            }
            let holds = Holds { filter: filter.to_owned(), by: Some(holder.clone()) };
            let held = self.client_of(&holder.client_id)?.holds(holds).await?;
            if held.held {
                return Ok(false);
            }
            tell_all(self.shared(), &holder.client_id, held.before).await;
            gone = Some(holder);
        }
        Ok(false)
    }

    /// A connection holds an exclusive filter no more; returns when that is committed.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn vacate(&self, filter: &str, by: &Holder) -> Result<(), ShardError> {
        self.client_of(filter)?.vacate(Vacate { filter: filter.to_owned(), by: Some(by.clone()) }).await
    }

    /// Looks through what the shards led here say of exclusive filters, from where the last look ended, and forgets
    /// holders that are gone. Runs by itself every minute.
    pub async fn sweep_exclusive(&self, places: &mut BTreeMap<u32, String>) {
        self.shared().sweep(places).await;
    }
}

/// Sweeps until the node stops.
pub(crate) async fn keep_sweeping(shared: &Shared) {
    let mut places = BTreeMap::new();
    loop {
        tokio::time::sleep(SWEEP).await;
        shared.sweep(&mut places).await;
    }
}

impl Shared {
    async fn sweep(&self, places: &mut BTreeMap<u32, String>) {
        for (shard, view) in &*self.shard_views() {
            if self.host.group(group_of(*shard)).is_some_and(|group| group.is_leader()) {
                self.sweep_shard(view, places.entry(*shard).or_default()).await;
            } else {
                places.remove(shard);
            }
        }
    }

    async fn sweep_shard(&self, view: &ShardView, place: &mut String) {
        let state = view.state();
        let owned = |(filter, holder): (&str, &Holder)| (filter.to_owned(), holder.clone());
        let some: Vec<_> = state.exclusives(place).take(SWEPT).map(owned).collect();
        drop(state);
        place.clear();
        if let Some((last, _)) = some.get(SWEPT - 1) {
            place.push_str(last);
        }
        for (filter, holder) in some {
            if let Err(error) = self.forget_if_gone(filter, holder).await {
                tracing::debug!(%error, "the holder of an exclusive subscription could not be looked for");
            }
        }
    }

    async fn forget_if_gone(&self, filter: String, holder: Holder) -> Result<(), ShardError> {
        let holds = Holds { filter, by: Some(holder) };
        // As this node knows it is free; only what may be gone is asked for.
        let own = holds.by.as_ref().and_then(|by| self.shard_view(self.shard_of(&by.client_id)?));
        if own.is_some_and(|view| view.state().may_hold(&holds)) {
            return Ok(());
        }
        let client = holds.by.as_ref().map(|by| self.client_of(&by.client_id)).transpose()?;
        let Some(client) = client else { return Ok(()) };
        if client.holds(holds.clone()).await?.held {
            return Ok(());
        }
        let Holds { filter, by } = holds;
        self.client_of(&filter)?.vacate(Vacate { filter: filter.clone(), by }).await
    }
}
