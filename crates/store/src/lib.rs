//! Durable bytes on one machine behind one [`Engine`] trait.
//!
//! Knows keys, values, batches and `fdatasync`. Does not know Raft, MQTT, tokio or what a value means:
//! the layout of values belongs to the crates that write them; only the *names* of the key spaces are
//! kept here ([`keyspace`]), because two owners of one prefix would destroy each other's data.
//!
//! Start at [`Engine`]; [`SledEngine`] is what a node runs on, [`MemoryEngine`] is its twin for tests and
//! the simulation. Another engine is one more file that passes the same conformance suite.

mod batch;
mod engine;
mod error;
pub mod format;
pub mod keyspace;
mod memory;
mod message_log;
mod sled_engine;

pub use batch::{Batch, Write};
pub use engine::{Engine, SyncMode};
pub use error::StoreError;
pub use memory::MemoryEngine;
pub use message_log::{MessageLog, MessageReader};
pub use sled_engine::SledEngine;

#[cfg(test)]
mod conformance;
