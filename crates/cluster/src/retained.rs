//! Linearizable reads of retained messages, from the leaders of the shards that may hold them.
//!
//! A filter without wildcards concerns one shard, one with wildcards all; each leader is asked once for
//! all the shards it leads. A read that breaks goes on behind the last topic that it brought: no topic comes
//! twice, and what comes later is as new or newer. Start at [`Shared::read_retained`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use zwerm_machine::records::Message;
use zwerm_wire::TopicFilter;

use crate::cluster::Shared;
use crate::ledger::group_of;
use crate::placement::shard_of;
use crate::shards::ShardError;
use crate::transport::proto::{RetainedBatch, RetainedRequest};
use crate::{CallError, NodeId};

/// Messages and bytes handed on at a time, about.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;
/// How long a read looks for leaders before it gives up.
const PATIENCE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(50);

/// Messages that matched, in no order across shards.
pub type RetainedMessages = Vec<Arc<Message>>;

/// A read under way.
struct Reading<'a> {
    shared: &'a Shared,
    filter: &'a TopicFilter,
    into: &'a mpsc::Sender<RetainedMessages>,
    /// Shards that are not read to their end, with the last topic that came from each.
    missing: BTreeMap<u32, Option<String>>,
}

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
        let first = if filter.has_wildcard() {
            0..shards
        } else {
            let shard = shard_of(filter.parts().filter, shards);
            shard..shard + 1
        };
        let missing = first.map(|shard| (shard, None)).collect();
        let mut reading = Reading { shared: self, filter, into, missing };
        let deadline = Instant::now() + PATIENCE;
        let mut round = 0;
        while !reading.missing.is_empty() && !into.is_closed() {
            reading.round(round).await;
            if Instant::now() > deadline {
                return Err(ShardError::Unavailable);
            }
            if !reading.missing.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
            round += 1;
        }
        Ok(())
    }

    /// Reads one shard that this node leads, behind a topic; false if it does not (any more).
    pub(crate) async fn read_here(
        &self,
        shard: u32,
        filter: &TopicFilter,
        after: Option<&str>,
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
        let came = |topic: &str| after.is_some_and(|after| in_order(topic, after).is_le());
        for (_, message) in
            state.retained(filter, self.now_ms()).skip_while(|(_, message)| came(&message.topic))
        {
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

/// How the machine's retained messages are ordered: level by level.
fn in_order(one: &str, other: &str) -> std::cmp::Ordering {
    one.split('/').cmp(other.split('/'))
}

impl Reading<'_> {
    /// Asks every leader for what is missing.
    async fn round(&mut self, round: usize) {
        for (leader, shards) in self.leaders(round) {
            if leader == self.shared.own.id {
                self.read_own(shards).await;
            } else if let Err(error) = self.read_remote(leader, shards).await {
                tracing::debug!(leader = format_args!("{leader:016x}"), %error, "a retained read broke; going on");
            }
        }
    }

    /// Whom to ask for which shards; a shard that this node does not hold is asked for in turn.
    fn leaders(&self, round: usize) -> BTreeMap<NodeId, Vec<u32>> {
        let mut leaders: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for &shard in self.missing.keys() {
            let group = group_of(shard);
            let voters = self.shared.members_of(group);
            let turn = voters.get(round.checked_rem(voters.len()).unwrap_or_default()).copied();
            if let Some(leader) = self.shared.leader_of(group).or(turn) {
                leaders.entry(leader).or_default().push(shard);
            }
        }
        leaders
    }

    async fn read_own(&mut self, shards: Vec<u32>) {
        for shard in shards {
            let after = self.missing.get(&shard).cloned().flatten();
            if self.shared.read_here(shard, self.filter, after.as_deref(), self.into).await {
                self.missing.remove(&shard);
            }
        }
    }

    async fn read_remote(&mut self, leader: NodeId, shards: Vec<u32>) -> Result<(), CallError> {
        let after = |shard: &u32| self.missing.get(shard).cloned().flatten().unwrap_or_default();
        let request = RetainedRequest {
            after: shards.iter().map(after).collect(),
            shards: shards.clone(),
            filter: self.filter.as_str().to_owned(),
        };
        let mut batches = self.shared.peers.retained(leader, request).await?;
        let mut refused = BTreeSet::new();
        while let Some(batch) = batches.next().await {
            let RetainedBatch { messages, refused: more } = batch?;
            refused.extend(more);
            let decoded = messages.into_iter().map(|bytes| Message::decode(bytes).map(Arc::new));
            let messages = decoded.collect::<Result<RetainedMessages, _>>();
            let messages = messages.map_err(|error| CallError::Failed(error.to_string()))?;
            self.note(&messages);
            if !messages.is_empty() && self.into.send(messages).await.is_err() {
                break;
            }
        }
        self.missing.retain(|shard, _| refused.contains(shard) || !shards.contains(shard));
        Ok(())
    }

    /// Notes how far each shard has come.
    fn note(&mut self, messages: &RetainedMessages) {
        for message in messages {
            let shard = self.shared.shard_of(&message.topic);
            if let Some(last) = shard.and_then(|shard| self.missing.get_mut(&shard)) {
                let last = last.get_or_insert_default();
                last.clone_from(&message.topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use zwerm_routing::RetainedIndex;
    use zwerm_wire::TopicName;

    use super::*;

    #[test]
    fn topics_are_ordered_as_the_index_orders_them() {
        let mut index = RetainedIndex::new();
        let deep = ["x"; 70].join("/");
        let topics =
            ["a", "a/b", "a/b/c", "a/", "a!", "/", "", "b", "a/c", "a/b!", &deep, &format!("{deep}/y")];
        for topic in topics.into_iter().filter(|topic| !topic.is_empty()) {
            index.insert(&TopicName::new(topic).unwrap(), ());
        }
        let found: Vec<String> = index.iter().map(|(topic, ())| topic.to_string()).collect();
        assert_eq!(found.len(), topics.len() - 1);
        assert!(found.is_sorted_by(|one, other| in_order(one, other).is_lt()), "{found:?}");
    }
}
