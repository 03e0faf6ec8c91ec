//! What the HTTP port asks of the node it belongs to.
//!
//! The one seam to the rest of the program: whoever wires the node implements it, tests fake it.

use crate::{Exposition, NodeStatus, Readiness, Totals};

/// A node seen from its HTTP port. Every call is answered at once, from local memory: no I/O, no waiting,
/// no question to another node.
pub trait NodeView: Send + Sync + 'static {
    /// What this node knows of itself and of its cluster.
    fn status(&self) -> NodeStatus;

    /// Whether clients may be sent here, and if not, why.
    fn readiness(&self) -> Readiness;

    /// Counters since the start, for the rates in the status.
    fn totals(&self) -> Totals;

    /// Writes every metric of this node.
    fn metrics(&self, out: &mut Exposition);
}
