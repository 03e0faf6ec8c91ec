//! The door to the disk: what every engine promises.

use bytes::Bytes;

use crate::{Batch, StoreError};

/// An ordered map of bytes that survives the process, and after [`sync`](Self::sync) the power.
///
/// All calls block: async callers use a thread of their own (see `zwerm-raft`'s log writer).
pub trait Engine: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// When the disk cannot be read or its bytes are damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Up to `limit` pairs with `from <= key < to`, in key order, or from the end backwards if `reverse`.
    ///
    /// # Errors
    /// When the disk cannot be read or its bytes are damaged.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// Applies all writes or none. Visible to every reader when it returns; durable only after the next
    /// [`sync`](Self::sync), and never before an earlier commit is.
    ///
    /// # Errors
    /// [`StoreError::ValueTooLarge`] (nothing is written), or when the disk refuses.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns when every commit that returned before this call is on the disk (with [`SyncMode::Fsync`]).
    ///
    /// # Errors
    /// When the disk refuses. What was written since the last success may be lost, and a later success
    /// does not change that (the kernel reports a lost page once): the caller must stop promising.
    fn sync(&self) -> Result<(), StoreError>;

    /// What [`sync`](Self::sync) waits for.
    fn sync_mode(&self) -> SyncMode {
        SyncMode::Fsync
    }

    /// Bytes the engine occupies.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    fn size_on_disk(&self) -> Result<u64, StoreError>;
}

/// What [`Engine::sync`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// The disk has it: survives a power cut.
    #[default]
    Fsync,
    /// The operating system has it: survives `kill -9`, not a power cut.
    Os,
}
