//! The queue of one durable session, as the node that owns it reads it. Start at [`QueueReader::read`].

use std::sync::Arc;

use smallvec::SmallVec;
use zwerm_machine::records::Message;
use zwerm_wire::QoS;

use crate::Cluster;
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

/// Reads one queue; see [`Cluster::queue`].
#[derive(Debug)]
pub struct QueueReader {
    cluster: Cluster,
    client_id: Arc<str>,
    epoch: u64,
    bell: Bell,
}

impl QueueReader {
    pub(crate) fn new(cluster: Cluster, client_id: &str, epoch: u64, bell: Bell) -> Self {
        Self { cluster, client_id: client_id.into(), epoch, bell }
    }

    /// Up to `max` messages after position `after`, in order. Does not wait: what is not there yet rings the bell
    /// when it is. Nothing comes any more when the client has a newer owner.
    pub fn read(&mut self, after: u64, max: usize, into: &mut Vec<QueuedMessage>) {
        // Shards keep no queues before the machine does.
        let _ = (&self.cluster, &self.client_id, self.epoch, &self.bell, after, max, into);
    }
}
