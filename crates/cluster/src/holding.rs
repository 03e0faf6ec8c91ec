//! The shards that this node holds: opened when they are placed here, given up and deleted when they are not any more.
//!
//! What was decided last about a shard is on the disk before it is done, with the version of the placement that said
//! so. After a restart this node may know an older state of the control group than it did before: that opens no shard
//! again that was deleted, and above all deletes none that was given to it since. Start at [`hold_shards`].

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use zwerm_machine::is_held_by;
use zwerm_machine::records::Placement;
use zwerm_raft::Host;
use zwerm_store::keyspace::{Holding as HoldingSpace, KeySpace};
use zwerm_store::{MessageLog, StoreError};

use crate::cluster::Shared;
use crate::formation::put_synced;
use crate::leadership::open_shard;
use crate::ledger::group_of;

const FORMAT: u8 = 1;

/// What was decided last about a shard, on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holding {
    /// Of the placement that it rests on.
    version: u64,
    held: bool,
}

/// What to do about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// Nothing; or nothing yet, for what this node knows is older than what it did.
    Wait,
    /// Open it, with what is on the disk.
    Open,
    /// Delete what is on the disk, then open it.
    OpenEmpty,
    /// Delete what is on the disk.
    Delete,
}

impl Holding {
    fn decide(self, placement: &Placement, is_here: bool, on_disk: bool) -> Deed {
        match (is_here, self.held) {
            _ if placement.version < self.version => Deed::Wait,
            (true, true) => Deed::Open,
            // What is there was to be deleted.
            (true, false) if on_disk => Deed::OpenEmpty,
            (true, false) => Deed::Open,
            (false, true) if placement.version > self.version => Deed::Delete,
            (false, false) if on_disk => Deed::Delete,
            (false, _) => Deed::Wait,
        }
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.push(u8::from(self.held));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes {
            [FORMAT, version @ .., held @ (0 | 1)] => {
                let version = version.try_into().map(u64::from_be_bytes);
                let version =
                    version.map_err(|_| StoreError::Damaged("a holding record is malformed".to_owned()))?;
                Ok(Self { version, held: *held == 1 })
            }
            _ => Err(StoreError::Damaged("a holding record is malformed, or of a newer version".to_owned())),
        }
    }
}

/// A shard that is open here; the token ends what watches it.
type Open = BTreeMap<u32, CancellationToken>;

/// Holds what is placed here until the node stops.
pub(crate) async fn hold_shards(shared: &Arc<Shared>) {
    let mut applied = shared.control.applied();
    let (mut open, mut seen) = (Open::new(), BTreeMap::new());
    loop {
        let control = shared.control.state();
        for placement in control.placement() {
            // Only what changed is looked at: this state changes with every route.
            if seen.insert(placement.shard, placement.version) == Some(placement.version) {
                continue;
            }
            if let Err(reason) = hold(shared, placement, &mut open).await {
                tracing::error!(
                    shard = placement.shard,
                    reason,
                    "a shard can neither be opened nor given up; this node cannot take part"
                );
                shared.broken.cancel();
                return std::future::pending().await;
            }
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Brings one shard to what its placement says.
async fn hold(shared: &Arc<Shared>, placement: &Placement, open: &mut Open) -> Result<(), String> {
    let shard = placement.shard;
    let is_here = is_held_by(placement, shared.own.id);
    let votes = placement.voters.contains(&shared.own.id);
    if is_here && open.contains_key(&shard) {
        if votes && let Some(group) = shared.host.group(group_of(shard)) {
            group.stand_for_election();
        }
        return Ok(());
    }
    let on_disk = shared.host.known_groups().contains(&group_of(shard));
    let holding = load(shared, shard, on_disk).map_err(|error| error.to_string())?;
    let version = placement.version;
    match holding.decide(placement, is_here, on_disk) {
        Deed::Wait => {}
        Deed::Open => {
            if !holding.held {
                note(shared, shard, Holding { version, held: true }).await?;
            }
            open.insert(shard, open_shard(shared, placement).await);
        }
        Deed::OpenEmpty => {
            erase(&shared.host, shard).await?;
            note(shared, shard, Holding { version, held: true }).await?;
            open.insert(shard, open_shard(shared, placement).await);
        }
        Deed::Delete => {
            note(shared, shard, Holding { version, held: false }).await?;
            if let Some(watching) = open.remove(&shard) {
                watching.cancel();
            }
            shared.remove_shard_view(shard);
            shared.host.close(group_of(shard)).await;
            erase(&shared.host, shard).await?;
            tracing::info!(shard, "this node gave a shard up");
        }
    }
    Ok(())
}

async fn erase(host: &Host, shard: u32) -> Result<(), String> {
    let group = group_of(shard);
    host.erase(group, MessageLog::keys(group.0)).await.map_err(|error| error.to_string())
}

fn load(shared: &Shared, shard: u32, on_disk: bool) -> Result<Holding, StoreError> {
    match shared.engine.get(&HoldingSpace::key(group_of(shard).0))? {
        Some(bytes) => Holding::decode(&bytes),
        // It did not move since the cluster was formed, as far as this node knew.
        None => Ok(Holding { version: 0, held: on_disk }),
    }
}

async fn note(shared: &Shared, shard: u32, holding: Holding) -> Result<(), String> {
    if holding.version == 0 {
        return Ok(());
    }
    let key = HoldingSpace::key(group_of(shard).0);
    put_synced(Arc::clone(&shared.engine), &shared.config.raft.disk_work, key, holding.encode()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_newer_than_what_was_done_opens_or_deletes_a_shard() {
        let placement = |version| Placement { version, ..Placement::default() };
        for (version, held, seen, is_here, on_disk, deed) in [
            (0, false, 0, true, false, Deed::Open),
            (0, true, 0, true, true, Deed::Open),
            (0, true, 2, false, true, Deed::Delete),
            (0, false, 2, false, false, Deed::Wait),
            (3, true, 1, false, true, Deed::Wait),
            (3, true, 3, true, true, Deed::Open),
            (3, true, 4, false, true, Deed::Delete),
            (4, false, 2, true, false, Deed::Wait),
            (4, false, 4, false, true, Deed::Delete),
            (4, false, 5, true, true, Deed::OpenEmpty),
            (4, false, 5, true, false, Deed::Open),
        ] {
            let holding = Holding { version, held };
            let case = format!("{holding:?} seen {seen} here {is_here} on disk {on_disk}");
            assert_eq!(holding.decide(&placement(seen), is_here, on_disk), deed, "{case}");
        }
    }

    #[test]
    fn a_record_is_frozen_and_read_back() {
        let holding = Holding { version: 0x0102, held: true };
        assert_eq!(holding.encode(), [1, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
        assert_eq!(Holding::decode(&holding.encode()).unwrap(), holding);
        for bad in [&[][..], &[2, 0, 0, 0, 0, 0, 0, 1, 2, 1], &[1, 0, 1], &[1, 0, 0, 0, 0, 0, 0, 1, 2, 7]] {
            assert!(Holding::decode(bad).is_err(), "{bad:?}");
        }
    }
}
