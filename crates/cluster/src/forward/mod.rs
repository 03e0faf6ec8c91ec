//! Published messages on their way to another node: one ordered, batched, bounded lane per peer.
//!
//! A message goes once to each node that has matching subscribers, whatever their number there; over
//! there it is delivered and never routed again (invariant R2). Start at [`Lane::push`] on the sending
//! side and [`Inbound`] on the receiving side.

mod doubts;
mod inbound;
mod lane;
mod queue;
mod record;

pub(crate) use doubts::{Doubtful, Doubts, settle_doubts};
pub use inbound::{Inbound, Receiver};
pub(crate) use inbound::{InboundState, accept_lane};
pub(crate) use lane::run_lane;
pub use lane::{Lane, LaneCounters, LaneFull, LaneLimits};
pub use record::{Body, Origin, Outgoing, Record, RecordError, Target};
