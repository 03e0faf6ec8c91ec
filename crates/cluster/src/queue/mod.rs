//! The queues of durable sessions: their messages on disk, and how the node that owns a session reads them,
//! from its own replica of the shard or from another node's.
//!
//! A queue names messages by number; the machine keeps the names, [`MessageStore`] the bytes. Any replica may
//! be read, for what is applied is committed. Knows no packet ids and no connections. Start at [`QueueReader`].

mod interests;
mod local;
mod reader;
mod remote;
mod serve;
mod store;

pub(crate) use interests::Interests;
pub use reader::{QueueReader, QueuedMessage};
pub(crate) use remote::RemoteQueues;
pub(crate) use serve::serve_queues;
pub(crate) use store::MessageStore;
