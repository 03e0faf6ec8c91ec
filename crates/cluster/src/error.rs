//! Why a node does not start to take part.

use thiserror::Error;
use zwerm_raft::HostError;
use zwerm_store::StoreError;

use crate::LevelError;

/// What keeps a node from starting.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The volume cannot be read or is from another version.
    #[error("cannot read this node's volume")]
    Store(#[from] StoreError),
    /// Raft does not start.
    #[error("cannot start the Raft groups of this node")]
    Raft(#[from] HostError),
    /// The cluster that the volume belongs to can more, or less, than this program.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The configuration contradicts the volume.
    #[error("{0}")]
    Mismatch(String),
}
