//! [`Host`]: all Raft groups of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zwerm_store::keyspace::{self, KeySpace, RaftLog, RaftSnapshot, RaftVote};
use zwerm_store::{Engine, StoreError};

use crate::consensus::Raft;
use crate::disk::Disk;
use crate::erase::erase;
use crate::log::store::LogStore;
use crate::log::writer::Writer;
use crate::peer::Peers;
use crate::pulse;
use crate::records::{Incoming, Outgoing};
use crate::replica::Replica;
use crate::serve::Server;
use crate::snapshot::SnapshotStore;
use crate::status::{self, Reporter};
use crate::{Config, Group, GroupId, HandleError, HostError, Machine, Network, NodeId};

/// All Raft groups of this node; clones share it.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    config: Arc<Config>,
    openraft: Arc<openraft::Config>,
    disk: Disk,
    network: Arc<dyn Network>,
    writer: Arc<Writer>,
    groups: RwLock<Groups>,
    /// The task of the pulse; taken when it is ended.
    pulse: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    fn open_groups(&self) -> Vec<Group> {
        self.groups.read().open.values().map(|open| open.group.clone()).collect()
    }
}

#[derive(Default)]
struct Groups {
    open: BTreeMap<GroupId, Open>,
    /// Groups with state on disk.
    known: BTreeSet<GroupId>,
    /// Groups that are being opened.
    opening: BTreeSet<GroupId>,
    closed: bool,
}

struct Open {
    group: Group,
    reporter: JoinHandle<()>,
    snapshots: Arc<SnapshotStore>,
}

impl Open {
    /// Returns when the tasks of the group have ended.
    async fn close(self) {
        self.group.shutdown().await;
        if self.reporter.await.is_err() {
            tracing::error!(group = self.group.id().0, "the group's reporter panicked");
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups: Vec<_> = self.inner.groups.read().open.keys().copied().collect();
        f.debug_struct("Host")
            .field("node", &self.inner.node)
            .field("groups", &groups)
            .finish_non_exhaustive()
    }
}

/// What the shared log writer did since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushStats {
    /// Syncs of the engine.
    pub syncs: u64,
    /// Requests that those syncs made durable (appends, votes, truncations).
    pub requests: u64,
    /// Bytes committed.
    pub bytes: u64,
    /// Time spent in commit and sync, in microseconds.
    pub busy_us: u64,
}

impl Host {
    /// Starts the log writer and the pulse of this node. Opens no group.
    ///
    /// # Errors
    /// [`HostError::Config`], or when the store cannot be read.
    pub async fn start(
        node: NodeId,
        config: Config,
        engine: Arc<dyn Engine>,
        network: Arc<dyn Network>,
    ) -> Result<Self, HostError> {
        let openraft = Arc::new(config.to_openraft()?);
        let disk = Disk::new(Arc::clone(&engine), config.disk_work.clone());
        let known = disk.run(groups_on_disk).await?;
        let writer = Writer::start(engine, &config.disk_work)
            .map_err(|source| StoreError::Io { action: "start the log writer", source })?;
        let groups = RwLock::new(Groups { known, ..Groups::default() });
        let (config, writer) = (Arc::new(config), Arc::new(writer));
        let (heartbeat, pulse) = (config.heartbeat, Mutex::default());
        let inner = Arc::new(Inner { node, config, openraft, disk, network, writer, groups, pulse });
        let host = Arc::downgrade(&inner);
        let running = pulse::run(heartbeat, move || Some(host.upgrade()?.open_groups()));
        *inner.pulse.lock() = Some(tokio::spawn(running));
        Ok(Self { inner })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Opens a group: restores snapshot and log from the engine, then takes part.
    ///
    /// # Errors
    /// [`HostError::Group`] if it is open already or its state cannot be restored.
    pub async fn open(&self, id: GroupId, machine: Box<dyn Machine>) -> Result<Group, HostError> {
        self.open_with(id, machine, Arc::clone(&self.inner.openraft)).await
    }

    /// The same for a node that is given the group, perhaps not for the first time: it does not stand for election
    /// until it [may](Group::stand_for_election). While it is sent the log from the beginning it believes the members
    /// of each entry that says some: it may once have been the only voter, and would elect itself.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_as_learner(&self, id: GroupId, machine: Box<dyn Machine>) -> Result<Group, HostError> {
        let passive = openraft::Config { enable_elect: false, ..self.inner.openraft.as_ref().clone() };
        self.open_with(id, machine, Arc::new(passive)).await
    }

    async fn open_with(
        &self,
        id: GroupId,
        machine: Box<dyn Machine>,
        openraft: Arc<openraft::Config>,
    ) -> Result<Group, HostError> {
        self.reserve(id)?;
        let opened = self.restore(id, machine, openraft).await;
        let mut groups = self.inner.groups.write();
        groups.opening.remove(&id);
        let open = opened?;
        let group = open.group.clone();
        groups.known.insert(id);
        groups.open.insert(id, open);
        Ok(group)
    }

    fn reserve(&self, id: GroupId) -> Result<(), HostError> {
        let mut groups = self.inner.groups.write();
        if groups.closed {
            return Err(HostError::Group(id.0, "the host is shutting down".into()));
        }
        if groups.open.contains_key(&id) || !groups.opening.insert(id) {
            return Err(HostError::Group(id.0, "it is open already".into()));
        }
        Ok(())
    }

    async fn restore(
        &self,
        id: GroupId,
        machine: Box<dyn Machine>,
        openraft: Arc<openraft::Config>,
    ) -> Result<Open, HostError> {
        let Inner { node, config, disk, network, .. } = self.inner.as_ref();
        let (log, snapshots) = self.read_disk(id).await?;
        let records = machine.records();
        let outgoing =
            records.as_ref().map(|records| Outgoing { disk: disk.clone(), keys: records.keys.clone() });
        let incoming = records.map(|records| Incoming::new(disk.clone(), records));
        let unsnapshotted = Arc::new(AtomicU64::new(0));
        let snapshots = Arc::new(snapshots);
        let replica = Replica::new(machine, disk.clone(), Arc::clone(&snapshots), Arc::clone(&unsnapshotted));
        let (network, peers_config) = (Arc::clone(network), Arc::clone(config));
        let peers = Peers { node: *node, group: id, network, config: peers_config, records: outgoing };
        let raft = Raft::new(*node, openraft, peers, log, replica)
            .await
            .map_err(|error| HostError::Group(id.0, error.to_string()))?;
        let (sender, status) = watch::channel(status::of(id, &raft.metrics().borrow_watched()));
        let reporter = Reporter { id, raft: raft.clone(), status: sender, unsnapshotted };
        let reporter = tokio::spawn(reporter.run(config.snapshot_after_bytes));
        let server = Server::new(raft.clone(), config.snapshot_chunk_timeout, incoming);
        let group = Group::new(id, *node, raft, status, (config.propose_timeout, server));
        Ok(Open { group, reporter, snapshots })
    }

    async fn read_disk(&self, id: GroupId) -> Result<(LogStore, SnapshotStore), HostError> {
        let (disk, writer) = (self.inner.disk.clone(), Arc::clone(&self.inner.writer));
        let (cache, request) = (self.inner.config.log_cache_bytes, self.inner.config.max_request_bytes);
        let open = move |_: &dyn Engine| {
            let snapshots = SnapshotStore::open(id.0, disk.engine())?;
            Ok((LogStore::open(id.0, disk, writer, cache, request)?, snapshots))
        };
        let opened = self.inner.disk.run(open).await?;
        opened.0.resume_purge().await.map_err(|error| HostError::Group(id.0, error.to_string()))?;
        Ok(opened)
    }

    /// What a peer's [`Network::call`] arrives as.
    ///
    /// # Errors
    /// See [`HandleError`].
    pub async fn handle(&self, from: NodeId, group: GroupId, request: Bytes) -> Result<Bytes, HandleError> {
        let Some(open) = self.group(group) else { return Err(HandleError::UnknownGroup(group.0)) };
        open.handle(request).await.inspect_err(|error| {
            tracing::debug!(from, group = group.0, %error, "a peer's request got no reply");
        })
    }

    /// An open group.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.inner.groups.read().open.get(&group).map(|open| open.group.clone())
    }

    /// Groups that have state on disk, open or not, in order.
    pub fn known_groups(&self) -> Vec<GroupId> {
        self.inner.groups.read().known.iter().copied().collect()
    }

    /// Counters of the log writer.
    pub fn flush_stats(&self) -> FlushStats {
        self.inner.writer.stats()
    }

    /// Ends an open group on this node, which takes no part in it any more. What it has on the disk stays.
    pub async fn close(&self, id: GroupId) {
        let open = self.inner.groups.write().open.remove(&id);
        let Some(open) = open else { return };
        let snapshots = Arc::clone(&open.snapshots);
        open.close().await;
        // What is being built meanwhile must not come to the disk later, when that is another's.
        let closed = self.inner.disk.run(move |_| {
            snapshots.close();
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::error!(group = id.0, %error, "the snapshots of a group could not be closed");
        }
    }

    /// Deletes, durably, all that a group which is not open has on the disk, with the records of its machine. If it
    /// was interrupted it must be done again before the group is opened.
    ///
    /// # Errors
    /// [`HostError::Group`] if the group is open, [`HostError::Store`] when the disk fails.
    pub async fn erase(&self, id: GroupId, records: Range<Vec<u8>>) -> Result<(), HostError> {
        self.reserve(id)?;
        let erased = async {
            let forgotten = self.inner.writer.forget(id.0).await;
            forgotten.map_err(|source| StoreError::Io { action: "forget a group", source })?;
            self.inner.disk.run(move |engine| erase(engine, id.0, &records)).await
        };
        let erased = erased.await;
        let mut groups = self.inner.groups.write();
        groups.opening.remove(&id);
        if erased.is_ok() {
            groups.known.remove(&id);
        }
        Ok(erased?)
    }

    /// Closes all groups, the pulse and the log writer; returns when their tasks and thread have ended. A group that is
    /// being opened meanwhile is not closed: end that first.
    pub async fn shutdown(&self) {
        let open = {
            let mut groups = self.inner.groups.write();
            groups.closed = true;
            std::mem::take(&mut groups.open)
        };
        let pulse = self.inner.pulse.lock().take();
        if let Some(pulse) = pulse {
            pulse.abort();
            if pulse.await.is_err_and(|error| error.is_panic()) {
                tracing::error!("the pulse panicked");
            }
        }
        futures::future::join_all(open.into_values().map(Open::close)).await;
        self.inner.writer.stop().await;
    }
}

fn groups_on_disk(engine: &dyn Engine) -> Result<BTreeSet<GroupId>, StoreError> {
    let mut found = BTreeSet::new();
    for prefix in [RaftVote::PREFIX, RaftLog::PREFIX, RaftSnapshot::PREFIX] {
        let mut from = vec![prefix];
        while let Some((key, _)) = engine.scan(&from, &[prefix + 1], 1, false)?.pop() {
            let group = keyspace::group_of(&key)
                .ok_or_else(|| StoreError::Damaged("a key of a group is malformed".into()))?;
            found.insert(GroupId(group));
            let Some(next) = group.checked_add(1) else { break };
            from.truncate(1);
            from.extend_from_slice(&next.to_be_bytes());
        }
    }
    Ok(found)
}
