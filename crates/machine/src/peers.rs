//! What a shard remembers of each node: which incarnations are dead, and how far its commands came.
//!
//! Incarnations of a node grow from 1, so one number says which are dead. Start at [`Peers`].

use imbl::OrdMap;

use crate::records::{PeerRecord, Refusal};

/// Whether a numbered command is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequence {
    New,
    Repeated,
}

/// By node. Grows with nodes ever seen, not with clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(OrdMap<u64, PeerRecord>);

impl Peers {
    /// The incarnation is dead: what it asks for came too late.
    pub(crate) fn is_lost(&self, node: u64, incarnation: u64) -> bool {
        self.0.get(&node).is_some_and(|peer| incarnation <= peer.lost_incarnation)
    }

    /// An incarnation and all before it are dead. False if that was known.
    pub(crate) fn lose(&mut self, node: u64, incarnation: u64) -> bool {
        let peer = self.entry(node);
        let news = incarnation > peer.lost_incarnation;
        peer.lost_incarnation = peer.lost_incarnation.max(incarnation);
        news
    }

    /// Takes note of a numbered command; 0 is not numbered.
    pub(crate) fn produce(
        &mut self,
        node: u64,
        incarnation: u64,
        sequence: u64,
    ) -> Result<Sequence, Refusal> {
        if sequence == 0 {
            return Ok(Sequence::New);
        }
        let peer = self.entry(node);
        if incarnation < peer.producer_incarnation {
            return Err(Refusal::StaleIncarnation);
        }
        if incarnation == peer.producer_incarnation && sequence <= peer.sequence {
            return Ok(Sequence::Repeated);
        }
        peer.producer_incarnation = incarnation;
        peer.sequence = sequence;
        Ok(Sequence::New)
    }

    fn entry(&mut self, node: u64) -> &mut PeerRecord {
        self.0.entry(node).or_insert_with(|| PeerRecord { node, ..PeerRecord::default() })
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &PeerRecord> {
        self.0.values()
    }

    pub(crate) fn restore(&mut self, record: PeerRecord) {
        self.0.insert(record.node, record);
    }
}
