//! Writes the volume of the first node of a new cluster from an archive.
//!
//! The new cluster has the shards of the old one and none of its nodes: those count as removed, so that the leaders of the
//! shards end what they owned, as for any node that is dead. What durable sessions want is routed before anybody publishes.
//! Blocking, and without a cluster. Start at [`restore`].

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use zwerm_machine::records::Node;
use zwerm_machine::{Control, Shard};
use zwerm_raft::seed;
use zwerm_store::keyspace::{Formation as FormationSpace, KeySpace};
use zwerm_store::{Batch, Engine, MessageLog, StoreError};

use super::archive::{Contents, Summary, read};
use super::format::ArchiveError;
use super::proto::{Head, Numbered};
use crate::NodeId;
use crate::formation::record;
use crate::ledger::{CONTROL, group_of};
use crate::transport::proto::{Formation, Introduction};

/// The node that the new cluster begins with.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Of its volume; new.
    pub node: NodeId,
    /// Of the new cluster; new.
    pub cluster_id: String,
    /// The time of day in milliseconds.
    pub now_ms: u64,
}

/// Reads a whole archive and writes what is in it to an empty engine, durably. What it says of an archive that is
/// damaged it says at the end too: what was written by then is of no use.
///
/// # Errors
/// See [`ArchiveError`].
pub fn restore(from: impl Read, seed: &Seed, engine: &Arc<dyn Engine>) -> Result<Summary, ArchiveError> {
    let mut restoring = Restoring {
        seed,
        engine,
        stood_still_ms: 0,
        control: Control::new(),
        nodes: BTreeSet::new(),
        unsynced: 0,
    };
    let summary = read(from, &mut restoring)?;
    restoring.finish()?;
    Ok(summary)
}

/// Bytes of messages written between two syncs, about: an engine must not be given gigabytes.
const UNSYNCED: usize = 8 << 20;

struct Restoring<'a> {
    seed: &'a Seed,
    engine: &'a Arc<dyn Engine>,
    stood_still_ms: u64,
    /// Of the new cluster.
    control: Control,
    /// Of the old cluster, those included that only a shard remembers.
    nodes: BTreeSet<NodeId>,
    unsynced: usize,
}

impl Contents for Restoring<'_> {
    fn head(&mut self, head: &Head) -> Result<(), StoreError> {
        self.stood_still_ms = self.seed.now_ms.saturating_sub(head.taken_at_ms);
        let Seed { node, cluster_id, now_ms } = self.seed;
        // Its name and addresses it says when it starts.
        let own = Node { id: *node, ..Node::default() };
        let control = Control::reseed(cluster_id, head.shards, own, *now_ms);
        self.control = control.ok_or_else(no_cluster)?;
        Ok(())
    }

    fn control(&mut self, control: Control) -> Result<(), StoreError> {
        self.nodes.extend(control.removed().chain(control.nodes().map(|node| node.id)));
        Ok(())
    }

    fn shard(&mut self, shard: u32, state: &Shard) -> Result<(), StoreError> {
        self.nodes.extend(state.named_nodes());
        if !self.control.adopt_routes(shard, state, self.seed.now_ms) {
            return Err(no_cluster());
        }
        let mut state = state.clone();
        state.stand_still(self.stood_still_ms);
        self.seed_group(group_of(shard), state.encode_snapshot())
    }

    fn messages(&mut self, shard: u32, messages: Vec<Numbered>) -> Result<(), StoreError> {
        let mut log = MessageLog::new(group_of(shard).0, Arc::clone(self.engine));
        self.unsynced += messages.iter().map(|numbered| numbered.message.len()).sum::<usize>();
        log.store(messages.into_iter().map(|Numbered { number, message }| (number, message)));
        log.commit(|_| true)?;
        if self.unsynced >= UNSYNCED {
            self.unsynced = 0;
            self.engine.sync()?;
        }
        Ok(())
    }
}

fn no_cluster() -> StoreError {
    StoreError::Damaged("what the archive says makes no cluster".to_owned())
}

impl Restoring<'_> {
    fn seed_group(&self, group: zwerm_raft::GroupId, state: Vec<u8>) -> Result<(), StoreError> {
        seed(self.engine, group, self.seed.node, Bytes::from(state))
    }

    fn finish(mut self) -> Result<(), StoreError> {
        self.control.forget_nodes(self.nodes.iter().copied());
        self.seed_group(CONTROL, self.control.encode_snapshot())?;
        let Seed { node, cluster_id, .. } = self.seed;
        let formation = Formation {
            cluster_id: cluster_id.clone(),
            members: vec![Introduction { id: *node, ..Introduction::default() }],
            shards: self.control.shards(),
            joined: false,
            ..Formation::default()
        };
        let mut batch = Batch::new();
        batch.put(FormationSpace::key(()), record(&formation));
        self.engine.commit(batch)?;
        self.engine.sync()
    }
}
