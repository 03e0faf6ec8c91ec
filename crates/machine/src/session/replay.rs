//! What a session notes while retained messages are queued for it: topics of which a newer one came live.
//! Knows no queue. Start at [`Replay`].

use std::sync::Arc;

use imbl::OrdSet;

use crate::limits::{MAX_REPLAY_BYTES, MAX_REPLAY_TOPICS};

/// Replays that run. Beyond its bounds, an older retained value may follow a newer live one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    running: u32,
    live: OrdSet<Arc<str>>,
    bytes: usize,
}

impl Replay {
    pub(crate) fn is_running(&self) -> bool {
        self.running > 0
    }

    pub(crate) fn begin(&mut self) {
        self.running = self.running.saturating_add(1);
    }

    /// With the last replay the topics go.
    pub(crate) fn end(&mut self) {
        match self.running {
            0 | 1 => *self = Self::default(),
            _ => self.running -= 1,
        }
    }

    /// A live message with the retain flag came.
    pub(crate) fn note(&mut self, topic: &Arc<str>) {
        let room = self.live.len() < MAX_REPLAY_TOPICS && self.bytes < MAX_REPLAY_BYTES;
        if self.is_running() && room && self.live.insert(Arc::clone(topic)).is_none() {
            self.bytes += topic.len();
        }
    }

    /// A live message of the topic came: no retained one must follow.
    pub(crate) fn is_outrun(&self, topic: &str) -> bool {
        self.live.contains(topic)
    }

    pub(super) fn running(&self) -> u32 {
        self.running
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.live.iter()
    }

    pub(super) fn restore(running: u32, topics: Vec<String>) -> Self {
        let bytes = topics.iter().map(String::len).sum();
        Self { running, live: topics.into_iter().map(Arc::from).collect(), bytes }
    }
}
