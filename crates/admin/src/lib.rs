//! HTTP for people and probes: health, readiness, metrics, status, and changes.
//!
//! What is read is answered from what this node knows itself: a scrape never calls another node. The crate
//! knows no broker and no cluster; it sees them through [`NodeView`] and changes them through [`NodeControl`].
//! Start at [`Server`].

mod control;
mod exposition;
mod guard;
mod rates;
mod routes;
mod server;
mod status;
mod view;

pub use control::{
    Archive, Changed, ControlError, Drain, DrainRequest, DrainState, Leaving, NodeControl, RemoveRequest,
    Replicas,
};
pub use exposition::{Buckets, Exposition};
pub use guard::{Guard, TokenError, read_token};
pub use rates::RateWindow;
pub use server::{Node, Server, ServerError};
pub use status::{
    GroupRow, GroupState, Lag, Levels, NodeId, NodeRow, NodeState, NodeStatus, Rates, Readiness, Sessions,
    Status, Storage, ThisNode, Totals, VoterRole,
};
pub use view::NodeView;
