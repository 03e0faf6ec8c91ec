//! What a shard remembers of each node: which incarnations are dead, and the last batch that it proposed.
//!
//! Incarnations of a node grow from 1, so one number says which are dead. Start at [`Peers`].

use std::sync::Arc;

use imbl::OrdMap;

use crate::records::{PeerRecord, ShardBatch, ShardReplies};

/// By node. Grows with nodes ever seen, not with clients. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(OrdMap<u64, Peer>);

#[derive(Debug, Clone, Default)]
struct Peer {
    /// This incarnation and all before it are dead.
    lost: u64,
    /// The start of the node that proposed last, and the sequence of its last batch.
    producer: u64,
    sequence: u64,
    /// What that batch was answered.
    replies: Arc<ShardReplies>,
}

/// Whether a batch is to be applied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Turn {
    /// It is.
    New,
    /// It was the last of its producer, and was answered so.
    Repeated(Arc<ShardReplies>),
    /// It is older: nobody waits for its answer any more.
    Outdated,
}

impl Peers {
    /// The incarnation is dead: what it asks for came too late.
    pub(crate) fn is_lost(&self, node: u64, incarnation: u64) -> bool {
        self.0.get(&node).is_some_and(|peer| incarnation <= peer.lost)
    }

    /// An incarnation and all before it are dead. False if that was known.
    pub(crate) fn lose(&mut self, node: u64, incarnation: u64) -> bool {
        let peer = self.0.entry(node).or_default();
        let news = incarnation > peer.lost;
        peer.lost = peer.lost.max(incarnation);
        news
    }

    /// Whether a batch is new. One that is not numbered always is.
    pub(crate) fn turn(&self, batch: &ShardBatch) -> Turn {
        #[cfg(feature = "sabotage")]
        if zwerm_sabotage::is_broken(zwerm_sabotage::Rule::ApplyOnce) {
            return Turn::New;
        }
        let Some(peer) = self.0.get(&batch.producer_node).filter(|_| batch.sequence > 0) else {
            return Turn::New;
        };
        let (this, last) = ((batch.producer_incarnation, batch.sequence), (peer.producer, peer.sequence));
        match this.cmp(&last) {
            std::cmp::Ordering::Greater => Turn::New,
            std::cmp::Ordering::Equal => Turn::Repeated(Arc::clone(&peer.replies)),
            std::cmp::Ordering::Less => Turn::Outdated,
        }
    }

    /// Takes note of what a new batch was answered.
    pub(crate) fn note(&mut self, batch: &ShardBatch, replies: &ShardReplies) {
        if batch.sequence > 0 {
            let peer = self.0.entry(batch.producer_node).or_default();
            peer.producer = batch.producer_incarnation;
            peer.sequence = batch.sequence;
            peer.replies = Arc::new(replies.clone());
        }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = PeerRecord> {
        self.0.iter().map(|(node, peer)| PeerRecord {
            node: *node,
            lost_incarnation: peer.lost,
            producer_incarnation: peer.producer,
            sequence: peer.sequence,
            replies: Some(ShardReplies::clone(&peer.replies)),
        })
    }

    pub(crate) fn restore(&mut self, record: PeerRecord) {
        let peer = Peer {
            lost: record.lost_incarnation,
            producer: record.producer_incarnation,
            sequence: record.sequence,
            replies: Arc::new(record.replies.unwrap_or_default()),
        };
        self.0.insert(record.node, peer);
    }
}
