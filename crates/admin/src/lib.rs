//! HTTP for people and probes: health, readiness, metrics, status.
//!
//! Everything is answered from what this node knows itself: a scrape never calls another node. The crate
//! knows no broker and no cluster; it sees them through [`NodeView`]. Start at [`Server`].

mod exposition;
mod rates;
mod routes;
mod server;
mod status;
mod view;

pub use exposition::{Buckets, Exposition};
pub use rates::RateWindow;
pub use server::{Server, ServerError};
pub use status::{
    GroupRow, GroupState, Lag, NodeId, NodeRow, NodeState, NodeStatus, Rates, Readiness, Sessions, Status,
    Storage, ThisNode, Totals, VoterRole,
};
pub use view::NodeView;
