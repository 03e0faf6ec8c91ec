//! Linearizable reads of retained messages, from the leaders of the shards that may hold them.
//!
//! A filter without wildcards concerns one shard, one with wildcards all; each leader is asked once for
//! all the shards it leads. Start at [`Shared::read_retained`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use zwerm_machine::records::Message;
use zwerm_wire::TopicFilter;

use crate::NodeId;
use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::placement::shard_of;
use crate::shards::ShardError;
use crate::transport::proto::{RetainedBatch, RetainedRequest};

/// Messages and bytes handed on at a time, about.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;
/// How long a read looks for leaders before it gives up.
const PATIENCE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(50);

/// Messages that matched, in no order across shards.
pub type RetainedMessages = Vec<Arc<Message>>;

impl Shared {
    /// Sends everything that matches to `into`, which may close to stop early.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] if some shard had no leader for too long.
    pub(crate) async fn read_retained(
        &self,
        filter: &TopicFilter,
        into: &mpsc::Sender<RetainedMessages>,
    ) -> Result<(), ShardError> {
        let shards = self.formation.get().ok_or(ShardError::Unavailable)?.shards;
        let mut missing: BTreeSet<u32> = if filter.has_wildcard() {
            (0..shards).collect()
        } else {
            BTreeSet::from([shard_of(filter.parts().filter, shards)])
        };
        let deadline = Instant::now() + PATIENCE;
        let mut round = 0;
        while !missing.is_empty() && !into.is_closed() {
            for (leader, shards) in self.leaders_of(&missing, round) {
                for shard in self.read_from(leader, filter, shards, into).await {
                    missing.remove(&shard);
                }
            }
            if Instant::now() > deadline {
                return Err(ShardError::Unavailable);
            }
            if !missing.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
            round += 1;
        }
        Ok(())
    }

    /// Whom to ask for which shards; a shard that this node does not hold is asked for in turn.
    fn leaders_of(&self, shards: &BTreeSet<u32>, round: usize) -> BTreeMap<NodeId, Vec<u32>> {
        let mut leaders: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for &shard in shards {
            let group = group_of(shard);
            let voters = self.members_of(group);
            let turn = voters.get(round.checked_rem(voters.len()).unwrap_or_default()).copied();
            if let Some(leader) = self.leader_of(group).or(turn) {
                leaders.entry(leader).or_default().push(shard);
            }
        }
        leaders
    }

    /// Asks one node; returns the shards it answered for in full.
    async fn read_from(
        &self,
        leader: NodeId,
        filter: &TopicFilter,
        shards: Vec<u32>,
        into: &mpsc::Sender<RetainedMessages>,
    ) -> Vec<u32> {
        if leader == self.own.id {
            let mut answered = Vec::new();
            for shard in shards {
                if self.read_here(shard, filter, into).await {
                    answered.push(shard);
                }
            }
            return answered;
        }
        let request = RetainedRequest { shards: shards.clone(), filter: filter.as_str().to_owned() };
        match self.read_remote(leader, request, into).await {
            Ok(refused) => shards.into_iter().filter(|shard| !refused.contains(shard)).collect(),
            Err(error) => {
                tracing::debug!(leader = format_args!("{leader:016x}"), %error, "a retained read failed; trying again");
                Vec::new()
            }
        }
    }

    async fn read_remote(
        &self,
        leader: NodeId,
        request: RetainedRequest,
        into: &mpsc::Sender<RetainedMessages>,
    ) -> Result<Vec<u32>, crate::CallError> {
        let mut batches = self.peers.retained(leader, request).await?;
        let mut refused = Vec::new();
        while let Some(batch) = batches.next().await {
            let RetainedBatch { messages, refused: more } = batch?;
            refused.extend(more);
            let decoded = messages.into_iter().map(|bytes| Message::decode(bytes).map(Arc::new));
            let messages = decoded.collect::<Result<RetainedMessages, _>>();
            let messages = messages.map_err(|error| crate::CallError::Failed(error.to_string()))?;
            if !messages.is_empty() && into.send(messages).await.is_err() {
                break;
            }
        }
        Ok(refused)
    }

    /// Reads one shard that this node leads; false if it does not (any more).
    pub(crate) async fn read_here(
        &self,
        shard: u32,
        filter: &TopicFilter,
        into: &mpsc::Sender<RetainedMessages>,
    ) -> bool {
        let (Some(group), Some(view)) = (self.host.group(group_of(shard)), self.shard_view(shard)) else {
            return false;
        };
        if group.linearize().await.is_err() {
            return false;
        }
        let state = view.state();
        let (mut batch, mut bytes) = (RetainedMessages::new(), 0);
        for (_, message) in state.retained(filter, self.now_ms()) {
            bytes += message.payload.len() + message.topic.len();
            batch.push(Arc::clone(message));
            if batch.len() == BATCH || bytes > BATCH_BYTES {
                bytes = 0;
                if into.send(std::mem::take(&mut batch)).await.is_err() {
                    return true;
                }
            }
        }
        batch.is_empty() || into.send(batch).await.is_ok() || into.is_closed()
    }
}
