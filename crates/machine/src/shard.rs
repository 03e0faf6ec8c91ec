//! skeleton
use crate::SnapshotError;
use crate::records::{Message, Owner, ShardBatch, ShardCommand, ShardReplies, ShardReply};
use std::sync::Arc;
use zwerm_wire::{TopicFilter, TopicName};
/// A registry entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Owner.
    pub owner: Owner,
    /// Seconds.
    pub expiry_s: u32,
    /// 0 while connected.
    pub disconnected_at_ms: u64,
}
/// The state of a shard group. Clone O(1).
#[derive(Debug, Clone, Default)]
pub struct Shard {}
impl Shard {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }
    /// Applies one command.
    pub fn apply(&mut self, _command: &ShardCommand) -> ShardReply {
        todo!()
    }
    /// Applies each.
    pub fn apply_batch(&mut self, _batch: &ShardBatch) -> ShardReplies {
        todo!()
    }
    /// Matching, unexpired at now_ms, lazily, in topic order.
    pub fn retained(
        &self,
        _filter: &TopicFilter,
        _now_ms: u64,
    ) -> impl Iterator<Item = (TopicName, &Arc<Message>)> {
        std::iter::empty()
    }
    /// Count.
    pub fn retained_count(&self) -> usize {
        todo!()
    }
    /// Entry of a client.
    pub fn owner(&self, _client_id: &str) -> Option<&Entry> {
        todo!()
    }
    /// By id.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        std::iter::empty()
    }
    /// Count.
    pub fn clients(&self) -> usize {
        todo!()
    }
    /// In order.
    pub fn outbox(&self) -> impl Iterator<Item = (u64, &Arc<Message>)> {
        std::iter::empty()
    }
    /// Count.
    pub fn outbox_len(&self) -> usize {
        todo!()
    }
    /// Next time a Tick has work.
    pub fn next_due_ms(&self) -> Option<u64> {
        todo!()
    }
    /// Bytes.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        todo!()
    }
    /// From bytes.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn decode_snapshot(_bytes: &[u8]) -> Result<Self, SnapshotError> {
        todo!()
    }
    /// Of the whole state: equal states have equal digests.
    pub fn digest(&self) -> u64 {
        todo!()
    }
}
