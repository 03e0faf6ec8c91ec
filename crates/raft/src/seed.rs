//! Writes a group that begins with a state, as the snapshot of its only voter: for a volume that no host uses yet.
//!
//! What is written is what a node leaves behind that was the only voter of the group, applied one entry, made a snapshot
//! and purged its log. Blocking. Start at [`seed`].

use std::sync::Arc;

use bytes::Bytes;
use zwerm_store::{Batch, Engine, StoreError};

use crate::consensus::{LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};
use crate::log::disk::{put_purged, put_vote};
use crate::snapshot::SnapshotStore;
use crate::{GroupId, NodeId};

/// Writes, durably, a group whose only voter is `node` and whose machine restores `state`
/// ([`Machine::restore`](crate::Machine::restore)). The records of the machine are the caller's.
///
/// # Errors
/// [`StoreError::Damaged`] if the group is there already; when the disk refuses.
pub fn seed(engine: &Arc<dyn Engine>, group: GroupId, node: NodeId, state: Bytes) -> Result<(), StoreError> {
    let snapshots = SnapshotStore::open(group.0, Arc::clone(engine))?;
    if snapshots.load()?.is_some() {
        return Err(StoreError::Damaged(format!("group {group} has a state already")));
    }
    let last = LogId { leader_id: LeaderId { term: 1, node_id: node }, index: 1 };
    let membership = Membership::new_with_defaults(vec![[node].into()], []);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
    };
    let mut batch = Batch::new();
    put_vote(&mut batch, group.0, Vote::new(1, node));
    put_purged(&mut batch, group.0, last);
    engine.commit(batch)?;
    snapshots.save(&meta, state)
}
