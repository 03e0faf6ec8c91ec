//! [`Replica`]: a [`Machine`] with what Raft must know of it, as openraft's state machine.
//!
//! The state lives in memory; a restart restores the last snapshot and re-applies the committed log. Owned
//! by openraft's state-machine task of the group.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use zwerm_store::{Engine, StoreError};

use crate::consensus::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::disk::Disk;
use crate::snapshot::SnapshotStore;
use crate::{Machine, records};

/// Entries applied before their views are published and their proposers answered, at most.
const BATCH: usize = 256;

/// A state machine and how far it has applied the log.
pub(crate) struct Replica {
    machine: Box<dyn Machine>,
    applied: Option<LogId>,
    membership: StoredMembership,
    disk: Disk,
    snapshots: Arc<SnapshotStore>,
    /// The keys of the machine's records.
    records: Option<Range<Vec<u8>>>,
    /// Bytes of commands applied since the last snapshot was begun.
    unsnapshotted: Arc<AtomicU64>,
}

impl Replica {
    /// A machine that has applied nothing yet.
    pub(crate) fn new(
        machine: Box<dyn Machine>,
        disk: Disk,
        snapshots: Arc<SnapshotStore>,
        unsnapshotted: Arc<AtomicU64>,
    ) -> Self {
        let membership = StoredMembership::default();
        let records = machine.records().map(|records| records.keys);
        Self { machine, applied: None, membership, disk, snapshots, records, unsnapshotted }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    fn apply_one(&mut self, id: LogId, payload: EntryPayload<crate::consensus::Command, u64, ()>) -> Bytes {
        self.applied = Some(id);
        match payload {
            EntryPayload::Blank => Bytes::new(),
            EntryPayload::Normal(command) => {
                self.unsnapshotted.fetch_add(command.0.len() as u64, Ordering::Relaxed);
                self.machine.apply(id.index, command.0)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                Bytes::new()
            }
        }
    }

    /// Makes a snapshot from another node the current one here. First the records that it does not name are
    /// deleted: nothing does that after a crash in between, and the older state that is restored then lacks only
    /// what entries that it has not applied forget. Then `save` syncs before the snapshot is current, and with it
    /// the records that were received before.
    async fn keep_installed(&self, meta: SnapshotMeta, data: Bytes) -> Result<(), StoreError> {
        // At a start openraft installs what it has just read from here.
        if self.snapshots.covers(&meta) {
            return Ok(());
        }
        let (store, names, keys) = (Arc::clone(&self.snapshots), self.machine.names(), self.records.clone());
        let keep = move |engine: &dyn Engine| {
            if let Some(keys) = keys {
                records::sweep(engine, &keys, &names)?;
            }
            store.save(&meta, data)
        };
        self.disk.run(keep).await
    }

    /// Publishes the views, then answers.
    fn answer(&mut self, replies: &mut Vec<(ApplyResponder<Types>, Bytes)>) -> io::Result<()> {
        if let Some(id) = self.applied {
            self.machine.applied(id.index).map_err(io::Error::other)?;
        }
        replies.drain(..).for_each(|(responder, reply)| responder.send(reply));
        Ok(())
    }
}

impl RaftStateMachine<Types> for Replica {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut replies = Vec::new();
        let mut count = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_one(entry.log_id, entry.payload);
            replies.extend(responder.map(|responder| (responder, reply)));
            count += 1;
            if count % BATCH == 0 {
                self.answer(&mut replies)?;
            }
        }
        self.answer(&mut replies)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.unsnapshotted.store(0, Ordering::Relaxed);
        SnapshotBuilder {
            meta: self.meta(),
            serialise: Mutex::new(Some(self.machine.snapshot())),
            disk: self.disk.clone(),
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.machine
            .restore(snapshot.clone(), index)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        self.keep_installed(meta.clone(), snapshot).await.map_err(io::Error::other)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.machine.applied(index).map_err(io::Error::other)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let store = Arc::clone(&self.snapshots);
        self.disk.run(move |_| store.load()).await.map_err(io::Error::other)
    }
}

/// What [`Machine::snapshot`] returns.
type Serialise = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// A view of the state, not yet serialised.
pub(crate) struct SnapshotBuilder {
    meta: SnapshotMeta,
    /// A mutex only because openraft wants the builder to be `Sync`.
    serialise: Mutex<Option<Serialise>>,
    disk: Disk,
    snapshots: Arc<SnapshotStore>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let serialise = self.serialise.lock().take();
        let serialise = serialise.ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let (store, meta) = (Arc::clone(&self.snapshots), self.meta.clone());
        let build = move |_: &dyn Engine| {
            let data = Bytes::from(serialise());
            store.save(&meta, data.clone())?;
            Ok(data)
        };
        let snapshot = self.disk.run(build).await.map_err(io::Error::other)?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
