//! What can go wrong on a disk, by what the caller can do about it.

use std::path::PathBuf;

/// A failed operation of an [`Engine`](crate::Engine).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the database open: stop it, or use another directory.
    #[error("the database in {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The bytes on disk are not what was written: replace this node's volume.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// A newer release wrote this directory: run that release.
    #[error("the data has format {found}, this release reads up to {supported}: start a newer release")]
    NewerFormat {
        /// Version found on disk.
        found: u32,
        /// Newest version this release reads.
        supported: u32,
    },
    /// A value is larger than [`Batch::MAX_VALUE`](crate::Batch::MAX_VALUE): the caller must chunk it.
    #[error("a value of {0} bytes is over the limit of {max}", max = crate::Batch::MAX_VALUE)]
    ValueTooLarge(usize),
    /// The operating system refused; nothing written since the last successful sync can be relied on.
    #[error("cannot {action}")]
    Io {
        /// What was tried, for the log.
        action: &'static str,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Names what was tried when the operating system refused.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
