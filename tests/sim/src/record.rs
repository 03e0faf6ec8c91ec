//! What happened, for the oracle, for people, and as one number that two runs of a seed must share.
//!
//! Start at [`Record::push`].

use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;
use zwerm_oracle::{History, What};

/// The history of a run, and a hash of it.
pub(crate) struct Record {
    pub(crate) history: History,
    hash: Xxh3,
    is_shown: bool,
}

impl Record {
    /// An empty one; `is_shown`: every event is also written to the standard error output.
    pub(crate) fn new(is_shown: bool) -> Self {
        Self { history: History::new(), hash: Xxh3::new(), is_shown }
    }

    /// Writes down what happened next.
    pub(crate) fn push(&mut self, now_ms: u64, client: &Arc<str>, connection: u32, what: What) {
        self.history.push(Duration::from_millis(now_ms), Arc::clone(client), connection, what);
        let Some(event) = self.history.events().last() else { return };
        let line = event.to_string();
        self.hash.update(line.as_bytes());
        if self.is_shown {
            eprintln!("{line}");
        }
    }

    /// Writes down what was broken or healed.
    pub(crate) fn fault(&mut self, now_ms: u64, says: impl Into<Arc<str>>) {
        self.push(now_ms, &Arc::from("nemesis"), 0, What::Fault(says.into()));
    }

    /// The same for the same history.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.digest()
    }
}
