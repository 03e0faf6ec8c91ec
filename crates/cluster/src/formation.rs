//! How a cluster comes to be, once: nodes introduce themselves, and when as many empty ones as expected
//! see each other, the one with the smallest id writes the formation to every volume.
//!
//! A node with a formation on its volume never forms another, whatever it sees, and an empty node that sees a node with
//! one asks to join instead (`joining.rs`). Members may be started in any order, and a crash between two volumes is
//! healed by asking again. Start at [`introduce`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;
use zwerm_machine::level::{Level, said};
use zwerm_raft::DiskWork;
use zwerm_store::keyspace::{Formation as FormationSpace, KeySpace};
use zwerm_store::{Batch, Engine, StoreError};

use crate::NodeId;
use crate::cluster::Shared;
use crate::joining::ask_to_join;
use crate::levels;
use crate::transport::proto::{Formation, Introduction};

const FORMAT: u8 = 1;
/// Between two rounds of introductions while the cluster is not formed, and after.
const ROUND: Duration = Duration::from_millis(200);
const ROUND_FORMED: Duration = Duration::from_secs(2);
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

/// Notes on the volume which level the cluster of a formation has.
///
/// # Errors
/// What the disk says.
pub(crate) async fn note_level(shared: &Shared, formation: &Formation, level: Level) -> Result<(), String> {
    let formation = Formation { level, ..formation.clone() };
    save(Arc::clone(&shared.engine), &shared.config.raft.disk_work, &formation).await
}

async fn save(engine: Arc<dyn Engine>, disk_work: &DiskWork, formation: &Formation) -> Result<(), String> {
    put_synced(engine, disk_work, FormationSpace::key(()), record(formation)).await
}

/// A formation as it is on a volume, under the key of [`FormationSpace`].
pub(crate) fn record(formation: &Formation) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend(formation.encode_to_vec());
    bytes
}

/// Writes one record; it is on the disk when this returns.
///
/// # Errors
/// What the disk says.
pub(crate) async fn put_synced(
    engine: Arc<dyn Engine>,
    disk_work: &DiskWork,
    key: Vec<u8>,
    value: Vec<u8>,
) -> Result<(), String> {
    let mut batch = Batch::new();
    batch.put(key, Bytes::from(value));
    let written = disk_work.run(move || engine.commit(batch).and_then(|()| engine.sync())).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Introduces this node to its peers until it stops, and forms the cluster if there is none.
pub(crate) async fn introduce(shared: &Shared) {
    let mut reported = None;
    let mut round = 0;
    loop {
        let hellos = shared.config.peers.iter().map(|address| greet(shared, address));
        let is_alone = futures::future::join_all(hellos).await.into_iter().all(|is_self| is_self);
        if shared.formation.get().is_none() {
            let state = try_form(shared, round, is_alone).await;
            if reported.as_ref() != Some(&state) {
                tracing::info!("{state}");
                *shared.forming.lock() = state.clone();
                reported = Some(state);
            }
        }
        note_foreign(shared);
        round += 1;
        let settled = shared.formation.get().is_some() && remind(shared).await;
        tokio::time::sleep(if settled { ROUND_FORMED } else { ROUND }).await;
    }
}

/// Notes, and logs once, that a peer belongs to another cluster than this node.
fn note_foreign(shared: &Shared) {
    let Some(own) = shared.cluster_id.get() else { return };
    let fresh = shared.acquaintances.fresh();
    let is_foreign = |node: &&Introduction| !node.cluster_id.is_empty() && node.cluster_id != *own;
    let foreign = fresh.iter().find(is_foreign).map(|node| {
        format!(
            "node {} belongs to cluster {}, this one to {own}: correct cluster.peers, or start one of them with an \
             empty data directory",
            node.name, node.cluster_id
        )
    });
    let mut noted = shared.foreign.lock();
    if *noted != foreign {
        if let Some(foreign) = &foreign {
            tracing::error!("{foreign}");
        }
        *noted = foreign;
    }
}

/// True if it is this node itself that answers there.
async fn greet(shared: &Shared, address: &str) -> bool {
    match shared.peers.hello(address, shared.introduction()).await {
        Ok(introduction) => {
            let same_cluster = shared.cluster_id.get().is_some_and(|own| *own == introduction.cluster_id);
            if introduction.removed && same_cluster {
                shared.departed.cancel();
            }
            if same_cluster {
                shared.ceiling.hear(introduction.level);
            }
            for other in introduction.known.iter().filter(|_| same_cluster) {
                shared.peers.learn(other.id, other.incarnation, &other.cluster_addr);
            }
            let is_self = introduction.id == shared.own.id;
            shared.meet(introduction);
            is_self
        }
        Err(error) => {
            tracing::trace!(address, %error, "a peer did not answer");
            false
        }
    }
}

/// One try at forming a cluster, or at joining one that is there; says where it stands. `is_alone`: all
/// peers, if any, are this node itself.
async fn try_form(shared: &Shared, round: usize, is_alone: bool) -> String {
    let mut fresh = shared.acquaintances.fresh();
    let members: Vec<&Introduction> = fresh.iter().filter(|node| !node.cluster_id.is_empty()).collect();
    if let (Some(one), Some(other)) = differing(&members) {
        return format!(
            "the peers belong to different clusters: node {} to {}, node {} to {}; correct cluster.peers",
            one.name, one.cluster_id, other.name, other.cluster_id
        );
    }
    if let Some(member) = members.get(round.checked_rem(members.len()).unwrap_or_default()) {
        return ask_to_join(shared, member).await;
    }
    fresh.push(shared.introduction());
    fresh.sort_by_key(|node| node.id);
    fresh.dedup_by_key(|node| node.id);
    let expected = shared.config.bootstrap_expect;
    if let Some(name) = twice(&fresh) {
        return format!("two of the nodes are named {name:?}: give each a name of its own (node.name)");
    }
    if expected == 0 {
        return "waiting for a node of a cluster to join: bootstrap_expect is 0, so none is formed"
            .to_owned();
    }
    if expected == 1 && !is_alone {
        // A name may be resolved late, and who lives there may have a cluster.
        return "waiting for a peer of a cluster to join: a node with peers forms none by itself (to form one with them, \
                set cluster.bootstrap_expect to their number; to begin alone, leave cluster.peers empty)"
            .to_owned();
    }
    if fresh.len() != expected {
        return format!("waiting for nodes to form a cluster: {} of {expected} are here", fresh.len());
    }
    if fresh.first().map(|node| node.id) != Some(shared.own.id) {
        return "all nodes are here; the one with the smallest id forms the cluster".to_owned();
    }
    let (shards, replicas) = (shared.config.shards, shared.config.replicas);
    let level = match levels::beginning(&fresh, replicas) {
        Ok(level) => level,
        Err(reason) => return reason,
    };
    let cluster_id = format!("{:032x}", rand::random::<u128>());
    let formation = Formation { cluster_id, members: fresh, shards, joined: false, level, replicas };
    match shared.accept(formation).await {
        Ok(()) => "forming the cluster".to_owned(),
        Err(reason) => format!("cannot form the cluster: {reason}"),
    }
}

/// Two nodes of different clusters, if there are.
fn differing<'a>(members: &[&'a Introduction]) -> (Option<&'a Introduction>, Option<&'a Introduction>) {
    let first = members.first().copied();
    let differs = |node: &&&Introduction| first.is_some_and(|first| first.cluster_id != node.cluster_id);
    (first, members.iter().find(differs).copied())
}

/// A name that two nodes have.
fn twice(nodes: &[Introduction]) -> Option<&str> {
    let mut names: Vec<&str> =
        nodes.iter().map(|node| node.name.as_str()).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.windows(2).find_map(|pair| match pair {
        [one, other] if one == other => Some(*one),
        _ => None,
    })
}

/// Asks the members that do not know of the formation yet; true when all have said that they do.
async fn remind(shared: &Shared) -> bool {
    let Some(formation) = shared.formation.get().filter(|formation| !formation.joined) else { return true };
    let control = shared.control.state();
    let is_member = |node: &Introduction| !control.is_formed() || control.node(node.id).is_some();
    let fresh = shared.acquaintances.fresh();
    let others = formation.members.iter().filter(|node| node.id != shared.own.id && is_member(node));
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
            self.acquaintances.note(Introduction { known: Vec::new(), ..introduction });
        }
    }

    /// Members of this node's cluster that introduced themselves just now.
    pub(crate) fn members_met(&self) -> Vec<Introduction> {
        let Some(own) = self.cluster_id.get() else { return Vec::new() };
        let mut met = self.acquaintances.fresh();
        met.retain(|node| node.cluster_id == *own);
        met
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
        if !formation.joined && !formation.members.iter().any(|member| member.id == self.own.id) {
            return Err("this node is not among the members".to_owned());
        }
        levels::check(self.config.levels, said(formation.level)).map_err(|error| error.to_string())?;
        save(Arc::clone(&self.engine), &self.config.raft.disk_work, &formation).await?;
        tracing::info!(
            cluster = formation.cluster_id,
            members = formation.members.len(),
            joined = formation.joined,
            "this node belongs to a cluster from now on"
        );
        self.adopt(formation);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zwerm_store::MemoryEngine;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    async fn saved(formation: &Formation) -> (Arc<MemoryEngine>, String) {
        let engine = Arc::new(MemoryEngine::new());
        let work = DiskWork::Inline(Arc::new(|| Duration::ZERO));
        save(Arc::<MemoryEngine>::clone(&engine), &work, formation).await.unwrap();
        let bytes = engine.get(&FormationSpace::key(())).unwrap().unwrap();
        (engine, hex(&bytes))
    }

    #[tokio::test]
    async fn the_bytes_of_a_formation_are_frozen_and_read_back() {
        let node = Introduction { id: 300, name: "n".into(), ..Introduction::default() };
        let before = Formation {
            cluster_id: "c".into(),
            members: vec![node],
            shards: 16,
            joined: true,
            ..Formation::default()
        };
        let level_2 = Formation { level: 2, replicas: 5, ..before.clone() };
        let bytes = "010a0163120608ac0212016e18102001";
        for (formation, bytes) in [(before, bytes.to_owned()), (level_2, format!("{bytes}28023005"))] {
            let (engine, found) = saved(&formation).await;
            assert_eq!(found, bytes);
            assert_eq!(load(engine.as_ref()).unwrap(), Some(formation));
        }
    }

    #[test]
    fn a_formation_of_another_version_is_refused() {
        for bad in [&[][..], &[2, 0x0a], &[1, 0x0a]] {
            let engine = MemoryEngine::new();
            let mut batch = Batch::new();
            batch.put(FormationSpace::key(()), Bytes::copy_from_slice(bad));
            engine.commit(batch).unwrap();
            assert!(matches!(load(&engine), Err(StoreError::Damaged(_))), "{bad:?}");
        }
    }
}
