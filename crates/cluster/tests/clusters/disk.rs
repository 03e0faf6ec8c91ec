//! An engine in memory that outlives its node, and refuses to write messages of queues when told to.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use zwerm_store::keyspace::{KeySpace, ShardMessage};
use zwerm_store::{Batch, Engine, MemoryEngine, StoreError, Write};

#[derive(Debug, Default)]
pub struct Disk {
    engine: MemoryEngine,
    /// While set, no message of a queue is written or deleted.
    pub fails: AtomicBool,
}

impl Disk {
    pub fn crash(&self) {
        self.engine.crash();
    }

    /// Records of messages.
    pub fn messages(&self) -> usize {
        let (from, to) = ([ShardMessage::PREFIX], [ShardMessage::PREFIX + 1]);
        self.engine.scan(&from, &to, usize::MAX, false).unwrap().len()
    }
}

impl Engine for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.engine.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.engine.scan(from, to, limit, reverse)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let is_message = |write: &Write| {
            let (Write::Put { key, .. } | Write::Delete { key }) = write;
            key.first() == Some(&ShardMessage::PREFIX)
        };
        if self.fails.load(Ordering::SeqCst) && batch.clone().into_writes().iter().any(is_message) {
            return Err(StoreError::Damaged("told to fail".to_owned()));
        }
        self.engine.commit(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.engine.sync()
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.engine.size_on_disk()
    }
}
