//! A shard's state as bytes and back. Knows the records, not the rules. Start at [`Shard::encode_snapshot`].

use std::sync::Arc;

use crate::entry::Entry;
use crate::message;
use crate::records::shard_record::Record;
use crate::records::{Message, ShardHead, ShardRecord};
use crate::snapshot::{self, Magic, Writer};
use crate::{Shard, SnapshotError};

const MAGIC: Magic = *b"ZWSH";

impl Shard {
    /// The whole state as bytes; equal states give equal bytes.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC);
        let mut push = |record| writer.push(&ShardRecord { record: Some(record) });
        push(Record::Head(ShardHead {
            epoch: self.epoch,
            outbox_sequence: self.outbox.last(),
            message: self.messages.last(),
        }));
        for peer in self.peers.records() {
            push(Record::Peer(*peer));
        }
        for (client, entry) in &self.clients {
            push(Record::Client(entry.record(client)));
        }
        for (_, message) in &self.retained {
            push(Record::Retained(Message::clone(message)));
        }
        for (sequence, entry) in self.outbox.iter() {
            push(Record::Outbox(entry.record(sequence)));
        }
        writer.finish()
    }

    /// The state that these bytes were written from.
    ///
    /// # Errors
    /// What [`SnapshotError`] says; the bytes are never trusted.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut shard = Self::new();
        for record in snapshot::read::<ShardRecord>(MAGIC, bytes)? {
            let record = record?.record.ok_or(SnapshotError::Damaged("an unknown record"))?;
            shard.restore(record)?;
        }
        Ok(shard)
    }

    fn restore(&mut self, record: Record) -> Result<(), SnapshotError> {
        match record {
            Record::Head(head) => {
                self.epoch = head.epoch;
                self.outbox.restore_last(head.outbox_sequence);
                self.messages.restore_last(head.message);
            }
            Record::Peer(peer) => self.peers.restore(peer),
            Record::Client(record) => {
                let client: Arc<str> = record.client_id.as_str().into();
                let entry =
                    Entry::restore(record).ok_or(SnapshotError::Damaged("a client without an owner"))?;
                self.put(&client, Some(entry));
            }
            Record::Retained(message) => {
                let topic = message::check(&message);
                let topic =
                    topic.map_err(|_| SnapshotError::Damaged("a retained message without a topic"))?;
                self.set_retained(topic, Some(Arc::new(message)));
            }
            Record::Outbox(record) => {
                let number = self.outbox.restore(record);
                self.messages
                    .name(number.ok_or(SnapshotError::Damaged("an outbox entry out of its place"))?, 1);
            }
        }
        Ok(())
    }

    /// A hash of the whole state: it differs as soon as two replicas do. Costs a snapshot.
    #[must_use]
    pub fn digest(&self) -> u64 {
        snapshot::checksum(&self.encode_snapshot())
    }
}
