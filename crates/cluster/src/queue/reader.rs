//! The queue of one durable session, as the node that owns it reads it. Knows not where it is read from. Start
//! at [`QueueReader::read`].

use std::sync::Arc;

use smallvec::SmallVec;
use zwerm_machine::Queued;
use zwerm_machine::records::Message;
use zwerm_wire::QoS;

use super::local::LocalReader;
use super::remote::RemoteReader;
use crate::cluster::Shared;
use crate::receipt::Bell;

/// A message in the queue of a durable session.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedMessage {
    /// In the queue; from 1, and never again for another message.
    pub position: u64,
    /// The message.
    pub message: Arc<Message>,
    /// To deliver with: 1 or 2.
    pub qos: QoS,
    /// To deliver with.
    pub retain: bool,
    /// Of the subscriptions that it is for.
    pub identifiers: SmallVec<[u32; 1]>,
    /// A shared subscription picked the client.
    pub group: bool,
}

impl QueuedMessage {
    pub(super) fn new(queued: Queued, message: Arc<Message>) -> Self {
        let Queued { position, qos, retain, identifiers, group, .. } = queued;
        Self { position, message, qos, retain, identifiers, group }
    }
}

/// Where a queue is read.
enum Source {
    /// From a replica of the shard on this node.
    Here(LocalReader),
    /// From a replica on another node.
    There(RemoteReader),
    /// There is nothing to come.
    Nowhere,
}

/// Reads one queue; see [`Cluster::queue`](crate::Cluster::queue).
pub struct QueueReader {
    shared: Arc<Shared>,
    client_id: Arc<str>,
    epoch: u64,
    bell: Bell,
    /// `None`: this node has no cluster yet.
    shard: Option<u32>,
    source: Source,
}

impl std::fmt::Debug for QueueReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueReader")
            .field("client_id", &self.client_id)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl QueueReader {
    pub(crate) fn new(shared: &Arc<Shared>, client_id: &str, epoch: u64, bell: Bell) -> Self {
        let client_id: Arc<str> = client_id.into();
        let shard = shared.shard_of(&client_id);
        let mut reader =
            Self { shared: Arc::clone(shared), client_id, epoch, bell, shard, source: Source::Nowhere };
        reader.choose();
        reader
    }

    /// Reads where the queue is now: here if there is a replica that can be read, else elsewhere.
    fn choose(&mut self) {
        let Some(shard) = self.shard else { return };
        let session = (&self.client_id, self.epoch);
        self.source = match self.shared.readable_view(shard) {
            Some(view) => {
                let (shared, bell) = (Arc::clone(&self.shared), Box::new(self.bell.clone()));
                Source::Here(LocalReader::new(shared, view, session, bell))
            }
            None => Source::There(RemoteReader::new(&self.shared, shard, session, self.bell.clone())),
        };
    }

    /// The replica that was read here is given up, or there is one here now.
    fn has_moved(&self) -> bool {
        match &self.source {
            Source::Here(reader) => reader.is_retired(),
            Source::There(_) => self.shard.is_some_and(|shard| self.shared.readable_view(shard).is_some()),
            Source::Nowhere => false,
        }
    }

    /// Up to `max` messages behind position `after`, in order. Does not wait: if it gives fewer than `max`, the
    /// bell rings when there is reason to read again. Nothing comes any more when the client has a newer owner.
    pub fn read(&mut self, after: u64, max: usize, into: &mut Vec<QueuedMessage>) {
        if self.has_moved() {
            self.choose();
        }
        let goes_on = match &mut self.source {
            Source::Here(reader) => reader.read(after, max, into),
            Source::There(reader) => reader.read(after, max, into),
            Source::Nowhere => return,
        };
        if !goes_on {
            self.source = Source::Nowhere;
        }
    }
}
