//! How a cluster comes to be, once: nodes introduce themselves, and when as many empty ones as expected
//! see each other, the one with the smallest id writes the formation to every volume.
//!
//! A node with a formation on its volume never forms another, whatever it sees. Members may be started
//! in any order, and a crash between two volumes is healed by asking again. Start at [`introduce`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;
use zwerm_raft::DiskWork;
use zwerm_store::keyspace::{Formation as FormationSpace, KeySpace};
use zwerm_store::{Batch, Engine, StoreError};

use crate::NodeId;
use crate::cluster::Shared;
use crate::transport::proto::{Formation, Introduction};

const FORMAT: u8 = 1;
/// Between two rounds of introductions while the cluster is not formed, and after.
const ROUND: Duration = Duration::from_millis(200);
const ROUND_FORMED: Duration = Duration::from_secs(2);
/// A member of a new cluster is asked within this time; a node that is not will never be.
const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// An introduction older than this does not count for forming.
const FRESH: Duration = Duration::from_secs(3);

/// Who introduced itself, and when.
#[derive(Debug, Default)]
pub(crate) struct Acquaintances(Mutex<BTreeMap<NodeId, (Introduction, Instant)>>);

impl Acquaintances {
    fn note(&self, introduction: Introduction) {
        self.0.lock().insert(introduction.id, (introduction, Instant::now()));
    }

    fn fresh(&self) -> Vec<Introduction> {
        let known = self.0.lock();
        known
            .values()
            .filter(|(_, at)| at.elapsed() < FRESH)
            .map(|(introduction, _)| introduction.clone())
            .collect()
    }
}

/// Reads the formation from the volume.
///
/// # Errors
/// When the disk fails, or holds what this version cannot read.
pub(crate) fn load(engine: &dyn Engine) -> Result<Option<Formation>, StoreError> {
    let Some(bytes) = engine.get(&FormationSpace::key(()))? else { return Ok(None) };
    match bytes.split_first() {
        Some((&FORMAT, rest)) => Formation::decode(rest)
            .map(Some)
            .map_err(|error| StoreError::Damaged(format!("the formation record: {error}"))),
        Some((version, _)) => Err(StoreError::Damaged(format!("the formation record has version {version}"))),
        None => Err(StoreError::Damaged("the formation record is empty".to_owned())),
    }
}

async fn save(engine: Arc<dyn Engine>, disk_work: &DiskWork, formation: &Formation) -> Result<(), String> {
    let mut bytes = vec![FORMAT];
    bytes.extend(formation.encode_to_vec());
    let mut batch = Batch::new();
    batch.put(FormationSpace::key(()), Bytes::from(bytes));
    let write = move || engine.commit(batch).and_then(|()| engine.sync());
    if matches!(disk_work, DiskWork::Inline(_)) {
        return write().map_err(|error| error.to_string());
    }
    match tokio::task::spawn_blocking(write).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Introduces this node to its peers until it stops, and forms the cluster if there is none.
pub(crate) async fn introduce(shared: &Shared) {
    let mut reported = None;
    let mut outside_since = None;
    loop {
        let hellos = shared.config.peers.iter().map(|address| greet(shared, address));
        futures::future::join_all(hellos).await;
        if shared.formation.get().is_none() {
            let state = try_form(shared, &mut outside_since).await;
            if reported.as_ref() != Some(&state) {
                tracing::info!("{state}");
                *shared.forming.lock() = state.clone();
                reported = Some(state);
            }
        }
        let settled = shared.formation.get().is_some() && remind(shared).await;
        tokio::time::sleep(if settled { ROUND_FORMED } else { ROUND }).await;
    }
}

async fn greet(shared: &Shared, address: &str) {
    match shared.peers.hello(address, shared.introduction()).await {
        Ok(introduction) => shared.meet(introduction),
        Err(error) => tracing::trace!(address, %error, "a peer did not answer"),
    }
}

/// One try at forming; says where it stands. `outside_since`: since when there is a cluster without this node.
async fn try_form(shared: &Shared, outside_since: &mut Option<Instant>) -> String {
    let mut fresh = shared.acquaintances.fresh();
    if let Some(member) = fresh.iter().find(|node| !node.cluster_id.is_empty()) {
        if outside_since.get_or_insert_with(Instant::now).elapsed() < ASKED_WITHIN {
            return format!("cluster {} is being formed; waiting to be asked", member.cluster_id);
        }
        return format!(
            "node {} belongs to cluster {} already and this node does not: \
             a node cannot join a formed cluster in this version; restore its volume, or form a new cluster",
            member.name, member.cluster_id
        );
    }
    fresh.push(shared.introduction());
    fresh.sort_by_key(|node| node.id);
    fresh.dedup_by_key(|node| node.id);
    let expected = shared.config.bootstrap_expect;
    if fresh.len() != expected {
        return format!("waiting for nodes to form a cluster: {} of {expected} are here", fresh.len());
    }
    if fresh.first().map(|node| node.id) != Some(shared.own.id) {
        return "all nodes are here; the one with the smallest id forms the cluster".to_owned();
    }
    let cluster_id = format!("{:032x}", rand::random::<u128>());
    let formation = Formation { cluster_id, members: fresh, shards: shared.config.shards };
    match shared.accept(formation).await {
        Ok(()) => "forming the cluster".to_owned(),
        Err(reason) => format!("cannot form the cluster: {reason}"),
    }
}

/// Asks the members that do not know of the formation yet; true when all have said that they do.
async fn remind(shared: &Shared) -> bool {
    let Some(formation) = shared.formation.get() else { return false };
    let fresh = shared.acquaintances.fresh();
    let others = formation.members.iter().filter(|member| member.id != shared.own.id);
    let mut settled = true;
    for member in others {
        let known = fresh.iter().find(|node| node.id == member.id);
        if known.is_some_and(|node| !node.cluster_id.is_empty()) {
            continue;
        }
        settled = false;
        if known.is_none() {
            continue;
        }
        match shared.peers.form(member.id, formation.clone()).await {
            Ok(reply) if reply.accepted => {}
            Ok(reply) => {
                tracing::error!(node = member.name, reason = reply.reason, "a node refuses the cluster")
            }
            Err(error) => {
                tracing::debug!(node = member.name, %error, "a node could not be told of the cluster")
            }
        }
    }
    settled
}

impl Shared {
    /// Notes who another node is and where.
    pub(crate) fn meet(&self, introduction: Introduction) {
        if introduction.id != self.own.id {
            self.peers.learn(introduction.id, introduction.incarnation, &introduction.cluster_addr);
            self.acquaintances.note(introduction);
        }
    }

    /// Becomes a member of a cluster, for ever.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn accept(&self, formation: Formation) -> Result<(), String> {
        let _one_at_a_time = self.accepting.lock().await;
        if let Some(known) = self.formation.get() {
            let same = known.cluster_id == formation.cluster_id;
            return if same {
                Ok(())
            } else {
                Err(format!("this node is in cluster {} already", known.cluster_id))
            };
        }
        if !formation.members.iter().any(|member| member.id == self.own.id) {
            return Err("this node is not among the members".to_owned());
        }
        save(Arc::clone(&self.engine), &self.config.raft.disk_work, &formation).await?;
        tracing::info!(
            cluster = formation.cluster_id,
            members = formation.members.len(),
            "joined a new cluster"
        );
        self.adopt(formation);
        Ok(())
    }
}
