//! Reading the queues of durable sessions. Start at [`QueueReader::read`].

mod reader;

pub use reader::{QueueReader, QueuedMessage};
