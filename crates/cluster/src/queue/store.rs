//! The messages that a shard's queues name, as readers see them: what was stored last is in memory, everything
//! in the engine, as `zwerm.records.v1.Message`.
//!
//! A number always has the same bytes and is never used again. Knows no queues, and not how records lie on the
//! disk ([`MessageLog`] does). Start at [`MessageStore::get`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use zwerm_machine::records::Message;
use zwerm_raft::{DiskWork, GroupId};
use zwerm_store::{Engine, MessageLog, MessageReader, StoreError};

/// Bytes of messages kept in memory per shard, besides the disk. Policy: the oldest go first.
const RECENT_BYTES: usize = 2 << 20;
/// What a message in memory costs beyond its bytes, about.
const OVERHEAD: usize = 256;
/// Messages read from disk at a time, at most.
const STEP: usize = 64;

/// Messages with their numbers.
pub(crate) type Numbered = Vec<(u64, Arc<Message>)>;

/// What was stored last.
#[derive(Debug, Default)]
struct Recent {
    messages: BTreeMap<u64, Arc<Message>>,
    bytes: usize,
}

fn cost(message: &Message) -> usize {
    OVERHEAD + message.payload.len() + message.topic.len()
}

impl Recent {
    fn insert(&mut self, number: u64, message: Message) {
        self.bytes += cost(&message);
        if let Some(old) = self.messages.insert(number, Arc::new(message)) {
            self.bytes -= cost(&old);
        }
        while self.bytes > RECENT_BYTES {
            let Some((_, oldest)) = self.messages.pop_first() else { break };
            self.bytes -= cost(&oldest);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(message) = self.messages.remove(&number) {
            self.bytes -= cost(&message);
        }
    }
}

/// The messages of one shard on this node, for its readers.
#[derive(Debug)]
pub(crate) struct MessageStore {
    disk: MessageReader,
    disk_work: DiskWork,
    recent: Mutex<Recent>,
}

impl MessageStore {
    pub(crate) fn new(group: GroupId, engine: Arc<dyn Engine>, disk_work: DiskWork) -> Self {
        let disk = MessageLog::new(group.0, engine).reader();
        Self { disk, disk_work, recent: Mutex::default() }
    }

    /// Notes what the replica stores and forgets. Before it is on disk nothing that readers see names it.
    pub(crate) fn remember(&self, stored: Vec<(u64, Message)>, forgotten: &[u64]) {
        let mut recent = self.recent.lock();
        for (number, message) in stored {
            recent.insert(number, detached(message));
        }
        forgotten.iter().for_each(|&number| recent.remove(number));
    }

    /// Messages that are in memory, in the order of `numbers`; `None` for those that are not.
    pub(crate) fn recent<'a>(&self, numbers: impl IntoIterator<Item = &'a u64>) -> Vec<Option<Arc<Message>>> {
        let recent = self.recent.lock();
        numbers.into_iter().map(|number| recent.messages.get(number).cloned()).collect()
    }

    /// One message; `None` if it was forgotten, by an entry that the reader's state may not have applied yet.
    /// Blocks no task.
    ///
    /// # Errors
    /// When the disk fails or is damaged.
    pub(crate) async fn get(&self, number: u64) -> Result<Option<Arc<Message>>, StoreError> {
        if let Some(message) = self.recent.lock().messages.get(&number) {
            return Ok(Some(Arc::clone(message)));
        }
        let found = self.load(vec![number], 1).await?;
        Ok(found.into_iter().next().map(|(_, message)| message))
    }

    /// Reads messages from the disk, in order, until about `bytes` are found; those that were forgotten are left
    /// out. Blocks no task.
    ///
    /// # Errors
    /// When the disk fails or is damaged.
    pub(crate) async fn load(&self, numbers: Vec<u64>, bytes: usize) -> Result<Numbered, StoreError> {
        let found = self.load_records(numbers, bytes).await?.into_iter();
        found.map(|(number, record)| Ok((number, Arc::new(decode(record)?)))).collect()
    }

    /// The same, as they are on the disk.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) async fn load_records(
        &self,
        numbers: Vec<u64>,
        bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let disk = self.disk.clone();
        let done = self.disk_work.run(move || read(&disk, &numbers, bytes)).await;
        done.unwrap_or_else(|error| Err(StoreError::Damaged(format!("reading panicked: {error}"))))
    }
}

fn read(disk: &MessageReader, mut numbers: &[u64], bytes: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let (mut found, mut read) = (Vec::new(), 0);
    let mut step = 1;
    while !numbers.is_empty() && read < bytes {
        let (now, rest) = numbers.split_at(step.min(numbers.len()));
        for (number, record) in now.iter().zip(disk.read(now)?) {
            if let Some(record) = record {
                read += OVERHEAD + record.len();
                found.push((*number, record));
            }
        }
        numbers = rest;
        // Twice as many each time, while they are small: how large they are is known only then.
        let average = (read / found.len().max(1)).max(1);
        step = (2 * step).min(STEP).min(bytes.saturating_sub(read) / average + 1);
    }
    Ok(found)
}

fn decode(record: Bytes) -> Result<Message, StoreError> {
    Message::decode(record).map_err(|error| StoreError::Damaged(format!("a queued message: {error}")))
}

/// A copy that shares no buffer with the log entry it came in, which may be much larger.
fn detached(mut message: Message) -> Message {
    message.payload = Bytes::copy_from_slice(&message.payload);
    if let Some(data) = message.properties.as_mut().and_then(|kept| kept.correlation_data.as_mut()) {
        *data = Bytes::copy_from_slice(data);
    }
    message
}

#[cfg(test)]
mod tests {
    use zwerm_machine::records::Properties;
    use zwerm_store::MemoryEngine;

    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn message(size: usize) -> Message {
        let payload = vec![7; size].into();
        Message { topic: "a/b".to_owned(), payload, qos: 1, ..Message::default() }
    }

    /// A store whose disk holds messages 1 to `count`.
    fn store(count: u64, size: usize) -> MessageStore {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let mut log = MessageLog::new(GROUP.0, Arc::clone(&engine));
        log.store((1..=count).map(|number| (number, message(size).encode_to_vec().into())));
        log.commit(|_| true).unwrap();
        MessageStore::new(GROUP, engine, DiskWork::Threads)
    }

    #[test]
    fn the_record_of_a_message_is_frozen() {
        let message = Message {
            topic: "a/b".to_owned(),
            payload: "21.5".into(),
            qos: 1,
            retain: true,
            properties: Some(Properties { content_type: Some("t".to_owned()), ..Properties::default() }),
            expires_at_ms: 300,
            publisher: "p".to_owned(),
            publisher_epoch: 0,
        };
        let record = message.encode_to_vec();
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0a03612f62120432312e35180120012a0312017430ac023a0170");
        assert_eq!(decode(record.into()).unwrap(), message);
    }

    #[tokio::test]
    async fn a_load_stops_near_its_bytes_and_leaves_out_what_is_missing() {
        let store = store(200, 10_000);
        let found = store.load((1..=200).collect(), 256 << 10).await.unwrap();
        assert!((25..=40).contains(&found.len()), "{}", found.len());
        assert!(found.iter().map(|(number, _)| *number).eq(1..=found.len() as u64));
        let found = store.load(vec![199, 200, 201], 1 << 20).await.unwrap();
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [199, 200]);
    }

    #[tokio::test]
    async fn what_is_in_memory_is_bounded_and_the_rest_is_read_from_disk() {
        let many = 2 * RECENT_BYTES as u64 / 100_000;
        let store = store(many, 100_000);
        for number in 1..=many {
            store.remember(vec![(number, message(100_000))], &[]);
        }
        let found = store.recent([&1, &many]);
        assert!(found[0].is_none() && found[1].is_some());
        assert!(store.recent.lock().bytes <= RECENT_BYTES);
        for number in [1, many] {
            assert_eq!(store.get(number).await.unwrap().as_deref(), Some(&message(100_000)));
        }
        store.remember(Vec::new(), &(1..=many).collect::<Vec<_>>());
        assert_eq!(store.recent.lock().bytes, 0);
        assert_eq!(store.get(many + 1).await.unwrap(), None);
    }
}
