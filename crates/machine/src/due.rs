//! What is to happen when: an index by time. Knows not what it is that happens. Start at [`Due`].

use std::sync::Arc;

use imbl::OrdSet;
use zwerm_wire::TopicName;

/// Whose time it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The will or the session of a client.
    Client(Arc<str>),
    /// The retained message of a topic.
    Retained(TopicName),
}

/// Timers by time. Derived from the rest of the state, so not in snapshots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Due(OrdSet<(u64, Timer)>);

impl Due {
    /// Moves a timer; `None` is not set.
    pub(crate) fn reset(&mut self, timer: &Timer, old_ms: Option<u64>, new_ms: Option<u64>) {
        if old_ms == new_ms {
            return;
        }
        if let Some(at_ms) = old_ms {
            self.0.remove(&(at_ms, timer.clone()));
        }
        if let Some(at_ms) = new_ms {
            self.0.insert((at_ms, timer.clone()));
        }
    }

    /// The earliest timer, if its time has come. It stays until it is reset.
    pub(crate) fn first(&self, now_ms: u64) -> Option<&Timer> {
        self.0.get_min().filter(|(at_ms, _)| *at_ms <= now_ms).map(|(_, timer)| timer)
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.0.get_min().map(|(at_ms, _)| *at_ms)
    }
}
