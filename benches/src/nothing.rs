//! A replicated state machine that costs nothing, so that what is measured is the log. Start at [`Nothing`].

use bytes::Bytes;
use zwerm_raft::Machine;

/// A machine that does nothing.
#[derive(Debug)]
pub struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _index: u64, _command: Bytes) -> Bytes {
        Bytes::new()
    }
    fn applied(&mut self, _index: u64) -> Result<(), String> {
        Ok(())
    }
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        Box::new(Vec::new)
    }
    fn restore(&mut self, _snapshot: Bytes, _index: u64) -> Result<(), String> {
        Ok(())
    }
}
