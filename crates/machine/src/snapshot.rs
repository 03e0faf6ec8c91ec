//! skeleton
use thiserror::Error;
/// Why snapshot bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Written by a newer zwerm: upgrade this node.
    #[error("the snapshot has format {found}, this version reads up to {supported}: upgrade this node")]
    Newer {
        /// In the bytes.
        found: u8,
        /// The newest this version reads.
        supported: u8,
    },
    /// Not a snapshot of this machine, or damaged: fetch it again from the leader.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
}
