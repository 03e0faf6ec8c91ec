//! Exclusive subscriptions (`$exclusive/filter`): which connection holds a filter, kept in the shard of the filter.
//!
//! A holder is a connection, named by its client id and the epoch of its claim. It is replaced by a later connection
//! of the same client, and by any other once the shard of its client says that it holds nothing any more
//! ([`Shard::holds`]): its connection is over, and no durable session of its client has the filter. That stays so for
//! ever, for an epoch never comes back, and a later connection of the client becomes the holder before it subscribes.
//! So whoever was told may act on it at any time, and only a client that unsubscribes and stays has to give its filter
//! back ([`Shard::vacate`]).
//!
//! Knows no subscriptions but by their filters. Start at [`Shard::exclude`].

use std::sync::Arc;

use imbl::OrdMap;
use zwerm_wire::TopicFilter;

use crate::Shard;
use crate::limits::{MAX_CLIENT_ID, MAX_EXCLUSIVE};
use crate::records::shard_reply::Reply;
use crate::records::{Exclude, Excluded, ExclusiveRecord, Held, Holder, Holds, Refusal, Vacate};
use crate::shard::{APPLIED, Outcome};

/// Holders by filter. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Exclusives(OrdMap<Arc<str>, Arc<Holder>>);

impl Exclusives {
    pub(crate) fn records(&self) -> impl Iterator<Item = ExclusiveRecord> {
        self.0.iter().map(|(filter, holder)| ExclusiveRecord {
            filter: filter.to_string(),
            holder: Some(Holder::clone(holder)),
        })
    }

    /// `None`: no command made it.
    pub(crate) fn restore(&mut self, record: ExclusiveRecord) -> Option<()> {
        let holder = record.holder.filter(|holder| !holder.client_id.is_empty())?;
        exclusive(&record.filter).ok()?;
        self.0.insert(record.filter.into(), Arc::new(holder));
        Some(())
    }
}

impl Shard {
    /// Makes a connection the holder of a filter that nobody holds, that its client holds, or whose holder is the one
    /// that is known to be gone; tells who holds it then.
    pub(crate) fn exclude(&mut self, exclude: &Exclude) -> Outcome {
        exclusive(&exclude.filter)?;
        let wanted = exclude.by.as_ref().filter(|by| !by.client_id.is_empty()).ok_or(Refusal::Invalid)?;
        if wanted.client_id.len() > MAX_CLIENT_ID {
            return Err(Refusal::Limit);
        }
        let known = self.exclusives.0.get(exclude.filter.as_str());
        if let Some(holder) = known {
            let is_gone = exclude.gone.as_ref() == Some(&**holder);
            if !is_gone && !is_followed(holder, wanted) {
                return Ok(Reply::Excluded(Excluded { holder: Some(Holder::clone(holder)) }));
            }
        } else if self.exclusives.0.len() >= MAX_EXCLUSIVE {
            return Err(Refusal::Busy);
        }
        self.exclusives.0.insert(exclude.filter.as_str().into(), Arc::new(wanted.clone()));
        Ok(Reply::Excluded(Excluded { holder: Some(wanted.clone()) }))
    }

    /// A connection, or an earlier one of its client, holds a filter no more. Another holder stays.
    pub(crate) fn vacate(&mut self, vacate: &Vacate) -> Outcome {
        exclusive(&vacate.filter)?;
        let by = vacate.by.as_ref().ok_or(Refusal::Invalid)?;
        if self.exclusives.0.get(vacate.filter.as_str()).is_some_and(|holder| is_followed(holder, by)) {
            self.exclusives.0.remove(vacate.filter.as_str());
        }
        APPLIED
    }

    /// In the shard of the client: whether a connection may have an exclusive subscription, which is while it is there
    /// and while the client's durable session has it. Changes nothing; a command, so that it is asked of the leader.
    pub(crate) fn holds(&self, holds: &Holds) -> Outcome {
        exclusive(&holds.filter)?;
        let by = holds.by.as_ref().ok_or(Refusal::Invalid)?;
        let owner = self.clients.get(by.client_id.as_str()).map(|entry| entry.owner);
        let owner = owner.filter(|owner| owner.connected);
        Ok(Reply::Held(Held {
            held: self.may_hold(holds),
            // Epochs that the shard gives later are greater.
            before: owner.map_or(self.epoch + 1, |owner| owner.epoch),
        }))
    }

    /// What [`Holds`] asks, as this state knows it.
    #[must_use]
    pub fn may_hold(&self, holds: &Holds) -> bool {
        let Some(by) = &holds.by else { return false };
        let owner = self.clients.get(by.client_id.as_str()).map(|entry| entry.owner);
        let is_connected = owner.is_some_and(|owner| owner.connected && owner.epoch == by.epoch);
        let is_kept = |filter: &TopicFilter| {
            self.session(&by.client_id).is_some_and(|session| session.subscriptions.contains_key(filter))
        };
        is_connected || exclusive(&holds.filter).is_ok_and(|filter| is_kept(&filter))
    }

    /// Exclusive filters with their holders, those included that may be gone; behind a filter, in order.
    pub fn exclusives(&self, after: &str) -> impl Iterator<Item = (&str, &Holder)> {
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.exclusives.0.range::<_, str>(behind).map(|(filter, holder)| (&**filter, &**holder))
    }

    /// How many those are.
    #[must_use]
    pub fn exclusives_len(&self) -> usize {
        self.exclusives.0.len()
    }
}

/// The same connection, or a later one of the same client.
fn is_followed(holder: &Holder, by: &Holder) -> bool {
    holder.client_id == by.client_id && holder.epoch <= by.epoch
}

fn exclusive(filter: &str) -> Result<TopicFilter, Refusal> {
    TopicFilter::new(filter).ok().filter(TopicFilter::is_exclusive).ok_or(Refusal::Invalid)
}
