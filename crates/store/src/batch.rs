//! A group of writes that happens entirely or not at all.

use bytes::Bytes;

use crate::StoreError;

/// One write of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets `key` to `value`.
    Put {
        /// Key, with its key-space prefix.
        key: Vec<u8>,
        /// Value, at most [`Batch::MAX_VALUE`] bytes.
        value: Bytes,
    },
    /// Removes `key`; nothing happens if it is not there.
    Delete {
        /// Key, with its key-space prefix.
        key: Vec<u8>,
    },
}

/// Writes applied atomically by [`Engine::commit`](crate::Engine::commit), in the order given: of two
/// writes to one key the later counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch {
    /// Largest value in bytes. sled moves a page of over a quarter of its segment into a file that it never
    /// syncs; small values keep every page far below that (see the `sled_engine` module).
    pub const MAX_VALUE: usize = 64 << 10;

    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.writes.push(Write::Put { key, value });
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.bytes += key.len();
        self.writes.push(Write::Delete { key });
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds all writes of `other` after those of `self`.
    pub fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.writes.append(&mut other.writes);
    }

    /// The writes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }

    /// Refuses a batch that an engine could not keep durable.
    ///
    /// # Errors
    /// [`StoreError::ValueTooLarge`] for the first value over [`Self::MAX_VALUE`].
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        for write in &self.writes {
            if let Write::Put { value, .. } = write
                && value.len() > Self::MAX_VALUE
            {
                return Err(StoreError::ValueTooLarge(value.len()));
            }
        }
        Ok(())
    }
}
