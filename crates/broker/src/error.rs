//! Why a client cannot attach, by what it can do about it.

use thiserror::Error;
use zwerm_wire::ReasonCode;

/// A refused CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// No quorum answers, or this node has not joined its cluster: try another node.
    #[error("the owner of the client id cannot be agreed on now")]
    Unavailable,
    /// This node has no lease and had none for some time: try another node.
    #[error("this node is cut off from the others")]
    CutOff,
    /// A newer connection with the same id came first: it is the owner.
    #[error("a newer connection took the client id over")]
    TakenOver,
    /// The shard refused the claim: the id or the will is over a limit.
    #[error("the client id or its will is not accepted")]
    Refused,
}

impl AttachError {
    /// What CONNACK says.
    #[must_use]
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::Unavailable | Self::CutOff => ReasonCode::ServerUnavailable,
            Self::TakenOver => ReasonCode::ServerBusy,
            Self::Refused => ReasonCode::ImplementationSpecificError,
        }
    }
}
