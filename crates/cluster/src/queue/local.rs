//! Reads a queue from this node's replica of the shard: names from the view, messages from memory or disk.
//!
//! Only while the view says that the reader owns the session; a view that is older than the claim is waited for.
//! Never waits for the disk: what is not in memory is loaded beside, and the reader woken. Start at
//! [`LocalReader::read`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use zwerm_machine::records::Message;
use zwerm_machine::{Queued, Shard};

use super::interests::{Interested, Wake};
use super::reader::QueuedMessage;
use crate::cluster::Shared;
use crate::replica::ShardView;

/// Messages and bytes loaded at a time.
const LOAD: usize = 128;
const LOAD_BYTES: usize = 256 << 10;
/// Bytes given by one read, about.
const READ_BYTES: usize = 1 << 20;
/// Before a disk that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How the view stands to the reader's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The claim is not applied here yet.
    Before,
    /// The reader owns the session.
    Owns,
    /// A newer owner does.
    Lost,
}

fn standing(state: &Shard, client_id: &str, epoch: u64) -> Standing {
    match state.owner(client_id).map(|entry| entry.owner.epoch) {
        Some(owner) if owner == epoch => Standing::Owns,
        Some(owner) if owner > epoch => Standing::Lost,
        _ => Standing::Before,
    }
}

/// What was loaded and not read yet.
#[derive(Debug, Default)]
struct Loaded {
    messages: BTreeMap<u64, Arc<Message>>,
    loading: bool,
}

/// Reads one queue from a view.
pub(super) struct LocalReader {
    shared: Arc<Shared>,
    view: Arc<ShardView>,
    client_id: Arc<str>,
    epoch: u64,
    interest: Interested,
    loaded: Arc<Mutex<Loaded>>,
}

impl LocalReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        view: Arc<ShardView>,
        (client_id, epoch): (&Arc<str>, u64),
        reader: Box<dyn Wake>,
    ) -> Self {
        let interest = view.interests().add(client_id, reader);
        Self { shared, view, client_id: Arc::clone(client_id), epoch, interest, loaded: Arc::default() }
    }

    /// This node gives the replica up: nothing new is seen here.
    pub(super) fn is_retired(&self) -> bool {
        self.view.retired().is_cancelled()
    }

    /// Up to `max` messages behind `after`; if it gives fewer, the reader is woken when it is worth to read
    /// again. False: there is a newer owner, and nothing will come any more.
    pub(super) fn read(&mut self, after: u64, max: usize, into: &mut Vec<QueuedMessage>) -> bool {
        if max == 0 {
            return true;
        }
        self.interest.arm();
        // Before the look: a change after it is seen by who waits for one.
        let applied = self.view.applied();
        let state = self.view.state();
        match standing(&state, &self.client_id, self.epoch) {
            Standing::Before => return true,
            Standing::Lost => return false,
            Standing::Owns => {}
        }
        let queued: Vec<Queued> = state.queue(&self.client_id, after).take(max).collect();
        let is_whole = queued.len() == max;
        let missing = self.give(queued, into);
        match missing {
            Some(missing) if !missing.is_empty() => self.load(missing, applied),
            Some(_) => self.interest.wake(),
            None if is_whole => self.interest.disarm(),
            None => {}
        }
        true
    }

    /// Gives what is in memory, up to the first message that is not: returns the numbers from there on, `None` if
    /// there are none, an empty list if it stopped for the bytes it gave.
    fn give(&self, queued: Vec<Queued>, into: &mut Vec<QueuedMessage>) -> Option<Vec<u64>> {
        let recent = self.view.messages().recent(queued.iter().map(|queued| &queued.message));
        let mut loaded = self.loaded.lock();
        let mut bytes = 0;
        let mut rest = queued.into_iter().zip(recent);
        while let Some((queued, recent)) = rest.next() {
            if bytes > READ_BYTES {
                return Some(Vec::new());
            }
            let Some(message) = recent.or_else(|| loaded.messages.remove(&queued.message)) else {
                let numbers = std::iter::once(queued).chain(rest.map(|(queued, _)| queued));
                return Some(numbers.map(|queued| queued.message).take(LOAD).collect());
            };
            bytes += message.payload.len();
            into.push(QueuedMessage::new(queued, message));
        }
        None
    }

    /// Loads messages beside the reader and wakes it. What the view names and the disk does not have was
    /// acknowledged since: the view is about to change, and that is waited for.
    fn load(&self, numbers: Vec<u64>, mut applied: tokio::sync::watch::Receiver<u64>) {
        if std::mem::replace(&mut self.loaded.lock().loading, true) {
            return;
        }
        let (messages, loaded) = (Arc::clone(self.view.messages()), Arc::clone(&self.loaded));
        let wake = self.interest.waker();
        self.shared.spawn(async move {
            let first = numbers.first().copied();
            let found = messages.load(numbers, LOAD_BYTES).await;
            let has_first = match found {
                Ok(found) => {
                    let has_first = found.first().map(|(number, _)| *number) == first;
                    loaded.lock().messages = found.into_iter().collect();
                    has_first
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "queued messages cannot be read"
                    );
                    tokio::time::sleep(RETRY).await;
                    true
                }
            };
            if !has_first {
                // The sender lives as long as the view: an end means that the node stops.
                drop(applied.changed().await);
            }
            loaded.lock().loading = false;
            wake();
        });
    }
}
