//! What applied commands leave to be done outside the machine. Knows not how. Start at [`Effects`].

use std::sync::Arc;

use crate::records::Message;

/// What the commands applied since the last [`Shard::take_effects`](crate::Shard::take_effects) leave to be done,
/// on every replica: the bytes of messages are kept outside the machine, under their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// To be kept, by rising number. What was forgotten again before it was taken is not among them.
    pub stored: Vec<(u64, Message)>,
    /// Nothing names these numbers any more and nothing ever will again. Rising; numbers that were never taken
    /// as stored may be among them.
    pub forgotten: Vec<u64>,
    /// Client ids whose queue grew, or that have a new owner, or none any more; each once, in order.
    pub touched: Vec<Arc<str>>,
}
